package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/semaphore"

	"github.com/quorate-db/quorate/kv"
)

// tickInterval is how often a host looks after its replicas.
const tickInterval = time.Second

// Host holds the replicas of one node. Its methods may be called from any
// goroutine, Close once.
type Host struct {
	opts   Options
	log    *slog.Logger
	terms  *terms
	gather *gatherer
	clocks clocks
	stages *semaphore.Weighted // snapshots that are being received

	ctx    context.Context // ends when the host closes
	cancel context.CancelFunc
	wg     sync.WaitGroup // the host's own goroutines

	changes slot // Create and Destroy, one at a time

	mu       sync.Mutex
	closing  bool
	replicas map[kv.ShardID]*Replica
	timers   map[*time.Timer]struct{} // elections that are about to be started
}

// Open starts every replica of which there is a record, and registers the mesh's
// handlers. A replica whose state or log is damaged does not stop the others: it
// is there with a Failure in its status.
func Open(ctx context.Context, opts Options) (*Host, error) {
	opts.setDefaults()
	if err := opts.validate(); err != nil {
		return nil, err
	}
	h := &Host{
		opts:     opts,
		log:      opts.Logger.With("node", opts.Node.String()),
		terms:    &terms{mesh: opts.Mesh, timeout: opts.Timing.Heartbeat / 4, peers: map[kv.NodeID]*termsPeer{}},
		gather:   newGatherer(opts.Mesh, opts.Timing.Heartbeat/20),
		clocks:   clocks{samples: map[kv.NodeID]clockSample{}},
		stages:   semaphore.NewWeighted(stagesMax),
		changes:  newSlot(),
		replicas: map[kv.ShardID]*Replica{},
		timers:   map[*time.Timer]struct{}{},
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	records, err := opts.Logs.Records()
	if err != nil {
		return nil, fmt.Errorf("raftnode: read the records: %w", err)
	}
	h.handle()
	if err := h.cleanSnapshots(records); err != nil {
		return nil, fmt.Errorf("raftnode: %w", err)
	}
	opened, err := h.openAll(records)
	for _, r := range opened {
		err = errors.Join(err, h.launch(r))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("raftnode: %w", err), h.Close(ctx))
	}
	h.wg.Add(1)
	go h.run()
	return h, nil
}

// cleanSnapshots removes the snapshots of replicas that were destroyed, should a
// crash have left some.
func (h *Host) cleanSnapshots(records []StoredRecord) error {
	dir := h.opts.FS.PathJoin(h.opts.Dir, "snapshots")
	if err := h.opts.FS.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	left, err := h.opts.FS.List(dir)
	if err != nil {
		return err
	}
	for _, name := range left {
		live := slices.ContainsFunc(records, func(r StoredRecord) bool {
			return !r.Tombstone && h.opts.FS.PathBase(h.filesOf(r.ID).dir) == name
		})
		if !live {
			err = errors.Join(err, h.opts.FS.RemoveAll(h.opts.FS.PathJoin(dir, name)))
		}
	}
	return err
}

func (h *Host) filesOf(id kv.ServerID) *snapshotFiles {
	dir := h.opts.FS.PathJoin(h.opts.Dir, "snapshots", fmt.Sprintf("%s-%d", id.Shard, id.Incarnation))
	return &snapshotFiles{fs: h.opts.FS, dir: dir}
}

// openAll opens the parts of every replica that there is a record of. None runs
// yet: what one applies may concern the state of another, which has to be open.
func (h *Host) openAll(records []StoredRecord) ([]*Replica, error) {
	var opened []*Replica
	for _, stored := range records {
		if stored.Tombstone {
			continue
		}
		record, err := decodeRecord(stored.ID, stored.Data)
		var r *Replica
		if err == nil {
			r, err = h.openReplica(record)
		}
		if err != nil {
			for _, r := range opened {
				err = errors.Join(err, r.store.close())
			}
			return nil, err
		}
		opened = append(opened, r)
	}
	return opened, nil
}

// start opens a replica and lets it run.
func (h *Host) start(record Record) error {
	r, err := h.openReplica(record)
	if err != nil {
		return err
	}
	return h.launch(r)
}

// openReplica opens a replica's parts.
func (h *Host) openReplica(record Record) (*Replica, error) {
	machine, err := h.opts.Machine(record)
	if err != nil {
		return nil, fmt.Errorf("open the state of %s: %w", record.ID, err)
	}
	store, err := h.opts.Logs.Open(record.ID, record.Log)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", record.ID, err)
	}
	r := h.newReplica(record, machine, store)
	if record.Kind == InMemory {
		err := r.files.open()
		if err == nil && machine.Applied().Index == 0 {
			err = r.files.restore(machine, func(index uint64, err error) {
				r.log.Error("a snapshot cannot be used", "index", index, "err", err)
			})
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("restore %s: %w", record.ID, err), store.Close())
		}
	}
	// It was just read from disk, or made by a split, which whoever creates the
	// replica has flushed.
	r.snaps.flushed = machine.Applied()
	return r, nil
}

// launch lets the keeper of a replica that was opened start Raft.
func (h *Host) launch(r *Replica) error {
	h.mu.Lock()
	if h.closing {
		h.mu.Unlock()
		return errors.Join(errHostClosing(h.opts.Node), r.store.close())
	}
	h.replicas[r.id.Shard] = r
	h.mu.Unlock()
	go r.keep()
	for range h.opts.EntriesInFlight {
		r.wg.Add(1)
		go r.lane()
	}
	return nil
}

func (h *Host) newReplica(record Record, machine StateMachine, store LogStore) *Replica {
	r := &Replica{
		id:      record.ID,
		record:  record,
		host:    h,
		log:     h.log.With("shard", record.ID.Shard.String()),
		machine: machine,
		files:   h.filesOf(record.ID),
	}
	r.store = newLogStore(r, store)
	r.snaps = &snapshots{r: r, sending: map[int]time.Time{}}
	r.proposer.queue.wake = make(chan struct{}, 1)
	r.proposer.turn = make(chan struct{}, 1)
	r.reader.r = r
	r.transfers.change = newSlot()
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	r.kept = make(chan struct{})
	r.ended = make(chan struct{})
	r.observed = make(chan raft.Observation, 1)
	r.jobs = make(chan func(), keeperJobsMax)
	return r
}

func errHostClosing(node kv.NodeID) *kv.Error {
	return kv.Errorf(kv.CodeDraining, kv.OutcomeNotApplied, "node %s is shutting down", node)
}

// Close hands leadership over where it can, stops every replica, and waits. The
// error tells that something did not end before ctx did, in which case the logs
// must not be closed.
func (h *Host) Close(ctx context.Context) error {
	h.mu.Lock()
	h.closing = true
	for t := range h.timers {
		t.Stop()
	}
	h.mu.Unlock()
	h.cancel()
	if err := h.changes.take(ctx); err != nil { // a Create or Destroy is under way
		return fmt.Errorf("close node %s: %w", h.opts.Node, err)
	}
	defer h.changes.give()
	h.handOver(ctx)
	all := h.Replicas()
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, r := range all {
		wg.Go(func() { errs[i] = r.close(ctx) })
	}
	wg.Wait()
	h.gather.close()
	h.wg.Wait()
	return errors.Join(errs...)
}

// handOver moves leadership away from this node, so that its shards go on without
// waiting for an election. It takes as long as the slowest transfer.
func (h *Host) handOver(ctx context.Context) {
	var wg sync.WaitGroup
	for _, r := range h.Replicas() {
		if _, _, leads := r.leading(); !leads || voters(r.members()) < 2 {
			continue
		}
		wg.Go(func() {
			if err := r.Transfer(ctx, kv.ServerID{}); err != nil {
				r.log.Info("could not hand leadership over", "err", err)
			}
		})
	}
	wg.Wait()
}

// run looks after the replicas until the host closes.
func (h *Host) run() {
	defer h.wg.Done()
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.askClocks()
			h.takeSnapshots()
		case <-h.ctx.Done():
			return
		}
	}
}

// takeSnapshots puts the state of those replicas on disk that have applied enough
// since the last time, one after the other: they share a disk.
func (h *Host) takeSnapshots() {
	t := h.opts.Timing
	for _, r := range h.Replicas() {
		due := r.sinceSnapshot.entries.Load() >= t.SnapshotEntries || r.sinceSnapshot.bytes.Load() >= t.SnapshotBytes
		if !due || r.snaps.protected(time.Now()) {
			continue
		}
		if err := r.Snapshot(h.ctx); err != nil && h.ctx.Err() == nil {
			r.log.Warn("could not take a snapshot", "err", err)
		}
	}
}
