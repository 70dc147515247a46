package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
)

const (
	// installStop bounds how long Raft may take to stop when it is to
	// be started again.
	installStop = 30 * time.Second
	// keeperJobsMax bounds what waits for the keeper.
	keeperJobsMax = 8
	// startTermRetry is the pause before a start-of-term entry that was refused is
	// proposed again.
	startTermRetry = 20 * time.Millisecond
)

// Replica is one server of one shard's Raft group. Its methods may be called from
// any goroutine.
type Replica struct {
	id      kv.ServerID
	record  Record
	host    *Host
	log     *slog.Logger
	machine StateMachine
	store   *logStore
	snaps   *snapshots
	files   *snapshotFiles // of machines in memory

	proposer proposer
	reader   reader
	waiters  waiters
	fresh    freshness
	keeper
	state
}

// keeper is the goroutine that owns the instance, and what reaches it.
type keeper struct {
	ctx      context.Context // ends when the replica closes
	cancel   context.CancelCauseFunc
	wg       sync.WaitGroup // every goroutine of the replica but the keeper
	kept     chan struct{}  // closed when the keeper has ended
	ended    chan struct{}  // closed when the replica has
	observed chan raft.Observation
	jobs     chan func() // run between two other things that the keeper does
	leaving  *instance   // did not stop in time; of the keeper, and after it of close
}

// state is what others look at.
type state struct {
	inst      atomic.Pointer[instance] // nil while Raft does not run
	readyTerm atomic.Uint64            // the newest term in which this replica was a ready leader (R6)
	mute      atomic.Int32             // reasons to say nothing (R12, R13)
	failure   atomic.Pointer[error]
	goneTerm  atomic.Uint64 // in which it led when it was given up; 0 = it did not
	config    atomic.Pointer[configView]
	// lastLeader is who was last found to lead, in both forms.
	lastLeader atomic.Pointer[parsedID]

	sinceSnapshot struct{ entries, bytes atomic.Int64 }
	transfers     transfers

	mu      sync.Mutex
	closing bool
	closed  bool // entirely
	stage   *stage
	lead    leadership // as last told to the hooks
	hurried time.Time  // when it last stood for election ahead of the timeout
}

// leadership is who leads, as a replica knows it.
type leadership struct {
	leader kv.ServerID
	term   uint64
}

// ID is the replica's server id.
func (r *Replica) ID() kv.ServerID { return r.id }

// Record is what the replica was made from. It must not be changed.
func (r *Replica) Record() Record { return r.record }

// Machine is the replica's state machine, for reads.
func (r *Replica) Machine() StateMachine { return r.machine }

// keep is the keeper's goroutine.
func (r *Replica) keep() {
	defer close(r.kept)
	r.runInstance()
	for {
		if r.failure.Load() != nil {
			if err := r.stopInstance(installStop); err != nil {
				r.log.Error("a failed replica does not stop", "err", err)
			}
		}
		select {
		case <-r.observed:
			r.noticeLeadership()
		case job := <-r.jobs:
			job()
		case <-r.ctx.Done():
			return
		}
	}
}

// tell has the keeper do something. False: it is ending, or has too much to do.
func (r *Replica) tell(job func()) bool {
	select {
	case r.jobs <- job:
		return true
	default:
		return false
	}
}

// runInstance starts Raft. Only the keeper calls it.
func (r *Replica) runInstance() {
	if r.failure.Load() != nil || r.ctx.Err() != nil {
		return
	}
	inst, err := r.startInstance()
	if err != nil {
		r.fail(replicaFailed, err)
		return
	}
	r.inst.Store(inst)
	r.noticeLeadership()
}

// stopInstance stops Raft. Only the keeper calls it, or whoever waited for the
// keeper to end.
func (r *Replica) stopInstance(within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return r.stopInstanceBy(ctx)
}

func (r *Replica) stopInstanceBy(ctx context.Context) error {
	if inst := r.inst.Swap(nil); inst != nil {
		r.leaving = inst
		r.noticeLeadership()
	}
	if r.leaving == nil {
		return nil
	}
	if err := r.leaving.stop(ctx); err != nil {
		return err
	}
	r.leaving = nil
	return nil
}

// restart stops Raft and starts it again, for what the library does not get out
// of by itself.
func (r *Replica) restart(why string) {
	r.tell(func() {
		r.log.Warn("restarting this replica's Raft", "why", why)
		if err := r.stopInstance(installStop); err != nil {
			r.fail(replicaFailed, err)
			return
		}
		r.runInstance()
	})
}

// failed says what a failure means for the node.
type failed bool

const (
	// replicaFailed: something of this replica does not fit together.
	replicaFailed failed = false
	// storageFailed: a write or sync did not work, so the disk may hold other things
	// than what was written before.
	storageFailed failed = true
)

// fail stops the replica for good (R12): it is mute from here on, and the keeper
// ends Raft. Only the first failure counts.
func (r *Replica) fail(what failed, err error) {
	r.mute.Add(1)
	if !r.failure.CompareAndSwap(nil, &err) {
		return
	}
	r.log.Error("replica has failed and stops", "err", err)
	r.tell(func() {}) // if the keeper has too much to do, it comes round anyway
	if hook := r.host.opts.Hooks.Failed; hook != nil {
		hook(r.id, err, bool(what))
	}
	r.wake()
}

// GiveUp stops the replica because the state of its machine is another's now, as
// ErrGone says, ahead of the next entry that would find it so. It may be called again.
func (r *Replica) GiveUp() { r.giveUp(ErrGone) }

// gone reports whether the replica was given up.
func (r *Replica) gone() bool {
	cause := r.failure.Load()
	return cause != nil && errors.Is(*cause, ErrGone)
}

// giveUp stops the replica as fail does, and is no failure.
func (r *Replica) giveUp(why error) {
	r.mute.Add(1)
	if _, term, leads := r.leading(); leads {
		r.goneTerm.Store(term)
	}
	if !r.failure.CompareAndSwap(nil, &why) {
		return
	}
	r.log.Info("the replica stops", "why", why)
	r.tell(func() {})
	r.wake()
}

// wake has everything that waits look at the state again.
func (r *Replica) wake() {
	r.proposer.queue.signal()
	r.reader.leaderChanged()
}

// leader tells who leads, as far as this replica knows.
func (r *Replica) leader() (kv.ServerID, bool) {
	inst := r.inst.Load()
	if inst == nil {
		return kv.ServerID{}, false
	}
	_, id := inst.raft.LeaderWithID()
	if id == "" {
		return kv.ServerID{}, false
	}
	if last := r.lastLeader.Load(); last != nil && last.text == id {
		return last.id, true
	}
	leader, err := kv.ParseServerID(string(id))
	if err == nil {
		r.lastLeader.Store(&parsedID{text: id, id: leader})
	}
	return leader, err == nil
}

// parsedID is a server id as the library names it and as we do: every read asks for
// the leader's, and it rarely changes.
type parsedID struct {
	text raft.ServerID
	id   kv.ServerID
}

// Leader tells which node leads the shard, as far as this replica knows.
func (r *Replica) Leader() (kv.NodeID, bool) {
	id, ok := r.leader()
	return id.Node, ok
}

// LastContact tells how long ago this replica's state held everything that was
// acknowledged by then (see freshness), zero if it leads. False: not known.
func (r *Replica) LastContact() (time.Duration, bool) {
	// A leader whose disk hangs (R13) does not notice that it has been replaced.
	if _, _, ready := r.ready(); ready && r.mute.Load() == 0 {
		return 0, true
	}
	at, known := r.fresh.asOf(r.machine.Applied())
	return time.Since(at), known
}

// leading tells whether this replica leads and in which term.
func (r *Replica) leading() (*instance, uint64, bool) {
	inst := r.inst.Load()
	if inst == nil || r.failure.Load() != nil {
		return nil, 0, false
	}
	term, ok := inst.leading()
	return inst, term, ok
}

// ready is leading, and the start-of-term entry is applied (R6).
func (r *Replica) ready() (*instance, uint64, bool) {
	inst, term, ok := r.leading()
	return inst, term, ok && r.readyTerm.Load() == term
}

// noticeLeadership compares who leads with what was last noticed. The library's
// observations only wake it; it looks at the state itself, so none that is lost
// matters.
func (r *Replica) noticeLeadership() {
	now := leadership{}
	inst, term, leads := r.leading()
	if inst != nil {
		now.term = term
		if leads {
			now.leader = r.id
		} else if leader, ok := r.leader(); ok {
			now.leader = leader
		}
	}
	r.mu.Lock()
	before := r.lead
	r.lead = now
	r.mu.Unlock()
	if now == before {
		return
	}
	if leads && (before.leader != r.id || before.term != term) {
		r.log.Info("leads its shard", "term", term)
		r.startTerm(inst, term)
	}
	r.wake()
	if hook := r.host.opts.Hooks.LeaderChanged; hook != nil {
		hook(r.id, now.term, now.leader.Node)
	}
}

// startTerm proposes the first entry of a leader's term (R6) from a goroutine of
// its own, because it may take long to be committed.
func (r *Replica) startTerm(inst *instance, term uint64) {
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		for {
			current, now, leads := r.leading()
			if current != inst || !leads || now != term || r.tryStartTerm(inst, term) {
				return
			}
			select {
			case <-time.After(startTermRetry):
			case <-r.ctx.Done():
				return
			}
		}
	}()
}

// tryStartTerm gives false if it is to be tried again.
func (r *Replica) tryStartTerm(inst *instance, term uint64) bool {
	now := r.NowMs()
	data, err := kv.EncodeEntry(kv.Stamp{Term: term, Ceiling: kv.VersionAt(now) + ceilingWindow, NowMs: now}, nil)
	if err != nil || !inst.begin() {
		return true
	}
	defer inst.end()
	result, err := r.entryResponse(inst.raft.Apply(data, 0))
	if err != nil {
		if errors.Is(err, raft.ErrLeadershipTransferInProgress) {
			r.transferRefused()
		}
		return kv.OutcomeOf(err) != kv.OutcomeNotApplied
	}
	if result.Rejected {
		return true // another term began; its leader starts it
	}
	r.readyTerm.Store(term)
	r.wake()
	return true
}

// WaitApplied returns when the state machine has applied an index.
func (r *Replica) WaitApplied(ctx context.Context, index uint64) error {
	if r.machine.Applied().Index >= index {
		return nil
	}
	ch := r.waiters.add(index)
	defer r.waiters.remove(ch)
	if r.machine.Applied().Index >= index {
		return nil
	}
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return r.errWaited(ctx, fmt.Sprintf("wait for index %d", index))
	case <-r.ctx.Done():
		return r.errStopped()
	}
}

// configView is the newest configuration of an instance, taken apart.
type configView struct {
	of      *raft.Server // the library's first server; it makes a new slice for each configuration
	count   int
	members []kv.Member
}

// members gives the newest configuration, committed or not. It must not be
// changed. Without a running Raft it is the last one that was looked at.
func (r *Replica) members() []kv.Member {
	view := r.config.Load()
	inst := r.inst.Load()
	if inst == nil {
		if view == nil {
			return nil
		}
		return view.members
	}
	servers := inst.raft.GetConfiguration().Configuration().Servers
	if len(servers) == 0 {
		return nil
	}
	if view != nil && view.of == &servers[0] && view.count == len(servers) {
		return view.members
	}
	members, err := membersOf(raft.Configuration{Servers: servers})
	if err != nil {
		r.fail(replicaFailed, fmt.Errorf("configuration: %w", err))
		return nil
	}
	r.config.Store(&configView{of: &servers[0], count: len(servers), members: members})
	return members
}

// Status tells what the replica knows of itself and its shard.
func (r *Replica) Status() kv.ReplicaStatus {
	s := kv.ReplicaStatus{
		ID:           r.id,
		Role:         kv.RoleStopped,
		Members:      append([]kv.Member(nil), r.members()...),
		AppliedIndex: r.machine.Applied().Index,
	}
	if cause := r.failure.Load(); cause != nil && !r.gone() {
		s.Failure = (*cause).Error()
	}
	inst := r.inst.Load()
	if inst == nil {
		return s
	}
	s.Term = inst.raft.CurrentTerm()
	s.LastIndex = inst.raft.LastIndex()
	s.CommitIndex = inst.raft.CommitIndex()
	s.Leader, _ = r.Leader()
	switch inst.raft.State() {
	case raft.Leader:
		s.Role = kv.RoleLeader
		_, _, s.LeaderReady = r.ready()
	case raft.Candidate:
		s.Role = kv.RoleCandidate
	case raft.Follower:
		s.Role = kv.RoleLearner
		for _, m := range s.Members {
			if m.ID == r.id && m.Voter {
				s.Role = kv.RoleFollower
			}
		}
	}
	return s
}

// close ends the replica and waits for everything of it, as far as ctx allows. If
// that was not far enough it gives an error, and may be called again.
func (r *Replica) close(ctx context.Context) error {
	r.mu.Lock()
	again := r.closed
	r.closing = true
	r.mu.Unlock()
	if again {
		return nil
	}
	r.cancel(errors.New("the replica is closing"))
	select {
	case <-r.kept:
	case <-ctx.Done():
		return fmt.Errorf("replica %s is busy: %w", r.id, ctx.Err())
	}
	err := r.stopInstanceBy(ctx)
	r.proposer.queue.failAll(r.errStopped())
	r.reader.stop()
	if err != nil {
		return err // its goroutines may still use the log
	}
	r.wg.Wait()
	close(r.ended)
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	return r.store.close()
}
