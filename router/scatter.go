package router

import (
	"sync"
	"sync/atomic"
)

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
