package sim

import (
	"math/rand/v2"
	"time"
)

// nemesis does harm of one kind, one fault after the other, until it is stopped.
// Nemeses run beside one another, so faults of different kinds overlap.
type nemesis struct {
	c      *Cluster
	rng    *rand.Rand
	faults []fault
	every  time.Duration
	stop   <-chan struct{}
}

// fault is one kind of harm. do returns when it is over and undone.
type fault struct {
	weight int
	do     func(*nemesis)
}

func nemeses(c *Cluster) []*nemesis {
	var out []*nemesis
	add := func(every time.Duration, kinds ...[]fault) {
		for _, faults := range kinds {
			if every > 0 {
				out = append(out, &nemesis{c: c, rng: c.rng(uint64(9000 + len(out))), faults: faults, every: every})
			}
		}
	}
	add(c.config.FaultEvery, networkFaults, processFaults, controlFaults)
	add(c.config.ChangeEvery, rangeChanges, rangeChanges, replicaChanges, replicaChanges, nodeChanges)
	return out
}

func (n *nemesis) run(stop <-chan struct{}) {
	n.stop = stop
	total := 0
	for _, f := range n.faults {
		total += f.weight
	}
	for n.pause(n.about(n.every)) {
		at := n.rng.IntN(total)
		for _, f := range n.faults {
			if at -= f.weight; at < 0 {
				f.do(n)
				break
			}
		}
	}
}

// about gives a duration around a mean.
func (n *nemesis) about(mean time.Duration) time.Duration {
	return mean/4 + time.Duration(n.rng.Int64N(int64(mean)*3/2+1))
}

// pause waits; false: the nemesis is to stop. A fault that is under way is undone
// all the same.
func (n *nemesis) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-n.stop:
		return false
	}
}

func (n *nemesis) node() *Node { return n.c.nodes[n.rng.IntN(len(n.c.nodes))] }

// some gives so many different nodes.
func (n *nemesis) some(count int) []*Node {
	out := make([]*Node, 0, count)
	for _, i := range n.rng.Perm(len(n.c.nodes))[:count] {
		out = append(out, n.c.nodes[i])
	}
	return out
}
