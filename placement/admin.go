package placement

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

// The methods of a metapb.ControlRequest.
const (
	methodDrain      = "drain"
	methodRemoveNode = "remove-node"
	methodSplit      = "split"
	methodMerge      = "merge"
	methodMove       = "move"
	methodTransfer   = "transfer"
	methodRebalance  = "rebalance"
	methodProblems   = "problems"
	methodOperations = "operations"
	methodCancel     = "cancel"
	methodSetConfig  = "set-config"

	methodCreateToken = "create-token"
	methodRevokeToken = "revoke-token"
)

const (
	leaderPause = 50 * time.Millisecond // between tries to find the meta leader
	leaderWait  = 3 * time.Second       // and for how long it is looked for
	freshWait   = 500 * time.Millisecond
)

// admin has the meta leader answer a request, wherever it is made. What was
// refused because nobody leads is asked again for a while; what may have been done
// is not.
func (c *Control) admin(ctx context.Context, req *metapb.ControlRequest) (*metapb.ControlAnswer, error) {
	a := c.agent
	deadline := a.now().Add(leaderWait)
	for {
		answer, err := c.adminOnce(ctx, req)
		if err == nil {
			return answer, nil
		}
		e := kv.AsError(err)
		again := (e.Code == kv.CodeNotLeader || e.Code == kv.CodeUnavailable) && e.Outcome != kv.OutcomeUnknown && e.Outcome != kv.OutcomeApplied
		if !again || !a.now().Before(deadline) || pause(ctx, leaderPause) != nil {
			if e.Code == kv.CodeNotLeader { // for clients, who leads the meta shard is no matter
				return nil, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "the meta shard has no leader that is known here")
			}
			return nil, err
		}
	}
}

func (c *Control) adminOnce(ctx context.Context, req *metapb.ControlRequest) (*metapb.ControlAnswer, error) {
	a := c.agent
	if a.meta.IsLeader() {
		return c.serve(ctx, req)
	}
	leader := a.meta.Leader()
	if leader == 0 || leader == a.self {
		return nil, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "the meta shard has no leader that is known here")
	}
	answer, err := callAdmin(ctx, a.peers, leader, &metapb.AdminRequest{Body: &metapb.AdminRequest_Control{Control: req}})
	if err != nil {
		return nil, err
	}
	if answer.Control == nil {
		return nil, kv.Errorf(kv.CodeInternal, kv.OutcomeUnknown, "node %s gave no answer", leader)
	}
	return answer.Control, nil
}

// fresh waits until this node has applied what was acknowledged before, but not for
// long: without a leader what is known here has to do.
func (c *Control) fresh(ctx context.Context) *State {
	ctx, cancel := context.WithTimeout(ctx, freshWait)
	defer cancel()
	if err := c.agent.meta.ReadIndex(ctx); err != nil {
		c.agent.log.Debug("answering from what is known here", "err", err)
	}
	return c.agent.machine.State()
}

func (c *Control) operation(ctx context.Context, req *metapb.ControlRequest) (kv.Operation, error) {
	answer, err := c.admin(ctx, req)
	if err != nil {
		return kv.Operation{}, err
	}
	return operationFromProto(answer.Operation), nil
}

// Drain takes the leaders away from a node, or lets it have some again.
func (c *Control) Drain(ctx context.Context, node kv.NodeID, on bool) error {
	_, err := c.admin(ctx, &metapb.ControlRequest{Method: methodDrain, Node: uint64(node), On: on})
	return err
}

// RemoveNode begins to move all replicas off a node, which is then forgotten.
func (c *Control) RemoveNode(ctx context.Context, node kv.NodeID) (kv.Operation, error) {
	return c.operation(ctx, &metapb.ControlRequest{Method: methodRemoveNode, Node: uint64(node)})
}

// Split begins to split a shard at key, or where its leader likes.
func (c *Control) Split(ctx context.Context, shard kv.ShardID, key []byte) (kv.Operation, error) {
	return c.operation(ctx, &metapb.ControlRequest{Method: methodSplit, Shard: uint64(shard), Key: key})
}

// Merge begins to merge a shard with its right neighbour.
func (c *Control) Merge(ctx context.Context, shard kv.ShardID) (kv.Operation, error) {
	return c.operation(ctx, &metapb.ControlRequest{Method: methodMerge, Shard: uint64(shard)})
}

// Move begins to move a replica of a shard.
func (c *Control) Move(ctx context.Context, shard kv.ShardID, from, to kv.NodeID) (kv.Operation, error) {
	return c.operation(ctx, &metapb.ControlRequest{Method: methodMove, Shard: uint64(shard), Node: uint64(from), To: uint64(to)})
}

// TransferLeader hands a shard's leadership to the replica on a node.
func (c *Control) TransferLeader(ctx context.Context, shard kv.ShardID, to kv.NodeID) error {
	_, err := c.admin(ctx, &metapb.ControlRequest{Method: methodTransfer, Shard: uint64(shard), To: uint64(to)})
	return err
}

// Rebalance gives what evens out replicas and leaders, and unless dryRun begins it.
func (c *Control) Rebalance(ctx context.Context, dryRun bool) ([]kv.PlannedStep, kv.Operation, error) {
	answer, err := c.admin(ctx, &metapb.ControlRequest{Method: methodRebalance, On: !dryRun})
	if err != nil {
		return nil, kv.Operation{}, err
	}
	steps := make([]kv.PlannedStep, 0, len(answer.Steps))
	for _, s := range answer.Steps {
		steps = append(steps, kv.PlannedStep{Kind: s.Kind, Shard: kv.ShardID(s.Shard), From: kv.NodeID(s.From), To: kv.NodeID(s.To), Bytes: s.Bytes, Reason: s.Reason})
	}
	return steps, operationFromProto(answer.Operation), nil
}

// Problems tells what is wrong, the worst first. Without a leader of the meta shard
// that is the problem, and the only one that is known.
func (c *Control) Problems(ctx context.Context) ([]kv.Problem, error) {
	answer, err := c.admin(ctx, &metapb.ControlRequest{Method: methodProblems})
	switch {
	case ctx.Err() != nil:
		return nil, err
	case err != nil:
		return []kv.Problem{c.noMetaLeader(err)}, nil
	}
	out := make([]kv.Problem, 0, len(answer.Problems))
	for _, p := range answer.Problems {
		out = append(out, kv.Problem{Code: p.Code, Severity: kv.Severity(p.Severity), Summary: p.Summary, Help: p.Help,
			Node: kv.NodeID(p.Node), Shard: kv.ShardID(p.Shard), SinceMs: p.SinceMs})
	}
	return out, nil
}

// Events gives up to limit events after a sequence number, the oldest first.
func (c *Control) Events(ctx context.Context, after uint64, limit int) ([]kv.Event, error) {
	if limit <= 0 {
		limit = eventsKept
	}
	events := c.fresh(ctx).Events()
	from, _ := slices.BinarySearchFunc(events, after, func(e *metapb.Event, after uint64) int { return cmp.Or(cmp.Compare(e.Seq, after), -1) })
	var out []kv.Event
	for _, e := range events[from:min(len(events), from+limit)] {
		out = append(out, kv.Event{Seq: e.Seq, TimeMs: e.TimeMs, Kind: e.Kind, Node: kv.NodeID(e.Node), Shard: kv.ShardID(e.Shard), Detail: e.Detail})
	}
	return out, nil
}

// Operations gives those under way and the last that ended, the newest first.
// Without a leader of the meta shard they say less of how far they are.
func (c *Control) Operations(ctx context.Context) ([]kv.Operation, error) {
	list := c.agent.machine.State().Operations()
	if answer, err := c.admin(ctx, &metapb.ControlRequest{Method: methodOperations}); err == nil {
		list = answer.Operations
	} else if ctx.Err() != nil {
		return nil, err
	}
	out := make([]kv.Operation, 0, len(list))
	for _, op := range slices.Backward(list) {
		out = append(out, operationFromProto(op))
	}
	return out, nil
}

// Operation gives one operation.
func (c *Control) Operation(ctx context.Context, id uint64) (kv.Operation, error) {
	all, err := c.Operations(ctx)
	if err != nil {
		return kv.Operation{}, err
	}
	for _, op := range all {
		if op.ID == id {
			return op, nil
		}
	}
	return kv.Operation{}, kv.Errorf(kv.CodeNotFound, kv.OutcomeNone, "no operation %d, or it is long over", id)
}

// Cancel ends an operation before its end, where it can be.
func (c *Control) Cancel(ctx context.Context, id uint64) (kv.Operation, error) {
	return c.operation(ctx, &metapb.ControlRequest{Method: methodCancel, Id: id})
}

// Config gives the settings of the cluster.
func (c *Control) Config(ctx context.Context) (kv.ClusterConfig, error) {
	state := c.fresh(ctx)
	if state.ClusterID() == "" {
		return kv.ClusterConfig{}, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNone, "this node does not know its cluster yet")
	}
	return state.Config(), nil
}

// SetConfig replaces the settings, if their revision is still the one in config.
func (c *Control) SetConfig(ctx context.Context, config kv.ClusterConfig) (kv.ClusterConfig, error) {
	if err := checkConfig(config); err != nil {
		return kv.ClusterConfig{}, err
	}
	answer, err := c.admin(ctx, &metapb.ControlRequest{Method: methodSetConfig, Config: configToProto(config)})
	if err != nil {
		return kv.ClusterConfig{}, err
	}
	return configFromProto(answer.Config), nil
}

func operationFromProto(o *metapb.Operation) kv.Operation {
	if o == nil {
		return kv.Operation{}
	}
	return kv.Operation{
		ID: o.Id, Kind: kv.OperationKind(o.Kind), State: kv.OperationState(o.State), Target: o.Target,
		Node: kv.NodeID(o.Node), Shard: kv.ShardID(o.Shard), StartedMs: o.StartedMs, UpdatedMs: o.UpdatedMs,
		Done: o.Done, Total: o.Total, Detail: o.Detail, Error: o.Error, Cancellable: o.Cancellable,
	}
}
