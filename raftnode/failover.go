package raftnode

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/quorate-db/quorate/kv"
)

const (
	// hasteStep is how much longer each follower waits than the one before it
	// before it stands for election because its leader's process has died, so that
	// not two stand at once; up to hasteJitter is added at random.
	hasteStep   = 40 * time.Millisecond
	hasteJitter = 5 * time.Millisecond
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
		if rank, ok := r.rank(leader); ok {
			h.later(time.Duration(rank)*hasteStep+rand.N(hasteJitter), func() { r.succeed(leader) })
		}
	}
}

// rank orders the voters without gone, differently for each shard, so that the
// shards of a dead node do not all go to the same one. False: no voter.
func (r *Replica) rank(gone kv.ServerID) (int, bool) {
	var nodes []kv.NodeID
	for _, m := range r.members() {
		if m.Voter && m.ID != gone {
			nodes = append(nodes, m.ID.Node)
		}
	}
	slices.Sort(nodes)
	at := slices.Index(nodes, r.id.Node)
	if at < 0 {
		return 0, false
	}
	return int((uint64(at) + uint64(r.id.Shard)) % uint64(len(nodes))), true
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

// succeed starts an election if there is no other leader than the one that is
// gone, at most once per election timeout.
func (r *Replica) succeed(gone kv.ServerID) {
	inst := r.inst.Load()
	leader, ok := r.leader()
	if inst == nil || ok && leader != gone || r.mute.Load() > 0 {
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

// Stand has the replica start an election at once, as if its leader's process had
// died: it asks for votes even where a leader is known. Nothing can be lost by it.
func (r *Replica) Stand() {
	if inst := r.inst.Load(); inst != nil && r.mute.Load() == 0 {
		inst.timeoutNow()
	}
}
