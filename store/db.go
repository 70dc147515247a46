package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

// Options of a DB.
type Options struct {
	// Dir holds everything of the store; it is created if missing. One process at a
	// time may use it.
	Dir    string
	FS     engine.FS
	Logger *slog.Logger
	// CacheBytes and MemtableBytes: see engine.Options; zero takes its defaults.
	CacheBytes    int64
	MemtableBytes uint64
	// OnFatal is called when the engine cannot go on; it should end the process.
	OnFatal func(error)
}

// DB is a node's database: one engine under all its data replicas.
type DB struct {
	eng    engine.Engine
	spaces *spaceIDs
	log    *slog.Logger

	// gate is held shared by whatever uses the engine and exclusively by Close.
	// Lock order: mu, Replica.mu, gate.
	gate sync.RWMutex
	shut bool // guarded by gate

	images openImages

	mu       sync.Mutex
	replicas map[kv.ShardID]*Replica // guarded by mu; those that are open
	closed   bool                    // guarded by mu
}

// ErrClosed is returned by calls on a closed DB or a dropped replica.
var ErrClosed = errors.New("store: closed")

// Open opens the database in o.Dir and removes what an interrupted restore or
// drop left behind.
func Open(o Options) (*DB, error) {
	if o.FS == nil || o.Dir == "" || o.Logger == nil {
		return nil, errors.New("store: Dir, FS and Logger must be set")
	}
	if err := engine.MkdirSynced(o.FS, o.Dir); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	eng, err := engine.OpenPebble(engine.Options{
		FS:            o.FS,
		Dir:           o.FS.PathJoin(o.Dir, "engine"),
		StagingDir:    o.FS.PathJoin(o.Dir, "staging"),
		CacheBytes:    o.CacheBytes,
		MemtableBytes: o.MemtableBytes,
		Split:         splitKey,
		Logger:        o.Logger,
		OnFatal:       o.OnFatal,
	})
	if err != nil {
		return nil, err
	}
	db := &DB{eng: eng, log: o.Logger, replicas: map[kv.ShardID]*Replica{}}
	if err := db.recover(o); err != nil {
		return nil, errors.Join(err, eng.Close())
	}
	return db, nil
}

// recover checks the allocator against what is there and removes spaces that no
// replica refers to.
func (db *DB) recover(o Options) error {
	ids, found, err := openSpaceIDs(o.FS, o.FS.PathJoin(o.Dir, "space-ids"))
	if err != nil {
		return err
	}
	db.spaces = ids
	states, err := db.states()
	if err != nil {
		return err
	}
	referred := map[uint64]bool{}
	for _, s := range states {
		referred[s.space], referred[s.home] = true, true
	}
	present, err := listSpaces(db.eng)
	if err != nil {
		return err
	}
	if !found && len(states)+len(present) > 0 {
		return fmt.Errorf("store: %s: there is data but no record of its space ids: %w", o.Dir, engine.ErrCorrupt)
	}
	b := db.eng.NewBatch(false)
	for _, id := range present {
		if !referred[id] {
			db.log.Info("removing a space that nothing refers to", "space", id)
			b.DeleteRange(spacePrefix(nil, id), spacePrefix(nil, id+1))
		}
	}
	return errors.Join(b.Commit(), b.Close())
}

// states reads the state records of all replicas, open or not, by shard.
func (db *DB) states() ([]*state, error) {
	it, err := db.eng.NewIter([]byte{rootState}, []byte{rootState + 1})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var out []*state
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.Value()
		if err != nil {
			return nil, err
		}
		s, err := openState(it.Key(), value)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, it.Error()
}

// listSpaces finds the spaces that hold any key, by one seek for each.
func listSpaces(r engine.Reader) ([]uint64, error) {
	it, err := r.NewIter([]byte{rootSpace}, []byte{rootSpace + 1})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var out []uint64
	for ok := it.First(); ok; {
		key := it.Key()
		if len(key) < spaceBytes {
			return nil, fmt.Errorf("store: a key of %d bytes is in no space: %w", len(key), engine.ErrCorrupt)
		}
		id := binary.BigEndian.Uint64(key[1:])
		out = append(out, id)
		ok = it.SeekGE(spacePrefix(nil, id+1))
	}
	return out, it.Error()
}

// Replicas lists the shards that the database holds a replica of, in order.
func (db *DB) Replicas() ([]kv.ShardID, error) {
	if err := db.enter(); err != nil {
		return nil, err
	}
	defer db.leave()
	states, err := db.states()
	if err != nil {
		return nil, err
	}
	out := make([]kv.ShardID, 0, len(states))
	for _, s := range states {
		out = append(out, kv.ShardID(s.desc.Shard))
	}
	return out, nil
}

// OpenReplica gives the replica of a shard. If the database holds none, an empty
// one is made with the given descriptor; else the descriptor is ignored. A
// replica that is open already is given again.
//
// A new replica is durable only with the next flush: whoever makes one does so
// again after a crash, from the same record.
func (db *DB) OpenReplica(shard kv.ShardID, initial *kvpb.ShardDescriptor) (*Replica, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return nil, ErrClosed
	}
	if r := db.replicas[shard]; r != nil {
		return r, nil
	}
	st, err := readState(db.eng, shard)
	if errors.Is(err, engine.ErrNotFound) {
		st, err = db.createLocked(shard, initial)
	}
	if err != nil {
		return nil, fmt.Errorf("store: shard %s: %w", shard, err)
	}
	if st.desc.Shard != uint64(shard) {
		return nil, fmt.Errorf("store: shard %s: its state is of shard %d: %w", shard, st.desc.Shard, engine.ErrCorrupt)
	}
	r := newReplica(db, shard, st)
	db.replicas[shard] = r
	return r, nil
}

func (db *DB) createLocked(shard kv.ShardID, d *kvpb.ShardDescriptor) (*state, error) {
	if d == nil || d.Shard != uint64(shard) {
		return nil, fmt.Errorf("there is no replica, and no descriptor of the shard to make one from")
	}
	id, err := db.spaces.allocate()
	if err != nil {
		return nil, err
	}
	st, err := newState(id, d)
	if err != nil {
		return nil, err
	}
	key := stateKey(shard)
	b := db.eng.NewBatch(false)
	b.Set(key, sealedState(nil, key, st))
	return st, errors.Join(b.Commit(), b.Close())
}

// readState reads a shard's state record, engine.ErrNotFound if there is none.
func readState(r engine.Reader, shard kv.ShardID) (*state, error) {
	key := stateKey(shard)
	value, closer, err := r.Get(key)
	if err != nil {
		return nil, err
	}
	st, err := openState(key, value)
	return st, errors.Join(err, closer.Close())
}

// DropReplica removes a replica and all it holds, durably: a later replica of
// the same shard must never find an earlier one's state. Reads that are under way
// finish; everything later on the Replica fails with ErrClosed. Dropping what is
// not there is no error.
func (db *DB) DropReplica(shard kv.ShardID) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return ErrClosed
	}
	if r := db.replicas[shard]; r != nil {
		r.seal(ErrClosed)
		delete(db.replicas, shard)
	}
	st, err := readState(db.eng, shard)
	if errors.Is(err, engine.ErrNotFound) {
		return nil
	}
	b := db.eng.NewBatch(false)
	b.Delete(stateKey(shard))
	if err == nil {
		err = db.deleteSpaces(b, shard, st.placement)
	} else {
		// A damaged record does not say where its tables are. Without it they are
		// found as unreferred to when the database is opened next.
		db.log.Warn("dropping a replica whose state record is damaged", "shard", shard, "error", err)
		err = nil
	}
	if err == nil {
		err = b.Commit()
	}
	if err = errors.Join(err, b.Close()); err != nil {
		return fmt.Errorf("store: dropping shard %s: %w", shard, err)
	}
	return db.eng.Flush()
}

// deleteSpaces adds to b the removal of a replica's tables. A space that another
// replica still refers to is left; its records are that replica's to clean up.
func (db *DB) deleteSpaces(b engine.Batch, shard kv.ShardID, p placement) error {
	states, err := db.states()
	if err != nil {
		return err
	}
	for _, id := range slices.Compact([]uint64{p.space, p.home}) {
		shared := slices.ContainsFunc(states, func(s *state) bool {
			return s.desc.Shard != uint64(shard) && (s.space == id || s.home == id)
		})
		if !shared {
			b.DeleteRange(spacePrefix(nil, id), spacePrefix(nil, id+1))
		}
	}
	return nil
}

// Flush returns when everything applied before the call is on disk.
func (db *DB) Flush() error {
	if err := db.enter(); err != nil {
		return err
	}
	defer db.leave()
	return db.eng.Flush()
}

// Metrics gives figures of the engine, zero after Close.
func (db *DB) Metrics() engine.Metrics {
	if db.enter() != nil {
		return engine.Metrics{}
	}
	defer db.leave()
	return db.eng.Metrics()
}

// Close waits for calls that are under way, flushes, stops and waits for the
// engine's background work. Later calls fail with ErrClosed.
func (db *DB) Close() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return nil
	}
	db.closed = true
	for _, r := range db.replicas {
		r.seal(ErrClosed)
	}
	db.gate.Lock()
	defer db.gate.Unlock()
	db.shut = true
	err := db.images.closeAll()
	return errors.Join(err, db.eng.Flush(), db.eng.Close())
}

// enter keeps the engine open until leave is called.
func (db *DB) enter() error {
	db.gate.RLock()
	if db.shut {
		db.gate.RUnlock()
		return ErrClosed
	}
	return nil
}

func (db *DB) leave() { db.gate.RUnlock() }
