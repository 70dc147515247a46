package server

import (
	"fmt"

	"github.com/quorate-db/quorate/kv"
)

// reconcile ends what a crash has left half done, before any replica is opened: the
// Raft side of a shard that was absorbed, and the state of a replica that was
// destroyed.
func (n *Node) reconcile() error {
	records, err := n.logs.Records()
	if err != nil {
		return err
	}
	living, dead := map[kv.ShardID]bool{}, map[kv.ShardID]bool{}
	for _, r := range records {
		living[r.ID.Shard], dead[r.ID.Shard] = !r.Tombstone, r.Tombstone
	}
	absorbed, err := n.db.Absorbed()
	if err != nil {
		return err
	}
	for _, shard := range absorbed {
		n.log.Info("ending the replica of a shard that was absorbed", "shard", shard)
		if living[shard] {
			if err := n.logs.Tombstone(shard); err != nil {
				return err
			}
		}
		if err := n.db.ForgetAbsorbed(shard); err != nil {
			return err
		}
	}
	states, err := n.db.Replicas()
	if err != nil {
		return err
	}
	for _, shard := range states {
		if dead[shard] {
			n.log.Info("removing the state of a replica that was destroyed", "shard", shard)
			if err := n.db.DropReplica(shard); err != nil {
				return err
			}
		}
	}
	return nil
}

// adoptChildren makes the replicas of children of splits that a crash came before:
// their state is on disk, and there is no record of them. Replicas of other kinds
// have their record first.
func (n *Node) adoptChildren() error {
	states, err := n.db.Replicas()
	if err != nil {
		return err
	}
	for _, shard := range states {
		if _, known := n.logs.MaxIncarnation(shard); known {
			continue
		}
		d, err := n.db.ReplicaDescriptor(shard)
		if err == nil {
			n.log.Info("making the replica of a shard that a split has left here", "shard", shard)
			err = n.shapes.adopt(shard, d)
		}
		if err != nil {
			return fmt.Errorf("shard %s has a state and no replica: %w", shard, err)
		}
	}
	return nil
}
