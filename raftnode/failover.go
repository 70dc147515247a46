package raftnode

import (
	"math/rand/v2"
	"time"

	"github.com/quorate-db/quorate/kv"
)

const (
	// hasteMin and hasteMax bound how long a follower waits, at random so that not
	// two stand at once, before it starts an election because its leader's process
	// has died.
	hasteMin = 5 * time.Millisecond
	hasteMax = 60 * time.Millisecond
)

// unreachable is told by the mesh that a node's process is gone. A follower of a
// leader there need not wait for its timeout. If the node is back already, or was
// never gone, the election costs a moment and nothing else: votes depend on the
// log alone.
func (h *Host) unreachable(node kv.NodeID) {
	for _, r := range h.Replicas() {
		leader, ok := r.leader()
		if !ok || leader.Node != node || leader == r.id {
			continue
		}
		if m, ok := r.member(r.id); !ok || !m.Voter {
			continue
		}
		h.later(hasteMin+rand.N(hasteMax-hasteMin), func() { r.succeed(leader) })
	}
}

// later runs f after a while, unless the host closes before.
func (h *Host) later(d time.Duration, f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closing {
		return
	}
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		h.mu.Lock()
		delete(h.timers, t)
		closing := h.closing
		h.mu.Unlock()
		if !closing {
			f()
		}
	})
	h.timers[t] = struct{}{}
}

// succeed starts an election if the replica still follows a leader that is gone,
// at most once per election timeout.
func (r *Replica) succeed(gone kv.ServerID) {
	inst := r.inst.Load()
	leader, ok := r.leader()
	if inst == nil || !ok || leader != gone || r.mute.Load() > 0 {
		return
	}
	now := time.Now()
	r.mu.Lock()
	recent := now.Sub(r.hurried) < r.host.opts.Timing.Election
	if !recent {
		r.hurried = now
	}
	r.mu.Unlock()
	if recent {
		return
	}
	r.log.Info("the leader's process is gone; standing for election", "leader", gone.Node)
	inst.timeoutNow()
}
