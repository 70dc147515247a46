package placement

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// twinKeys is the key space of the twin: keys a to z, each with the shard and the
// generation that cover it.
const twinKeys = 26

// twin is the map as a plain table, judged key by key.
type twin struct {
	shard      [twinKeys]uint64
	generation [twinKeys]uint64
	newest     map[uint64]uint64 // generation of each shard's record
	config     map[uint64]uint64
	span       map[uint64][2]int
	retired    map[uint64]bool
}

// report is P2 without segments.
func (w *twin) report(shard, generation uint64, from, to int, config, next uint64) {
	if w.retired[shard] || shard >= next || config == 0 || config < w.config[shard] {
		return
	}
	if known, ok := w.newest[shard]; ok {
		if generation == known && w.span[shard] == [2]int{from, to} && config > w.config[shard] {
			w.config[shard] = config
		}
		if generation <= known {
			return
		}
	}
	for k := from; k < to; k++ {
		if generation <= w.generation[k] {
			return
		}
	}
	for k := from; k < to; k++ {
		w.shard[k], w.generation[k] = shard, generation
	}
	w.newest[shard], w.config[shard], w.span[shard] = generation, config, [2]int{from, to}
	for id := range w.newest {
		if !slices.Contains(w.shard[:], id) {
			w.retired[id] = true
			delete(w.newest, id)
			delete(w.config, id)
			delete(w.span, id)
		}
	}
}

func twinKey(i int) string {
	if i <= 0 || i >= twinKeys {
		return "" // the ends of the key space
	}
	return string(rune('a' + i))
}

// TestMapAgainstTwin drives the machine with reports of all kinds, likely and
// absurd, and compares key by key. It also holds the invariants P1 to P3, the
// routing map, and images.
func TestMapAgainstTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newDriver()
		d.do(t, cmdFound("c", 3, testNode(1)))
		cut := rapid.IntRange(1, twinKeys-1).Draw(t, "cut")
		d.do(t, cmdCreate(descriptor(2, 1, "", twinKey(cut), 1), descriptor(3, 1, twinKey(cut), "", 1)))
		w := &twin{newest: map[uint64]uint64{2: 1, 3: 1}, config: map[uint64]uint64{}, span: map[uint64][2]int{2: {0, cut}, 3: {cut, twinKeys}}, retired: map[uint64]bool{}}
		for k := range twinKeys {
			w.shard[k], w.generation[k] = 2, 1
			if k >= cut {
				w.shard[k] = 3
			}
		}
		router := NewMap(d.m)
		given := map[uint64]bool{2: true, 3: true}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "kind") {
			case 0:
				n := rapid.Uint32Range(1, 3).Draw(t, "count")
				first := d.do(t, cmdAllocate(n)).FirstShard
				for id := first; id < first+uint64(n); id++ {
					if given[id] {
						t.Fatalf("shard id %d was given out twice", id)
					}
					given[id] = true
				}
			case 1:
				m := NewMachine()
				if err := restore(m, bytes.NewReader(imageOf(t, d.m))); err != nil {
					t.Fatal(err)
				}
				d.m = m
				router = NewMap(m)
			default:
				from := rapid.IntRange(0, twinKeys-1).Draw(t, "from")
				to := rapid.IntRange(from+1, twinKeys).Draw(t, "to")
				shard := rapid.Uint64Range(2, 9).Draw(t, "shard")
				generation := rapid.Uint64Range(1, 8).Draw(t, "generation")
				config := rapid.Uint64Range(0, 4).Draw(t, "config")
				r := &metapb.DescriptorReport{Shard: descriptor(shard, generation, twinKey(from), twinKey(to), 1), ConfigIndex: config}
				router.Learn(r.Shard)
				checkCover(t, router.View())
				d.do(t, cmdReport(r))
				w.report(shard, generation, from, to, config, d.m.State().nextShard)
			}
			if err := d.m.State().check(); err != nil {
				t.Fatal(err)
			}
			checkTwin(t, w, d.m.State())
			checkCover(t, router.View())
		}
	})
}

func checkTwin(t *rapid.T, w *twin, s *State) {
	for k := range twinKeys {
		e := s.segments[s.segments.find([]byte{byte('a' + k)})]
		if uint64(e.shard) != w.shard[k] || e.generation != w.generation[k] {
			t.Fatalf("key %c: shard %s generation %d, the twin has %d and %d", 'a'+k, e.shard, e.generation, w.shard[k], w.generation[k])
		}
	}
	if len(s.Shards()) != len(w.newest) {
		t.Fatalf("%d shards, the twin has %d", len(s.Shards()), len(w.newest))
	}
	for _, h := range s.Shards() {
		if id := h.Current.Shard; h.Current.Generation != w.newest[id] || h.ConfigIndex != w.config[id] {
			t.Fatalf("shard %d: generation %d config %d, the twin has %d and %d", id, h.Current.Generation, h.ConfigIndex, w.newest[id], w.config[id])
		}
	}
}

// checkCover holds that the map's descriptors cover the key space exactly once,
// and that lookups and ranges agree with them.
func checkCover(t *rapid.T, m *ShardMap) {
	all := m.Range(nil, nil)
	var end []byte
	for i, d := range all {
		if !bytes.Equal(d.Start, end) || i > 0 && len(end) == 0 {
			t.Fatalf("descriptor %d begins at %q, the one before ends at %q", i, d.Start, end)
		}
		end = d.End
	}
	if len(all) == 0 || len(end) != 0 {
		t.Fatalf("the map of %d descriptors ends at %q", len(all), end)
	}
	for k := range twinKeys {
		key := []byte{byte('a' + k)}
		d, ok := m.Lookup(key)
		if !ok || bytes.Compare(d.Start, key) > 0 || len(d.End) > 0 && bytes.Compare(key, d.End) >= 0 {
			t.Fatalf("key %q: %v", key, d)
		}
		one := m.Range(key, append(slices.Clone(key), 0))
		if len(one) != 1 || one[0] != d {
			t.Fatalf("range of key %q: %v", key, one)
		}
	}
}

// FuzzApply holds that no bytes make the machine panic, and that what it takes
// leaves a possible state.
func FuzzApply(f *testing.F) {
	for _, c := range []*metapb.Command{
		cmdFound("c", 3, testNode(1)), cmdRegister("c", testNode(2)), cmdState(1, metapb.NodeState_NODE_DRAINING), cmdAllocate(2),
		cmdCreate(descriptor(2, 1, "", "", 1)), cmdReport(&metapb.DescriptorReport{Shard: descriptor(2, 2, "a", "", 1), ConfigIndex: 3}),
		cmdConfig(DefaultConfig()), cmdRemove(1), cmdMove(2, 4, 1), cmdCancelMove(&metapb.Move{Shard: 2}), cmdSplit(2, "f"), cmdMerge(2, 3),
		cmdAdvance(2, 3, metapb.MergeStage_MERGE_ALIGNING, metapb.MergeStage_MERGE_FREEZING, 0), cmdEnd(1, kv.OperationCancelled),
		{Body: &metapb.Command_BeginRebalance{BeginRebalance: &metapb.BeginRebalance{}}},
		{Body: &metapb.Command_AppendEvents{AppendEvents: &metapb.AppendEvents{Events: []*metapb.Event{{Kind: EventLeader}}}}},
		{Body: &metapb.Command_EndSplit{EndSplit: &metapb.EndSplit{Shard: 2, Child: 4}}},
	} {
		c.Format = CommandFormat
		data, err := proto.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, d := range []*driver{newDriver(), founded(t)} {
			e := d.entry()
			e.Stamp.Version, e.Commands = d.version+1, []kv.EntryCommand{{Data: data, Versions: 1}}
			if _, err := d.m.Apply([]kv.Entry{e}); err != nil {
				continue
			}
			if err := d.m.State().check(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A split that is reported by the parent first, and one reported by the child
// first, leave every key routable in between and end in the same place.
func TestSplitReportedInEitherOrder(t *testing.T) {
	parent := &metapb.DescriptorReport{Shard: descriptor(2, 2, "", "f", 1, 2, 3), ConfigIndex: 1}
	child := &metapb.DescriptorReport{Shard: descriptor(4, 2, "f", "m", 1, 2, 3), ConfigIndex: 1}
	var ends []string
	for _, order := range [][]*metapb.DescriptorReport{{parent, child}, {child, parent}} {
		d := founded(t)
		d.do(t, cmdAllocate(1))
		for i, r := range order {
			if got := d.do(t, cmdReport(r)); got.Accepted != 1 {
				t.Fatalf("report %d: %v", i, got)
			}
			if got := d.do(t, cmdReport(r)); got.Accepted != 0 {
				t.Fatalf("report %d again: %v", i, got)
			}
			if got := NewShardMap(d.m.State()).Range(nil, nil); len(got) != 3 {
				t.Fatalf("after report %d: %v", i, got)
			}
		}
		ends = append(ends, fmt.Sprint(NewShardMap(d.m.State()).Range(nil, nil)))
	}
	if ends[0] != ends[1] {
		t.Errorf("%s\n%s", ends[0], ends[1])
	}
}

func TestLearnedDescriptorsRouteUntilTheStateKnows(t *testing.T) {
	d := founded(t)
	m := NewMap(d.m)
	m.Learn(nil)
	m.Learn(descriptor(3, 1, "m", "", 9)) // not newer
	m.Learn(descriptor(2, 2, "", "f", 1, 2))
	m.Learn(descriptor(9, 2, "f", "m", 2, 3)) // a child that the state has not heard of
	want := func(key string, shard uint64) {
		t.Helper()
		if got, ok := m.Lookup([]byte(key)); !ok || got.Shard != shard {
			t.Errorf("key %q: %v, want shard %d", key, got, shard)
		}
	}
	want("a", 2)
	want("g", 9)
	want("z", 3)
	d.do(t, cmdRegister("c", testNode(4))) // another state: what was learned is kept
	want("g", 9)
	d.do(t, cmdAllocate(8))
	d.do(t, cmdReport(&metapb.DescriptorReport{Shard: descriptor(9, 3, "f", "m", 2, 3), ConfigIndex: 1}))
	want("g", 9)
	if got := len(m.learned); got != 1 { // the parent's shrinking, which the state has not heard
		t.Errorf("%d learned descriptors are kept", got)
	}
}

func TestReportedReplicasKeepTheirOrder(t *testing.T) {
	d := founded(t)
	d.do(t, cmdReport(&metapb.DescriptorReport{Shard: descriptor(3, 1, "m", "", 7, 1, 5, 3, 2), ConfigIndex: 8}))
	var got []uint64
	for _, r := range d.m.State().Shard(3).Current.Replicas {
		got = append(got, r.Node)
	}
	if want := []uint64{2, 3, 1, 5, 7}; !slices.Equal(got, want) {
		t.Errorf("replicas %v, want %v", got, want)
	}
	if got := d.do(t, cmdReport(&metapb.DescriptorReport{Shard: descriptor(3, 1, "m", "", 1), ConfigIndex: 7})); got.Accepted != 0 {
		t.Error("an older configuration was accepted")
	}
	for name, bad := range map[string]*kvpb.ShardDescriptor{
		"meta shard": descriptor(1, 9, "", "", 1), "no replicas": descriptor(3, 9, "m", ""), "id not given out": descriptor(44, 9, "m", "", 1),
		"empty range": descriptor(3, 9, "m", "m", 1), "node twice": descriptor(3, 9, "m", "", 1, 1),
	} {
		if got := d.do(t, cmdReport(&metapb.DescriptorReport{Shard: bad, ConfigIndex: 9})); got.Accepted != 0 {
			t.Errorf("%s: accepted", name)
		}
	}
}
