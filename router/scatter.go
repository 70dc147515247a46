package router

import (
	"sync"
	"sync/atomic"

	"github.com/quorate-db/quorate/kv"
)

// group sorts indices by the shard that shardOf finds, in order of first
// appearance and without changing the order within a shard, at most most to a
// group. Those of unknown shards are together; they are located again when
// their turn comes.
func (r *Router) group(indices []int, most int, shardOf func(int) (kv.ShardID, bool)) [][]int {
	var groups [][]int
	open := map[kv.ShardID]int{} // the group that takes more of a shard
	for _, i := range indices {
		shard, ok := shardOf(i)
		if !ok {
			shard = 0
		}
		g, found := open[shard]
		if !found || len(groups[g]) >= most {
			g = len(groups)
			groups = append(groups, nil)
			open[shard] = g
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
