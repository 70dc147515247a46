package placement

import (
	"bytes"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// learnedMax bounds the descriptors that a Map keeps beyond the meta state.
const learnedMax = 1024

// ShardMap is the key space as a node believes it to be divided. It is
// immutable; so are the descriptors it hands out. Where the meta state has heard
// of a split only in part, a descriptor is clipped to what the shard is believed
// to own still, so descriptors never overlap.
type ShardMap struct {
	segments    segments
	descriptors []*kvpb.ShardDescriptor // one per segment
}

// NewShardMap gives the map of a state.
func NewShardMap(s *State) *ShardMap {
	m := &ShardMap{segments: s.segments}
	for i, e := range s.segments {
		full := s.Shard(e.shard).GetCurrent()
		m.descriptors = append(m.descriptors, clip(full, e.start, s.segments.end(i), e.generation))
	}
	return m
}

func clip(full *kvpb.ShardDescriptor, start, end []byte, generation uint64) *kvpb.ShardDescriptor {
	if full.Generation == generation && bytes.Equal(full.Start, start) && bytes.Equal(full.End, end) {
		return full
	}
	return &kvpb.ShardDescriptor{Shard: full.Shard, Generation: generation, Start: start, End: end, Replicas: full.Replicas}
}

// Lookup gives the shard that owns key, false while there are no shards.
func (m *ShardMap) Lookup(key []byte) (*kvpb.ShardDescriptor, bool) {
	if len(m.segments) == 0 {
		return nil, false
	}
	return m.descriptors[m.segments.find(key)], true
}

// Range gives the shards that meet [start, end), in order. An empty end has no
// bound.
func (m *ShardMap) Range(start, end []byte) []*kvpb.ShardDescriptor {
	from, to := m.segments.overlapping(start, end)
	return slices.Clip(m.descriptors[from:to])
}

// with gives the map corrected by a descriptor that a shard gave of itself, and
// whether that was news.
func (m *ShardMap) with(d *kvpb.ShardDescriptor) (*ShardMap, bool) {
	if !reportable(d) || !m.segments.news(d.Start, d.End, d.Generation) {
		return m, false
	}
	full := make(map[kv.ShardID]*kvpb.ShardDescriptor, len(m.segments))
	for i, e := range m.segments {
		full[e.shard] = m.descriptors[i]
	}
	full[kv.ShardID(d.Shard)] = d
	next := &ShardMap{segments: m.segments.put(d.Start, d.End, kv.ShardID(d.Shard), d.Generation)}
	for i, e := range next.segments {
		next.descriptors = append(next.descriptors, clip(full[e.shard], e.start, next.segments.end(i), e.generation))
	}
	return next, true
}

// Map is the shard map that a node routes by: the meta state's, corrected at
// once by what shards answer. It is safe for concurrent use and reads cost an
// atomic load.
type Map struct {
	machine *Machine
	current atomic.Pointer[mapped]

	mu      sync.Mutex // held to replace current
	learned []*kvpb.ShardDescriptor
}

type mapped struct {
	state *State
	view  *ShardMap
}

// NewMap gives the routing map of a machine's state.
func NewMap(m *Machine) *Map {
	return &Map{machine: m}
}

// View gives the map as of now.
func (m *Map) View() *ShardMap {
	state := m.machine.State()
	if c := m.current.Load(); c != nil && c.state == state {
		return c.view
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.refreshLocked()
}

// refreshLocked rebuilds the map if the meta state has changed, and forgets what
// was learned before that the state now knows.
func (m *Map) refreshLocked() *ShardMap {
	state := m.machine.State()
	if c := m.current.Load(); c != nil && c.state == state {
		return c.view
	}
	view := NewShardMap(state)
	m.learned = slices.DeleteFunc(m.learned, func(d *kvpb.ShardDescriptor) bool {
		next, news := view.with(d)
		view = next
		return !news
	})
	m.current.Store(&mapped{state: state, view: view})
	return view
}

// Lookup gives the shard that owns key, false while there are no shards.
func (m *Map) Lookup(key []byte) (*kvpb.ShardDescriptor, bool) { return m.View().Lookup(key) }

// Overlapping gives the shards that meet [start, end), in order.
func (m *Map) Overlapping(start, end []byte) []*kvpb.ShardDescriptor {
	return m.View().Range(start, end)
}

// Learn corrects the map by what a shard answered of itself. What is older than
// the map is ignored.
func (m *Map) Learn(d *kvpb.ShardDescriptor) {
	if d == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	next, news := m.refreshLocked().with(d)
	if !news {
		return
	}
	if len(m.learned) == learnedMax {
		m.learned = m.learned[1:]
	}
	m.learned = append(m.learned, d)
	m.current.Store(&mapped{state: m.current.Load().state, view: next})
}
