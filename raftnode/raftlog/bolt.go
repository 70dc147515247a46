package raftlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/quorate-db/quorate/kv"
)

const (
	boltFile = "raft.db"
	boltTemp = "raft.db.new"
	// boltLockTimeout bounds the wait for another process that has the file open.
	boltLockTimeout = 2 * time.Second
)

// Bolt is the log and the stable values of one replica in a raft-boltdb file of
// its own. Around what raft-boltdb does it keeps the invariants of this package:
// it refuses gaps, so that it may call itself monotonic (the library's livelock
// after an installed snapshot needs that), and what it stores has a checksum,
// which bolt's pages have not. Damage to the structure of those bolt mostly notices
// itself, when the file is opened, and panics.
type Bolt struct {
	replica replica
	inner   *raftboltdb.BoltStore
	ledger  ledger
}

// OpenBolt opens the file in a directory of the operating system, and makes
// both if there are none. Shard and incarnation say whose it is; another
// replica's file reads as corrupt.
func OpenBolt(dir string, shard kv.ShardID, incarnation uint64) (*Bolt, error) {
	path := filepath.Join(dir, boltFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := createBolt(dir); err != nil {
			return nil, boltError("create", err)
		}
	} else if err != nil {
		return nil, boltError("open", err)
	}
	inner, err := openBoltFile(path)
	if err != nil {
		return nil, boltError("open", err)
	}
	b := &Bolt{replica: replica{shard, incarnation}, inner: inner}
	if b.ledger.run, err = b.findRun(); err != nil {
		return nil, errors.Join(boltError("open", err), inner.Close())
	}
	return b, nil
}

// try turns a panic, which is how bolt reports a page that makes no sense, into
// an error; and a memory fault too, which is how the kernel reports that a page
// of a mapped file cannot be read.
func try[T any](do func() (T, error)) (result T, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = kv.Errorf(kv.CodeCorrupt, kv.OutcomeUnknown, "raft log: bolt: %v", p)
		}
	}()
	return do()
}

func tryDo(do func() error) error {
	_, err := try(func() (struct{}, error) { return struct{}{}, do() })
	return err
}

// openBoltFile opens a file without bolt's free list on disk: writing it costs
// at every commit, and it can be found again when the file is opened.
func openBoltFile(path string) (*raftboltdb.BoltStore, error) {
	return try(func() (*raftboltdb.BoltStore, error) {
		return raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &bbolt.Options{
			Timeout:        boltLockTimeout,
			NoFreelistSync: true,
			FreelistType:   bbolt.FreelistMapType,
		}})
	})
}

// createBolt makes an empty file under another name first: bolt cannot open one
// that a crash left half made.
func createBolt(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	temp := filepath.Join(dir, boltTemp)
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	empty, err := openBoltFile(temp)
	if err != nil {
		return err
	}
	if err := empty.Close(); err != nil {
		return err
	}
	if err := os.Rename(temp, filepath.Join(dir, boltFile)); err != nil {
		return err
	}
	return errors.Join(syncDir(dir), syncDir(filepath.Dir(dir)))
}

// RemoveBolt deletes what OpenBolt made in a directory, and the directory if
// nothing else is in it. The Bolt must be closed.
func RemoveBolt(dir string) error {
	for _, name := range []string{boltFile, boltTemp} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return boltError("remove", err)
		}
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && len(entries) == 0 {
		if err = os.Remove(dir); err == nil {
			err = syncDir(filepath.Dir(dir))
		}
	} else if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return boltError("remove", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (b *Bolt) findRun() (run, error) {
	return try(func() (run, error) {
		first, err := b.inner.FirstIndex()
		if err != nil {
			return run{}, err
		}
		last, err := b.inner.LastIndex()
		return run{first, last}, err
	})
}

// Close closes the file.
func (b *Bolt) Close() error {
	b.ledger.writing.Lock()
	defer b.ledger.writing.Unlock()
	if err := b.inner.Close(); err != nil {
		return boltError("close", err)
	}
	return nil
}

// IsMonotonic implements raft.MonotonicLogStore: gaps are refused (L2).
func (b *Bolt) IsMonotonic() bool { return true }

// FirstIndex implements raft.LogStore.
func (b *Bolt) FirstIndex() (uint64, error) {
	run, _ := b.ledger.view()
	return run.first, nil
}

// LastIndex implements raft.LogStore.
func (b *Bolt) LastIndex() (uint64, error) {
	run, _ := b.ledger.view()
	return run.last, nil
}

// GetLog implements raft.LogStore, with the errors of Store.GetLog.
func (b *Bolt) GetLog(index uint64, log *raft.Log) error {
	return b.ledger.read(index, func() (bool, error) {
		var stored raft.Log
		err := tryDo(func() error { return b.inner.GetLog(index, &stored) })
		if errors.Is(err, raft.ErrLogNotFound) {
			return false, nil
		}
		key := b.replica.logKey(index)
		if err != nil {
			return true, corrupt(key, err) // msgpack that does not decode
		}
		return true, decodeEntry(key, stored.Data, index, log)
	})
}

// StoreLog implements raft.LogStore.
func (b *Bolt) StoreLog(log *raft.Log) error { return b.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore: one transaction, on disk when it returns.
// What raft-boltdb stores as an entry's data is the whole entry in this package's
// own encoding.
func (b *Bolt) StoreLogs(logs []*raft.Log) error {
	return b.ledger.append(logs, func() error {
		outer := make([]*raft.Log, len(logs))
		for i, log := range logs {
			data := encodeEntry(make([]byte, 0, encodedBytes(log)), b.replica.logKey(log.Index), log)
			outer[i] = &raft.Log{Index: log.Index, Data: data}
		}
		if err := tryDo(func() error { return b.inner.StoreLogs(outer) }); err != nil {
			return boltError("store", err)
		}
		return nil
	})
}

// DeleteRange implements raft.LogStore, under the rules of Store.DeleteRange.
func (b *Bolt) DeleteRange(min, max uint64) error {
	return b.ledger.cut(min, max, func(removed run) error {
		err := tryDo(func() error { return b.inner.DeleteRange(removed.first, removed.last) })
		if err != nil {
			return boltError("delete", err)
		}
		// raft-boltdb moves a cursor past what it deletes, which bolt has not
		// always done right.
		want, _ := b.ledger.view()
		got, err := b.findRun()
		if err == nil && got != want {
			err = fmt.Errorf("%d to %d are left, not %d to %d", got.first, got.last, want.first, want.last)
		}
		if err != nil {
			return boltError("delete", err)
		}
		return nil
	})
}

// Set implements raft.StableStore; on disk when it returns.
func (b *Bolt) Set(key, value []byte) error {
	return b.ledger.write(func() error {
		sealed := sealValue(b.replica.stableKey(key), value)
		if err := tryDo(func() error { return b.inner.Set(key, sealed) }); err != nil {
			return boltError("set", err)
		}
		return nil
	})
}

// Get implements raft.StableStore, with the errors of Store.Get.
func (b *Bolt) Get(key []byte) ([]byte, error) {
	stored, err := try(func() ([]byte, error) { return b.inner.Get(key) })
	if errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return nil, ErrKeyNotFound
	}
	if err != nil {
		return nil, kv.Errorf(codeOf(err), kv.OutcomeNone, "raft log: bolt: get: %w", err)
	}
	return openValue(b.replica.stableKey(key), stored)
}

// SetUint64 implements raft.StableStore.
func (b *Bolt) SetUint64(key []byte, value uint64) error { return setUint64(b, key, value) }

// GetUint64 implements raft.StableStore.
func (b *Bolt) GetUint64(key []byte) (uint64, error) { return getUint64(b, key) }

// boltError makes the typed error of a write or of the file as a whole.
func boltError(what string, cause error) error {
	return kv.Errorf(codeOf(cause), kv.OutcomeUnknown, "raft log: bolt: %s: %w", what, cause)
}
