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
func (h *Host) Create(ctx context.Context, record Record) error {
	if err := record.validate(h.opts.Node); err != nil {
		return kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "create a replica: %w", err)
	}
	if err := h.changes.take(ctx); err != nil {
		return h.errChanging(record.ID.Shard, err)
	}
	defer h.changes.give()
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
	if exists && h.opts.Drop != nil { // Destroy may have come no further than the tombstone
		if err := h.opts.Drop(stored.ID); err != nil {
			return fmt.Errorf("create %s: drop the state of %s: %w", record.ID, stored.ID, err)
		}
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
// it is removed; then it has Options.Drop remove what its machine holds. That the
// shard's own configuration does not have it any more is for the caller to know
// (rule 2). That this replica is not there, or another incarnation is, is no
// error. It may be repeated, and has to be after an error.
func (h *Host) Destroy(ctx context.Context, id kv.ServerID) error {
	if err := h.changes.take(ctx); err != nil {
		return h.errChanging(id.Shard, err)
	}
	defer h.changes.give()
	stored, exists, err := h.recordOf(id.Shard)
	if err != nil {
		return fmt.Errorf("destroy %s: %w", id, err)
	}
	if !exists || stored.ID != id {
		return nil
	}
	if r, runs := h.Replica(id.Shard); runs {
		if err := r.close(ctx); err != nil {
			return fmt.Errorf("destroy %s: %w", r.id, err)
		}
	}
	if !stored.Tombstone {
		if err := h.opts.Logs.Tombstone(id.Shard); err != nil {
			return fmt.Errorf("destroy %s: %w", stored.ID, err)
		}
	}
	h.mu.Lock()
	delete(h.replicas, id.Shard)
	h.mu.Unlock()
	if err := h.opts.FS.RemoveAll(h.filesOf(stored.ID).dir); err != nil {
		h.log.Warn("could not remove the snapshots of a destroyed replica", "replica", stored.ID.String(), "err", err)
	}
	if h.opts.Drop == nil {
		return nil
	}
	// Before anybody may make a later incarnation, which must not find this state.
	if err := h.opts.Drop(stored.ID); err != nil {
		return fmt.Errorf("drop the state of %s: %w", stored.ID, err)
	}
	return nil
}

func (h *Host) errChanging(shard kv.ShardID, err error) *kv.Error {
	e := kv.Errorf(kv.CodeTimeout, kv.OutcomeNotApplied, "node %s: another replica is being made or destroyed: %w", h.opts.Node, err)
	e.Shard = shard
	return e
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
