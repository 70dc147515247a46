package raftlog

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
)

// Op names a kind of write.
type Op string

// The writes that a Guarded watches.
const (
	OpStoreLogs   Op = "store_logs"
	OpDeleteRange Op = "delete_range"
	OpSet         Op = "set"
)

// Write tells of one write that is over.
type Write struct {
	Op      Op
	Entries int   // OpStoreLogs
	Bytes   int64 // OpStoreLogs: data and extensions
	Took    time.Duration
	Err     error
}

// GuardOptions says what to do with writes that are slow or fail. Every hook may
// be nil.
type GuardOptions struct {
	// Deadline is how long a write may take before OnStall is called. 0 = 5 s.
	Deadline time.Duration
	// OnStall is called once for each write that is still not done at its
	// deadline, on a goroutine of its own. The write goes on and is never tried
	// again. The library would keep its leadership, and its heartbeats, so the
	// hook has to take care of that. It may not wait for the write.
	OnStall func(Op)
	// OnResume is called, after OnStall has returned, when that write is over,
	// well or not.
	OnResume func(op Op, took time.Duration)
	// OnError is called once, with the first error of a write and before the
	// writer learns of it. Everything after it is refused. The library panics when
	// it cannot write its term, so the hook should ask the replica's Raft to shut
	// down. It must not wait for that: it runs inside the write.
	OnError func(error)
	// OnWrite is told of every write that was tried. It must not block.
	OnWrite func(Write)
}

const writeDeadlineDefault = 5 * time.Second

// Guarded is a ReplicaStore with a deadline and an end: see Guard.
type Guarded struct {
	inner ReplicaStore
	opts  GuardOptions

	stalls  atomic.Int32 // writes over their deadline and not over
	stallWG sync.WaitGroup

	mu     sync.Mutex
	failed error // why nothing is written any more
}

// Guard watches the writes of a store. A write that passes the deadline is
// reported while it is still under way; a write that fails is the store's last
// (L5). Reads pass through. It takes its time from the clock of the time
// package, virtual in a testing/synctest bubble.
func Guard(store ReplicaStore, opts GuardOptions) *Guarded {
	if opts.Deadline == 0 {
		opts.Deadline = writeDeadlineDefault
	}
	return &Guarded{inner: store, opts: opts}
}

// Stalled reports whether a write is over its deadline and still not done.
func (g *Guarded) Stalled() bool { return g.stalls.Load() > 0 }

// Failed gives the error after which nothing is written any more, or nil.
func (g *Guarded) Failed() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failed
}

// Wait returns when no hook of a stall is running. Call it after the last write.
func (g *Guarded) Wait() { g.stallWG.Wait() }

// write runs one write under watch.
func (g *Guarded) write(w Write, do func() error) error {
	if failed := g.Failed(); failed != nil {
		return kv.Errorf(kv.CodeOf(failed), kv.OutcomeNotApplied, "raft log: an earlier write failed: %w", failed)
	}
	start := time.Now()
	done := make(chan struct{})
	g.stallWG.Add(1)
	timer := time.AfterFunc(g.opts.Deadline, func() {
		defer g.stallWG.Done()
		g.stalled(w.Op, start, done)
	})
	err := do()
	w.Took, w.Err = time.Since(start), err
	close(done)
	if timer.Stop() {
		g.stallWG.Done()
	}
	if g.opts.OnWrite != nil {
		g.opts.OnWrite(w)
	}
	if err != nil {
		g.fail(err)
	}
	return err
}

// stalled accompanies a write from its deadline to its end.
func (g *Guarded) stalled(op Op, start time.Time, done <-chan struct{}) {
	select {
	case <-done:
		return // just in time
	default:
	}
	g.stalls.Add(1)
	if g.opts.OnStall != nil {
		g.opts.OnStall(op)
	}
	<-done
	g.stalls.Add(-1)
	if g.opts.OnResume != nil {
		g.opts.OnResume(op, time.Since(start))
	}
}

func (g *Guarded) fail(err error) {
	g.mu.Lock()
	first := g.failed == nil
	if first {
		g.failed = err
	}
	g.mu.Unlock()
	if first && g.opts.OnError != nil {
		g.opts.OnError(err)
	}
}

// IsMonotonic implements raft.MonotonicLogStore.
func (g *Guarded) IsMonotonic() bool { return g.inner.IsMonotonic() }

// FirstIndex implements raft.LogStore.
func (g *Guarded) FirstIndex() (uint64, error) { return g.inner.FirstIndex() }

// LastIndex implements raft.LogStore.
func (g *Guarded) LastIndex() (uint64, error) { return g.inner.LastIndex() }

// GetLog implements raft.LogStore.
func (g *Guarded) GetLog(index uint64, log *raft.Log) error { return g.inner.GetLog(index, log) }

// StoreLog implements raft.LogStore.
func (g *Guarded) StoreLog(log *raft.Log) error { return g.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore.
func (g *Guarded) StoreLogs(logs []*raft.Log) error {
	w := Write{Op: OpStoreLogs, Entries: len(logs)}
	for _, log := range logs {
		w.Bytes += int64(len(log.Data) + len(log.Extensions))
	}
	return g.write(w, func() error { return g.inner.StoreLogs(logs) })
}

// DeleteRange implements raft.LogStore.
func (g *Guarded) DeleteRange(min, max uint64) error {
	return g.write(Write{Op: OpDeleteRange}, func() error { return g.inner.DeleteRange(min, max) })
}

// Set implements raft.StableStore.
func (g *Guarded) Set(key, value []byte) error {
	return g.write(Write{Op: OpSet}, func() error { return g.inner.Set(key, value) })
}

// SetUint64 implements raft.StableStore.
func (g *Guarded) SetUint64(key []byte, value uint64) error {
	return g.write(Write{Op: OpSet}, func() error { return g.inner.SetUint64(key, value) })
}

// Get implements raft.StableStore.
func (g *Guarded) Get(key []byte) ([]byte, error) { return g.inner.Get(key) }

// GetUint64 implements raft.StableStore.
func (g *Guarded) GetUint64(key []byte) (uint64, error) { return g.inner.GetUint64(key) }
