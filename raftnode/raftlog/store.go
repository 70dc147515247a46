package raftlog

import (
	"encoding/binary"
	"errors"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/planted"
)

// ErrKeyNotFound says that a stable value was never set. The library compares
// its text.
var ErrKeyNotFound = errors.New("not found")

// ReplicaStore is what Raft needs of a replica's log, whoever stores it.
type ReplicaStore interface {
	raft.LogStore
	raft.StableStore
	raft.MonotonicLogStore
}

// Store is the log and the stable values of one replica inside a Shared.
//
// The entries that are given to it are copied; those that it gives out share
// their bytes with the cache and must not be changed.
type Store struct {
	shared  *Shared
	replica replica
	cacheID uint64
	ledger  ledger
	dead    atomic.Bool // destroyed: what is not found must not look like never written
}

// IsMonotonic implements raft.MonotonicLogStore: gaps are refused (L2).
func (s *Store) IsMonotonic() bool { return true }

// FirstIndex implements raft.LogStore.
func (s *Store) FirstIndex() (uint64, error) {
	run, _ := s.ledger.view()
	return run.first, s.alive()
}

// LastIndex implements raft.LogStore.
func (s *Store) LastIndex() (uint64, error) {
	run, _ := s.ledger.view()
	return run.last, s.alive()
}

// GetLog implements raft.LogStore. The error is raft.ErrLogNotFound outside of
// the run, kv.CodeCorrupt if an entry of it cannot be read as it was written.
func (s *Store) GetLog(index uint64, log *raft.Log) error {
	if err := s.alive(); err != nil {
		return err
	}
	return s.ledger.read(index, func() (bool, error) {
		if s.shared.cache.get(s.cacheID, index, log) {
			return true, nil
		}
		return s.loadLog(index, log)
	})
}

func (s *Store) loadLog(index uint64, log *raft.Log) (bool, error) {
	if err := s.shared.enter(); err != nil {
		return false, err
	}
	defer s.shared.exit()
	key := s.replica.logKey(index)
	value, closer, err := s.shared.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, s.shared.failRead(key, err)
	}
	err = decodeEntry(key, value, index, log)
	if closeErr := closer.Close(); err == nil && closeErr != nil {
		err = s.shared.failRead(key, closeErr)
	}
	return true, err
}

// StoreLog implements raft.LogStore.
func (s *Store) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore: one batch, on disk when it returns.
func (s *Store) StoreLogs(logs []*raft.Log) error {
	return s.ledger.append(logs, func() error {
		return s.commit(func(b *pebble.Batch) error {
			for _, log := range logs {
				if err := s.encodeInto(b, log); err != nil {
					return err
				}
			}
			return nil
		}, func() { s.shared.cache.put(s.cacheID, logs) })
	})
}

// encodeInto writes an entry straight into the batch's buffer.
func (s *Store) encodeInto(b *pebble.Batch, log *raft.Log) error {
	key := s.replica.logKey(log.Index)
	op := b.SetDeferred(len(key), encodedBytes(log))
	copy(op.Key, key)
	encodeEntry(op.Value[:0], key, log)
	return op.Finish()
}

// DeleteRange implements raft.LogStore: entries min to max, both included, on
// disk when it returns. It must be a prefix or a suffix of the log, or all of it.
func (s *Store) DeleteRange(min, max uint64) error {
	return s.ledger.cut(min, max, func(removed run) error {
		s.shared.cache.cut(s.cacheID, removed)
		return s.commit(func(b *pebble.Batch) error {
			return b.DeleteRange(s.replica.logKey(removed.first), successor(s.replica.logKey(removed.last)), nil)
		}, nil)
	})
}

// Set implements raft.StableStore; on disk when it returns.
func (s *Store) Set(key, value []byte) error {
	if planted.On(planted.VoteForgotten) && strings.HasPrefix(string(key), "LastVote") {
		return nil
	}
	stored := s.replica.stableKey(key)
	return s.ledger.write(func() error {
		return s.commit(func(b *pebble.Batch) error {
			// For checkWALs, which has to know what this batch continues.
			run, _ := s.ledger.view()
			if err := b.LogData(s.replica.logKey(run.next()), nil); err != nil {
				return err
			}
			return b.Set(stored, sealValue(stored, value), nil)
		}, nil)
	})
}

// Get implements raft.StableStore. The error is ErrKeyNotFound, bare, if the
// value was never set.
func (s *Store) Get(key []byte) ([]byte, error) {
	if err := s.shared.enter(); err != nil {
		return nil, err
	}
	defer s.shared.exit()
	name := s.replica.stableKey(key)
	stored, err := s.shared.get(name)
	if err != nil {
		return nil, err
	}
	if err := s.alive(); err != nil {
		return nil, err
	}
	if stored == nil {
		return nil, ErrKeyNotFound
	}
	return openValue(name, stored)
}

// SetUint64 implements raft.StableStore.
func (s *Store) SetUint64(key []byte, value uint64) error { return setUint64(s, key, value) }

// GetUint64 implements raft.StableStore.
func (s *Store) GetUint64(key []byte) (uint64, error) { return getUint64(s, key) }

// commit fills and writes one batch, and runs then while the call still counts
// as under way.
func (s *Store) commit(fill func(*pebble.Batch) error, then func()) error {
	if err := s.shared.enter(); err != nil {
		return err
	}
	defer s.shared.exit()
	b := s.shared.db.NewBatch()
	if err := fill(b); err != nil {
		return kv.Errorf(kv.CodeInternal, kv.OutcomeNotApplied, "raft log: batch: %w", err)
	}
	if err := s.shared.commit(b); err != nil {
		return err // Pebble may still hold the batch: it is not given back
	}
	if then != nil {
		then()
	}
	if err := b.Close(); err != nil {
		return s.shared.fail("close batch", err)
	}
	return nil
}

func indexOf(key []byte) (uint64, error) {
	if len(key) != 25 {
		return 0, kv.Errorf(kv.CodeCorrupt, kv.OutcomeNone, "raft log: key %x is not an entry's", key)
	}
	return binary.BigEndian.Uint64(key[17:]), nil
}

// setUint64 and getUint64 are the same for every store.
func setUint64(s raft.StableStore, key []byte, value uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

func getUint64(s raft.StableStore, key []byte) (uint64, error) {
	value, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, kv.Errorf(kv.CodeInternal, kv.OutcomeNone, "raft log: stable value %q has %d bytes, not 8", key, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}

// destroy runs do, which deletes everything of the replica, as the store's last
// write.
func (s *Store) destroy(do func() error) error {
	s.ledger.writing.Lock()
	defer s.ledger.writing.Unlock()
	s.dead.Store(true)
	s.ledger.broken = s.alive()
	s.ledger.mu.Lock()
	gone := s.ledger.run
	s.ledger.run = run{}
	s.ledger.epoch++
	s.ledger.mu.Unlock()
	s.shared.cache.cut(s.cacheID, gone)
	return do()
}

// alive gives the error that every use of a destroyed replica's store ends in.
func (s *Store) alive() error {
	if !s.dead.Load() {
		return nil
	}
	return kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "raft log: replica %s is destroyed", s.replica)
}
