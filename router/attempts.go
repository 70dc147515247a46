package router

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/kv/planted"
)

// quickMax is how many attempts of a request may follow their predecessor at
// once, because it failed with news of where to go instead.
const quickMax = 3

// attempts is the memory of one request, or of one shard's part in it, over
// its attempts: what they may have done, and whom to ask next. It belongs to one
// goroutine. Its zero value but for r and op is ready.
type attempts struct {
	r  *Router
	op Op

	// doubt: a write's attempt so far may have been applied; a read's latest
	// attempt was asked and not answered.
	doubt      bool
	generation uint64 // of the shard, which the latest attempt at a write is bound to
	doubtful   uint64 // the greatest of those in doubt

	first time.Time // when the first attempt failed
	tries int       // how many attempts have failed
	quick int       // how many of them were followed at once
	slow  int       // how many ended without an answer

	desc  *kvpb.ShardDescriptor // the latest that was asked
	shard kv.ShardID            // whom the following are about
	asked kv.NodeID             // by the latest attempt
	hint  kv.NodeID             // who leads, according to it
	turn  int                   // rotates over the voters
	moved bool                  // it was given up because somebody else leads

	silent     kv.NodeID // the latest that was asked and did not answer
	avoidUntil time.Time // until when it is asked only if there is nobody else
}

// target chooses whom to ask for the leader of d. It does not repeat the latest
// attempt's choice unless there is no other.
func (a *attempts) target(d *kvpb.ShardDescriptor) kv.NodeID {
	shard := kv.ShardID(d.Shard)
	if a.shard != shard {
		a.shard, a.asked, a.hint, a.turn = shard, 0, 0, 0
	}
	a.desc, a.moved = d, false
	a.asked = a.choose(d, shard)
	a.hint = 0
	return a.asked
}

func (a *attempts) choose(d *kvpb.ShardDescriptor, shard kv.ShardID) kv.NodeID {
	if a.promising(a.hint) {
		return a.hint
	}
	local := a.r.localLeader(shard)
	if planted.On(planted.LocalReads) && a.op == OpRead && a.tries == 0 && local != 0 {
		return a.r.self
	}
	if local == a.r.self {
		return local
	}
	if cached := a.r.leaders.get(shard); a.promising(cached) {
		return cached
	}
	if a.promising(local) {
		return local
	}
	return a.nextVoter(d)
}

// promising reports whether a node that is said to lead is to be asked. One that
// has just left a request without an answer may be gone, and the others may not
// know it yet: for a while they are asked instead until they name another.
func (a *attempts) promising(node kv.NodeID) bool {
	return node != 0 && node != a.asked && !a.avoided(node)
}

func (a *attempts) avoided(node kv.NodeID) bool {
	return node == a.silent && time.Now().Before(a.avoidUntil)
}

// answered notes that the latest attempt reached the leader of shard, whatever
// it answered.
func (a *attempts) answered(shard kv.ShardID, node kv.NodeID) {
	if node != a.r.self {
		a.r.leaders.set(shard, node)
	}
	a.asked = 0
}

// nextVoter goes round the voters. This node's own replica is asked only if
// nobody else is there: it was asked already, and does not lead.
func (a *attempts) nextVoter(d *kvpb.ShardDescriptor) kv.NodeID {
	for range d.Replicas {
		rep := d.Replicas[a.turn%len(d.Replicas)]
		a.turn++
		node := kv.NodeID(rep.Node)
		if rep.Role != kvpb.ReplicaRole_ROLE_NONVOTER && node != a.r.self && node != a.asked && !a.avoided(node) {
			return node
		}
	}
	if a.asked != 0 {
		return a.asked
	}
	return a.r.self
}

// watched carries out an attempt at another node, and gives it up when somebody else
// turns out to lead the shard.
func (a *attempts) watched(ctx context.Context, d *kvpb.ShardDescriptor, node kv.NodeID, attempt func(context.Context) error) error {
	w := a.r.watch(ctx, d, node)
	err := attempt(w.ctx)
	a.moved = w.stop() && err != nil
	return err
}

// patienceForOne is how long one attempt at another node may go unanswered.
func (a *attempts) patienceForOne() time.Duration {
	return a.r.timing.Attempt << min(a.slow, 5)
}

// again takes the failure of an attempt. It returns nil when it is time for the
// next one, and the request's error when there shall be none.
func (a *attempts) again(ctx context.Context, cause error) error {
	e := a.note(cause)
	if !a.worthwhile(e) {
		return a.failure(ctx, e)
	}
	now := time.Now()
	if a.tries == 0 {
		a.first = now
	}
	a.tries++
	if !a.doubt && e.Cause != errFrozen && now.Sub(a.first) >= a.r.timing.Patience {
		return a.failure(ctx, e)
	}
	delay := a.delay(e)
	if deadline, ok := ctx.Deadline(); ok && a.tooLate(deadline.Sub(now)-delay, delay) {
		return a.failure(ctx, e)
	}
	if h := a.r.hooks.Retried; h != nil {
		h(a.op, e.Code)
	}
	if err := a.r.sleep(ctx, delay); err != nil {
		if kv.CodeOf(err) == kv.CodeDraining {
			e = kv.AsError(err)
		}
		return a.failure(ctx, e)
	}
	if e.Cause == errFrozen || e.Code == kv.CodeNoReplica {
		a.r.seekAbsorber(ctx, a.desc)
	}
	return nil
}

// tooLate reports that another attempt is not worth beginning when left is all
// the time it would have. While it is certain that nothing was done, an attempt that
// can hardly be answered in time would only put that in doubt; unless it follows
// at once, upon news.
func (a *attempts) tooLate(left, delay time.Duration) bool {
	return left <= 0 || !a.doubt && delay > 0 && left < a.r.timing.LastAttempt
}

// note records what an attempt may have done and whom it points to.
func (a *attempts) note(cause error) *kv.Error {
	e := asError(cause)
	silent := e.Code == kv.CodeOutcomeUnknown || e.Code == kv.CodeTimeout
	if silent {
		if !a.moved { // or else it says nothing of how slow the cluster is
			a.slow++
		}
		if a.asked != a.r.self {
			a.silent, a.avoidUntil = a.asked, time.Now().Add(a.r.timing.Attempt)
		}
	}
	switch {
	case a.op == OpRead:
		a.doubt = silent
	case !certain(e) && !planted.On(planted.UnknownAsNotApplied):
		a.doubt, a.doubtful = true, max(a.doubtful, a.generation)
	}
	if e.Code == kv.CodeNotLeader {
		a.hint = e.Leader
	}
	if a.asked != 0 && a.asked != a.r.self {
		a.r.leaders.forget(a.shard, a.asked)
	}
	return e
}

// certain reports that the attempt was not applied. The two codes by which a
// replica says that it was the wrong one to ask imply it.
func certain(e *kv.Error) bool {
	if e.Outcome == kv.OutcomeNone {
		return e.Code == kv.CodeNotLeader || e.Code == kv.CodeNoReplica
	}
	return e.Outcome == kv.OutcomeNotApplied
}

// worthwhile reports whether another attempt may fare better. A refusal for
// overload is passed on, so that it reaches the one who makes the load; but not
// while something may have been applied: then the answer is worth waiting for.
func (a *attempts) worthwhile(e *kv.Error) bool {
	switch e.Code {
	case kv.CodeNotLeader, kv.CodeNoReplica, kv.CodeWrongShard, kv.CodeUnavailable,
		kv.CodeDraining, kv.CodeOutcomeUnknown, kv.CodeTimeout:
		return true
	case kv.CodeOverloaded:
		return a.op == OpWrite && a.doubt
	default:
		return false
	}
}

// delay is nothing after news of where to go, else doubles every second time and is
// random by half: what the pause adds to the time for which nobody could serve is a
// third of that at most.
func (a *attempts) delay(e *kv.Error) time.Duration {
	news := e.Code == kv.CodeWrongShard || e.Code == kv.CodeNotLeader && a.promising(a.hint) || a.moved
	if news && a.quick < quickMax {
		a.quick++
		return 0
	}
	d := a.r.timing.BackoffMin << min((a.tries-1)/2, 20)
	if a.tries%2 == 0 {
		d += d / 2
	}
	d = min(d, a.r.timing.BackoffMax)
	return d/2 + rand.N(d/2+1)
}

// failure turns the latest attempt's error into the request's (invariant 3).
func (a *attempts) failure(ctx context.Context, e *kv.Error) error {
	out := *e
	out.Leader = 0
	switch {
	case a.op == OpWrite && a.doubt:
		out.Outcome = kv.OutcomeUnknown
		if e.Code == kv.CodeCorrupt || e.Code == kv.CodeInternal {
			break // says more, and is no better
		}
		out.Code = kv.CodeOutcomeUnknown
		if e.Code != kv.CodeOutcomeUnknown {
			out.Detail = "an attempt had no answer and may have been applied; the latest: " + e.Error()
		}
	case a.op == OpWrite:
		out.Outcome = kv.OutcomeNotApplied
	default:
		out.Outcome = kv.OutcomeNone
	}
	if a.op == OpRead && e.Code == kv.CodeOutcomeUnknown {
		out.Code = kv.CodeTimeout
	}
	switch out.Code {
	case kv.CodeNotLeader, kv.CodeNoReplica, kv.CodeWrongShard:
		// Words between nodes; to a client they mean that nobody served it.
		out.Code = kv.CodeUnavailable
		out.Detail = "nobody to serve the shard was found; the latest: " + e.Error()
	}
	if out.Shard == 0 {
		out.Shard = a.shard
	}
	if out.Cause == nil {
		out.Cause = ctx.Err()
	}
	return &out
}

// sleep waits, and fails if ctx ends or the router closes before.
func (r *Router) sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.handlers.closing:
		return kv.Errorf(kv.CodeDraining, kv.OutcomeNotApplied, "this node is shutting down")
	}
}

// asError finds the kv.Error in err. The end of a context is silence, not a bug.
func asError(err error) *kv.Error {
	var e *kv.Error
	if errors.As(err, &e) {
		return e
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown, "no answer: %w", err)
	}
	return kv.AsError(err)
}
