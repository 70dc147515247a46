package raftnode

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// keyCurrentTerm is where the library keeps its term.
var keyCurrentTerm = []byte("CurrentTerm")

// logStore stands between the library and a replica's log. It times the writes,
// notices when one does not return (R13), and stops the replica when one fails
// (R12): a failed sync is never repeated, because a second one may succeed without
// having written anything.
type logStore struct {
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

// IsMonotonic is true: LogStore promises it.
func (s *logStore) IsMonotonic() bool { return true }

func (s *logStore) FirstIndex() (uint64, error) { return s.inner.FirstIndex() }

func (s *logStore) LastIndex() (uint64, error) { return s.inner.LastIndex() }

// GetLog reads an entry. The library panics where an entry that it has to apply
// does not come back, so a read that fails ends the replica, and gives an entry
// that does nothing.
func (s *logStore) GetLog(index uint64, out *raft.Log) error {
	err := s.inner.GetLog(index, out)
	if err == nil || errors.Is(err, raft.ErrLogNotFound) || !s.lenient.Load() {
		return err
	}
	s.r.fail(fmt.Errorf("read log entry %d: %w", index, err))
	*out = raft.Log{Index: index, Type: raft.LogNoop}
	return nil
}

func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s *logStore) StoreLogs(logs []*raft.Log) error {
	start := time.Now()
	err := s.write("append to the log", func() error { return s.inner.StoreLogs(logs) })
	if hook := s.r.host.opts.Hooks.Synced; hook != nil && err == nil {
		size := 0
		for _, l := range logs {
			size += len(l.Data) + len(l.Extensions)
		}
		hook(s.r.id, len(logs), size, time.Since(start))
	}
	return err
}

// DeleteRange has no deadline: the library cuts the front beside its main loop.
func (s *logStore) DeleteRange(first, last uint64) error {
	return s.checked("cut the log", func() error { return s.inner.DeleteRange(first, last) })
}

func (s *logStore) Set(key, value []byte) error {
	return s.write("store a vote", func() error { return s.inner.Set(key, value) })
}

func (s *logStore) SetUint64(key []byte, value uint64) error {
	err := s.write("store a term", func() error { return s.inner.SetUint64(key, value) })
	if err != nil && s.lenient.Load() && bytes.Equal(key, keyCurrentTerm) {
		return nil
	}
	return err
}

func (s *logStore) Get(key []byte) ([]byte, error) { return s.inner.Get(key) }

func (s *logStore) GetUint64(key []byte) (uint64, error) { return s.inner.GetUint64(key) }

// write runs one write under the deadline.
func (s *logStore) write(what string, do func() error) error {
	return s.checked(what, func() error {
		watch := s.r.watchWrite()
		defer watch.done()
		return do()
	})
}

// checked runs one write. After a failure none is tried again.
func (s *logStore) checked(what string, do func() error) error {
	if cause := s.r.failure.Load(); cause != nil {
		return fmt.Errorf("%s: replica has failed: %w", what, *cause)
	}
	err := do()
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", what, err)
	s.r.fail(err)
	return err
}
