package raftlog

import (
	"errors"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/planted"
)

// layoutFormat is the format of the keys and values of the shared store. An
// older binary refuses a newer one.
const layoutFormat = 1

// Shared holds the logs, stable values and records of the data shards of one
// node in one synced Pebble database. Its methods and those of its stores may
// be called from any goroutine.
type Shared struct {
	opts  Options
	db    *pebble.DB
	fence *fence
	cache *entryCache

	records recordSet

	stores struct {
		sync.Mutex
		open   map[replica]*Store
		nextID uint64 // of a store in the cache
	}

	// life counts the calls that use db, so that Close can wait for them.
	life struct {
		sync.Mutex
		closing bool
		active  sync.WaitGroup
	}
	watcher sync.WaitGroup
}

// OpenShared opens the store in a directory, and makes it if there is none.
func OpenShared(fs vfs.FS, dir string, opts Options) (*Shared, error) {
	opts = opts.withDefaults()
	s := &Shared{opts: opts, fence: newFence(opts.OnSync), cache: newEntryCache(opts.EntryCacheBytes)}
	s.stores.open = map[replica]*Store{}
	tails, err := checkWALs(fs, dir)
	if err != nil {
		return nil, s.fail("open", err)
	}
	db, err := s.openPebble(fs, dir)
	if err != nil {
		return nil, s.fail("open", err)
	}
	s.db = db
	if err := errors.Join(tails.compare(s), s.load()); err != nil {
		s.fence.close()
		return nil, errors.Join(err, db.Close())
	}
	s.watcher.Go(s.watch)
	return s, nil
}

func (s *Shared) openPebble(fs vfs.FS, dir string) (*pebble.DB, error) {
	db, err := pebble.Open(dir, s.opts.pebbleOptions(fs, s.fence))
	if cause := s.fence.err(); cause != nil {
		s.fence.close()
		if err == nil {
			err = db.Close()
		}
		return nil, errors.Join(cause, err)
	}
	return db, err
}

// load checks the layout's format, writes it if the store is new, and reads the
// records.
func (s *Shared) load() error {
	key := []byte{tagFormat}
	stored, err := s.get(key)
	switch {
	case err != nil:
		return err
	case stored == nil:
		b := s.db.NewBatch()
		defer b.Close()
		if err := b.Set(key, sealValue(key, []byte{layoutFormat}), nil); err != nil {
			return s.fail("set format", err)
		}
		if err := s.commit(b); err != nil {
			return err
		}
	default:
		payload, err := openValue(key, stored)
		if err != nil {
			return err
		}
		if len(payload) != 1 || payload[0] != layoutFormat {
			return kv.Errorf(kv.CodeInternal, kv.OutcomeNone,
				"raft log: layout format %v is not known to this release (newest: %d)", payload, layoutFormat)
		}
	}
	return s.records.load(s)
}

// watch waits for a fatal error to report, until the store is closed.
func (s *Shared) watch() {
	select {
	case <-s.fence.tripped:
	case <-s.fence.closed:
	}
	if err := s.fence.err(); err != nil {
		s.opts.Logger.Error("raft log: nothing can be written any more", "error", err)
		if s.opts.OnFatal != nil {
			s.opts.OnFatal(s.fail("store", err))
		}
	}
}

// Store gives the store of one replica. The same replica always gets the same
// Store. The error is kv.CodeConflict for one that was tombstoned (L6).
func (s *Shared) Store(shard kv.ShardID, incarnation uint64) (*Store, error) {
	id := replica{shard, incarnation}
	s.records.writing.Lock() // a tombstone cannot come in between
	defer s.records.writing.Unlock()
	if t, ok := s.records.destroyedLocked(shard); ok && incarnation <= t {
		return nil, kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied,
			"raft log: replica %s was destroyed; incarnations up to %d are used", id, t)
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.exit()
	s.stores.Lock()
	defer s.stores.Unlock()
	if st := s.stores.open[id]; st != nil {
		return st, nil
	}
	s.stores.nextID++
	st := &Store{shared: s, replica: id, cacheID: s.stores.nextID}
	found, err := s.findRun(id)
	if err != nil {
		return nil, err
	}
	st.ledger.run = found
	s.stores.open[id] = st
	return st, nil
}

// Close stops the store and waits for calls that are under way, for Pebble's
// background work and for OnFatal. It gives the fatal error, if there was one.
func (s *Shared) Close() error {
	s.life.Lock()
	if s.life.closing {
		s.life.Unlock()
		return nil
	}
	s.life.closing = true
	s.life.Unlock()

	s.life.active.Wait()
	s.fence.close()
	err := s.db.Close()
	s.watcher.Wait()
	if cause := s.fence.err(); cause != nil {
		err = cause
	}
	if err != nil {
		return s.fail("close", err)
	}
	return nil
}

// enter announces a call that uses db; exit ends it.
func (s *Shared) enter() error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.life.closing {
		return kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "raft log: closed")
	}
	s.life.active.Add(1)
	return nil
}

func (s *Shared) exit() { s.life.active.Done() }

// commit writes a batch and returns when it is on disk. Commits of all shards
// that wait at the same time share one sync, in Pebble's commit pipeline.
func (s *Shared) commit(b *pebble.Batch) error {
	if s.opts.BeforeCommit != nil {
		s.opts.BeforeCommit()
	}
	if cause := s.fence.err(); cause != nil {
		return kv.Errorf(codeOf(cause), kv.OutcomeNotApplied, "raft log: failed before: %w", cause)
	}
	sync := pebble.Sync
	if planted.On(planted.AckBeforeSync) {
		sync = pebble.NoSync
	}
	err := s.db.Apply(b, sync)
	// The fence knows of failures that Apply does not tell.
	if cause := s.fence.err(); cause != nil {
		err = cause
	}
	if err != nil {
		s.fence.trip(err)
		return s.fail("commit", err)
	}
	return nil
}

// get reads a key; nil if there is none.
func (s *Shared) get(key []byte) ([]byte, error) {
	value, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, s.failRead(key, err)
	}
	out := append(make([]byte, 0, len(value)), value...)
	if err := closer.Close(); err != nil {
		return nil, s.failRead(key, err)
	}
	return out, nil
}

// findRun finds the ends of the run of entries that a replica has on disk.
func (s *Shared) findRun(id replica) (found run, err error) {
	from, to := id.span(tagLog)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return run{}, s.failRead(from, err)
	}
	// The error of one positioning is forgotten at the next.
	if it.First() {
		found.first, err = indexOf(it.Key())
	}
	err = errors.Join(err, it.Error())
	if err == nil && it.Last() {
		found.last, err = indexOf(it.Key())
	}
	if err := errors.Join(err, it.Error(), it.Close()); err != nil {
		return run{}, s.failRead(from, err)
	}
	return found, nil
}

// fail makes the typed error of a write or of the store as a whole.
func (s *Shared) fail(what string, cause error) error {
	return kv.Errorf(codeOf(cause), kv.OutcomeUnknown, "raft log: %s: %w", what, cause)
}

// failRead makes the typed error of a read.
func (s *Shared) failRead(key []byte, cause error) error {
	return kv.Errorf(codeOf(cause), kv.OutcomeNone, "raft log: read %s: %w", describeKey(key), cause)
}

func codeOf(cause error) kv.Code {
	var typed *kv.Error
	switch {
	case errors.As(cause, &typed):
		return typed.Code
	case pebble.IsCorruptionError(cause):
		return kv.CodeCorrupt
	case errors.Is(cause, syscall.ENOSPC), errors.Is(cause, syscall.EDQUOT):
		return kv.CodeStorageFull
	default:
		return kv.CodeInternal
	}
}

// Stats is what a Shared uses.
type Stats struct {
	DiskBytes       int64 // tables and write-ahead logs
	MemTableBytes   int64
	EntryCacheBytes int64
	ReadAmp         int // tables that one read may have to look into
}

// Stats gives figures for metrics; zero after Close.
func (s *Shared) Stats() Stats {
	if s.enter() != nil {
		return Stats{}
	}
	defer s.exit()
	m := s.db.Metrics()
	return Stats{
		DiskBytes:       int64(m.DiskSpaceUsage()),
		MemTableBytes:   int64(m.MemTable.Size),
		EntryCacheBytes: s.cache.size(),
		ReadAmp:         m.ReadAmp(),
	}
}
