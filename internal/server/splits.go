package server

import (
	"bytes"
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement"
	"github.com/quorate-db/quorate/raftnode"
)

// splitAttempts bounds how often a split is prepared anew because something came
// between.
const splitAttempts = 3

// propose has a change of a shard's range applied.
func propose(ctx context.Context, r *raftnode.Replica, kind kvpb.CommandKind, change *kvpb.ShapeChange) (*kvpb.Result, error) {
	data, err := proto.Marshal(&kvpb.Command{Kind: kind, Shape: change})
	if err != nil {
		return nil, err
	}
	answer, err := r.Propose(ctx, data, 1)
	if err != nil {
		return nil, err
	}
	var result kvpb.Result
	if err := proto.Unmarshal(answer, &result); err != nil {
		return nil, kv.Errorf(kv.CodeInternal, kv.OutcomeUnknown, "shard %s answered %s with what does not decode: %w", r.ID().Shard, kind, err)
	}
	return &result, refusal(r.ID().Shard, kind, &result)
}

// refusal gives the error of an answer that is not OK. Nothing was applied then.
func refusal(shard kv.ShardID, kind kvpb.CommandKind, result *kvpb.Result) error {
	code := kv.CodeInternal
	switch result.Status {
	case kvpb.Status_STATUS_OK:
		return nil
	case kvpb.Status_STATUS_CONFLICT, kvpb.Status_STATUS_WRONG_SHARD, kvpb.Status_STATUS_FROZEN:
		code = kv.CodeConflict
	case kvpb.Status_STATUS_REJECTED, kvpb.Status_STATUS_NOT_READY:
		code = kv.CodeUnavailable
	case kvpb.Status_STATUS_BAD_COMMAND:
		code = kv.CodeInvalid
	case kvpb.Status_STATUS_CORRUPT:
		code = kv.CodeCorrupt
	}
	e := kv.Errorf(code, kv.OutcomeNotApplied, "shard %s refuses %s: %s %s", shard, kind, result.Status, result.Detail)
	e.Shard = shard
	return e
}

// Split implements placement.Actions.
func (a controlActions) Split(ctx context.Context, order placement.SplitOrder) error {
	r, m, err := a.leader(order.Shard)
	if err != nil {
		return err
	}
	for attempt := 1; ; attempt++ {
		err := a.splitOnce(ctx, r, m, order)
		if kv.CodeOf(err) != kv.CodeConflict || attempt == splitAttempts {
			return err
		}
		if d := m.Descriptor(); d.Generation != order.Generation {
			return err // it will not become better
		}
	}
}

func (a controlActions) splitOnce(ctx context.Context, r *raftnode.Replica, m dataMachine, order placement.SplitOrder) error {
	d := m.Descriptor()
	if d.Generation != order.Generation {
		if kv.ShardID(m.sibling().GetShard()) == order.Child {
			return nil // an earlier call did it
		}
		return conflict(order.Shard, "it is of generation %d, not %d", d.Generation, order.Generation)
	}
	key, err := a.splitKey(ctx, m, d, order)
	if err != nil {
		return err
	}
	prepare, err := propose(ctx, r, kvpb.CommandKind_COMMAND_SPLIT_PREPARE, &kvpb.ShapeChange{Generation: order.Generation, SplitKey: key})
	if err != nil {
		return err
	}
	counted, prepared, figures, err := m.CountRight(ctx)
	if err != nil {
		return err
	}
	if prepared != prepare.Index || !bytes.Equal(counted, key) {
		return conflict(order.Shard, "another split was prepared")
	}
	members, configIndex, err := membersOf(r)
	if err != nil {
		return err
	}
	child, config := childOf(order.Child, members)
	_, err = propose(ctx, r, kvpb.CommandKind_COMMAND_SPLIT, &kvpb.ShapeChange{
		Generation: order.Generation, ConfigIndex: configIndex, SplitKey: key,
		PreparedIndex: prepared, Right: figures, Child: child, ChildConfig: config,
	})
	if err != nil {
		return err
	}
	nudge(ctx, r)
	return nil
}

// splitKey gives the key that an order names, or chooses one.
func (a controlActions) splitKey(ctx context.Context, m dataMachine, d *kvpb.ShardDescriptor, order placement.SplitOrder) ([]byte, error) {
	switch {
	case len(order.Key) > 0:
		if bytes.Compare(order.Key, d.Start) <= 0 || len(d.End) > 0 && bytes.Compare(order.Key, d.End) >= 0 {
			return nil, conflict(order.Shard, "it does not go on from %q to either side", order.Key)
		}
		return order.Key, nil
	case order.ByLoad:
		return a.n.loads.of(order.Shard).splitKey(d)
	}
	key, ok, err := m.SplitKey(ctx)
	if err == nil && !ok {
		err = conflict(order.Shard, "it holds no two keys to split between")
	}
	return key, err
}

// childOf gives the descriptor and the configuration of a new shard with a replica
// beside each of the parent's. Both halves of a split are led from where the parent
// was, so the roles are the same.
func childOf(shard kv.ShardID, parents []kv.Member) (*kvpb.ShardDescriptor, []byte) {
	members := slices.Clone(parents)
	for i := range members {
		members[i].ID = kv.ServerID{Node: members[i].ID.Node, Shard: shard, Incarnation: 1}
	}
	return &kvpb.ShardDescriptor{Shard: uint64(shard), Replicas: kv.DescribeMembers(members)}, raftnode.EncodeMembers(members)
}

// nudge proposes something that changes nothing: with it the followers hear that
// what is before it is committed, and do not have to wait for the next write or
// heartbeat.
func nudge(ctx context.Context, r *raftnode.Replica) {
	data, err := proto.Marshal(&kvpb.Command{Kind: kvpb.CommandKind_COMMAND_SWEEP, Sweep: &kvpb.SweepArgs{MaxItems: 1}})
	if err == nil {
		_, _ = r.Propose(ctx, data, 1) // they hear of it anyway, later
	}
}
