package raftnode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
)

// instance is one run of a replica's raft.Raft.
type instance struct {
	id        kv.ServerID
	raft      *raft.Raft
	transport *transport
	inbox     *inbox

	// gate guards what is handed to Raft and answered by a future (R4).
	gate struct {
		sync.Mutex
		closed  bool
		futures sync.WaitGroup // counted only while not closed
	}

	shutdown sync.Once
	ended    chan error // holds what Raft's shutdown gave
}

// stepDownRetry is how often a leader that is being stopped is told to step down
// again, should it have been elected in between.
const stepDownRetry = 100 * time.Millisecond

// startInstance reconciles the log with the state, and starts Raft. Only the
// keeper calls it, with no instance running.
func (r *Replica) startInstance() (*instance, error) {
	r.store.lenient.Store(false)
	if err := r.reconcile(); err != nil {
		return nil, err
	}
	if err := r.bootstrap(); err != nil {
		return nil, err
	}
	if err := r.anchor(); err != nil {
		return nil, err
	}
	inst := &instance{id: r.id, inbox: newInbox(r.id), ended: make(chan error, 1)}
	inst.transport = &transport{
		id:     r.id,
		mesh:   r.host.opts.Mesh,
		gather: r.host.gather,
		timing: r.host.opts.Timing,
		inbox:  inst.inbox,
		r:      r,
		stop:   make(chan struct{}),
		mute:   &r.mute,
	}
	started, err := raft.NewRaft(r.raftConfig(), fsm{r}, r.store, r.store, r.snaps, plantedTransport(inst.transport))
	if err != nil {
		inst.inbox.close()
		return nil, fmt.Errorf("replica %s: start Raft: %w", r.id, err)
	}
	r.store.lenient.Store(true)
	inst.raft = started
	started.RegisterObserver(raft.NewObserver(r.observed, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.RaftState, raft.LeaderObservation:
			return true
		default:
			return false
		}
	}))
	return inst, nil
}

// raftConfig gives the library's settings. Its metrics go nowhere: they have no
// label for the group, and the default sink drops them.
func (r *Replica) raftConfig() *raft.Config {
	t := r.host.opts.Timing
	c := raft.DefaultConfig()
	c.LocalID = raftID(r.id)
	c.Logger = newRaftLogger(r.log)
	c.HeartbeatTimeout = t.Heartbeat
	c.ElectionTimeout = t.Election
	c.LeaderLeaseTimeout = t.Lease
	c.CommitTimeout = t.Commit
	c.MaxAppendEntries = kv.EntriesPerAppendMax
	c.BatchApplyCh = true
	c.ShutdownOnRemove = false
	c.NoLegacyTelemetry = true
	c.NoSnapshotRestoreOnStart = true // R9
	c.TrailingLogs = uint64(t.TrailingEntries)
	// The host decides when to take a snapshot.
	c.SnapshotInterval = 24 * time.Hour
	c.SnapshotThreshold = math.MaxUint64
	return c
}

// bootstrap writes the initial configuration as entry 1, where the record has one
// and the replica has no state yet. It may be repeated after a crash. A replica
// without a configuration has not voted (R3), so whatever its term is, nothing
// that it promised is forgotten.
func (r *Replica) bootstrap() error {
	if len(r.record.Members) == 0 || r.machine.Applied().Index > 0 {
		return nil
	}
	last, err := r.store.LastIndex()
	if err != nil || last > 0 {
		return err
	}
	members := slices.SortedFunc(slices.Values(r.record.Members), func(a, b kv.Member) int {
		return cmp.Compare(a.ID.Node, b.ID.Node)
	})
	entry := &raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: EncodeMembers(members)}
	if err := r.store.StoreLog(entry); err != nil {
		return fmt.Errorf("replica %s: bootstrap: %w", r.id, err)
	}
	return nil
}

// reconcile makes the log fit the state (R9).
func (r *Replica) reconcile() error {
	applied := r.machine.Applied()
	first, err := r.store.FirstIndex()
	if err != nil {
		return err
	}
	last, err := r.store.LastIndex()
	if err != nil || last == 0 {
		return err
	}
	if first > applied.Index+1 {
		return kv.Errorf(kv.CodeCorrupt, kv.OutcomeUnknown,
			"replica %s: the state is at %d, but the log begins at %d", r.id, applied.Index, first)
	}
	drop := last < applied.Index
	if !drop && first <= applied.Index {
		var l raft.Log
		if err := r.store.GetLog(applied.Index, &l); err != nil {
			return fmt.Errorf("replica %s: the state is at %d, the log from %d to %d: %w", r.id, applied.Index, first, last, err)
		}
		drop = l.Term != applied.Term
	}
	if !drop {
		return nil
	}
	// What the state has is committed. A log that ends before it adds nothing, and
	// one that contradicts it was never committed from there on.
	r.log.Info("dropping a log that ends before the state or contradicts it",
		"first", first, "last", last, "applied", applied.Index)
	return r.store.DeleteRange(first, last)
}

// anchor gives an empty log an entry where the state is, which stands for all that
// the state was made from. It is never applied and never sent. Without it the library
// finds no term for that index once anything follows it in the log, and refuses what
// the leader sends again or what has overtaken; the leader goes back to before the
// index, has no log of that, sends its state, is told that it is there, sends the
// same again, and so for ever. (Of a log that has been cut some entries are left,
// which serve the same purpose: see trailing.)
func (r *Replica) anchor() error {
	applied := r.machine.Applied()
	last, err := r.store.LastIndex()
	if err != nil || last > 0 || applied.Index == 0 {
		return err
	}
	if err := r.store.StoreLog(&raft.Log{Index: applied.Index, Term: applied.Term, Type: raft.LogNoop}); err != nil {
		return fmt.Errorf("replica %s: begin the log at %d: %w", r.id, applied.Index, err)
	}
	return nil
}

// begin is called before something is handed to Raft that has a future, and end
// after the future was answered. False: the instance is being stopped.
func (i *instance) begin() bool {
	i.gate.Lock()
	defer i.gate.Unlock()
	if i.gate.closed {
		return false
	}
	i.gate.futures.Add(1)
	return true
}

func (i *instance) end() { i.gate.futures.Done() }

// leading tells whether this server leads, and in which term. State and term are
// two reads; a term that is the same before and after held in between.
func (i *instance) leading() (uint64, bool) {
	term := i.raft.CurrentTerm()
	return term, i.raft.State() == raft.Leader && i.raft.CurrentTerm() == term
}

// stepDown makes a leader or candidate a follower of its own term, by a message
// such as a leader of that term would send. Nothing is lost by it: a server may
// stop leading at any time.
func (i *instance) stepDown() {
	state := i.raft.State()
	if state != raft.Leader && state != raft.Candidate {
		return
	}
	m := &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax},
		Term:      i.raft.CurrentTerm(),
	}
	// A full inbox or one that closes is no loss: stop repeats it.
	_ = i.inbox.deliver(m, 0, func(any, error) {})
}

// timeoutNow makes a follower start an election at once.
func (i *instance) timeoutNow() {
	m := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}
	_ = i.inbox.deliver(m, 0, func(any, error) {}) // full: Raft is busy, its timeout does the same
}

// stop ends the run and returns when everything of it has ended, in this order
// (R4): no more is handed to Raft; it steps down, which answers what is in flight;
// then it is shut down. The error is ctx's: a disk that hangs holds Raft, and the
// machine, for as long. It may be called again then.
func (i *instance) stop(ctx context.Context) error {
	i.gate.Lock()
	i.gate.closed = true
	i.gate.Unlock()
	answered := make(chan struct{})
	go func() { i.gate.futures.Wait(); close(answered) }()
	retry := time.NewTicker(stepDownRetry)
	defer retry.Stop()
	i.stepDown()
	for waiting := true; waiting; {
		select {
		case <-answered:
			waiting = false
		case <-retry.C:
			i.stepDown()
		case <-ctx.Done():
			return fmt.Errorf("replica %s: Raft does not answer what is in flight: %w", i.id, ctx.Err())
		}
	}
	i.shutdown.Do(func() {
		close(i.transport.stop)
		future := i.raft.Shutdown()
		go func() { i.ended <- future.Error() }()
	})
	select {
	case err := <-i.ended:
		i.inbox.close()
		return err
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("replica %s: Raft does not end", i.id), ctx.Err())
	}
}
