package raftnode

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
)

const (
	// hasteStep is how much longer each follower waits than the one before it
	// before it stands for election because its leader's process has died, so that
	// not two stand at once: their votes would split, which costs an election timeout.
	// It is what a request for a vote may take to arrive and be answered on machines
	// that are busy with having lost one. Up to hasteJitter is added at random.
	hasteStep   = 100 * time.Millisecond
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
		inst := r.inst.Load()
		if rank, ok := r.rank(leader); ok && inst != nil {
			term := inst.raft.CurrentTerm()
			h.later(time.Duration(rank)*hasteStep+rand.N(hasteJitter), func() { r.succeed(leader, term) })
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
// gone, and nobody else stands since it led in term; at most once per election timeout.
func (r *Replica) succeed(gone kv.ServerID, term uint64) {
	inst := r.inst.Load()
	leader, ok := r.leader()
	if inst == nil || ok && leader != gone || r.mute.Load() > 0 || inst.raft.CurrentTerm() != term {
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

// standRetryMin and standRetryMax bound the pause in which a replica of a new shard asks
// again whether a majority runs. Writes to the shard wait meanwhile: it grows only after
// standEager, in which the others nearly always come into being.
const (
	standRetryMin = 2 * time.Millisecond
	standRetryMax = 20 * time.Millisecond
	standEager    = 200 * time.Millisecond
)

// StandUntilLed has a shard that has just come into being elect this replica
// without waiting for anybody's timeout. The others may come into being a little
// later, so it waits until a majority runs, and stands; it returns when a leader is
// known, whoever that is.
func (r *Replica) StandUntilLed(ctx context.Context) error {
	began, pause := time.Now(), standRetryMin
	for {
		if _, led := r.leader(); led {
			return nil
		}
		// A candidate waits for votes already.
		if inst := r.inst.Load(); inst != nil && inst.raft.State() == raft.Follower && r.majorityRuns(ctx, r.members()) {
			r.Stand()
		}
		select {
		case <-time.After(pause):
		case <-r.ctx.Done():
			return r.errStopped()
		case <-ctx.Done():
			return r.errWaited(ctx, "stand for election")
		}
		if time.Since(began) > standEager {
			pause = min(2*pause, standRetryMax)
		}
	}
}

// majorityRuns asks the voters among members whether they run, and returns as soon as
// it is known.
func (r *Replica) majorityRuns(ctx context.Context, members []kv.Member) bool {
	answers := make(chan bool, len(members))
	need, asked := voters(members)/2+1, 0
	for _, m := range members {
		switch {
		case !m.Voter:
		case m.ID == r.id:
			need--
		default:
			asked++
			r.host.terms.ask(m.ID, func(a termsAnswer) { answers <- a.known })
		}
	}
	for ; need > 0 && asked > 0; asked-- {
		select {
		case runs := <-answers:
			if runs {
				need--
			}
		case <-ctx.Done():
			return false
		}
	}
	return need <= 0 && len(members) > 0
}
