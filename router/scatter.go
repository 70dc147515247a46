package router

import (
	"sync"
	"sync/atomic"

	"github.com/quorate-db/quorate/kv/kvpb"
)

// places finds where keys belong, by one view of the map: a key stays where it, or a
// key beside it, was found first. A place is a piece of the key space and not a
// shard: while the map has heard of a change only in part, a shard may have several.
type places struct {
	r    *Router
	seen []*kvpb.ShardDescriptor
}

// of gives the number of a key's place and what the map says of it; -1 and nil if
// the map does not know.
func (p *places) of(key []byte) (int, *kvpb.ShardDescriptor) {
	for i, d := range p.seen {
		if owns(d, key) {
			return i, d
		}
	}
	d, ok := p.r.shards.Lookup(key)
	if !ok {
		return -1, nil
	}
	p.seen = append(p.seen, d)
	return len(p.seen) - 1, d
}

// group sorts 0 to n-1 by where they belong, in order of first appearance and
// without changing the order within a place, at most most to a group.
func group[P comparable](n, most int, placeOf func(int) P) [][]int {
	var groups [][]int
	open := map[P]int{} // the group that takes more of a place
	for i := range n {
		place := placeOf(i)
		g, found := open[place]
		if !found || len(groups[g]) >= most {
			g = len(groups)
			groups = append(groups, nil)
			open[place] = g
		}
		groups[g] = append(groups[g], i)
	}
	return groups
}

// parallel runs fn(0) to fn(n-1), some of them side by side, and returns when
// all have. A single one runs on the caller's goroutine.
func (r *Router) parallel(n int, fn func(int)) {
	var next atomic.Int64
	work := func() {
		for {
			i := int(next.Add(1)) - 1
			if i >= n {
				return
			}
			fn(i)
		}
	}
	var others sync.WaitGroup
	for range min(n, r.limits.ParallelMax) - 1 {
		others.Go(work)
	}
	work()
	others.Wait()
}
