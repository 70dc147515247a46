package placement

import (
	"context"
	"fmt"
	"strings"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

// serve answers a request on the node that leads the meta shard.
func (c *Control) serve(ctx context.Context, req *metapb.ControlRequest) (*metapb.ControlAnswer, error) {
	in, ok := c.loop.input()
	if !ok || !c.agent.meta.IsLeader() {
		return nil, &kv.Error{Code: kv.CodeNotLeader, Outcome: kv.OutcomeNotApplied, Shard: kv.MetaShard, Leader: c.agent.meta.Leader()}
	}
	in.Tuning = in.Tuning.withDefaults()
	switch req.Method {
	case methodProblems:
		return &metapb.ControlAnswer{Problems: c.problems(&in)}, nil
	case methodOperations:
		return &metapb.ControlAnswer{Operations: c.operations(&in)}, nil
	case methodTransfer:
		return &metapb.ControlAnswer{}, c.transfer(ctx, &in, kv.ShardID(req.Shard), kv.NodeID(req.To))
	case methodRebalance:
		return c.rebalance(ctx, &in, req.On)
	case methodCreateToken, methodRevokeToken:
		return c.serveTokens(ctx, req)
	}
	command, err := controlCommand(&in, req)
	if err != nil {
		return nil, err
	}
	result, err := propose(ctx, c.agent.meta, command)
	if err != nil {
		return nil, err
	}
	return &metapb.ControlAnswer{Operation: result.Operation, Config: result.Config}, nil
}

// controlCommand gives the command that a request comes down to. What only the
// meta leader can know, such as who is alive, is checked here.
func controlCommand(in *Input, req *metapb.ControlRequest) (*metapb.Command, error) {
	switch req.Method {
	case methodDrain:
		state := metapb.NodeState_NODE_ACTIVE
		if req.On {
			state = metapb.NodeState_NODE_DRAINING
		}
		return &metapb.Command{Body: &metapb.Command_SetNodeState{SetNodeState: &metapb.SetNodeState{Node: req.Node, State: state}}}, nil
	case methodRemoveNode:
		return &metapb.Command{Body: &metapb.Command_RemoveNode{RemoveNode: &metapb.RemoveNode{Node: req.Node}}}, mayRemoveNode(in, req.Node)
	case methodSplit:
		return &metapb.Command{Body: &metapb.Command_BeginSplit{BeginSplit: &metapb.BeginSplit{Shard: req.Shard, Key: req.Key, Ordered: true}}}, nil
	case methodMerge:
		right, err := rightOf(in.State, kv.ShardID(req.Shard))
		return &metapb.Command{Body: &metapb.Command_BeginMerge{BeginMerge: &metapb.BeginMerge{
			Left: req.Shard, Right: uint64(right), Ordered: true}}}, err
	case methodMove:
		return &metapb.Command{Body: &metapb.Command_BeginMove{BeginMove: &metapb.BeginMove{
			Shard: req.Shard, Add: req.To, Remove: req.Node, Reason: metapb.MoveReason_MOVE_ORDERED, Ordered: true}}}, mayMove(in, req)
	case methodCancel:
		return &metapb.Command{Body: &metapb.Command_EndOperation{EndOperation: &metapb.EndOperation{
			Id: req.Id, State: string(kv.OperationCancelled)}}}, nil
	case methodSetConfig:
		if req.Config == nil {
			return nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "no settings are given")
		}
		return &metapb.Command{Body: &metapb.Command_SetConfig{SetConfig: req.Config}}, nil
	default:
		return nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "a request that this release does not know: %q", req.Method)
	}
}

// mayRemoveNode refuses to remove a node when too few of the others live. That too
// few are left at all is refused in the state machine.
func mayRemoveNode(in *Input, node uint64) error {
	b := newBoard(in)
	alive := 0
	var dead []string
	for _, h := range b.nodes {
		switch {
		case h.node.Id == node || h.node.State == metapb.NodeState_NODE_REMOVING:
		case in.Health[kv.NodeID(h.node.Id)].Liveness == Dead:
			dead = append(dead, h.node.Name)
		default:
			alive++
		}
	}
	if alive < b.cfg.ReplicationFactor && len(dead) > 0 {
		return kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "without it %d living nodes would be left for %d replicas of each shard (dead: %s): "+
			"bring them back, add a node, or lower the replication factor", alive, b.cfg.ReplicationFactor, strings.Join(dead, ", "))
	}
	return nil
}

// rightOf gives the shard that begins where another one ends.
func rightOf(s *State, shard kv.ShardID) (kv.ShardID, error) {
	if s.Shard(shard) == nil {
		return 0, kv.Errorf(kv.CodeNotFound, kv.OutcomeNotApplied, "no shard %s", shard)
	}
	for i, e := range s.segments {
		if e.shard == shard && i+1 < len(s.segments) && s.segments[i+1].shard != shard {
			return s.segments[i+1].shard, nil
		}
	}
	return 0, kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "shard %s is the last one: it has no right neighbour", shard)
}

func mayMove(in *Input, req *metapb.ControlRequest) error {
	if req.Node == 0 || req.To == 0 {
		return kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "a move needs a node to move from and one to move to")
	}
	b := newBoard(in)
	p, to := b.part(req.Shard), b.byID[req.To]
	switch {
	case p == nil || to == nil: // refused in the state machine
		return nil
	case !to.alive:
		return kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "node %s does not report", to.node.Name)
	case !to.fits(p.bytes):
		return kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "node %s has %d bytes free, too few for shard %s with %d", to.node.Name, to.free, p.id, p.bytes)
	}
	return nil
}

func (c *Control) transfer(ctx context.Context, in *Input, shard kv.ShardID, to kv.NodeID) error {
	h := in.State.Shard(shard)
	if h == nil {
		return kv.Errorf(kv.CodeNotFound, kv.OutcomeNotApplied, "no shard %s", shard)
	}
	if in.State.Node(to) == nil {
		return kv.Errorf(kv.CodeNotFound, kv.OutcomeNotApplied, "no node %s", to)
	}
	lead, ok := in.Leads[shard]
	b := newBoard(in)
	switch p := b.part(uint64(shard)); {
	case !ok || p.leader == nil:
		return kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "shard %s has no leader, or it is changing", shard)
	case lead.Node == to:
		return nil
	case p.voterOn(uint64(to)) == nil:
		return kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "node %s has no replica of shard %s that can lead", in.State.nodeName(uint64(to)), shard)
	case b.byID[uint64(to)].node.State != metapb.NodeState_NODE_ACTIVE:
		return kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "node %s is %s and leads nothing", in.State.nodeName(uint64(to)), stateWord(b.byID[uint64(to)].node.State))
	}
	return c.loop.transfer(ctx, Step{Kind: StepTransfer, Shard: shard, From: lead.Node, To: to})
}

// rebalance plans as if nothing was forbidden and no limit stood against it, so
// that the whole way is seen, and begins it if asked to.
func (c *Control) rebalance(ctx context.Context, in *Input, begin bool) (*metapb.ControlAnswer, error) {
	free := *in
	state := *in.State
	state.config = cloneOf(state.config)
	state.config.AutoBalance, state.config.MovesPerNode, state.config.MovesPerCluster = true, kv.MovesPerNodeMax, kv.MovesPerClusterMax
	free.State, free.Busy, free.Tuning.TransfersMax = &state, map[string]bool{}, kv.MovesPerClusterMax
	free.Tuning.LeaderStable = 1 // however young a leader is
	answer := &metapb.ControlAnswer{}
	for _, s := range Plan(free) {
		if p := plannedStep(s); p != nil {
			answer.Steps = append(answer.Steps, p)
		}
	}
	if !begin {
		return answer, nil
	}
	result, err := propose(ctx, c.agent.meta, &metapb.Command{Body: &metapb.Command_BeginRebalance{BeginRebalance: &metapb.BeginRebalance{}}})
	if err != nil {
		return nil, err
	}
	answer.Operation = result.Operation
	return answer, nil
}

func plannedStep(s Step) *metapb.PlannedStep {
	p := &metapb.PlannedStep{Shard: uint64(s.Shard), From: uint64(s.From), To: uint64(s.To), Bytes: s.Bytes, Reason: s.Why}
	switch {
	case s.Kind == StepTransfer && s.Shard != kv.MetaShard:
		p.Kind, p.Reason = "move-leader", "evenness of leaders, or a node that shall not lead"
	case s.Kind == StepBeginSplit:
		p.Kind = "split"
	case s.Kind == StepBeginMerge:
		p.Kind = "merge"
	case s.Kind != StepBeginMove:
		return nil
	case s.From == 0:
		p.Kind = "add-replica"
	case s.To == 0:
		p.Kind = "remove-replica"
	default:
		p.Kind = "move-replica"
	}
	return p
}

// operations gives all operations with how far those under way are.
func (c *Control) operations(in *Input) []*metapb.Operation {
	var out []*metapb.Operation
	for _, op := range in.State.Operations() {
		if op.State == string(kv.OperationRunning) {
			op = cloneOf(op)
			c.explain(in, op)
		}
		out = append(out, op)
	}
	return out
}

// explain says how far an operation is and what it waits for.
func (c *Control) explain(in *Input, op *metapb.Operation) {
	op.UpdatedMs = in.Now.UnixMilli()
	switch kv.OperationKind(op.Kind) {
	case kv.OperationRemoveNode:
		explainRemoval(in, op)
	case kv.OperationMove:
		if m := in.State.Move(kv.ShardID(op.Shard)); m != nil {
			op.Detail = moveDetail(in, m)
		}
	case kv.OperationSplit:
		op.Detail = "the shard's leader looks for the key, counts what is on its right, and splits"
	case kv.OperationMerge:
		if m := in.State.Merge(kv.ShardID(op.Shard)); m != nil {
			op.Detail, op.Cancellable = mergeDetail(m), m.Stage <= metapb.MergeStage_MERGE_FROZEN
		}
	case kv.OperationRebalance:
		n := 0
		for _, m := range in.State.Moves() {
			if m.Reason == metapb.MoveReason_MOVE_BALANCE {
				n++
			}
		}
		op.Detail = fmt.Sprintf("%d replicas are moving", n)
	}
	if why := c.loop.whyWaiting(Step{Shard: kv.ShardID(op.Shard)}.Key()); why != "" && op.Shard != 0 {
		op.Detail += "; the last try: " + why
	}
}

func explainRemoval(in *Input, op *metapb.Operation) {
	left, moving := in.State.replicasOn(op.Node), 0
	for _, m := range in.State.Moves() {
		if m.Remove.GetNode() == op.Node {
			moving++
		}
	}
	op.Total = max(op.Total, left)
	op.Done = op.Total - left
	switch {
	case left == 0:
		op.Detail = "all replicas have moved; the node leaves the meta shard"
	case moving > 0:
		op.Detail = fmt.Sprintf("%d replicas are left, %d of them are moving", left, moving)
	default:
		op.Detail = fmt.Sprintf("%d replicas are left and wait: ", left) + whyStuck(in, op.Node)
	}
}

// whyStuck says why no replica moves off a node.
func whyStuck(in *Input, node uint64) string {
	b := newBoard(in)
	targets, leaderless := 0, 0
	for _, h := range b.nodes {
		if h.target && h.node.Id != node && h.fits(0) {
			targets++
		}
	}
	fits := false
	for i := range b.parts {
		p := &b.parts[i]
		if replicaOf(p.record.Current, node) == nil {
			continue
		}
		if p.leader == nil {
			leaderless++
		}
		for _, h := range b.nodes {
			fits = fits || h.target && !p.holds(h) && h.fits(p.bytes)
		}
	}
	switch {
	case leaderless > 0:
		return fmt.Sprintf("%d of their shards have no leader now", leaderless)
	case targets == 0:
		return "no other node is alive, active and has room"
	case !fits:
		return "no other node that has no replica of these shards already is alive and has room on its disk; add a node"
	case b.fullUp():
		return "as many moves as the settings allow are under way"
	default:
		return "they are about to move"
	}
}

func moveDetail(in *Input, m *metapb.Move) string {
	d := in.State.Shard(kv.ShardID(m.Shard)).GetCurrent()
	report := in.replicaReport(kv.NodeID(m.Add.GetNode()), kv.ShardID(m.Shard))
	switch {
	case m.Cancelled:
		return "cancelled: the new replica is taken away again"
	case m.Add == nil:
		return "the replica is taken out of the shard"
	case report.GetIncarnation() != m.Add.Incarnation:
		return "the node makes the new replica"
	case held(d, m.Add) == nil:
		return "the shard's leader adds the new replica"
	case voters(d) < len(d.Replicas):
		return "the new replica receives the shard"
	default:
		return "the old replica is taken out of the shard"
	}
}

func mergeDetail(m *metapb.Merge) string {
	switch m.Stage {
	case metapb.MergeStage_MERGE_ALIGNING:
		return fmt.Sprintf("replicas of shard %d move to where those of shard %d are", m.Right, m.Left)
	case metapb.MergeStage_MERGE_FREEZING, metapb.MergeStage_MERGE_FROZEN:
		return fmt.Sprintf("shard %d is frozen and is being absorbed", m.Right)
	default:
		return "given up: " + m.Why
	}
}
