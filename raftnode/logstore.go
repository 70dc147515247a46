package raftnode

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/raftnode/raftlog"
)

// keyCurrentTerm is where the library keeps its term.
var keyCurrentTerm = []byte("CurrentTerm")

// logStore stands between the library and a replica's log, which is guarded: a
// write that does not return makes a leader mute (R13), and one that fails ends the
// replica (R12). A failed sync is never repeated, because a second one may succeed
// without having written anything.
type logStore struct {
	*raftlog.Guarded
	inner LogStore
	r     *Replica

	// lenient: a run of Raft has begun. Where the library would panic upon an
	// error, the replica has already been made mute when it is told a lie instead,
	// and the run ends in order without having said anything more.
	lenient atomic.Bool
}

var (
	_ raft.LogStore          = (*logStore)(nil)
	_ raft.StableStore       = (*logStore)(nil)
	_ raft.MonotonicLogStore = (*logStore)(nil)
)

func newLogStore(r *Replica, inner LogStore) *logStore {
	s := &logStore{inner: inner, r: r}
	hooks := &r.host.opts.Hooks
	s.Guarded = raftlog.Guard(inner, raftlog.GuardOptions{
		Deadline: r.host.opts.Timing.WriteDeadline,
		// The library cuts the log beside its main loop, which goes on meanwhile.
		OnStall: func(op raftlog.Op) {
			if op != raftlog.OpDeleteRange {
				r.stalled(true)
			}
		},
		OnResume: func(op raftlog.Op, _ time.Duration) {
			if op != raftlog.OpDeleteRange {
				r.stalled(false)
			}
		},
		OnError: func(err error) { r.fail(storageFailed, fmt.Errorf("write to the Raft log: %w", err)) },
		OnWrite: func(w raftlog.Write) {
			if hooks.Synced != nil && w.Op == raftlog.OpStoreLogs && w.Err == nil {
				hooks.Synced(r.id, w.Entries, int(w.Bytes), w.Took)
			}
		},
	})
	return s
}

// GetLog reads an entry. The library panics where an entry that it has to apply
// does not come back, so a read that fails ends the replica, and gives an entry
// that does nothing.
func (s *logStore) GetLog(index uint64, out *raft.Log) error {
	err := s.inner.GetLog(index, out)
	if err == nil || errors.Is(err, raft.ErrLogNotFound) || !s.lenient.Load() {
		return err
	}
	s.r.fail(replicaFailed, fmt.Errorf("read Raft log entry %d: %w", index, err))
	*out = raft.Log{Index: index, Type: raft.LogNoop}
	return nil
}

// SetUint64 stores the term, or the term of a vote. The library panics if it
// cannot store its term, also when it starts.
func (s *logStore) SetUint64(key []byte, value uint64) error {
	err := s.Guarded.SetUint64(key, value)
	if err != nil && bytes.Equal(key, keyCurrentTerm) {
		return nil
	}
	return err
}

// close waits for hooks and closes the log.
func (s *logStore) close() error {
	s.Wait()
	return s.inner.Close()
}
