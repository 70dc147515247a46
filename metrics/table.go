package metrics

import (
	"maps"
	"sync"
	"sync/atomic"
)

// table keeps what was resolved for each value of a label, for at most max
// values; all others share one (M1). Finding a value that was seen before takes a
// map lookup in a map that never changes, without a lock (M2): adding one copies
// the map, which is rare.
type table[K comparable, V any] struct {
	max    int
	create func(K) V
	other  func() V
	forget func(K) // may be nil

	seen atomic.Pointer[map[K]V]
	full atomic.Pointer[V] // not nil: there is no room, and this is what the rest share

	mu sync.Mutex // held by whoever replaces seen or full
}

func newTable[K comparable, V any](most int, create func(K) V, other func() V, forget func(K)) *table[K, V] {
	t := &table[K, V]{max: most, create: create, other: other, forget: forget}
	t.seen.Store(&map[K]V{})
	return t
}

func (t *table[K, V]) get(k K) V {
	if v, ok := (*t.seen.Load())[k]; ok {
		return v
	}
	if v := t.full.Load(); v != nil {
		return *v
	}
	return t.add(k)
}

func (t *table[K, V]) add(k K) V {
	t.mu.Lock()
	defer t.mu.Unlock()
	seen := *t.seen.Load()
	if v, ok := seen[k]; ok {
		return v
	}
	if len(seen) >= t.max {
		v := t.other()
		t.full.Store(&v)
		return v
	}
	v := t.create(k)
	next := make(map[K]V, len(seen)+1)
	maps.Copy(next, seen)
	next[k] = v
	t.seen.Store(&next)
	return v
}

// has tells whether k has a value of its own, and makes room for it if it can.
func (t *table[K, V]) has(k K) bool {
	t.get(k)
	_, ok := (*t.seen.Load())[k]
	return ok
}

// keep forgets all values but those that are wanted (M4). A hook that still holds
// a forgotten child counts into nothing.
func (t *table[K, V]) keep(wanted func(K) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	seen := *t.seen.Load()
	next := maps.Clone(seen)
	maps.DeleteFunc(next, func(k K, _ V) bool { return !wanted(k) })
	if len(next) == len(seen) {
		return
	}
	t.seen.Store(&next)
	t.full.Store(nil)
	if t.forget == nil {
		return
	}
	for k := range seen {
		if !wanted(k) {
			t.forget(k)
		}
	}
}
