package store

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

// TestFrozen: a frozen shard answers nobody, goes on with terms and configurations,
// and is frozen on disk as soon as it says so.
func TestFrozen(t *testing.T) {
	s := newShaped(t)
	s.split()
	s.freeze()
	frozen := kvpb.Status_STATUS_FROZEN
	for name, req := range map[string]*kvpb.ReadRequest{
		"get":        {Gets: [][]byte{[]byte("q")}},
		"foreign":    {Gets: [][]byte{[]byte("c")}},
		"scan":       {Scan: &kvpb.Scan{}},
		"at version": {Gets: [][]byte{[]byte("q")}, At: 5},
	} {
		if resp := s.right.Read(req); resp.Status != frozen || len(resp.Gets)+len(resp.Items) > 0 {
			t.Errorf("%s: %v", name, resp)
		}
	}
	if _, _, err := s.right.Changes(0, nil, 0); kv.CodeOf(err) != kv.CodeUnavailable {
		t.Error(err)
	}
	known := write(then(put("q", "x")))
	known.Request = &kvpb.RequestID{Hi: 'q', IssuedMs: s.l.nowMs, Fingerprint: 'q' % 2}
	before := s.contents(s.right)
	for _, c := range []*kvpb.Command{
		write(then(put("q", "x"))), known, {Kind: kvpb.CommandKind_COMMAND_SWEEP, Sweep: &kvpb.SweepArgs{ExpireBeforeMs: 1 << 60}},
	} {
		if res := decodeResult(t, mustApply(t, s.right, s.rl.entry(c))[0].Results[0]); res.Status != frozen {
			t.Error(res)
		}
	}
	if s.contents(s.right) != before {
		t.Error("something changed")
	}
	if _, ok := s.right.SweepCommand(s.l.nowMs+1<<40, SweepPolicy{RequestWindow: 1, Retention: 1}); ok {
		t.Error("a sweep of a frozen shard")
	}
	index, into := s.right.Frozen()
	crash := openShaped(t, s.fs.CrashClone(engine.CrashCloneCfg{}))
	mustClose(t, s.db)
	defer mustClose(t, crash)
	r, err := crash.OpenReplica(childShard, nil)
	if err != nil {
		t.Fatal(err)
	}
	if i, shard := r.Frozen(); i != index || shard != into || index == 0 || into != testShard {
		t.Fatalf("frozen at %d into %s after a crash, %d %s before", i, shard, index, into)
	}
}

// TestMergeKeepsFrozenVersions: what terms after the freeze did to the right shard's
// versions does not count, and commands behind the ABSORB in its entry are rejected
// if the right shard was ahead of them.
func TestMergeKeepsFrozenVersions(t *testing.T) {
	s := newShaped(t)
	defer func() { mustClose(t, s.db) }()
	s.split()
	s.rl.last += 1000
	mustApply(t, s.right, s.rl.entry(write(then(put("q", "ahead")))))
	ch := s.freeze()
	last := s.right.current.Load().frozen.last
	s.rl.term++
	mustApply(t, s.right, s.rl.startTerm())
	if s.right.Applied().LastVersion <= last+1 {
		t.Fatal("the term did nothing")
	}
	e := shapeEntry(s.left, s.l, absorbKind, ch)
	behind := s.l.entry(write(then(put("q", "late"))))
	e.Commands = append(e.Commands, behind.Commands[0])
	out := mustApply(t, s.left, e)[0].Results
	if a, b := decodeResult(t, out[0]), decodeResult(t, out[1]); a.Status != kvpb.Status_STATUS_OK || b.Status != kvpb.Status_STATUS_REJECTED {
		t.Fatal(a, b)
	}
	if got := s.left.Applied().LastVersion; got != last {
		t.Fatalf("last version %d, frozen at %d", got, last)
	}
	if got := get(s.left, "q").Gets[0].Item; string(got.GetValue()) != "ahead" {
		t.Fatal(got)
	}
}

// TestMerge: the left shard has everything, the right replica is sealed and marked.
func TestMerge(t *testing.T) {
	s := newShaped(t)
	defer func() { mustClose(t, s.db) }()
	before := s.contents(s.left)
	s.split()
	s.ok(s.left, s.l, absorbKind, s.freeze())
	if after := s.contents(s.left); after != before {
		t.Fatalf("split and merged:\n%s\nbefore:\n%s", after, before)
	}
	if d := s.left.Descriptor(); d.Generation != 3 || string(d.End) != "y" {
		t.Fatal(d)
	}
	if st := s.left.current.Load(); len(st.pieces) != 1 || st.sibling != nil {
		t.Fatalf("%+v", st)
	}
	if resp := get(s.right, "q"); resp.Status != kvpb.Status_STATUS_FROZEN && resp.Status != kvpb.Status_STATUS_NOT_READY {
		t.Fatal(resp)
	}
	if _, err := s.right.Apply([]kv.Entry{s.rl.startTerm()}); !errors.Is(err, ErrAbsorbed) {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := s.db.OpenReplica(childShard, s.right.Descriptor()); !errors.Is(err, ErrAbsorbed) {
			t.Fatal(err)
		}
		if all, err := s.db.Absorbed(); err != nil || !slices.Equal(all, []kv.ShardID{childShard}) {
			t.Fatal(all, err)
		}
		mustClose(t, s.db)
		s.db = openShaped(t, s.fs)
	}
	if err := s.db.ForgetAbsorbed(childShard); err != nil {
		t.Fatal(err)
	}
	if all, err := s.db.Absorbed(); err != nil || len(all) != 0 {
		t.Fatal(all, err)
	}
	if _, err := s.db.ReplicaDescriptor(childShard); !errors.Is(err, ErrNoReplica) {
		t.Fatal(err)
	}
}

// TestAbsorbWithoutRight: a left replica that does not find the right one as it was
// frozen stops, and both states are as before.
func TestAbsorbWithoutRight(t *testing.T) {
	for _, how := range []string{"dropped", "thawed", "not open"} {
		s := newShaped(t)
		s.split()
		ch := s.freeze()
		switch how {
		case "dropped":
			if err := s.db.DropReplica(childShard); err != nil {
				t.Fatal(err)
			}
		case "thawed":
			s.ok(s.right, s.rl, thawKind, &kvpb.ShapeChange{FrozenIndex: ch.FrozenIndex})
		case "not open": // is enough
			mustClose(t, s.db)
			s.db = openShaped(t, s.fs)
			s.left = mustReplica(t, s.db)
			s.ok(s.left, s.l, absorbKind, ch)
			mustClose(t, s.db)
			continue
		}
		before := s.contents(s.left)
		for range 2 {
			if _, err := s.left.Apply([]kv.Entry{shapeEntry(s.left, s.l, absorbKind, ch)}); kv.OutcomeOf(err) != kv.OutcomeUnknown {
				t.Fatal(how, err)
			}
		}
		if s.contents(s.left) != before || string(s.left.Descriptor().End) != "m" {
			t.Fatal(how, "something changed")
		}
		mustClose(t, s.db)
	}
}

// TestMergeMeetsOthers: reads of both halves, terms of the right one and openings go
// on while they split and merge; the last round meets Close.
func TestMergeMeetsOthers(t *testing.T) {
	for round := range 12 {
		s := newShaped(t)
		s.split()
		ch := s.freeze()
		absorb := shapeEntry(s.left, s.l, absorbKind, ch)
		var others sync.WaitGroup
		others.Go(func() {
			for i := 0; ; i++ {
				s.rl.term++
				if _, err := s.right.Apply([]kv.Entry{s.rl.startTerm()}); err != nil {
					return // absorbed, or closed
				}
				if round%2 == 1 && i == round {
					return
				}
			}
		})
		others.Go(func() {
			for range 50 {
				resp := get(s.right, "q")
				if resp.Status != kvpb.Status_STATUS_FROZEN && resp.Status != kvpb.Status_STATUS_NOT_READY {
					t.Error(resp)
				}
				resp = get(s.left, "q")
				switch {
				case resp.Status == kvpb.Status_STATUS_OK && string(resp.Gets[0].Item.GetValue()) == "new q":
				case resp.Status == kvpb.Status_STATUS_WRONG_SHARD, resp.Status == kvpb.Status_STATUS_NOT_READY && round > 9:
				default:
					t.Error(resp)
				}
				if _, err := s.db.OpenReplica(childShard, nil); err != nil && !errors.Is(err, ErrAbsorbed) && !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
			}
		})
		if round > 9 {
			others.Go(func() { mustClose(t, s.db) })
		}
		_, err := s.left.Apply([]kv.Entry{absorb})
		if err != nil && round <= 9 {
			t.Error(err)
		}
		others.Wait()
		mustClose(t, s.db)
	}
}

// piecesApart splits a shard at a key, lets the right half come back by an image into
// a space of its own, and merges again: two pieces in two spaces.
func (s *shaped) piecesApart(key string) {
	s.t.Helper()
	s.ok(s.left, s.l, splitKind, s.prepare(childShard, key))
	s.openRight()
	ch := s.freeze()
	image := mustImage(s.t, s.right)
	if err := s.db.DropReplica(childShard); err != nil {
		s.t.Fatal(err)
	}
	right, err := s.db.OpenReplica(childShard, &kvpb.ShardDescriptor{Shard: uint64(childShard)})
	if err == nil {
		err = restore(right, bytes.NewReader(image))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.ok(s.left, s.l, absorbKind, ch)
	if st := s.left.current.Load(); len(st.pieces) != 2 || st.pieces[0].space == st.pieces[1].space {
		s.t.Fatalf("%+v", st.pieces)
	}
}

// TestFoldOverPieces: a common prefix that reaches over a border of pieces is folded
// once, both ways, and pages go on over borders.
func TestFoldOverPieces(t *testing.T) {
	s := newShaped(t)
	defer mustClose(t, s.db)
	mustApply(t, s.left, s.l.entry(write(then(put("f/1", ""), put("f/2", ""), put("f/3", ""), put("g", "")))))
	s.piecesApart("f/2")
	for _, reverse := range []bool{false, true} {
		q := &kvpb.Scan{Delimiter: []byte("/"), Reverse: reverse, Limit: 2, KeysOnly: true}
		var got []string
		for {
			resp := s.left.Read(&kvpb.ReadRequest{Scan: q})
			for _, p := range resp.CommonPrefixes {
				got = append(got, string(p))
			}
			for _, it := range resp.Items {
				got = append(got, string(it.Key))
			}
			if len(resp.Resume) == 0 {
				break
			}
			q.Start, q.End = resp.Resume, nil
			if reverse {
				q.Start, q.End = nil, resp.Resume
			}
		}
		slices.Sort(got)
		if want := []string{"c", "d", "e", "f/", "g", "p", "q", "r"}; !slices.Equal(got, want) {
			t.Errorf("reverse %v: %v", reverse, got)
		}
	}
}

// TestHomeOfBoth: of a home that both halves read, what either remembers counts, as
// if the two had never shared anything.
func TestHomeOfBoth(t *testing.T) {
	var digests []string
	for _, restored := range []bool{false, true} {
		for _, swept := range []string{"left", "right"} {
			s := newShaped(t)
			s.split()
			some := &kvpb.Command{Kind: kvpb.CommandKind_COMMAND_SWEEP, Sweep: &kvpb.SweepArgs{RequestFloorMs: s.l.nowMs + 1, MaxItems: 4}}
			if swept == "left" {
				mustApply(t, s.left, s.l.entry(some))
			} else {
				mustApply(t, s.right, s.rl.entry(some))
			}
			ch := s.freeze()
			if restored {
				mustApply(t, s.left, kv.Entry{Index: s.l.index + 1, Term: 1, Config: []byte("x")})
				image := mustImage(t, s.left)
				if err := s.db.DropReplica(testShard); err != nil {
					t.Fatal(err)
				}
				s.left = mustReplica(t, s.db)
				if err := restore(s.left, bytes.NewReader(image)); err != nil {
					t.Fatal(err)
				}
			} else {
				mustApply(t, s.left, kv.Entry{Index: s.l.index + 1, Term: 1, Config: []byte("x")})
			}
			s.l.index++
			s.ok(s.left, s.l, absorbKind, ch)
			digests = append(digests, mustDigest(t, s.left))
			for range 3 {
				mustApply(t, s.left, s.l.entry(some))
			}
			if n := s.left.Stats().Requests; n != 0 {
				t.Errorf("restored %v, %s swept: %d ids are counted when all are forgotten", restored, swept, n)
			}
			mustClose(t, s.db)
		}
	}
	if digests[0] != digests[2] || digests[1] != digests[3] {
		t.Fatal("what is remembered depends on what was shared")
	}
}

// TestRightOpenedMeanwhile: an ABSORB that did not lock the right replica, because it
// was not open, begins anew when it is open by then.
func TestRightOpenedMeanwhile(t *testing.T) {
	s := newShaped(t)
	defer mustClose(t, s.db)
	s.split()
	e := shapeEntry(s.left, s.l, absorbKind, s.freeze())
	commands, _ := decodeCommands([]kv.Entry{e})
	run := applyRun{entries: []kv.Entry{e}, commands: commands, results: make([]kv.EntryResult, 1)}
	s.left.mu.Lock()
	_, err := s.left.applyInside(run, nil)
	s.left.mu.Unlock()
	if !errors.Is(err, errRightOpened) {
		t.Fatal(err)
	}
	if res := decodeResult(t, mustApply(t, s.left, e)[0].Results[0]); res.Status != kvpb.Status_STATUS_OK {
		t.Fatal(res)
	}
}

// TestIDsOverMerge: commands in the entry of the ABSORB and after it find what the
// right shard remembers.
func TestIDsOverMerge(t *testing.T) {
	s := newShaped(t)
	defer mustClose(t, s.db)
	s.split()
	ids := []*kvpb.RequestID{{Hi: 500, IssuedMs: s.l.nowMs}, {Hi: 501, IssuedMs: s.l.nowMs, Fingerprint: 1}}
	cmd := func(id *kvpb.RequestID) *kvpb.Command {
		c := write(then(&kvpb.Op{Kind: kvpb.OpKind_OP_ADD, Key: []byte("s"), Delta: 1}))
		c.Request = id
		return c
	}
	mustApply(t, s.left, s.l.entry(write(then(put("c", "so that the left one knows ids")))))
	mustApply(t, s.right, s.rl.entry(cmd(ids[0]), cmd(ids[1])))
	ch := s.freeze()
	s.l.last = s.rl.last + 10
	e := shapeEntry(s.left, s.l, absorbKind, ch)
	e.Commands = append(e.Commands, s.l.entry(cmd(ids[0])).Commands[0])
	s.l.index--
	results := mustApply(t, s.left, e)[0].Results[1:]
	results = append(results, mustApply(t, s.left, s.l.entry(cmd(ids[0]), cmd(ids[1])))[0].Results...)
	for i, b := range results {
		if res := decodeResult(t, b); !res.Replayed {
			t.Errorf("%d: %v", i, res)
		}
	}
}

// TestDigestCoversShape: replicas that differ in what is pending have other digests.
func TestDigestCoversShape(t *testing.T) {
	var digests [2]string
	for i, key := range []string{"m", "n"} {
		s := newShaped(t)
		s.ok(s.left, s.l, prepareKind, &kvpb.ShapeChange{SplitKey: []byte(key)})
		digests[i] = mustDigest(t, s.left)
		mustClose(t, s.db)
	}
	if digests[0] == digests[1] {
		t.Fatal("a prepared split is not in the digest")
	}
}
