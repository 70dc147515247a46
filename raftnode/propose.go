package raftnode

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
)

// entryOverheadMax bounds what an entry's encoding adds to one command.
const entryOverheadMax = 256

// proposer is the path of commands into the log. Callers queue; as many lanes as
// entries may be in flight take turns to gather what waits, stamp it and hand it
// to Raft, and then each waits for its own entry. So the order of stamps is the
// order of the log, and commands that arrive while an entry is in flight share the
// next one.
type proposer struct {
	queue    queue
	turn     chan struct{} // held by the lane that gathers and stamps
	versions versions      // of whoever holds turn
	// relearn: an entry was rejected or lost, so versions has to look at the machine.
	relearn atomic.Bool
}

// Propose has a command applied and gives the machine's answer. It blocks until
// then or until ctx ends, and keeps data. versions is how many versions the
// command uses. The error's outcome is exact: OutcomeNotApplied only if the
// command certainly is not and will not be applied; OutcomeUnknown if it may be,
// now or later.
func (r *Replica) Propose(ctx context.Context, data []byte, versions uint32) ([]byte, error) {
	if len(data)+entryOverheadMax > kv.EntryBytesMax {
		return nil, withShard(r.id, kv.Errorf(kv.CodeTooLarge, kv.OutcomeNotApplied,
			"a command of %d bytes, at most %d are allowed", len(data), kv.EntryBytesMax-entryOverheadMax))
	}
	if ctx.Err() != nil {
		return nil, r.errWaited(ctx, "propose")
	}
	if err := r.mayPropose(); err != nil {
		return nil, err
	}
	p := &proposal{command: kv.EntryCommand{Data: data, Versions: versions}, answer: make(chan proposed, 1)}
	if !r.proposer.queue.push(p) {
		if hook := r.host.opts.Hooks.Refused; hook != nil {
			hook(r.id)
		}
		return nil, withShard(r.id, kv.Errorf(kv.CodeOverloaded, kv.OutcomeNotApplied, "replica %s: too many proposals wait", r.id))
	}
	select {
	case a := <-p.answer:
		return a.result, a.err
	case <-ctx.Done():
	case <-r.ended: // nobody is left to answer
	}
	return r.leave(ctx, p)
}

// mayPropose fails at once where there is no use in waiting.
func (r *Replica) mayPropose() error {
	if r.failure.Load() != nil || r.inst.Load() == nil {
		return r.errStopped()
	}
	if _, _, leads := r.leading(); !leads {
		return r.errNotLeader()
	}
	return nil
}

// leave gives up waiting for a proposal and says what is known of it.
func (r *Replica) leave(ctx context.Context, p *proposal) ([]byte, error) {
	for {
		if p.state.CompareAndSwap(proposalWaiting, proposalLeft) {
			if ctx.Err() == nil {
				return nil, r.errStopped()
			}
			return nil, r.errWaited(ctx, "not proposed in time")
		}
		select {
		case a := <-p.answer:
			return a.result, a.err
		default:
		}
		if p.state.CompareAndSwap(proposalTaken, proposalLeft) {
			return nil, withShard(r.id, kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown, "replica %s: proposed, but not answered in time", r.id))
		}
	}
}

// lane carries one entry at a time until the replica closes.
func (r *Replica) lane() {
	defer r.wg.Done()
	for {
		select {
		case r.proposer.turn <- struct{}{}:
		case <-r.ctx.Done():
			return
		}
		g := r.gather()
		if g != nil {
			r.submit(g)
		}
		<-r.proposer.turn
		if g == nil {
			return
		}
		r.finish(g)
	}
}

// group is the proposals of one entry on its way.
type group struct {
	inst     *instance
	term     uint64
	members  []*proposal
	bytes    int
	versions uint64
	start    time.Time
	raise    raft.ApplyFuture // nil: the ceiling needed no entry of its own
	entry    raft.ApplyFuture // nil: nothing was handed to Raft
	broken   error            // does not encode
}

// gather waits until this replica is a ready leader and proposals wait, nil when it
// closes. What waits at a replica that does not lead is refused.
func (r *Replica) gather() *group {
	for {
		select {
		case <-r.proposer.queue.wake:
		case <-r.ctx.Done():
			return nil
		}
		if err := r.mayPropose(); err != nil {
			r.proposer.queue.failAll(err)
			continue
		}
		inst, term, ready := r.ready()
		if !ready {
			continue // startTerm wakes us
		}
		members := r.proposer.queue.take()
		if len(members) == 0 {
			continue
		}
		g := &group{inst: inst, term: term, members: members, start: time.Now()}
		for _, p := range members {
			g.bytes += len(p.command.Data)
			g.versions += uint64(p.command.Versions)
		}
		return g
	}
}

// submit stamps a group and hands it to Raft (R5).
func (r *Replica) submit(g *group) {
	v := &r.proposer.versions
	if r.proposer.relearn.Swap(false) || v.term != g.term {
		v.learn(g.term, r.machine.Applied())
	}
	stamp, raise := v.stamp(r.NowMs(), g.versions)
	commands := make([]kv.EntryCommand, len(g.members))
	for i, p := range g.members {
		commands[i] = p.command
	}
	data, err := kv.EncodeEntry(stamp, commands)
	lift, liftErr := kv.EncodeEntry(kv.Stamp{Term: stamp.Term, Ceiling: raise, NowMs: stamp.NowMs}, nil)
	if err := errors.Join(err, liftErr); err != nil {
		g.broken = withShard(r.id, kv.Errorf(kv.CodeInternal, kv.OutcomeNotApplied, "replica %s: encode: %w", r.id, err))
		return
	}
	if !g.inst.begin() {
		return
	}
	if raise != 0 {
		// The two follow each other in the log, so they share its sync.
		g.raise = g.inst.raft.Apply(lift, 0)
	}
	g.entry = g.inst.raft.Apply(data, 0)
}

// finish waits for a group's entry and answers its callers.
func (r *Replica) finish(g *group) {
	defer r.proposer.queue.finish()
	if g.broken != nil {
		r.refuse(g, g.broken)
		return
	}
	if g.entry == nil {
		r.again(g)
		return
	}
	if g.raise != nil {
		_ = g.raise.Error() // the entry behind it tells
	}
	result, err := r.entryResponse(g.entry)
	g.inst.end()
	if hook := r.host.opts.Hooks.Proposed; hook != nil {
		hook(r.id, len(g.members), g.bytes, time.Since(g.start), err == nil && !result.Rejected)
	}
	switch {
	case err != nil:
		r.proposer.relearn.Store(true)
		if errors.Is(err, raft.ErrLeadershipTransferInProgress) {
			r.transferRefused()
		}
		r.refuse(g, err)
	case result.Rejected:
		r.again(g)
	case len(result.Results) != len(g.members):
		r.refuse(g, withShard(r.id, kv.Errorf(kv.CodeInternal, kv.OutcomeUnknown,
			"replica %s: %d answers to %d commands", r.id, len(result.Results), len(g.members))))
	default:
		for i, p := range g.members {
			p.answer <- proposed{result: result.Results[i]}
		}
	}
}

// again queues a group that was certainly not applied.
func (r *Replica) again(g *group) {
	r.proposer.relearn.Store(true)
	r.proposer.queue.putBack(g.members)
}

func (r *Replica) refuse(g *group, err error) {
	var e *kv.Error
	switch {
	case r.gone() && g.term == r.goneTerm.Load():
		// It led until then, so it has applied and answered all of its term that came
		// before the shard was frozen; this came after.
		err = r.errStopped()
	case errors.As(err, &e) && e.Code == kv.CodeNotLeader:
		err = r.errNotLeader() // with a hint
	}
	for _, p := range g.members {
		p.answer <- proposed{err: err}
	}
}
