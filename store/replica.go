package store

import (
	"log/slog"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

// Replica is the state machine of one data shard. It has the methods of
// raftnode.StateMachine. Apply and installing an image exclude each other; everything
// else may be called from any goroutine at any time.
type Replica struct {
	db    *DB
	shard kv.ShardID
	log   *slog.Logger

	// current is the published state. epoch is odd while a commit is being
	// published: then the engine may be ahead of current (S4).
	current atomic.Pointer[state]
	epoch   atomic.Uint64

	// prepareView is what the split that was prepared last found, for CountRight.
	// frozenOnDisk is the index of the freeze that is known to be durable.
	prepareView  atomic.Pointer[image]
	frozenOnDisk atomic.Uint64

	mu      sync.Mutex // held by Apply and staged.Install throughout
	applier applier    // guarded by mu; buffers that are used again
	failed  error      // guarded by mu; why nothing can be applied any more
}

func newReplica(db *DB, shard kv.ShardID, st *state) *Replica {
	r := &Replica{db: db, shard: shard, log: db.log.With("shard", shard.String())}
	r.current.Store(st)
	r.frozenOnDisk.Store(st.frozen.index) // who freezes keeps it open until it is on disk
	return r
}

// seal makes all later Apply and Install calls fail, and leaves the epoch odd, so
// that later reads look for a state record and do not trust current.
func (r *Replica) seal(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sealLocked(err)
}

func (r *Replica) sealLocked(err error) {
	r.dropView()
	if r.failed == nil {
		r.failed = err
	}
	if r.epoch.Load()%2 == 0 {
		r.epoch.Add(1)
	}
}

// Shard gives the shard that this is a replica of.
func (r *Replica) Shard() kv.ShardID { return r.shard }

// Applied tells how far the replica has come. Config is shared: do not change it.
func (r *Replica) Applied() kv.Applied { return r.current.Load().applied }

// Descriptor gives a copy of what the shard is, as of now.
func (r *Replica) Descriptor() *kvpb.ShardDescriptor {
	return proto.Clone(r.current.Load().desc).(*kvpb.ShardDescriptor)
}

// Flush returns when everything applied before the call is on disk.
func (r *Replica) Flush() error { return r.db.Flush() }

// Stats are figures of one replica. All but DiskBytes and Requests are the same
// on all replicas at the same applied index.
type Stats struct {
	Keys     int64      // that exist now
	Bytes    int64      // keys and values of all retained versions
	Requests int64      // remembered request ids; after a merge those that both shards had may count twice
	Horizon  kv.Version // reads below it are refused
}

// Stats gives the replica's figures. It costs no reading of data.
func (r *Replica) Stats() Stats {
	st := r.current.Load()
	out := Stats{
		Keys:     st.counters.keys,
		Bytes:    st.counters.bytes,
		Requests: st.requests(),
		Horizon:  st.floors.horizon,
	}
	return out
}

// DiskBytes is what records and request ids take on disk: an estimate of the engine's,
// after compression.
func (r *Replica) DiskBytes() (n int64) {
	if r.db.enter() != nil {
		return 0
	}
	defer r.db.leave()
	st := r.current.Load()
	for i := range st.pieces {
		n += r.diskBytes(st.pieces[i].dataBounds())
	}
	home := st.homes[0].space
	return n + r.diskBytes(spacePrefix(nil, home), spacePrefix(nil, home+1))
}

func (r *Replica) diskBytes(lower, upper []byte) int64 {
	n, err := r.db.eng.RangeBytes(lower, upper)
	if err != nil {
		r.log.Warn("size on disk is not known", "error", err)
	}
	return n
}

// publish commits a batch and makes the state that belongs to it current.
// Readers that open their view meanwhile see the odd epoch or the change of it.
func (r *Replica) publish(b engine.Batch, st *state) error {
	r.epoch.Add(1)
	if err := b.Commit(); err != nil {
		return err // and leave the epoch odd: current may be wrong
	}
	r.current.Store(st)
	r.epoch.Add(1)
	return nil
}

// view is a consistent look at a replica: a state and an iterator over exactly
// the data that it describes.
type view struct {
	*state
	it engine.Iterator // over the data table
}

// view opens a view of the newest state (S4); its iterator must be closed.
func (r *Replica) view() (view, error) {
	epoch := r.epoch.Load()
	st := r.current.Load()
	if epoch%2 == 0 {
		it, err := r.db.eng.NewIter(st.lower, st.upper)
		if err != nil {
			return view{}, err
		}
		if r.epoch.Load() == epoch {
			return view{st, it}, nil
		}
		if err := it.Close(); err != nil {
			return view{}, err
		}
	}
	// A commit came between. The engine's own view holds the matching record.
	it, err := r.db.eng.NewIter([]byte{rootState}, []byte{rootSpace + 1})
	if err != nil {
		return view{}, err
	}
	st, err = seekState(it, r.shard)
	if err != nil {
		return view{}, closeWith(it, err)
	}
	it.SetBounds(st.lower, st.upper)
	return view{st, it}, nil
}

// seekState reads a shard's state record by an iterator whose bounds include it.
func seekState(it engine.Iterator, shard kv.ShardID) (*state, error) {
	key := stateKey(shard)
	if !it.SeekGE(key) || string(it.Key()) != string(key) {
		if err := it.Error(); err != nil {
			return nil, err
		}
		return nil, ErrClosed
	}
	value, err := it.Value()
	if err != nil {
		return nil, err
	}
	return openState(key, value)
}
