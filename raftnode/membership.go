package raftnode

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
)

// promoteLagMax is how many entries a learner may be behind when it is given a
// vote: from then on the shard's writes may have to wait for it. It must have the
// newest configuration in any case: without one it does not vote (R3).
const promoteLagMax = 64

// promoteWait is how long a learner that is asked for again every promotePoll may take
// to come so far.
const (
	promoteWait = time.Second
	promotePoll = 20 * time.Millisecond
)

// transfers is what a replica knows of leadership transfers that it asked for.
type transfers struct {
	change slot // one change of membership at a time

	mu     sync.Mutex
	active int
	ended  time.Time // when the last one did
}

// change runs one configuration change and waits until it is committed.
func (r *Replica) change(ctx context.Context, propose func(*raft.Raft, time.Duration) raft.IndexFuture) error {
	inst, _, leads := r.leading()
	if !leads {
		return r.errNotLeader()
	}
	timeout := kv.RequestTimeoutMax
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(time.Until(deadline), time.Millisecond)
	}
	if !inst.begin() {
		return r.errStopped()
	}
	done := make(chan error, 1)
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		defer inst.end()
		future := propose(inst.raft, timeout)
		err := future.Error()
		if err != nil {
			err = raftError(r.id, err, future.Index())
		}
		done <- err
	}()
	select {
	case err := <-done:
		if errors.Is(err, raft.ErrLeadershipTransferInProgress) {
			r.transferRefused()
		}
		return err
	case <-ctx.Done():
		return withShard(r.id, kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown,
			"replica %s: the change of members is not committed: %w", r.id, context.Cause(ctx)))
	}
}

func (r *Replica) member(id kv.ServerID) (kv.Member, bool) {
	for _, m := range r.members() {
		if m.ID == id {
			return m, true
		}
	}
	return kv.Member{}, false
}

// AddNonvoter adds a replica that follows without a vote. It returns when that is
// committed; the replica may not have heard of it. A member stays what it is.
func (r *Replica) AddNonvoter(ctx context.Context, id kv.ServerID) error {
	if err := r.transfers.change.take(ctx); err != nil {
		return r.errWaited(ctx, "another change of members is under way")
	}
	defer r.transfers.change.give()
	if _, _, leads := r.leading(); !leads {
		return r.errNotLeader()
	}
	if _, ok := r.member(id); ok {
		return nil
	}
	if err := validateMembers(r.id.Shard, append(append([]kv.Member(nil), r.members()...), kv.Member{ID: id})); err != nil {
		return withShard(r.id, kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "add %s: %w", id, err))
	}
	return r.change(ctx, func(rf *raft.Raft, timeout time.Duration) raft.IndexFuture {
		return rf.AddNonvoter(raftID(id), raftAddress(id), 0, timeout)
	})
}

// Promote gives a member a vote. It refuses (kv.CodeUnavailable) while the member
// does not answer or lags behind, for promoteWait.
func (r *Replica) Promote(ctx context.Context, id kv.ServerID) error {
	if err := r.transfers.change.take(ctx); err != nil {
		return r.errWaited(ctx, "another change of members is under way")
	}
	defer r.transfers.change.give()
	inst, term, leads := r.leading()
	if !leads {
		return r.errNotLeader()
	}
	m, ok := r.member(id)
	switch {
	case !ok:
		return withShard(r.id, kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "promote %s: not a member", id))
	case m.Voter:
		return nil
	}
	if err := r.awaitCaughtUp(ctx, inst, id, term); err != nil {
		return err
	}
	return r.change(ctx, func(rf *raft.Raft, timeout time.Duration) raft.IndexFuture {
		return rf.AddVoter(raftID(id), raftAddress(id), 0, timeout)
	})
}

// awaitCaughtUp asks a member until it has nearly all that is committed. One that has
// just installed a snapshot needs a moment for what was written meanwhile.
func (r *Replica) awaitCaughtUp(ctx context.Context, inst *instance, id kv.ServerID, term uint64) error {
	var lags error
	for began := time.Now(); ; {
		answer := make(chan termsAnswer, 1)
		r.host.terms.ask(id, func(a termsAnswer) { answer <- a })
		select {
		case a := <-answer:
			commit := inst.raft.CommitIndex()
			if a.known && a.term == term && a.applied+promoteLagMax >= commit && a.applied >= r.machine.Applied().ConfigIndex {
				return nil
			}
			lags = withShard(r.id, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied,
				"promote %s: it has not caught up (answers: %t, term %d of %d, applied %d of %d)", id, a.known, a.term, term, a.applied, commit))
			if time.Since(began) >= promoteWait {
				return lags
			}
		case <-ctx.Done():
			if lags == nil {
				lags = r.errWaited(ctx, "promote")
			}
			return lags
		}
		select {
		case <-time.After(promotePoll):
		case <-ctx.Done():
			return lags
		}
	}
}

// Remove takes a member out. A leader that is to be removed hands leadership over
// first and answers kv.CodeNotLeader, so that the next leader is asked. It refuses to
// take a voter (kv.CodeUnavailable) while no majority of those that would stay answers:
// whoever plans may not know yet that another one has just died, and the shard would
// stand still with a majority of its members alive.
func (r *Replica) Remove(ctx context.Context, id kv.ServerID) error {
	if err := r.transfers.change.take(ctx); err != nil {
		return r.errWaited(ctx, "another change of members is under way")
	}
	defer r.transfers.change.give()
	if _, _, leads := r.leading(); !leads {
		return r.errNotLeader()
	}
	m, ok := r.member(id)
	if !ok {
		return nil
	}
	if m.Voter && voters(r.members()) == 1 {
		return withShard(r.id, kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "remove %s: it is the only voter", id))
	}
	if id == r.id {
		if err := r.Transfer(ctx, kv.ServerID{}); err != nil {
			return err
		}
		return r.errNotLeader()
	}
	rest := slices.DeleteFunc(slices.Clone(r.members()), func(m kv.Member) bool { return m.ID == id })
	if m.Voter && !r.majorityRuns(ctx, rest) {
		return withShard(r.id, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "remove %s: without it no majority of the voters answers", id))
	}
	return r.change(ctx, func(rf *raft.Raft, timeout time.Duration) raft.IndexFuture {
		return rf.RemoveServer(raftID(id), 0, timeout)
	})
}

func voters(members []kv.Member) int {
	n := 0
	for _, m := range members {
		if m.Voter {
			n++
		}
	}
	return n
}

// successor asks who could lead: to, or else every other voter, of which it gives
// the furthest. Only one that answers is told to: the library refuses writes while it
// waits for one that is gone, and a second attempt at the same one would block for as
// long as it is gone, with writes refused (hashicorp/raft #696).
func (r *Replica) successor(ctx context.Context, inst *instance, term uint64, to kv.ServerID) (kv.ServerID, error) {
	type candidate struct {
		id     kv.ServerID
		answer termsAnswer
	}
	var asked []kv.ServerID
	for _, m := range r.members() {
		if m.Voter && m.ID != r.id && (m.ID == to || to == kv.ServerID{}) {
			asked = append(asked, m.ID)
		}
	}
	answers := make(chan candidate, len(asked))
	for _, id := range asked {
		r.host.terms.ask(id, func(a termsAnswer) { answers <- candidate{id, a} })
	}
	patience := time.NewTimer(r.host.opts.Timing.Election / 4)
	defer patience.Stop()
	var best candidate
	commit := inst.raft.CommitIndex()
	for waiting := len(asked); waiting > 0; waiting-- {
		select {
		case c := <-answers:
			if c.answer.known && c.answer.term == term && c.answer.last+promoteLagMax >= commit && c.answer.last >= best.answer.last {
				best = c
			}
		case <-patience.C:
			waiting = 1
		case <-ctx.Done():
			return kv.ServerID{}, r.errWaited(ctx, "transfer")
		}
	}
	if best.id == (kv.ServerID{}) {
		return best.id, withShard(r.id, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied,
			"replica %s: transfer: none of %v answers and has caught up", r.id, asked))
	}
	return best.id, nil
}

// Transfer hands leadership to a voter, or to the one that is the furthest if to
// is zero, and returns when this replica does not lead any more. Writes are
// refused meanwhile. It takes at most about two election timeouts.
func (r *Replica) Transfer(ctx context.Context, to kv.ServerID) error {
	inst, term, leads := r.leading()
	if !leads {
		return r.errNotLeader()
	}
	if to == r.id {
		return nil
	}
	to, err := r.successor(ctx, inst, term, to)
	if err != nil {
		return err
	}
	if !inst.begin() {
		return r.errStopped()
	}
	r.transferring(+1)
	done := make(chan error, 1)
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		defer inst.end()
		defer r.transferring(-1)
		done <- inst.raft.LeadershipTransferToServer(raftID(to), raftAddress(to)).Error()
	}()
	limit := time.NewTimer(3 * r.host.opts.Timing.Election)
	defer limit.Stop()
	select {
	case err := <-done:
		if err == nil {
			return nil
		}
		if errors.Is(err, raft.ErrLeadershipTransferInProgress) {
			r.transferRefused()
		}
		return withShard(r.id, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "replica %s: transfer: %w", r.id, err))
	case <-limit.C:
		return withShard(r.id, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "replica %s: transfer: Raft does not answer", r.id))
	case <-ctx.Done():
		return r.errWaited(ctx, "transfer")
	}
}

func (r *Replica) transferring(n int) {
	r.transfers.mu.Lock()
	defer r.transfers.mu.Unlock()
	r.transfers.active += n
	r.transfers.ended = time.Now()
}

// transferRefused is told when Raft refuses something because a transfer is in
// progress. If none can be, the library's flag is stuck, and this leader would
// refuse all writes for ever (hashicorp/raft #696): its Raft is restarted.
func (r *Replica) transferRefused() {
	r.transfers.mu.Lock()
	stuck := r.transfers.active == 0 && time.Since(r.transfers.ended) > 3*r.host.opts.Timing.Election
	if stuck {
		r.transfers.ended = time.Now() // once
	}
	r.transfers.mu.Unlock()
	if stuck {
		r.restart("a leadership transfer that has ended is still in progress")
	}
}

// Snapshot has the state put on disk and the log cut. It returns when that is
// done; having nothing new is no error.
func (r *Replica) Snapshot(ctx context.Context) error {
	inst := r.inst.Load()
	if inst == nil || r.failure.Load() != nil || !inst.begin() {
		return r.errStopped()
	}
	reload := inst.raft.ReloadableConfig()
	reload.TrailingLogs = trailing(r.sinceSnapshot.entries.Load(), r.sinceSnapshot.bytes.Load(), r.host.opts.Timing.TrailingEntries)
	done := make(chan error, 1)
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		defer inst.end()
		if err := inst.raft.ReloadConfig(reload); err != nil {
			done <- err
			return
		}
		done <- inst.raft.Snapshot().Error()
	}()
	select {
	case err := <-done:
		if err == nil || errors.Is(err, raft.ErrNothingNewToSnapshot) {
			return nil
		}
		return withShard(r.id, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNone, "replica %s: snapshot: %w", r.id, err))
	case <-ctx.Done():
		return readError(r.errWaited(ctx, "snapshot"))
	}
}
