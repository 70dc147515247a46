package server

import (
	"context"

	"golang.org/x/time/rate"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement"
	"github.com/quorate-db/quorate/raftnode"
)

// controlActions carries out what the control plane has decided about a shard,
// through this node's replica of it (docs/decisions/0011).
type controlActions struct{ n *Node }

var _ placement.Actions = controlActions{}

// replica gives this node's replica of a data shard and its machine.
func (a controlActions) replica(shard kv.ShardID) (*raftnode.Replica, dataMachine, error) {
	r, ok := a.n.host.Replica(shard)
	if !ok {
		return nil, dataMachine{}, noReplica(shard)
	}
	m, ok := r.Machine().(dataMachine)
	if !ok {
		return nil, dataMachine{}, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "shard %s has no keys", shard)
	}
	return r, m, nil
}

// leader is replica, if that leads its shard.
func (a controlActions) leader(shard kv.ShardID) (*raftnode.Replica, dataMachine, error) {
	r, m, err := a.replica(shard)
	if err != nil {
		return nil, dataMachine{}, err
	}
	switch s := r.Status(); {
	case s.Role != kv.RoleLeader:
		e := kv.Errorf(kv.CodeNotLeader, kv.OutcomeNotApplied, "node %s does not lead shard %s", a.n.identity.Node(), shard)
		e.Shard, e.Leader = shard, s.Leader
		return nil, dataMachine{}, e
	case !s.LeaderReady:
		e := kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "shard %s: its leader has just been elected", shard)
		e.Shard = shard
		return nil, dataMachine{}, e
	}
	return r, m, nil
}

// movable is leader, if the members of the shard may change: those of one that is
// about to be absorbed stay as they are.
func (a controlActions) movable(shard kv.ShardID) (*raftnode.Replica, error) {
	r, m, err := a.leader(shard)
	if err != nil {
		return nil, err
	}
	if index, into := m.Frozen(); index > 0 {
		return nil, conflict(shard, "it is frozen, to be absorbed by shard %s", into)
	}
	return r, nil
}

func conflict(shard kv.ShardID, format string, args ...any) *kv.Error {
	e := kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "shard "+shard.String()+": "+format, args...)
	e.Shard = shard
	return e
}

// AddNonvoter implements placement.Actions.
func (a controlActions) AddNonvoter(ctx context.Context, shard kv.ShardID, server kv.ServerID) error {
	r, err := a.movable(shard)
	if err != nil {
		return err
	}
	return r.AddNonvoter(ctx, server)
}

// Promote implements placement.Actions.
func (a controlActions) Promote(ctx context.Context, shard kv.ShardID, server kv.ServerID) error {
	r, err := a.movable(shard)
	if err != nil {
		return err
	}
	return r.Promote(ctx, server)
}

// Remove implements placement.Actions.
func (a controlActions) Remove(ctx context.Context, shard kv.ShardID, server kv.ServerID) error {
	r, err := a.movable(shard)
	if err != nil {
		return err
	}
	return r.Remove(ctx, server)
}

// Members implements placement.Actions. What the machine has applied is committed,
// and the read index says that it is not behind.
func (a controlActions) Members(ctx context.Context, shard kv.ShardID) ([]kv.Member, uint64, error) {
	r, _, err := a.leader(shard)
	if err != nil {
		return nil, 0, err
	}
	if err := r.ReadIndex(ctx); err != nil {
		return nil, 0, err
	}
	return membersOf(r)
}

// membersOf gives the configuration that a replica's machine has, and its index.
func membersOf(r *raftnode.Replica) ([]kv.Member, uint64, error) {
	applied := r.Machine().Applied()
	members, err := raftnode.DecodeMembers(r.ID().Shard, applied.Config)
	if err != nil {
		return nil, 0, kv.Errorf(kv.CodeInternal, kv.OutcomeNotApplied, "replica %s: %w", r.ID(), err)
	}
	return members, applied.ConfigIndex, nil
}

// Destroy implements placement.Actions.
func (a controlActions) Destroy(ctx context.Context, id kv.ServerID) error {
	if err := a.n.host.Destroy(ctx, id); err != nil {
		return err
	}
	if _, there := a.n.host.Replica(id.Shard); !there {
		a.n.loads.forget(id.Shard)
	}
	return nil
}

// snapshotRateMin and snapshotBurst: a limit below the first would keep a move from
// ever ending; the second is one message of a snapshot.
const (
	snapshotRateMin = 256 << 10
	snapshotBurst   = 256 << 10
)

// newSnapshotRate gives a limiter without a limit.
func newSnapshotRate() *rate.Limiter { return rate.NewLimiter(rate.Inf, snapshotBurst) }

// SnapshotRate implements placement.Actions.
func (a controlActions) SnapshotRate(bytesPerSecond int64) {
	limit := rate.Limit(max(bytesPerSecond, snapshotRateMin))
	if bytesPerSecond <= 0 {
		limit = rate.Inf
	}
	a.n.snapshotRate.SetLimit(limit)
}
