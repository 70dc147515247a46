package raftnode

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/planted"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// stalled is told when a write to the log has passed its deadline, and when it
// has returned after all. In between the replica is mute (R13): the library's
// heartbeats do not depend on the disk, so otherwise the others would follow a
// leader that can store nothing, for ever.
func (r *Replica) stalled(begin bool) {
	if planted.On(planted.StallIgnored) {
		return
	}
	if hook := r.host.opts.Hooks.Stalled; hook != nil {
		hook(r.id, begin)
	}
	if !begin {
		r.log.Warn("a write to the Raft log has returned after its deadline")
		r.mute.Add(-1)
		return
	}
	r.log.Warn("a write to the Raft log has passed its deadline; giving up leadership until it returns",
		"deadline", r.host.opts.Timing.WriteDeadline)
	r.mute.Add(1)
	r.passOn()
}

// passOn asks a follower to start an election. Which of them is up to date
// cannot be told from here, so any voter is asked; if it cannot win, the others'
// timeouts elect one that can.
func (r *Replica) passOn() {
	inst := r.inst.Load()
	if inst == nil {
		return
	}
	if _, leads := inst.leading(); !leads {
		return
	}
	others := slices.DeleteFunc(slices.Clone(r.members()), func(m kv.Member) bool { return !m.Voter || m.ID == r.id })
	if len(others) == 0 {
		return
	}
	to := others[rand.IntN(len(others))].ID
	req := envelope{from: r.id, to: to}.append(nil)
	r.host.opts.Mesh.Send(to.Node, peer.MethodTimeoutNow, req, time.Now().Add(r.host.opts.Timing.Election),
		func([]byte, error) {}) // best effort
}

// errMute is the answer of a replica that may say nothing else (R12, R13).
func (r *Replica) errMute() *kv.Error {
	return withShard(r.id, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "replica %s is mute", r.id))
}
