package server

import (
	"bytes"
	"context"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// Freeze implements placement.Actions.
func (a controlActions) Freeze(ctx context.Context, shard, into kv.ShardID, generation uint64) (uint64, error) {
	r, m, err := a.leader(shard)
	if err != nil {
		return 0, err
	}
	if index, already := m.Frozen(); index > 0 && already == into {
		return index, nil
	}
	_, configIndex, err := membersOf(r)
	if err != nil {
		return 0, err
	}
	result, err := propose(ctx, r, kvpb.CommandKind_COMMAND_FREEZE, &kvpb.ShapeChange{
		Generation: generation, ConfigIndex: configIndex, Into: uint64(into),
	})
	if err != nil {
		return 0, err
	}
	nudge(ctx, r)
	return result.Index, nil
}

// Absorb implements placement.Actions. What the entry relies on is checked here as
// far as this node can see: a replica that applies it and does not find its frozen
// neighbour has to stop.
func (a controlActions) Absorb(ctx context.Context, shard kv.ShardID, generation uint64, right *kvpb.ShardDescriptor, frozenIndex uint64) error {
	r, m, err := a.leader(shard)
	if err != nil {
		return err
	}
	d := m.Descriptor()
	if d.Generation > max(generation, right.GetGeneration()) && bytes.Equal(d.End, right.GetEnd()) {
		return nil // an earlier call did it
	}
	members, configIndex, err := membersOf(r)
	if err != nil {
		return err
	}
	if !aligned(members, right) {
		return conflict(shard, "its members are not on the same nodes as those of shard %d", right.GetShard())
	}
	neighbour, frozen, err := a.replica(kv.ShardID(right.GetShard()))
	if err != nil {
		return err
	}
	if index, into := frozen.Frozen(); index != frozenIndex || into != shard || index == 0 {
		return conflict(shard, "shard %d is frozen at %d into %s, not at %d into this one", right.GetShard(), index, into, frozenIndex)
	}
	if theirs, _, err := membersOf(neighbour); err != nil || !sameNodes(members, theirs) {
		return conflict(shard, "the members of shard %d have changed since it was frozen", right.GetShard())
	}
	_, err = propose(ctx, r, kvpb.CommandKind_COMMAND_ABSORB, &kvpb.ShapeChange{
		Generation: generation, ConfigIndex: configIndex, Other: right, FrozenIndex: frozenIndex,
	})
	if err != nil {
		return err
	}
	nudge(ctx, r)
	return nil
}

// aligned reports whether a shard has a voter beside each of another one's, and no
// other member.
func aligned(members []kv.Member, other *kvpb.ShardDescriptor) bool {
	theirs := make([]kv.Member, 0, len(other.GetReplicas()))
	for _, r := range other.GetReplicas() {
		theirs = append(theirs, kv.Member{ID: kv.ServerID{Node: kv.NodeID(r.Node)}, Voter: r.Role == kvpb.ReplicaRole_ROLE_VOTER})
	}
	return sameNodes(members, theirs)
}

// sameNodes reports whether two configurations have voters on the same nodes, and
// no other members.
func sameNodes(a, b []kv.Member) bool {
	nodes := map[kv.NodeID]bool{}
	for _, m := range a {
		if !m.Voter {
			return false
		}
		nodes[m.ID.Node] = true
	}
	for _, m := range b {
		if !m.Voter || !nodes[m.ID.Node] {
			return false
		}
		delete(nodes, m.ID.Node)
	}
	return len(nodes) == 0
}

// RefuseAbsorb implements placement.Actions.
func (a controlActions) RefuseAbsorb(ctx context.Context, shard kv.ShardID, generation uint64) error {
	r, m, err := a.leader(shard)
	if err != nil {
		return err
	}
	if m.Descriptor().Generation > generation {
		return nil // whatever raised it, no entry that names the old one counts
	}
	_, err = propose(ctx, r, kvpb.CommandKind_COMMAND_REFUSE_ABSORB, &kvpb.ShapeChange{Generation: generation})
	return err
}

// Unfreeze implements placement.Actions.
func (a controlActions) Unfreeze(ctx context.Context, shard kv.ShardID, frozenIndex uint64) error {
	r, m, err := a.leader(shard)
	if err != nil {
		return err
	}
	if index, _ := m.Frozen(); index != frozenIndex {
		if index == 0 {
			return nil
		}
		return conflict(shard, "it is frozen at %d, not at %d", index, frozenIndex)
	}
	_, err = propose(ctx, r, kvpb.CommandKind_COMMAND_UNFREEZE, &kvpb.ShapeChange{
		Generation: m.Descriptor().Generation, FrozenIndex: frozenIndex,
	})
	return err
}
