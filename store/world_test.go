package store

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

// world drives several shards, each with a twin, on two databases that apply their
// logs at different times and in different runs. Shards split and merge; replicas are
// restored, dropped and made again. Whatever the history of a database, it must
// answer and hold what the twins say (S3).
type world struct {
	t      *rapid.T
	fs     [2]*engine.MemFS
	db     [2]*DB
	shards map[kv.ShardID]*worldShard
	last   kv.ShardID
	// shunned are shards that the second database says it had before.
	shunned map[kv.ShardID]bool
	events  [2][]ShapeEvent
}

// worldShard is one shard: its log with what every entry answers, and its twin.
type worldShard struct {
	machine // generates; its databases are not used
	parent  kv.ShardID
	gone    bool // absorbed, by which shard at which index of its log
	into    kv.ShardID
	intoAt  uint64
	entries []kv.Entry
	results []worldResult
	change  *kvpb.Command // the last one that was proposed
}

type worldResult struct {
	rejected bool
	results  []*kvpb.Result
}

var worldNodes = [2]kv.NodeID{1, 2}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, shards: map[kv.ShardID]*worldShard{}, last: testShard, shunned: map[kv.ShardID]bool{}}
	for d := range w.db {
		w.fs[d] = engine.NewMemFS()
		w.open(d)
	}
	w.add(newTwin(testDescriptor()), newLog(), 0)
	for d := range w.db {
		if _, err := w.db[d].OpenReplica(testShard, testDescriptor()); err != nil {
			t.Fatal(err)
		}
	}
	s := w.shards[testShard]
	w.propose(s, s.log.startTerm())
	return w
}

func (w *world) add(tw *twin, log *logWriter, parent kv.ShardID) *worldShard {
	s := &worldShard{machine: machine{t: w.t, twin: tw, log: *log}, parent: parent}
	tw.shape.neighbours = func(id kv.ShardID) *twin { return w.shards[id].twin }
	tw.shape.born = func(child *twin) {
		id := kv.ShardID(child.desc.Shard)
		l := s.log
		l.index = kv.ChildStartIndex
		c := w.add(child, &l, kv.ShardID(tw.desc.Shard))
		c.requests, c.merged = slices.Clone(s.requests), s.merged
		w.shards[id] = c
	}
	w.shards[kv.ShardID(tw.desc.Shard)] = s
	s.inRange()
	return s
}

// inRange lets commands be about keys of the shard.
func (s *worldShard) inRange() {
	s.keys = nil
	for _, k := range testKeys {
		if s.twin.owns([]byte(k)) {
			s.keys = append(s.keys, k)
		}
	}
	if len(s.keys) == 0 {
		s.keys = []string{string(s.twin.desc.Start)}
	}
}

func (s *worldShard) id() kv.ShardID { return kv.ShardID(s.twin.desc.Shard) }

func (w *world) open(d int) {
	var err error
	w.db[d], err = Open(Options{
		Dir: "d", FS: w.fs[d], Logger: quiet(), MemtableBytes: 64 << 10, Node: worldNodes[d],
		Hosted:  func(id kv.ServerID) bool { return d == 1 && w.shunned[id.Shard] },
		OnShape: func(e ShapeEvent) { w.events[d] = append(w.events[d], e) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) close() {
	for _, db := range w.db {
		if err := db.Close(); err != nil {
			w.t.Fatal(err)
		}
	}
}

// propose appends an entry to a shard's log. The twin applies it at once.
func (w *world) propose(s *worldShard, e kv.Entry) worldResult {
	rejected, results := s.twin.apply(e)
	res := worldResult{rejected, results}
	s.entries, s.results = append(s.entries, e), append(s.results, res)
	s.log.last = max(s.log.last, s.twin.last)
	s.inRange()
	return res
}

// has reports whether a database has a replica of a shard.
func (w *world) has(d int, id kv.ShardID) bool {
	all, err := w.db[d].Replicas()
	if err != nil {
		w.t.Fatal(err)
	}
	return slices.Contains(all, id)
}

// replica gives a replica. If it is not there yet, its parent has not split there.
func (w *world) replica(d int, id kv.ShardID) *Replica {
	if !w.has(d, id) {
		if parent := w.shards[id].parent; parent != 0 && !w.shards[parent].gone {
			w.catchUp(d, parent)
		}
	}
	if !w.has(d, id) {
		w.restore(d, id)
	}
	r, err := w.db[d].OpenReplica(id, nil)
	if err != nil {
		w.t.Fatalf("database %d, shard %s: %v", d, id, err)
	}
	return r
}

// catchUp lets a replica apply all of its log, in runs of random lengths.
func (w *world) catchUp(d int, id kv.ShardID) *Replica {
	r, s := w.replica(d, id), w.shards[id]
	for {
		rest := slices.IndexFunc(s.entries, func(e kv.Entry) bool { return e.Index > r.Applied().Index })
		if rest < 0 {
			return r
		}
		n := rapid.IntRange(1, len(s.entries)-rest).Draw(w.t, "run")
		got, err := r.Apply(s.entries[rest : rest+n])
		if err != nil {
			w.t.Fatalf("database %d, shard %s: %v", d, id, err)
		}
		for i := range got {
			w.compare(s, rest+i, got[i])
		}
	}
}

func (w *world) compare(s *worldShard, i int, got kv.EntryResult) {
	want := s.results[i]
	if got.Rejected != want.rejected || len(got.Results) != len(want.results) {
		w.t.Fatalf("shard %s entry %d: %v %d, want %v", s.id(), s.entries[i].Index, got.Rejected, len(got.Results), want)
	}
	for j, b := range got.Results {
		var res kvpb.Result
		if err := proto.Unmarshal(b, &res); err != nil {
			w.t.Fatal(err)
		}
		res.Detail = ""
		for _, t := range res.Txns {
			t.Detail = ""
		}
		if !proto.Equal(&res, want.results[j]) {
			w.t.Fatalf("shard %s entry %d command %d:\n got %v\nwant %v", s.id(), s.entries[i].Index, j, &res, want.results[j])
		}
	}
}

// restore replaces a replica by an image of the other database's, which makes it if
// it is not there.
func (w *world) restore(d int, id kv.ShardID) {
	var image bytes.Buffer
	im, err := w.catchUp(1-d, id).Image()
	if err == nil {
		_, err = im.WriteTo(&image)
		err = errors.Join(err, im.Close())
	}
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := w.db[d].OpenReplica(id, &kvpb.ShardDescriptor{Shard: uint64(id)})
	if err != nil {
		w.t.Fatal(err)
	}
	ahead := r.Applied().Index >= im.Applied().Index
	if err := restore(r, &image); (err != nil) != ahead {
		w.t.Fatalf("restore: %v, ahead %v", err, ahead)
	}
	// What the shard has absorbed by then is still there, and nobody's any more.
	for _, other := range w.shards {
		if other.gone && other.into == id && other.intoAt <= r.Applied().Index {
			if err := w.db[d].DropReplica(other.id()); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

func (w *world) live() (out []*worldShard) {
	for _, id := range slices.Sorted(maps.Keys(w.shards)) {
		if !w.shards[id].gone {
			out = append(out, w.shards[id])
		}
	}
	return out
}

func (w *world) pick(t *rapid.T) *worldShard { return rapid.SampledFrom(w.live()).Draw(t, "shard") }

// Entry proposes commands as a good leader stamps them.
func (w *world) Entry(t *rapid.T) {
	s := w.pick(t)
	s.log.nowMs += rapid.Int64Range(-100, 900).Draw(t, "clock")
	w.propose(s, s.log.entry(w.commands(t, s, 4)...))
}

func (w *world) commands(t *rapid.T, s *worldShard, most int) (cmds []*kvpb.Command) {
	for range rapid.IntRange(0, most).Draw(t, "commands") {
		cmds = append(cmds, s.genCommand(t))
	}
	if len(cmds) == 0 && most > 2 {
		cmds = append(cmds, s.genCommand(t))
	}
	return cmds
}

// Odd proposes a term, a configuration or an earlier change again.
func (w *world) Odd(t *rapid.T) {
	s := w.pick(t)
	switch rapid.IntRange(0, 2).Draw(t, "what") {
	case 0:
		s.log.term++
		w.propose(s, s.log.startTerm())
	case 1:
		s.log.index++
		w.propose(s, kv.Entry{Index: s.log.index, Term: s.log.term, Config: []byte("config")})
	case 2:
		if s.change != nil {
			w.propose(s, s.log.entry(s.change))
		}
	}
}

// shapeEntry proposes a change among other commands.
func (w *world) shapeEntry(t *rapid.T, s *worldShard, kind kvpb.CommandKind, ch *kvpb.ShapeChange) *kvpb.Result {
	ch.Generation, ch.ConfigIndex = s.twin.desc.Generation, s.twin.configIndex
	s.change = &kvpb.Command{Kind: kind, Shape: ch}
	before := w.commands(t, s, 2)
	cmds := append(append(before, s.change), w.commands(t, s, 2)...)
	return w.propose(s, s.log.entry(cmds...)).results[len(before)]
}

// Split prepares, counts and splits a shard.
func (w *world) Split(t *rapid.T) {
	s := w.pick(t)
	d := rapid.IntRange(0, 1).Draw(t, "leader")
	key := []byte(rapid.SampledFrom(append([]string{"c/", "e"}, s.keys...)).Draw(t, "at"))
	r := w.catchUp(d, s.id()) // an image that it came by has no view of a prepare
	if rapid.Bool().Draw(t, "middle") {
		found, ok, err := r.SplitKey(context.Background())
		if err != nil || ok && (!s.twin.owns(found) || bytes.Equal(found, s.twin.desc.Start)) {
			t.Fatal(found, ok, err)
		}
		if ok {
			key = found
		}
	}
	res := w.shapeEntry(t, s, kvpb.CommandKind_COMMAND_SPLIT_PREPARE, &kvpb.ShapeChange{SplitKey: key})
	if res.Status != kvpb.Status_STATUS_OK {
		return
	}
	if rapid.Bool().Draw(t, "later") {
		w.propose(s, s.log.entry(w.commands(t, s, 3)...))
	}
	got, at, figures, err := w.catchUp(d, s.id()).CountRight(context.Background())
	if err != nil || at != res.Index || !bytes.Equal(got, key) {
		t.Fatalf("counted %q at %d: %v, want %q at %d", got, at, err, key, res.Index)
	}
	w.propose(s, s.log.entry(w.commands(t, s, 3)...))
	w.last++
	w.shunned[w.last] = rapid.IntRange(0, 3).Draw(t, "shunned") == 0
	child := &kvpb.ShardDescriptor{Shard: uint64(w.last)}
	for _, n := range worldNodes {
		child.Replicas = append(child.Replicas, &kvpb.ReplicaDescriptor{Node: uint64(n), Incarnation: 1, Role: kvpb.ReplicaRole_ROLE_VOTER})
	}
	if rapid.IntRange(0, 4).Draw(t, "elsewhere") == 0 {
		child.Replicas = child.Replicas[:1]
	}
	res = w.shapeEntry(t, s, kvpb.CommandKind_COMMAND_SPLIT, &kvpb.ShapeChange{
		SplitKey: key, Child: child, Right: figures, PreparedIndex: at, ChildConfig: []byte("members of the child"),
	})
	if res.Status != kvpb.Status_STATUS_OK {
		t.Fatal(res)
	}
}

// Freeze freezes a shard that has a left neighbour.
func (w *world) Freeze(t *rapid.T) {
	s := w.pick(t)
	if left := w.leftOf(s); left != nil && left.twin.shape.frozen == nil {
		w.shapeEntry(t, s, kvpb.CommandKind_COMMAND_FREEZE, &kvpb.ShapeChange{Into: left.twin.desc.Shard})
	}
}

func (w *world) leftOf(s *worldShard) *worldShard {
	for _, o := range w.live() {
		if bytes.Equal(o.twin.desc.End, s.twin.desc.Start) {
			return o
		}
	}
	return nil
}

// Merge ends a freeze: the left neighbour absorbs the shard, or refuses to.
func (w *world) Merge(t *rapid.T) {
	s := w.pick(t)
	f, left := s.twin.shape.frozen, w.leftOf(s)
	if f == nil || left == nil || left.twin.shape.frozen != nil || uint64(left.id()) != f.into {
		return
	}
	if rapid.IntRange(0, 3).Draw(t, "refused") == 0 {
		w.shapeEntry(t, left, kvpb.CommandKind_COMMAND_REFUSE_ABSORB, &kvpb.ShapeChange{})
		w.shapeEntry(t, s, kvpb.CommandKind_COMMAND_UNFREEZE, &kvpb.ShapeChange{FrozenIndex: f.index})
		return
	}
	for d := range w.db {
		r := w.catchUp(d, s.id())
		if index, into := r.Frozen(); index != f.index || uint64(into) != f.into {
			t.Fatalf("frozen at %d into %s, want %+v", index, into, f)
		}
	}
	res := w.shapeEntry(t, left, kvpb.CommandKind_COMMAND_ABSORB, &kvpb.ShapeChange{
		Other: proto.Clone(s.twin.desc).(*kvpb.ShardDescriptor), FrozenIndex: f.index,
	})
	if res.Status != kvpb.Status_STATUS_OK {
		t.Fatal(res)
	}
	s.gone, s.into, s.intoAt = true, left.id(), left.log.index
	left.merged = true
	left.requests = append(left.requests, s.requests...)
	left.inRange()
	left.log.nowMs = max(left.log.nowMs, s.log.nowMs)
}

// CatchUp lets one replica catch up.
func (w *world) CatchUp(t *rapid.T) { w.catchUp(rapid.IntRange(0, 1).Draw(t, "which"), w.pick(t).id()) }

// Reopen closes a database and opens it again.
func (w *world) Reopen(t *rapid.T) {
	d := rapid.IntRange(0, 1).Draw(t, "which")
	if err := w.db[d].Close(); err != nil {
		t.Fatal(err)
	}
	w.open(d)
}

// Restore replaces a replica by an image; before that it may be dropped, or not be
// there yet.
func (w *world) Restore(t *rapid.T) {
	d, s := rapid.IntRange(0, 1).Draw(t, "which"), w.pick(t)
	if !w.has(1-d, s.id()) {
		return
	}
	w.catchUp(1-d, s.id())
	for _, c := range w.live() {
		if c.parent == s.id() && d == 0 && !w.has(d, c.id()) {
			return // for some shards only the split on this database makes a replica
		}
	}
	if w.has(d, s.id()) && rapid.Bool().Draw(t, "drop") {
		if err := w.db[d].DropReplica(s.id()); err != nil {
			t.Fatal(err)
		}
	}
	w.restore(d, s.id())
}

// Look compares what a shard answers on one database with its twin.
func (w *world) Look(t *rapid.T) {
	s := w.pick(t)
	s.t = t
	s.one = w.catchUp(rapid.IntRange(0, 1).Draw(t, "which"), s.id())
	if s.twin.shape.frozen != nil {
		for _, req := range []*kvpb.ReadRequest{{Gets: [][]byte{[]byte(s.keys[0])}}, {Scan: &kvpb.Scan{}}, {Gets: [][]byte{{'c'}}, At: 1}} {
			if resp := s.one.Read(req); resp.Status != kvpb.Status_STATUS_FROZEN || len(resp.Gets)+len(resp.Items) > 0 {
				t.Fatal(resp)
			}
		}
		return
	}
	key := rapid.SampledFrom(testKeys).Draw(t, "any key")
	if !s.twin.owns([]byte(key)) {
		resp := get(s.one, key)
		if resp.Status != kvpb.Status_STATUS_WRONG_SHARD || !proto.Equal(resp.Descriptor_, s.twin.desc) || !proto.Equal(resp.Sibling, s.twin.shape.sibling) {
			t.Fatal(resp)
		}
	}
	s.Scan(t)
	s.Changes(t)
	s.check()
}

// check compares everything, on both databases.
func (w *world) check(t *rapid.T) {
	for _, s := range w.live() {
		var digests, images [2]string
		for d := range w.db {
			s.t, s.one = t, w.catchUp(d, s.id())
			s.check()
			digest, err := s.one.Digest()
			if err != nil {
				t.Fatal(err)
			}
			digests[d], images[d] = string(digest), string(mustImage(t, s.one))
			if !proto.Equal(s.one.Descriptor(), s.twin.desc) {
				t.Fatalf("%v, want %v", s.one.Descriptor(), s.twin.desc)
			}
		}
		if digests[0] != digests[1] {
			t.Fatalf("shard %s: the digests differ", s.id())
		}
		if images[0] != images[1] {
			t.Fatalf("shard %s: the images differ", s.id())
		}
	}
}

func TestWorld(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		defer w.close()
		t.Repeat(map[string]func(*rapid.T){
			"Entry":   w.Entry,
			"Entry2":  w.Entry,
			"Entry3":  w.Entry,
			"Odd":     w.Odd,
			"Split":   w.Split,
			"Freeze":  w.Freeze,
			"Merge":   w.Merge,
			"Merge2":  w.Merge,
			"CatchUp": w.CatchUp,
			"Reopen":  w.Reopen,
			"Restore": w.Restore,
			"Look":    w.Look,
		})
		w.check(t)
	})
}
