package store

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

// filled opens a replica with a few keys in it.
func filled(t testing.TB, fs engine.FS) (*DB, *Replica, *logWriter) {
	t.Helper()
	db := mustOpen(t, fs)
	r := mustReplica(t, db)
	l := newLog()
	mustApply(t, r, l.startTerm())
	mustApply(t, r, l.entry(write(then(put("c", "1"), put("d", "2"), put("e", "3")))))
	mustApply(t, r, l.entry(write(then(put("c", "4")))))
	return db, r, l
}

func get(r *Replica, keys ...string) *kvpb.ReadResponse {
	req := &kvpb.ReadRequest{}
	for _, k := range keys {
		req.Gets = append(req.Gets, []byte(k))
	}
	return r.Read(req)
}

// TestCorrupt: a record that does not match its checksum is never a value, for no
// reader, and stops apply.
func TestCorrupt(t *testing.T) {
	for _, flushed := range []bool{false, true} {
		db, r, l := filled(t, engine.NewMemFS())
		v, err := r.view()
		if err != nil {
			t.Fatal(err)
		}
		if !v.it.SeekPrefixGE(dataKey(nil, v.spaceOf([]byte("d")), []byte("d"), versionMax)) {
			t.Fatal("no record")
		}
		key := slices.Clone(v.it.Key())
		value, err := v.it.Value()
		bad := slices.Clone(value)
		if err := closeWith(v.it, err); err != nil {
			t.Fatal(err)
		}
		bad[len(bad)-1] ^= 1
		b := db.eng.NewBatch(false)
		b.Set(key, bad)
		if err := b.Commit(); err != nil {
			t.Fatal(err)
		}
		mustClose(t, b)
		if flushed {
			if err := r.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		reads := map[string]*kvpb.ReadResponse{
			"get":    get(r, "d"),
			"scan":   r.Read(&kvpb.ReadRequest{Scan: &kvpb.Scan{}}),
			"keys":   r.Read(&kvpb.ReadRequest{Scan: &kvpb.Scan{KeysOnly: true, Reverse: true}}),
			"digest": r.Read(&kvpb.ReadRequest{Digest: true}),
		}
		for what, resp := range reads {
			if resp.Status != kvpb.Status_STATUS_CORRUPT || len(resp.Gets)+len(resp.Items)+len(resp.Digest) > 0 {
				t.Errorf("%s: %v", what, resp)
			}
		}
		if resp := get(r, "c"); resp.Status != kvpb.Status_STATUS_OK {
			t.Errorf("another key: %v", resp)
		}
		if _, err := r.Digest(); !isCorrupt(err) {
			t.Errorf("digest: %v", err)
		}
		im, err := r.Image()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := im.WriteTo(new(bytes.Buffer)); !isCorrupt(err) {
			t.Errorf("image: %v", err)
		}
		mustClose(t, im)
		for range 2 { // and it stays stopped
			_, err := r.Apply([]kv.Entry{l.entry(write(then(&kvpb.Op{Kind: kvpb.OpKind_OP_GET, Key: []byte("d")})))})
			if kv.CodeOf(err) != kv.CodeCorrupt || kv.OutcomeOf(err) != kv.OutcomeUnknown {
				t.Errorf("apply: %v", err)
			}
		}
		mustClose(t, db)
	}
}

// TestDrop: a dropped replica leaves nothing, not even for a new one of the shard.
func TestDrop(t *testing.T) {
	fs := engine.NewMemFS()
	db, r, _ := filled(t, fs)
	other := openOther(t, db)
	if all, err := db.Replicas(); err != nil || !slices.Equal(all, []kv.ShardID{testShard, otherShard}) {
		t.Fatal(all, err)
	}
	if err := db.DropReplica(testShard); err != nil {
		t.Fatal(err)
	}
	if err := db.DropReplica(testShard); err != nil {
		t.Fatal("again:", err)
	}
	if resp := get(r, "c"); resp.Status != kvpb.Status_STATUS_NOT_READY {
		t.Fatal("a read of a dropped replica:", resp)
	}
	if _, err := r.Apply(nil); !errors.Is(err, ErrClosed) {
		t.Fatal("apply on a dropped replica:", err)
	}
	if all, err := db.Replicas(); err != nil || !slices.Equal(all, []kv.ShardID{otherShard}) {
		t.Fatal(all, err)
	}
	if spaces, err := listSpaces(db.eng); err != nil || len(spaces) != 0 {
		t.Fatal("left over:", spaces, err)
	}
	r = mustReplica(t, db)
	if r.Applied().Index != 0 || r.Stats().Keys != 0 || get(r, "c").Gets[0].Found {
		t.Fatal("the new replica found the old one's state")
	}
	if resp := get(other, "c"); resp.Status != kvpb.Status_STATUS_OK {
		t.Fatal(resp)
	}
	mustClose(t, db)
	if resp := get(other, "c"); resp.Status != kvpb.Status_STATUS_NOT_READY {
		t.Fatal("a read after Close:", resp)
	}
	if _, err := other.Image(); kv.CodeOf(err) != kv.CodeNoReplica {
		t.Fatal("an image after Close:", err)
	}
}

// TestOpenRefuses: what is inconsistent is not opened.
func TestOpenRefuses(t *testing.T) {
	fs := engine.NewMemFS()
	db, _, _ := filled(t, fs)
	if _, err := db.OpenReplica(9, nil); err == nil {
		t.Fatal("a replica was made from nothing")
	}
	if _, err := db.OpenReplica(9, testDescriptor()); err == nil {
		t.Fatal("a replica was made from another shard's descriptor")
	}
	empty := &kvpb.ShardDescriptor{Shard: 9, Start: []byte("x"), End: []byte("x")}
	if _, err := db.OpenReplica(9, empty); err == nil {
		t.Fatal("a replica was made with an empty range")
	}
	mustClose(t, db)
	path := fs.PathJoin("store", "space-ids")
	if err := engine.WriteFileSynced(fs, path, []byte("not twelve bytes")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: "store", FS: fs, Logger: quiet()}); !errors.Is(err, engine.ErrCorrupt) {
		t.Fatal("opened with a damaged allocator:", err)
	}
	if err := fs.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: "store", FS: fs, Logger: quiet()}); !errors.Is(err, engine.ErrCorrupt) {
		t.Fatal("opened with data and no allocator:", err)
	}
}

// TestSpaceIDs: no id comes twice, whatever was durable.
func TestSpaceIDs(t *testing.T) {
	fs := engine.NewCrashableMemFS()
	if err := engine.MkdirSynced(fs, "d"); err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	for range 5 {
		ids, _, err := openSpaceIDs(fs, "d/space-ids")
		if err != nil {
			t.Fatal(err)
		}
		for range spacesReserved + 3 {
			id, err := ids.allocate()
			if err != nil || seen[id] || id == 0 {
				t.Fatal(id, err)
			}
			seen[id] = true
		}
		fs = fs.CrashClone(engine.CrashCloneCfg{})
	}
}

// TestUnreferred: spaces that nothing refers to go when the database is opened.
func TestUnreferred(t *testing.T) {
	fs := engine.NewMemFS()
	db, r, _ := filled(t, fs)
	before := mustDigest(t, r)
	b := db.eng.NewBatch(false)
	b.Set(dataKey(nil, 99, []byte("c"), 1), []byte("left"))
	if err := errors.Join(b.Commit(), b.Close()); err != nil {
		t.Fatal(err)
	}
	f, err := fs.Create("store/staging/00000001.sst", "test")
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, f)
	mustClose(t, db)
	db = mustOpen(t, fs)
	if spaces, err := listSpaces(db.eng); err != nil || len(spaces) != 1 {
		t.Fatal(spaces, err)
	}
	if names, err := fs.List("store/staging"); err != nil || len(names) != 0 {
		t.Fatal(names, err)
	}
	if mustDigest(t, mustReplica(t, db)) != before {
		t.Fatal("what is referred to was touched")
	}
	mustClose(t, db)
}

// TestViews: whatever is applied or restored meanwhile, a read sees state and data
// of one moment (S4). Each entry writes its index under two keys.
func TestViews(t *testing.T) {
	const rounds = 300
	source := mustOpen(t, engine.NewMemFS())
	from := mustReplica(t, source)
	db := mustOpen(t, engine.NewMemFS())
	r := mustReplica(t, db)
	l := newLog()
	e := l.startTerm()
	mustApply(t, from, e)
	mustApply(t, r, e)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				resp := get(r, "c", "x")
				if resp.Status != kvpb.Status_STATUS_OK {
					t.Error(resp)
					return
				}
				want := fmt.Sprint(resp.AppliedIndex)
				if resp.AppliedIndex == 1 {
					continue
				}
				for _, g := range resp.Gets {
					if string(g.Item.GetValue()) != want {
						t.Errorf("at index %s: %v", want, resp.Gets)
						return
					}
				}
			}
		})
	}
	for i := range rounds {
		value := fmt.Sprint(l.index + 1)
		e := l.entry(write(then(put("c", value), put("x", value))))
		mustApply(t, from, e)
		if i%20 != 19 {
			mustApply(t, r, e)
		} else if err := restore(r, bytes.NewReader(mustImage(t, from))); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	readers.Wait()
	mustClose(t, source)
	mustClose(t, db)
}

// TestViewDuringCommit: while a commit is being published the state comes from the
// engine's own view.
func TestViewDuringCommit(t *testing.T) {
	db, r, _ := filled(t, engine.NewMemFS())
	want := get(r, "c", "d", "e")
	r.epoch.Add(1)
	if got := get(r, "c", "d", "e"); !proto.Equal(got, want) {
		t.Fatalf("%v\nwant %v", got, want)
	}
	r.epoch.Add(1)
	mustClose(t, db)
}

// TestImageLives: an image shows its moment, whatever is applied later, and dies
// with the DB.
func TestImageLives(t *testing.T) {
	db, r, l := filled(t, engine.NewMemFS())
	im, err := r.Image()
	if err != nil {
		t.Fatal(err)
	}
	at, before := im.Applied().Index, mustDigest(t, r)
	mustApply(t, r, l.entry(write(then(put("c", "later"), del("d")))))
	var buf bytes.Buffer
	if _, err := im.WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	if _, err := im.WriteTo(&buf); err == nil {
		t.Fatal("written twice")
	}
	mustClose(t, db) // with the image open
	mustClose(t, im)
	db = mustOpen(t, engine.NewMemFS())
	r = mustReplica(t, db)
	if err := restore(r, &buf); err != nil {
		t.Fatal(err)
	}
	if r.Applied().Index != at || mustDigest(t, r) != before {
		t.Fatal("the image is of another moment")
	}
	mustClose(t, db)
}

// TestRestoreOfAnotherShard: an image of another shard is refused.
func TestRestoreOfAnotherShard(t *testing.T) {
	db, r, _ := filled(t, engine.NewMemFS())
	if err := restore(openOther(t, db), bytes.NewReader(mustImage(t, r))); !errors.Is(err, ErrImageCorrupt) {
		t.Fatal(err)
	}
	if err := restore(r, bytes.NewReader(mustImage(t, r))); !errors.Is(err, ErrImageOld) {
		t.Fatal(err)
	}
	mustClose(t, db)
}

// TestSweepCommand: it is made when something is due, and then nothing is.
func TestSweepCommand(t *testing.T) {
	db, r, l := filled(t, engine.NewMemFS())
	policy := SweepPolicy{RequestWindow: time.Minute, Retention: time.Minute}
	cmd := write(then(put("c", "5")))
	cmd.Txns[0].Then[0].TtlMs = 1000
	cmd.Request = &kvpb.RequestID{Hi: 1, IssuedMs: l.nowMs}
	mustApply(t, r, l.entry(cmd))
	due := func(after time.Duration) *kvpb.Command {
		c, ok := r.SweepCommand(l.nowMs+after.Milliseconds(), policy)
		if !ok {
			return nil
		}
		return c
	}
	if c := due(999 * time.Millisecond); c != nil {
		t.Fatal(c)
	}
	if c := due(time.Second); c.GetSweep().GetExpireBeforeMs() == 0 || c.GetSweep().GetRequestFloorMs() != 0 {
		t.Fatal(c)
	}
	l.lastUp(2 * time.Minute)
	mustApply(t, r, l.entry(write(then(put("f", "x")))))
	c := due(2 * time.Minute)
	if s := c.GetSweep(); s.GetExpireBeforeMs() == 0 || s.GetRequestFloorMs() == 0 || s.GetRetainFromVersion() == 0 {
		t.Fatal(c)
	}
	mustApply(t, r, l.entry(c))
	if c := due(2 * time.Minute); c != nil {
		t.Fatal("still due:", c)
	}
	if st := r.Stats(); st.Requests != 0 || st.Horizon == 0 {
		t.Fatalf("%+v", st)
	}
	if _, ok := r.SweepCommand(l.nowMs+time.Hour.Milliseconds(), SweepPolicy{}); ok {
		t.Fatal("an empty policy sweeps")
	}
	mustClose(t, db)
}

// lastUp moves the log's versions ahead in time.
func (l *logWriter) lastUp(d time.Duration) { l.last = kv.VersionAt(l.nowMs + d.Milliseconds()) }

// A replica that a shard is founded with begins behind index 0 with its
// configuration, also where a crash took the state and left its record; one that
// comes later begins with nothing.
func TestOpenInitial(t *testing.T) {
	config := []byte("members")
	db := mustOpen(t, engine.NewMemFS())
	check := func(r *Replica, err error, index uint64, config string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if a := r.Applied(); a.Index != index || a.ConfigIndex != index || string(a.Config) != config || index > 0 && a.Term != kv.ChildStartTerm {
			t.Fatalf("applied %+v", a)
		}
	}
	first := &kvpb.ShardDescriptor{Shard: 70, Generation: 1}
	r, err := db.OpenInitial(70, first, config)
	check(r, err, kv.ChildStartIndex, "members")
	r, err = db.OpenReplica(71, &kvpb.ShardDescriptor{Shard: 71, Generation: 1})
	check(r, err, 0, "")
	mustClose(t, db)
	db = mustOpen(t, engine.NewMemFS()) // all is lost
	defer mustClose(t, db)
	r, err = db.OpenInitial(70, first, config)
	check(r, err, kv.ChildStartIndex, "members")
}
