package store

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/kv/planted"
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
	// Node is this node: a split makes a replica here only of a child that has one on
	// it. Hosted reports whether a replica, or a later incarnation of it, is or was on
	// this node; nil = never.
	Node   kv.NodeID
	Hosted func(kv.ServerID) bool
	// OnShape is told what entries have done to ranges, after the commit, by the
	// goroutine that applied them. It must not block. Optional.
	OnShape func(ShapeEvent)
}

// DB is a node's database: one engine under all its data replicas.
type DB struct {
	eng    engine.Engine
	spaces *spaceIDs
	log    *slog.Logger

	node    kv.NodeID
	hosted  func(kv.ServerID) bool
	onShape func(ShapeEvent)

	// life is held by whatever opens, drops or closes. Lock order: life, Replica.mu (a
	// shard's before that of its right neighbour), gate, mu.
	life   sync.Mutex
	closed bool // guarded by life

	// gate is held shared by whatever uses the engine and exclusively by Close.
	gate sync.RWMutex
	shut bool // guarded by gate

	images openImages

	// mu guards which replicas there are and which spaces they refer to: it is held
	// over the commit of whatever changes that.
	mu       sync.Mutex
	replicas map[kv.ShardID]*Replica // guarded by mu; those that are open
}

var (
	// ErrClosed is returned by calls on a closed DB or a dropped replica.
	ErrClosed = errors.New("store: closed")
	// ErrAbsorbed is returned for a replica that its left neighbour has absorbed.
	ErrAbsorbed = errors.New("store: absorbed by the left neighbour")
	// ErrNoReplica: the database holds no replica of the shard.
	ErrNoReplica = errors.New("store: no such replica")
)

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
	db := &DB{
		eng: eng, log: o.Logger, replicas: map[kv.ShardID]*Replica{},
		node: o.Node, hosted: o.Hosted, onShape: o.OnShape,
	}
	if err := db.recover(o); err != nil {
		return nil, errors.Join(err, eng.Close())
	}
	return db, nil
}

// recover checks the allocator against what is there and removes spaces that no
// replica refers to, and records that are in no piece.
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
	referred := referredSpaces(states)
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
	if err := deleteGaps(db.eng, b, states); err != nil {
		return errors.Join(err, b.Close())
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
	return db.openReplica(shard, initial, nil)
}

// OpenInitial is OpenReplica for one of the replicas that a shard is founded with.
// An empty one begins with their configuration at kv.ChildStartIndex, as the child
// of a split does. So no log reaches back to a state that is empty, and a replica
// that comes later can come only by an image. Otherwise it would apply the whole
// log anew, beginning with a range that the shard did not have then, and without the
// neighbours that were absorbed.
func (db *DB) OpenInitial(shard kv.ShardID, initial *kvpb.ShardDescriptor, config []byte) (*Replica, error) {
	return db.openReplica(shard, initial, config)
}

func (db *DB) openReplica(shard kv.ShardID, initial *kvpb.ShardDescriptor, config []byte) (*Replica, error) {
	db.life.Lock()
	defer db.life.Unlock()
	if db.closed {
		return nil, ErrClosed
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if r := db.replicas[shard]; r != nil {
		return r, nil
	}
	st, err := readState(db.eng, shard)
	if errors.Is(err, engine.ErrNotFound) {
		if err = db.notAbsorbed(shard); err == nil {
			st, err = db.createLocked(shard, initial, config)
		}
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

func (db *DB) createLocked(shard kv.ShardID, d *kvpb.ShardDescriptor, config []byte) (*state, error) {
	if d == nil || d.Shard != uint64(shard) {
		return nil, fmt.Errorf("there is no replica, and no descriptor of the shard to make one from")
	}
	space, homeSpace, err := db.spaces.allocatePair()
	if err != nil {
		return nil, err
	}
	st, err := newState(space, homeSpace, d)
	if err != nil {
		return nil, err
	}
	if len(config) > 0 && !planted.On(planted.InitialFromZero) {
		st.applied.Index, st.applied.Term, st.applied.ConfigIndex = kv.ChildStartIndex, kv.ChildStartTerm, kv.ChildStartIndex
		st.applied.Config = bytes.Clone(config)
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
	db.life.Lock()
	defer db.life.Unlock()
	if db.closed {
		return ErrClosed
	}
	if r := db.forget(shard); r != nil {
		r.seal(ErrClosed)
	}
	gone, err := db.drop(shard)
	if err != nil {
		return fmt.Errorf("store: dropping shard %s: %w", shard, err)
	}
	if !gone {
		return nil
	}
	return db.eng.Flush()
}

// forget takes a replica out of those that are open; nil if it is not.
func (db *DB) forget(shard kv.ShardID) *Replica {
	db.mu.Lock()
	defer db.mu.Unlock()
	r := db.replicas[shard]
	delete(db.replicas, shard)
	return r
}

// drop removes a replica's record and tables; false if there are none.
func (db *DB) drop(shard kv.ShardID) (bool, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	st, err := readState(db.eng, shard)
	if errors.Is(err, engine.ErrNotFound) {
		return false, nil
	}
	b := db.eng.NewBatch(false)
	b.Delete(stateKey(shard))
	if err == nil {
		err = db.deleteUnused(b, shard, st.placement)
	} else {
		// A damaged record does not say where its tables are. Without it they are
		// found as unreferred to when the database is opened next.
		db.log.Warn("dropping a replica whose state record is damaged", "shard", shard, "error", err)
		err = nil
	}
	if err == nil {
		err = b.Commit()
	}
	return true, errors.Join(err, b.Close())
}

// Flush returns when everything applied before the call is on disk.
func (db *DB) Flush() error {
	if err := db.enter(); err != nil {
		return err
	}
	defer db.leave()
	frozen := map[*Replica]uint64{}
	db.mu.Lock()
	for _, r := range db.replicas {
		frozen[r] = r.current.Load().frozen.index
	}
	db.mu.Unlock()
	err := db.eng.Flush()
	if err == nil {
		for r, index := range frozen {
			if index != 0 {
				r.frozenOnDisk.Store(index)
			}
		}
	}
	return err
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
	db.life.Lock()
	defer db.life.Unlock()
	if db.closed {
		return nil
	}
	db.closed = true
	db.mu.Lock()
	open := slices.Collect(maps.Values(db.replicas))
	db.mu.Unlock()
	for _, r := range open {
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
