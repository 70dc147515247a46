package raftnode

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/quorate-db/quorate/kv"
)

// Create makes a replica: it writes the record, and starts the replica. It refuses
// (kv.CodeConflict) if there is or was one of this shard with the same or a higher
// incarnation, so a server id is never used twice (rule 1). If it fails after the
// record was written, or the process ends, the same call or Open goes on from
// there.
func (h *Host) Create(_ context.Context, record Record) error {
	if err := record.validate(h.opts.Node); err != nil {
		return kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "create a replica: %w", err)
	}
	h.changes.Lock()
	defer h.changes.Unlock()
	if h.ctx.Err() != nil {
		return errHostClosing(h.opts.Node)
	}
	stored, exists, err := h.recordOf(record.ID.Shard)
	if err != nil {
		return fmt.Errorf("create %s: %w", record.ID, err)
	}
	if exists && (!stored.Tombstone || stored.ID.Incarnation >= record.ID.Incarnation) {
		_, runs := h.Replica(record.ID.Shard)
		if runs || stored.Tombstone || stored.ID != record.ID {
			return withShard(record.ID, kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied,
				"create %s: this node has or had %s", record.ID, stored.ID))
		}
		if record, err = decodeRecord(stored.ID, stored.Data); err != nil {
			return err
		}
		return h.start(record)
	}
	if err := h.opts.Logs.PutRecord(StoredRecord{ID: record.ID, Data: record.encode()}); err != nil {
		return fmt.Errorf("create %s: %w", record.ID, err)
	}
	return h.start(record)
}

func (h *Host) recordOf(shard kv.ShardID) (StoredRecord, bool, error) {
	records, err := h.opts.Logs.Records()
	at := slices.IndexFunc(records, func(r StoredRecord) bool { return r.ID.Shard == shard })
	if err != nil || at < 0 {
		return StoredRecord{}, false, err
	}
	return records[at], true, nil
}

// Destroy stops a replica and marks it as destroyed, for good, before anything of
// it is removed. That the shard's own configuration does not have it any more is
// for the caller to know (rule 2). What the machine holds is the caller's too. A
// shard without a replica is none to destroy. It may be repeated.
func (h *Host) Destroy(ctx context.Context, shard kv.ShardID) error {
	h.changes.Lock()
	defer h.changes.Unlock()
	stored, exists, err := h.recordOf(shard)
	if err != nil {
		return fmt.Errorf("destroy the replica of shard %s: %w", shard, err)
	}
	if !exists || stored.Tombstone {
		return nil
	}
	if r, runs := h.Replica(shard); runs {
		if err := r.close(ctx); err != nil {
			return fmt.Errorf("destroy %s: %w", r.id, err)
		}
	}
	if err := h.opts.Logs.Tombstone(shard); err != nil {
		return fmt.Errorf("destroy %s: %w", stored.ID, err)
	}
	h.mu.Lock()
	delete(h.replicas, shard)
	h.mu.Unlock()
	if err := h.opts.FS.RemoveAll(h.filesOf(stored.ID).dir); err != nil {
		h.log.Warn("could not remove the snapshots of a destroyed replica", "replica", stored.ID.String(), "err", err)
	}
	return nil
}

// Replica gives this node's replica of a shard.
func (h *Host) Replica(shard kv.ShardID) (*Replica, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r, ok := h.replicas[shard]
	return r, ok
}

// Replicas gives all replicas in order of shard.
func (h *Host) Replicas() []*Replica {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*Replica, 0, len(h.replicas))
	for _, r := range h.replicas {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *Replica) int { return cmp.Compare(a.id.Shard, b.id.Shard) })
	return all
}
