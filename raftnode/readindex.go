package raftnode

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/planted"
	"github.com/quorate-db/quorate/raftnode/peer"
)

const (
	// readsWaitingMax bounds the reads that wait for a round at one replica.
	readsWaitingMax = 16384
	// readRetry is the pause after a round that no majority answered.
	readRetry = 10 * time.Millisecond
)

// reader confirms read indexes (R7), in rounds: what arrives during a round waits
// for the next one, which serves all of it. On a leader a round asks the voters for
// their terms; elsewhere it asks the leader for an index.
type reader struct {
	r *Replica

	mu      sync.Mutex
	stopped bool
	current *readRound // nil: none is under way
	next    *readRound // collects reads; nil: none wait
}

// readWait is one read that waits. Remote ones came from a follower, and are not
// passed on a second time.
type readWait struct {
	remote bool
	done   func(readAnswer, error)
}

// readAnswer is a confirmed index. If led, this replica confirmed it as the leader
// of term.
type readAnswer struct {
	index, term uint64
	led         bool
}

// readRound is one round.
type readRound struct {
	waits []readWait // fixed once the round is current
	start time.Time
	asked kv.ServerID // the leader that is asked; zero where this replica leads
	term  uint64
	index uint64

	mu          sync.Mutex
	ended       bool
	votes       int // voters that are still at term, this one included
	need        int
	outstanding int
}

// ReadIndex returns when the machine of this replica has applied everything that
// was acknowledged before the call, so that a read of it is linearizable. It works
// on every replica, and waits for a leader until ctx ends.
func (r *Replica) ReadIndex(ctx context.Context) error {
	for {
		if r.failure.Load() != nil || r.ctx.Err() != nil {
			return readError(r.errStopped())
		}
		err := r.readOnce(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return readError(r.errWaited(ctx, "read index"))
		}
		var e *kv.Error
		if !errors.As(err, &e) || !e.Retryable() || e.Code == kv.CodeOverloaded {
			return readError(err)
		}
		select {
		case <-time.After(readRetry):
		case <-ctx.Done():
		}
	}
}

// readError is an error without an outcome: a read has none.
func readError(err error) error {
	e := *kv.AsError(err)
	e.Outcome = kv.OutcomeNone
	return &e
}

func (r *Replica) readOnce(ctx context.Context) error {
	type result struct {
		answer readAnswer
		err    error
	}
	ch := make(chan result, 1)
	r.reader.join(readWait{done: func(a readAnswer, err error) { ch <- result{a, err} }})
	var got result
	select {
	case got = <-ch:
	case <-ctx.Done():
		return ctx.Err()
	}
	if got.err != nil {
		return got.err
	}
	if err := r.WaitApplied(ctx, got.answer.index); err != nil {
		return err
	}
	if !got.answer.led {
		return nil
	}
	if _, term, leads := r.leading(); !leads || term != got.answer.term {
		return r.errNotLeader()
	}
	return nil
}

// join adds a read to the next round. done is called exactly once, maybe before
// join returns, and must not block.
func (q *reader) join(w readWait) {
	q.mu.Lock()
	if q.next == nil {
		q.next = &readRound{}
	}
	refused := q.stopped || len(q.next.waits) >= readsWaitingMax
	if !refused {
		q.next.waits = append(q.next.waits, w)
	}
	stopped := q.stopped
	q.mu.Unlock()
	switch {
	case stopped:
		w.done(readAnswer{}, q.r.errStopped())
	case refused:
		w.done(readAnswer{}, withShard(q.r.id, kv.Errorf(kv.CodeOverloaded, kv.OutcomeNone, "replica %s: too many reads wait", q.r.id)))
	default:
		q.kick()
	}
}

// kick starts the next round if it can be. Whoever changes what that depends on
// calls it: a read that joins, a round that ends, a change of leadership.
func (q *reader) kick() {
	inst, term, leads := q.r.leading()
	_, _, ready := q.r.ready()
	leader, known := q.r.leader()
	broken := q.r.failure.Load() != nil
	ready = ready || planted.On(planted.VerifyLeaderReads)
	start := broken || leads && ready || !leads && known && leader != q.r.id
	q.mu.Lock()
	round := q.next
	if q.current != nil || round == nil || len(round.waits) == 0 || !start {
		q.mu.Unlock()
		return
	}
	q.current, q.next = round, nil
	round.start = time.Now()
	var refused []readWait
	if !leads {
		round.asked = leader
		refused = round.dropRemote()
	}
	q.mu.Unlock()
	for _, w := range refused {
		w.done(readAnswer{}, q.r.errNotLeader())
	}
	switch {
	case broken:
		q.end(round, readAnswer{}, q.r.errStopped())
	case leads:
		q.askVoters(round, inst, term)
	default:
		q.askLeader(round, leader)
	}
}

// dropRemote takes out the reads that must not be passed on.
func (round *readRound) dropRemote() (remote []readWait) {
	local := round.waits[:0]
	for _, w := range round.waits {
		if w.remote {
			remote = append(remote, w)
		} else {
			local = append(local, w)
		}
	}
	round.waits = local
	return remote
}

// leaderChanged gives up a round that asks someone who does not lead any more: the
// answer may take until its deadline.
func (q *reader) leaderChanged() {
	leader, _ := q.r.leader()
	q.mu.Lock()
	round := q.current
	moot := round != nil && round.asked != (kv.ServerID{}) && round.asked != leader
	q.mu.Unlock()
	if moot {
		q.end(round, readAnswer{}, q.r.errNotLeader())
	}
	q.kick()
}

// end finishes a round, once, and starts the next.
func (q *reader) end(round *readRound, answer readAnswer, err error) {
	round.mu.Lock()
	ended := round.ended
	round.ended = true
	round.mu.Unlock()
	if ended {
		return
	}
	q.mu.Lock()
	q.current = nil
	q.mu.Unlock()
	if hook := q.r.host.opts.Hooks.ReadRound; hook != nil {
		hook(q.r.id, len(round.waits), time.Since(round.start), err == nil)
	}
	for _, w := range round.waits {
		w.done(answer, err)
	}
	q.kick()
}

// stop fails what waits and what comes.
func (q *reader) stop() {
	q.mu.Lock()
	q.stopped = true
	round := q.next
	q.next = nil
	q.mu.Unlock()
	if round == nil {
		return
	}
	for _, w := range round.waits {
		w.done(readAnswer{}, q.r.errStopped())
	}
}

// askVoters confirms the commit index. The order of the steps is what makes it
// linearizable: the entry of this term is applied (ready), then the commit index is
// taken, and only then the voters are asked.
func (q *reader) askVoters(round *readRound, inst *instance, term uint64) {
	round.term, round.index = term, inst.raft.CommitIndex()
	if q.plantedRead(round, inst) {
		return
	}
	var others []kv.ServerID
	voters := 0
	for _, m := range q.r.members() {
		switch {
		case !m.Voter:
		case m.ID == q.r.id:
			voters++
			round.votes++
		default:
			voters++
			others = append(others, m.ID)
		}
	}
	round.need = voters/2 + 1
	round.outstanding = len(others)
	if len(others) == 0 || round.votes >= round.need {
		q.tally(round, termsAnswer{}, 0)
		return
	}
	for _, id := range others {
		q.r.host.terms.ask(id, func(a termsAnswer) { q.tally(round, a, 1) })
	}
}

// tally counts so many answers, and ends the round when it is decided.
func (q *reader) tally(round *readRound, a termsAnswer, answers int) {
	round.mu.Lock()
	round.outstanding -= answers
	if a.known && a.term == round.term {
		round.votes++
	}
	won := round.votes >= round.need
	deposed := a.known && a.term > round.term
	undecided := round.ended || !won && !deposed && round.outstanding > 0
	round.mu.Unlock()
	if undecided {
		return
	}
	_, term, leads := q.r.leading()
	switch {
	case !leads || term != round.term || !won && deposed:
		q.end(round, readAnswer{}, q.r.errNotLeader())
	case won:
		q.end(round, readAnswer{index: round.index, term: round.term, led: true}, nil)
	default:
		q.end(round, readAnswer{}, withShard(q.r.id, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNone,
			"replica %s: no majority of voters confirms that it leads", q.r.id)))
	}
}

// askLeader asks the leader for an index that it has confirmed after this.
func (q *reader) askLeader(round *readRound, leader kv.ServerID) {
	if len(round.waits) == 0 {
		q.end(round, readAnswer{}, nil)
		return
	}
	req := envelope{from: q.r.id, to: leader}.append(nil)
	deadline := time.Now().Add(q.r.host.terms.timeout)
	q.r.host.opts.Mesh.Send(leader.Node, peer.MethodReadIndex, req, deadline, func(resp []byte, err error) {
		if err != nil {
			q.end(round, readAnswer{}, err)
			return
		}
		in := wireReader{rest: resp}
		in.format()
		answer := readAnswer{index: in.uvarint(), term: in.uvarint()}
		if !in.failed {
			q.r.hearCommit(leader, answer)
		}
		q.end(round, answer, in.done("read index"))
	})
}

// hearCommit tells Raft what the leader would tell it with its next message: that
// index is committed. Without it, a read of a quiet shard would wait for that
// message. It is what the leader could have sent: it is ready, so the entry at its
// commit index is one of its own term (R6). Raft checks that its log has that
// entry.
func (r *Replica) hearCommit(leader kv.ServerID, a readAnswer) {
	inst := r.inst.Load()
	if inst == nil || r.machine.Applied().Index >= a.index || inst.raft.LastIndex() < a.index || r.mute.Load() > 0 {
		return
	}
	m := &raft.AppendEntriesRequest{
		RPCHeader:         headerOf(envelope{from: leader}),
		Term:              a.term,
		PrevLogEntry:      a.index,
		PrevLogTerm:       a.term,
		LeaderCommitIndex: a.index,
	}
	_ = inst.inbox.deliver(m, 0, func(any, error) {}) // the leader's own message follows
}

// handleReadIndex serves a follower's askLeader. It does not block.
func (r *Replica) handleReadIndex(reply func([]byte, error)) {
	if _, _, leads := r.leading(); !leads {
		reply(nil, r.errNotLeader())
		return
	}
	r.reader.join(readWait{remote: true, done: func(a readAnswer, err error) {
		if err != nil {
			reply(nil, err)
			return
		}
		reply(appendUvarint(appendUvarint([]byte{wireFormat}, a.index), a.term), nil)
	}})
}
