package raftlog

import (
	"sync"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
)

// run is a contiguous run of indexes, both ends included. The zero value is
// empty.
type run struct{ first, last uint64 }

func (r run) empty() bool             { return r.last == 0 }
func (r run) holds(index uint64) bool { return r.first <= index && index <= r.last && index > 0 }

// next gives the index that an append must begin with, 0 if any may.
func (r run) next() uint64 {
	if r.empty() {
		return 0
	}
	return r.last + 1
}

// extend gives the run after logs were appended, or an error if that would
// break L2.
func (r run) extend(logs []*raft.Log) (run, error) {
	next := r.last + 1
	if r.empty() {
		next = logs[0].Index
		r.first = next
	}
	for _, log := range logs {
		if log.Index != next || next == 0 {
			return run{}, kv.Errorf(kv.CodeInternal, kv.OutcomeNotApplied,
				"raft log: entry %d cannot be stored where %d comes next", log.Index, next)
		}
		r.last, next = next, next+1
	}
	return r, nil
}

// cut gives the run after the entries between two indexes (both included) were
// deleted, and which of its entries those are. removed is empty if there are
// none.
func (r run) cut(from, to uint64) (rest, removed run, err error) {
	if r.empty() || from > to || to < r.first || from > r.last {
		return r, run{}, nil
	}
	removed = run{first: max(from, r.first), last: min(to, r.last)}
	switch {
	case removed == r:
		return run{}, removed, nil
	case removed.first == r.first:
		return run{first: removed.last + 1, last: r.last}, removed, nil
	case removed.last == r.last:
		return run{first: r.first, last: removed.first - 1}, removed, nil
	default:
		return r, run{}, kv.Errorf(kv.CodeInternal, kv.OutcomeNotApplied,
			"raft log: deleting %d to %d would leave a gap in %d to %d", from, to, r.first, r.last)
	}
}

// ledger keeps, in memory, what run of entries a store holds, and keeps L2, L4
// and L5 for whatever stores them. Raft deletes from the front on one goroutine
// while it appends on another and reads on more.
type ledger struct {
	// writing is held over a whole write, its sync included.
	writing turn
	broken  error // guarded by writing: why nothing can be written any more

	mu    sync.RWMutex
	run   run
	epoch uint64 // counts deletions
}

func (l *ledger) view() (run, uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.run, l.epoch
}

// write runs one write; after the first that fails it runs no more (L5).
func (l *ledger) write(do func() error) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	return l.writeLocked(do)
}

func (l *ledger) writeLocked(do func() error) error {
	if l.broken != nil {
		return l.broken
	}
	err := do()
	if err != nil {
		l.broken = kv.Errorf(kv.CodeOf(err), kv.OutcomeNotApplied, "raft log: an earlier write failed: %w", err)
	}
	return err
}

// append checks logs, stores them with store and shows them to readers.
func (l *ledger) append(logs []*raft.Log, store func() error) error {
	if len(logs) == 0 {
		return nil
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	before, _ := l.view()
	after, err := before.extend(logs)
	if err != nil {
		return err
	}
	if err := l.writeLocked(store); err != nil {
		return err
	}
	l.mu.Lock()
	l.run = after // only now: L4
	l.mu.Unlock()
	return nil
}

// cut hides the entries between two indexes from readers and deletes those that
// exist with erase.
func (l *ledger) cut(from, to uint64, erase func(removed run) error) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	before, _ := l.view()
	rest, removed, err := before.cut(from, to)
	if err != nil {
		return err
	}
	if removed.empty() {
		return l.broken
	}
	return l.writeLocked(func() error {
		l.mu.Lock()
		l.run = rest
		l.epoch++
		l.mu.Unlock()
		return erase(removed)
	})
}

// read finds an entry with load, which reports whether there is one. It returns
// raft.ErrLogNotFound, bare as the library compares it, outside the run.
func (l *ledger) read(index uint64, load func() (bool, error)) error {
	for {
		run, epoch := l.view()
		if !run.holds(index) {
			return raft.ErrLogNotFound
		}
		found, err := load()
		if _, now := l.view(); now != epoch {
			// Deleted while we looked, and perhaps being written anew and not
			// durable yet (L4).
			continue
		}
		if err == nil && !found {
			err = kv.Errorf(kv.CodeCorrupt, kv.OutcomeNone,
				"raft log: entry %d is missing between %d and %d", index, run.first, run.last)
		}
		return err
	}
}
