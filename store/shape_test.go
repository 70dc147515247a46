package store

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

const (
	prepareKind = kvpb.CommandKind_COMMAND_SPLIT_PREPARE
	splitKind   = kvpb.CommandKind_COMMAND_SPLIT
	freezeKind  = kvpb.CommandKind_COMMAND_FREEZE
	thawKind    = kvpb.CommandKind_COMMAND_UNFREEZE
	absorbKind  = kvpb.CommandKind_COMMAND_ABSORB
	refuseKind  = kvpb.CommandKind_COMMAND_REFUSE_ABSORB
)

// shaped is a database with one shard, later with its child.
type shaped struct {
	t           testing.TB
	fs          *engine.MemFS
	db          *DB
	left, right *Replica
	l, rl       *logWriter // their logs
	events      []ShapeEvent
}

func newShaped(t testing.TB) *shaped {
	s := &shaped{t: t, fs: engine.NewCrashableMemFS()}
	s.db = openShaped(t, s.fs)
	s.db.onShape = func(e ShapeEvent) { s.events = append(s.events, e) }
	s.left, s.l = mustReplica(t, s.db), newLog()
	mustApply(t, s.left, s.l.startTerm())
	for _, k := range []string{"c", "d", "e", "p", "q", "r"} {
		cmd := write(then(put(k, "old")), then(put(k, "new "+k)))
		cmd.Txns[1].Then[0].TtlMs = 1 << 40
		cmd.Request = &kvpb.RequestID{Hi: uint64(k[0]), IssuedMs: s.l.nowMs, Fingerprint: uint64(k[0] % 2)}
		mustApply(t, s.left, s.l.entry(cmd))
	}
	return s
}

// change applies one change and gives its answer.
func (s *shaped) change(r *Replica, l *logWriter, kind kvpb.CommandKind, ch *kvpb.ShapeChange) *kvpb.Result {
	s.t.Helper()
	res := decodeResult(s.t, mustApply(s.t, r, shapeEntry(r, l, kind, ch))[0].Results[0])
	l.last = max(l.last, r.Applied().LastVersion)
	return res
}

// ok is change that has to be accepted.
func (s *shaped) ok(r *Replica, l *logWriter, kind kvpb.CommandKind, ch *kvpb.ShapeChange) *kvpb.Result {
	s.t.Helper()
	res := s.change(r, l, kind, ch)
	if res.Status != kvpb.Status_STATUS_OK {
		s.t.Fatal(res)
	}
	return res
}

// prepare gives a split that will be accepted.
func (s *shaped) prepare(child kv.ShardID, key string) *kvpb.ShapeChange {
	s.t.Helper()
	s.ok(s.left, s.l, prepareKind, &kvpb.ShapeChange{SplitKey: []byte(key)})
	at, prepared, f, err := s.left.CountRight(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	return splitOf(child, at, prepared, f)
}

func (s *shaped) split() {
	s.t.Helper()
	s.ok(s.left, s.l, splitKind, s.prepare(childShard, "m"))
	s.openRight()
}

func (s *shaped) openRight() {
	s.t.Helper()
	var err error
	if s.right, err = s.db.OpenReplica(childShard, nil); err != nil {
		s.t.Fatal(err)
	}
	rl := *s.l
	rl.index = s.right.Applied().Index
	s.rl = &rl
}

func (s *shaped) freeze() *kvpb.ShapeChange {
	s.t.Helper()
	res := s.ok(s.right, s.rl, freezeKind, &kvpb.ShapeChange{Into: uint64(testShard)})
	return &kvpb.ShapeChange{Other: s.right.Descriptor(), FrozenIndex: res.Index}
}

// TestSplit: what both halves are after a split, and who is told.
func TestSplit(t *testing.T) {
	s := newShaped(t)
	defer func() { mustClose(t, s.db) }()
	before, parent := s.left.Stats(), s.left.Applied()
	config := kv.Entry{Index: s.l.index + 1, Term: 1, Config: []byte("parent's")}
	s.l.index++
	mustApply(t, s.left, config)
	ch := s.prepare(childShard, "m")
	mustApply(t, s.left, s.l.entry(write(then(put("x", "after the count"), del("p")))))
	s.ok(s.left, s.l, splitKind, ch)
	d, err := s.db.ReplicaDescriptor(childShard)
	if err != nil || d.Generation != 2 || string(d.Start) != "m" || string(d.End) != "y" || len(d.Replicas) != 1 {
		t.Fatal(d, err)
	}
	s.openRight()
	a := s.right.Applied()
	if a.Index != kv.ChildStartIndex || a.Term != kv.ChildStartTerm || a.ConfigIndex != kv.ChildStartIndex || string(a.Config) != "members" {
		t.Fatalf("%+v", a)
	}
	if a.Ceiling != parent.Ceiling || a.LastVersion <= parent.LastVersion || a.LastVersion > s.left.Applied().LastVersion {
		t.Fatalf("%+v of %+v", a, parent)
	}
	l, r := s.left.Stats(), s.right.Stats()
	if l.Keys != 3 || r.Keys != 3 || l.Requests != before.Requests || r.Requests != before.Requests {
		t.Fatalf("%+v %+v of %+v", l, r, before)
	}
	if resp := get(s.left, "p"); resp.Status != kvpb.Status_STATUS_WRONG_SHARD || !proto.Equal(resp.Sibling, d) {
		t.Fatal(resp)
	}
	if resp := get(s.right, "q", "r", "x"); resp.Status != kvpb.Status_STATUS_OK || string(resp.Gets[0].Item.Value) != "new q" || !resp.Gets[2].Found {
		t.Fatal(resp)
	}
	if len(s.events) != 2 || s.events[0].Kind != ShapePrepared || s.events[1].Kind != ShapeSplit || !s.events[1].Adopted ||
		!proto.Equal(s.events[1].Child, d) || string(s.events[1].Parent.End) != "m" || s.events[1].Other != childShard {
		t.Fatalf("%+v", s.events)
	}
	// Both remember what was applied before, and only they themselves what comes.
	for _, half := range []struct {
		r *Replica
		l *logWriter
	}{{s.left, s.l}, {s.right, s.rl}} {
		for _, hi := range "cdepqr" {
			again := write(then(put("c", "twice"), put("q", "twice")))
			again.Request = &kvpb.RequestID{Hi: uint64(hi), IssuedMs: s.l.nowMs, Fingerprint: uint64(hi % 2)}
			if res := decodeResult(t, mustApply(t, half.r, half.l.entry(again))[0].Results[0]); !res.Replayed {
				t.Fatalf("%c: %v", hi, res)
			}
		}
	}
	key := map[*Replica]string{s.left: "c", s.right: "q"}
	for r, l := range map[*Replica]*logWriter{s.left: s.l, s.right: s.rl} {
		cmd := write(then(put(key[r], "own")))
		cmd.Request = &kvpb.RequestID{Hi: 77, IssuedMs: s.l.nowMs}
		if res := decodeResult(t, mustApply(t, r, l.entry(cmd))[0].Results[0]); res.Replayed || res.Status != kvpb.Status_STATUS_OK {
			t.Fatal(res)
		}
	}
}

// TestShapeConflicts: whatever is not as expected is refused and changes nothing.
func TestShapeConflicts(t *testing.T) {
	split := func(change func(*kvpb.ShapeChange)) func(s *shaped) (kvpb.CommandKind, *kvpb.ShapeChange) {
		return func(s *shaped) (kvpb.CommandKind, *kvpb.ShapeChange) {
			ch := s.prepare(childShard, "m")
			ch.Generation = s.left.Descriptor().Generation
			change(ch)
			return splitKind, ch
		}
	}
	as := func(kind kvpb.CommandKind, ch *kvpb.ShapeChange) func(s *shaped) (kvpb.CommandKind, *kvpb.ShapeChange) {
		return func(*shaped) (kvpb.CommandKind, *kvpb.ShapeChange) { return kind, ch }
	}
	right := &kvpb.ShardDescriptor{Shard: 9, Generation: 1, Start: []byte("y")}
	for name, make := range map[string]func(s *shaped) (kvpb.CommandKind, *kvpb.ShapeChange){
		"prepare generation":  as(prepareKind, &kvpb.ShapeChange{Generation: 2, SplitKey: []byte("m")}),
		"prepare at start":    as(prepareKind, &kvpb.ShapeChange{Generation: 1, SplitKey: []byte("b")}),
		"prepare outside":     as(prepareKind, &kvpb.ShapeChange{Generation: 1, SplitKey: []byte("y")}),
		"split generation":    split(func(ch *kvpb.ShapeChange) { ch.Generation++ }),
		"split configuration": split(func(ch *kvpb.ShapeChange) { ch.ConfigIndex++ }),
		"split key":           split(func(ch *kvpb.ShapeChange) { ch.SplitKey = []byte("n") }),
		"split key outside":   split(func(ch *kvpb.ShapeChange) { ch.SplitKey = []byte("z") }),
		"split prepared":      split(func(ch *kvpb.ShapeChange) { ch.PreparedIndex++ }),
		"split keys":          split(func(ch *kvpb.ShapeChange) { ch.Right.Keys = 7 }),
		"split bytes":         split(func(ch *kvpb.ShapeChange) { ch.Right.Bytes = 1 << 40 }),
		"split own id":        split(func(ch *kvpb.ShapeChange) { ch.Child.Shard = uint64(testShard) }),
		"freeze generation":   as(freezeKind, &kvpb.ShapeChange{Generation: 2, Into: 9}),
		"freeze config":       as(freezeKind, &kvpb.ShapeChange{Generation: 1, ConfigIndex: 1, Into: 9}),
		"freeze into itself":  as(freezeKind, &kvpb.ShapeChange{Generation: 1, Into: uint64(testShard)}),
		"absorb generation":   as(absorbKind, &kvpb.ShapeChange{Generation: 2, Other: right, FrozenIndex: 1}),
		"absorb config":       as(absorbKind, &kvpb.ShapeChange{Generation: 1, ConfigIndex: 1, Other: right, FrozenIndex: 1}),
		"absorb a stranger": as(absorbKind, &kvpb.ShapeChange{Generation: 1, FrozenIndex: 1,
			Other: &kvpb.ShardDescriptor{Shard: 9, Start: []byte("z")}}),
		"refuse generation": as(refuseKind, &kvpb.ShapeChange{Generation: 2}),
	} {
		t.Run(name, func(t *testing.T) {
			s := newShaped(t)
			defer mustClose(t, s.db)
			kind, ch := make(s)
			before, digest := *s.left.current.Load(), s.contents(s.left)
			res := decodeResult(t, mustApply(t, s.left, s.l.entry(&kvpb.Command{Kind: kind, Shape: ch}))[0].Results[0])
			if res.Status != kvpb.Status_STATUS_CONFLICT || res.Detail == "" {
				t.Fatal(res)
			}
			after := *s.left.current.Load()
			if !bytes.Equal(appendShape(nil, &before.shape), appendShape(nil, &after.shape)) ||
				!bytes.Equal(before.descriptor, after.descriptor) || before.counters != after.counters || s.contents(s.left) != digest {
				t.Fatal("something changed")
			}
			if all, err := s.db.Replicas(); err != nil || len(all) != 1 {
				t.Fatal(all, err)
			}
		})
	}
}

// contents gives all that a replica holds, in words.
func (s *shaped) contents(r *Replica) string {
	v, err := r.view()
	if err != nil {
		s.t.Fatal(err)
	}
	var out bytes.Buffer
	err = walk(sameView{v.it}, &v.placement, func(local, value []byte) error {
		fmt.Fprintf(&out, "%q %q\n", local, value[checksumBytes:])
		return nil
	})
	if err := closeWith(v.it, err); err != nil {
		s.t.Fatal(err)
	}
	return out.String()
}

// TestShapeAgain: what is in force is answered again and changes nothing; one entry
// holds one change.
func TestShapeAgain(t *testing.T) {
	s := newShaped(t)
	defer func() { mustClose(t, s.db) }()
	again := func(r *Replica, l *logWriter, kind kvpb.CommandKind, ch *kvpb.ShapeChange) *kvpb.Result {
		t.Helper()
		before := s.contents(r) + r.Descriptor().String()
		res := decodeResult(t, mustApply(t, r, l.entry(&kvpb.Command{Kind: kind, Shape: ch}))[0].Results[0])
		if res.Status != kvpb.Status_STATUS_OK || s.contents(r)+r.Descriptor().String() != before {
			t.Fatal(kind, res)
		}
		return res
	}
	ch := s.prepare(childShard, "m")
	s.ok(s.left, s.l, splitKind, ch)
	again(s.left, s.l, splitKind, ch)
	s.openRight()
	freeze := &kvpb.ShapeChange{Into: uint64(testShard)}
	first := s.ok(s.right, s.rl, freezeKind, freeze)
	if res := again(s.right, s.rl, freezeKind, freeze); res.Index != first.Index {
		t.Fatal(res)
	}
	if res := s.change(s.right, s.rl, freezeKind, &kvpb.ShapeChange{Into: 99}); res.Status != kvpb.Status_STATUS_CONFLICT {
		t.Fatal(res)
	}
	refuse := &kvpb.ShapeChange{}
	s.ok(s.left, s.l, refuseKind, refuse)
	again(s.left, s.l, refuseKind, refuse)
	late := &kvpb.ShapeChange{Generation: refuse.Generation, Other: s.right.Descriptor(), FrozenIndex: first.Index}
	if res := decodeResult(t, mustApply(t, s.left, s.l.entry(&kvpb.Command{Kind: absorbKind, Shape: late}))[0].Results[0]); res.Status != kvpb.Status_STATUS_CONFLICT {
		t.Fatal("an absorb counted after it was refused:", res)
	}
	thaw := &kvpb.ShapeChange{FrozenIndex: first.Index}
	if res := s.change(s.right, s.rl, thawKind, &kvpb.ShapeChange{FrozenIndex: first.Index + 1}); res.Status != kvpb.Status_STATUS_CONFLICT {
		t.Fatal(res)
	}
	s.ok(s.right, s.rl, thawKind, thaw)
	again(s.right, s.rl, thawKind, thaw)
	if index, _ := s.right.Frozen(); index != 0 {
		t.Fatal(index)
	}
	absorb := s.freeze()
	s.ok(s.left, s.l, absorbKind, absorb)
	again(s.left, s.l, absorbKind, absorb)
	two := s.l.entry(
		&kvpb.Command{Kind: refuseKind, Shape: &kvpb.ShapeChange{Generation: s.left.Descriptor().Generation}},
		&kvpb.Command{Kind: refuseKind, Shape: &kvpb.ShapeChange{Generation: s.left.Descriptor().Generation + 1}})
	out := mustApply(t, s.left, two)[0].Results
	if a, b := decodeResult(t, out[0]), decodeResult(t, out[1]); a.Status != kvpb.Status_STATUS_OK || b.Status != kvpb.Status_STATUS_CONFLICT {
		t.Fatal(a, b)
	}
}

// TestDropHalf: dropping one half leaves the other whole, and what stays behind of it
// is found by nobody, not even by who gets the range back.
func TestDropHalf(t *testing.T) {
	for _, gone := range []kv.ShardID{testShard, childShard} {
		s := newShaped(t)
		s.split()
		kept, other, l := s.left, s.right, s.l
		if gone == testShard {
			kept, other, l = s.right, s.left, s.rl
		}
		before, image := s.contents(kept), mustImage(t, other)
		space := kept.current.Load().pieces[0].space
		lost := other.current.Load().pieces[0]
		if err := s.db.DropReplica(gone); err != nil {
			t.Fatal(err)
		}
		if s.contents(kept) != before {
			t.Fatal("dropping one half changed the other")
		}
		it, err := s.db.eng.NewIter(lost.dataBounds())
		if err != nil || it.First() {
			t.Fatal("records of the dropped half are left", err)
		}
		mustClose(t, it)
		// It comes back by an image, into a space of its own, and goes on.
		back, err := s.db.OpenReplica(gone, &kvpb.ShardDescriptor{Shard: uint64(gone)})
		if err == nil {
			err = restore(back, bytes.NewReader(image))
		}
		if err != nil {
			t.Fatal(err)
		}
		if back.current.Load().pieces[0].space == space {
			t.Fatal("it came back into the shared space")
		}
		mustApply(t, kept, l.entry(&kvpb.Command{Kind: kvpb.CommandKind_COMMAND_SWEEP, Sweep: &kvpb.SweepArgs{
			ExpireBeforeMs: 1 << 60, RetainFromVersion: uint64(l.last), RequestFloorMs: l.nowMs + 1,
		}}))
		if got := kept.Stats(); got.Keys != 0 || got.Requests != 0 {
			t.Fatalf("%+v", got)
		}
		if gone == childShard {
			s.right = back
			rl := *s.l
			rl.index = back.Applied().Index
			s.rl = &rl
			contents := s.contents(back)
			s.ok(s.left, s.l, absorbKind, s.freeze())
			changes, _, err := s.left.Changes(s.left.Stats().Horizon, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for _, c := range changes {
				id := fmt.Sprintf("%s %d", c.Key, c.Version)
				if seen[id] || !s.left.current.Load().owns(c.Key) {
					t.Fatalf("%s twice, or from nowhere", id)
				}
				seen[id] = true
			}
			if st := s.left.Stats(); st.Keys != 3 || len(contents) == 0 {
				t.Fatalf("%+v", st)
			}
		}
		mustClose(t, s.db)
	}
}

// TestOldHomesGo: when the floor has passed what an old home holds, its space is
// removed.
func TestOldHomesGo(t *testing.T) {
	s := newShaped(t)
	defer func() { mustClose(t, s.db) }()
	old := s.left.current.Load().homes[0].space
	s.split()
	has := func() bool {
		spaces, err := listSpaces(s.db.eng)
		if err != nil {
			t.Fatal(err)
		}
		return slices.Contains(spaces, old)
	}
	sweepAll := &kvpb.Command{Kind: kvpb.CommandKind_COMMAND_SWEEP, Sweep: &kvpb.SweepArgs{RequestFloorMs: s.l.nowMs + 1}}
	some := proto.CloneOf(sweepAll)
	some.Sweep.MaxItems = 2
	mustApply(t, s.left, s.l.entry(some))
	if st := s.left.Stats(); st.Requests != 4 || len(s.left.current.Load().homes) != 2 {
		t.Fatalf("%+v", st)
	}
	mustApply(t, s.left, s.l.entry(sweepAll))
	if len(s.left.current.Load().homes) != 1 || s.left.Stats().Requests != 0 || !has() {
		t.Fatal("the old home is not dropped, or gone while the child reads it")
	}
	if st := s.right.Stats(); st.Requests != 6 {
		t.Fatalf("%+v", st)
	}
	mustApply(t, s.right, s.rl.entry(sweepAll))
	if has() {
		t.Fatal("nobody reads the old home, and it is still there")
	}
	again := write(then(put("c", "again")))
	again.Request = &kvpb.RequestID{Hi: 'c', IssuedMs: s.l.nowMs, Fingerprint: 'c' % 2}
	if res := decodeResult(t, mustApply(t, s.left, s.l.entry(again))[0].Results[0]); res.Status != kvpb.Status_STATUS_REQUEST_TOO_OLD {
		t.Fatal(res)
	}
}

// TestSplitElsewhere: where the node is none of the child's, or had it before, the
// right half's records go.
func TestSplitElsewhere(t *testing.T) {
	for name, change := range map[string]func(ch *kvpb.ShapeChange){
		"had it":     func(ch *kvpb.ShapeChange) { ch.Child.Shard = uint64(thirdShard) },
		"not member": func(ch *kvpb.ShapeChange) { ch.Child.Replicas[0].Node++ },
	} {
		s := newShaped(t)
		ch := s.prepare(childShard, "m")
		change(ch)
		s.ok(s.left, s.l, splitKind, ch)
		if e := s.events[len(s.events)-1]; e.Kind != ShapeSplit || e.Adopted {
			t.Fatalf("%s: %+v", name, e)
		}
		if all, err := s.db.Replicas(); err != nil || len(all) != 1 {
			t.Fatal(name, all, err)
		}
		c := s.left.current.Load().pieces[0]
		it, err := s.db.eng.NewIter(escapeOpen(tablePrefix(nil, c.space, tableData), []byte("m")), tablePrefix(nil, c.space, tableData+1))
		if err != nil || it.First() {
			t.Fatal(name, "records of the right half are left", err)
		}
		mustClose(t, it)
		mustClose(t, s.db)
	}
}
