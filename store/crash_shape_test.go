package store

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

// shapeScript is a run of several shards on one database. After each step the whole
// database is known: applied index and digest of every replica.
type shapeScript struct {
	steps  []shapeStep
	states []map[kv.ShardID]string // states[i] is before steps[i]; one more at the end
	froze  int                     // the state after the FREEZE
	absorb int                     // and after the ABSORB
}

// shapeStep applies an entry, or forgets a mark if it has none.
type shapeStep struct {
	shard kv.ShardID
	entry kv.Entry
}

const (
	childShard = kv.ShardID(30)
	thirdShard = kv.ShardID(31) // split off although the node had it before
	testNode   = kv.NodeID(5)
)

func openShaped(t testing.TB, fs engine.FS) *DB {
	t.Helper()
	db, err := Open(Options{
		Dir: "store", FS: fs, Logger: quiet(), MemtableBytes: 64 << 10, Node: testNode,
		Hosted: func(id kv.ServerID) bool { return id.Shard == thirdShard },
	})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// wholeState gives what a database holds, by shard.
func wholeState(t testing.TB, db *DB) map[kv.ShardID]string {
	t.Helper()
	all, err := db.Replicas()
	if err != nil {
		t.Fatal(err)
	}
	out := map[kv.ShardID]string{}
	for _, id := range all {
		r, err := db.OpenReplica(id, nil)
		if err != nil {
			t.Fatal(err)
		}
		out[id] = fmt.Sprintf("%d %x", r.Applied().Index, mustDigest(t, r))
	}
	return out
}

// run applies a step that is above what the replica has.
func (s shapeStep) run(t testing.TB, db *DB) []kv.EntryResult {
	t.Helper()
	if s.entry.Index == 0 {
		if err := db.ForgetAbsorbed(s.shard); err != nil {
			t.Fatal(err)
		}
		return nil
	}
	var initial *kvpb.ShardDescriptor
	if s.shard == testShard {
		initial = testDescriptor()
	}
	r, err := db.OpenReplica(s.shard, initial)
	if err != nil {
		t.Fatalf("entry %d of shard %s: %v", s.entry.Index, s.shard, err)
	}
	return mustApply(t, r, s.entry)
}

type shapeScripter struct {
	*shapeScript
	t   *testing.T
	db  *DB
	rng *rand.Rand
}

func (b *shapeScripter) step(shard kv.ShardID, e kv.Entry) *kvpb.Result {
	b.t.Helper()
	s := shapeStep{shard, e}
	out := s.run(b.t, b.db)
	b.steps = append(b.steps, s)
	b.states = append(b.states, wholeState(b.t, b.db))
	if len(out) == 0 || len(out[0].Results) == 0 {
		return nil
	}
	res := decodeResult(b.t, out[0].Results[0])
	if res.Status != kvpb.Status_STATUS_OK {
		b.t.Fatalf("entry %d of shard %s: %v", e.Index, shard, res)
	}
	return res
}

func (b *shapeScripter) replica(shard kv.ShardID) *Replica {
	r, err := b.db.OpenReplica(shard, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// writes steps through n entries of keys that begin with one of the prefixes.
func (b *shapeScripter) writes(shard kv.ShardID, l *logWriter, n int, prefixes string) {
	for i := range n {
		l.nowMs += 100
		key := func() string { return fmt.Sprintf("%c%02d", prefixes[b.rng.IntN(len(prefixes))], b.rng.IntN(20)) }
		p := put(key(), string(make([]byte, b.rng.IntN(1500))))
		p.TtlMs = int64(b.rng.IntN(2)) * 900
		cmd := write(then(p, put(key(), "x")))
		cmd.Request = &kvpb.RequestID{Hi: b.rng.Uint64(), Lo: uint64(i), IssuedMs: l.nowMs, Fingerprint: uint64(b.rng.IntN(2))}
		if i%8 == 7 {
			cmd = &kvpb.Command{Kind: kvpb.CommandKind_COMMAND_SWEEP, Sweep: &kvpb.SweepArgs{
				ExpireBeforeMs: l.nowMs, RequestFloorMs: l.nowMs - 1500, RetainFromVersion: uint64(l.last) - 20, MaxItems: 15,
			}}
		}
		b.step(shard, l.entry(cmd))
	}
}

// shapeEntry is an entry with one change, as the replica expects it.
func shapeEntry(r *Replica, l *logWriter, kind kvpb.CommandKind, ch *kvpb.ShapeChange) kv.Entry {
	ch.Generation, ch.ConfigIndex = r.Descriptor().Generation, r.Applied().ConfigIndex
	return l.entry(&kvpb.Command{Kind: kind, Shape: ch})
}

func splitOf(child kv.ShardID, key []byte, prepared uint64, f *kvpb.Figures) *kvpb.ShapeChange {
	return &kvpb.ShapeChange{
		SplitKey: key, PreparedIndex: prepared, Right: f, ChildConfig: []byte("members"),
		Child: &kvpb.ShardDescriptor{Shard: uint64(child), Replicas: []*kvpb.ReplicaDescriptor{
			{Node: uint64(testNode), Incarnation: 1, Role: kvpb.ReplicaRole_ROLE_VOTER},
		}},
	}
}

// split steps through a prepare, a count and a split.
func (b *shapeScripter) split(l *logWriter, child kv.ShardID, key string) {
	b.t.Helper()
	r := b.replica(testShard)
	b.step(testShard, shapeEntry(r, l, kvpb.CommandKind_COMMAND_SPLIT_PREPARE, &kvpb.ShapeChange{SplitKey: []byte(key)}))
	at, prepared, f, err := r.CountRight(context.Background())
	if err != nil {
		b.t.Fatal(err)
	}
	b.writes(testShard, l, 4, "cmq")
	b.step(testShard, shapeEntry(r, l, kvpb.CommandKind_COMMAND_SPLIT, splitOf(child, at, prepared, f)))
}

func newShapeScript(t *testing.T) *shapeScript {
	t.Helper()
	db := openShaped(t, engine.NewMemFS())
	defer mustClose(t, db)
	b := &shapeScripter{&shapeScript{states: []map[kv.ShardID]string{{}}}, t, db, rand.New(rand.NewPCG(3, 4))}
	l := newLog()
	b.step(testShard, l.startTerm())
	l.last = b.replica(testShard).Applied().LastVersion
	b.writes(testShard, l, 24, "cmq")
	b.split(l, childShard, "m")
	cl := *l
	cl.index = kv.ChildStartIndex
	for range 4 {
		b.writes(testShard, l, 4, "c")
		b.writes(childShard, &cl, 5, "mq")
	}
	child := b.replica(childShard)
	frozen := b.step(childShard, shapeEntry(child, &cl, kvpb.CommandKind_COMMAND_FREEZE, &kvpb.ShapeChange{Into: uint64(testShard)}))
	b.froze = len(b.steps)
	cl.term++
	b.step(childShard, cl.startTerm())
	b.writes(testShard, l, 3, "c")
	b.step(testShard, shapeEntry(b.replica(testShard), l, kvpb.CommandKind_COMMAND_ABSORB, &kvpb.ShapeChange{
		Other: child.Descriptor(), FrozenIndex: frozen.Index,
	}))
	b.absorb = len(b.steps)
	l.last = b.replica(testShard).Applied().LastVersion
	b.writes(testShard, l, 5, "cmq")
	b.step(childShard, kv.Entry{}) // forgotten
	b.writes(testShard, l, 25, "cmq")
	b.split(l, thirdShard, "n")
	b.writes(testShard, l, 10, "cm")
	return b.shapeScript
}

// TestCrashShape: a crash at any file operation of a run with splits and a merge
// leaves what was after one of its steps, for all replicas together, and the logs
// lead from there to the same end.
func TestCrashShape(t *testing.T) {
	s := newShapeScript(t)
	c := newCrashRun(t, nil)
	left := map[int]int{}
	c.one = func(at crashed) {
		db := openShaped(t, at.fs)
		defer mustClose(t, db)
		got := wholeState(t, db)
		step := slices.IndexFunc(s.states, func(want map[kv.ShardID]string) bool { return maps.Equal(got, want) })
		if step < 0 || uint64(lastEqual(s.states, got)) < at.durable {
			t.Fatalf("crash at %s, %d steps durable: %d replicas as after step %d", at.op, at.durable, len(got), step)
		}
		left[step]++
		if c.seen%replayEvery == 0 {
			s.replay(t, db, step, at)
		}
	}
	db := openShaped(t, c.fs)
	for i, step := range s.steps {
		step.run(t, db)
		if i%17 == 16 || i+1 == s.absorb {
			if err := db.Flush(); err != nil {
				t.Fatal(err)
			}
			c.promise(func(p *crashed) { p.durable = uint64(i + 1) })
		}
		if i+1 == s.froze { // without a flush of the node's
			c.promise(func(p *crashed) { p.durable = uint64(i + 1) })
		}
		if i%40 == 39 {
			mustClose(t, db)
			c.promise(func(p *crashed) { p.durable = uint64(i + 1) })
			db = openShaped(t, c.fs)
		}
		if i%10 == 0 {
			c.check()
		}
	}
	mustClose(t, db)
	c.check()
	t.Logf("%d crashes left %d of %d states", c.seen, len(left), len(s.states))
	if c.seen < 300 || len(left) < 8 {
		t.Fatalf("%d crashes that left %v prove little", c.seen, left)
	}
}

// lastEqual gives the last of the states that is equal to one.
func lastEqual(states []map[kv.ShardID]string, got map[kv.ShardID]string) int {
	for i := len(states) - 1; i >= 0; i-- {
		if maps.Equal(states[i], got) {
			return i
		}
	}
	return -1
}

// replay applies what the logs hold beyond a state. Once the freeze has shown, the
// left shard's log may come before the right one's: its Raft group may be gone.
func (s *shapeScript) replay(t *testing.T, db *DB, step int, at crashed) {
	t.Helper()
	rest := slices.Clone(s.steps[step:])
	if step >= s.froze && step < s.absorb {
		rest = slices.DeleteFunc(rest, func(st shapeStep) bool { return st.shard == childShard && st.entry.Index != 0 })
	}
	for _, st := range rest {
		st.run(t, db)
	}
	if got := wholeState(t, db); !maps.Equal(got, s.states[len(s.states)-1]) {
		t.Fatalf("crash at %s: replay from step %d ends in another state: %d replicas", at.op, step, len(got))
	}
	states, err := db.states()
	if err != nil {
		t.Fatal(err)
	}
	present, err := listSpaces(db.eng)
	if err != nil {
		t.Fatal(err)
	}
	referred := referredSpaces(states)
	for _, id := range present {
		if !referred[id] {
			t.Fatalf("crash at %s: space %d is left over", at.op, id)
		}
	}
	absorbed, err := db.Absorbed()
	if err != nil || len(absorbed) != 0 {
		t.Fatalf("crash at %s: marks %v, %v", at.op, absorbed, err)
	}
}
