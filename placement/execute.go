package placement

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/kv/planted"
	"github.com/quorate-db/quorate/placement/metapb"
)

const (
	// splitRest and hotRest are how long a shard is left alone after a split of it was
	// refused: by load, because one key may have all of it.
	splitRest = 30 * time.Second
	hotRest   = 10 * time.Minute
	// frozenPoll is how often replicas are asked whether they have frozen. Meanwhile
	// the shard answers nothing, so it is short.
	frozenPoll = 20 * time.Millisecond
)

// execute carries a step out. Every kind is safe to repeat.
func (l *loop) execute(ctx context.Context, step Step) error {
	switch step.Kind {
	case StepAddNonvoter:
		return l.meta.AddNonvoter(ctx, step.Server)
	case StepPromote:
		return l.meta.Promote(ctx, step.Server)
	case StepRemoveMember:
		return l.meta.Remove(ctx, step.Server)
	case StepCreateShards:
		return l.command(ctx, &metapb.Command{Body: &metapb.Command_CreateShards{
			CreateShards: &metapb.CreateShards{Shards: step.Shards}}})
	case StepReport:
		return l.command(ctx, &metapb.Command{Body: &metapb.Command_ReportDescriptors{
			ReportDescriptors: &metapb.ReportDescriptors{Reports: step.Reports}}})
	case StepTransfer:
		return l.transfer(ctx, step)
	case StepAddReplica:
		return l.changeReplica(ctx, step, metapb.ShardAction_SHARD_ADD_NONVOTER)
	case StepPromoteReplica:
		return l.changeReplica(ctx, step, metapb.ShardAction_SHARD_PROMOTE)
	case StepRemoveReplica:
		return l.changeReplica(ctx, step, metapb.ShardAction_SHARD_REMOVE)
	case StepSplit:
		return l.split(ctx, step)
	case StepFreeze:
		return l.freeze(ctx, step)
	case StepAbsorb:
		return l.absorb(ctx, step)
	case StepRefuse:
		return l.refuse(ctx, step)
	case StepUnfreeze:
		return l.unfreeze(ctx, step)
	case StepEvents:
		err := l.command(ctx, step.Command)
		l.events.sent(step.Command.GetAppendEvents().GetEvents(), err)
		return err
	default:
		if step.Command == nil {
			return kv.Errorf(kv.CodeInternal, kv.OutcomeNotApplied, "no way to carry out %q", step.Kind)
		}
		return l.command(ctx, step.Command)
	}
}

func (l *loop) command(ctx context.Context, c *metapb.Command) error {
	_, err := propose(ctx, l.meta, c)
	return err
}

func (l *loop) transfer(ctx context.Context, step Step) error {
	if step.From == l.self {
		defer l.nudge()
		return l.replicas.Transfer(ctx, step.Shard, step.To)
	}
	_, err := l.call(ctx, step.From, &metapb.AdminRequest{Body: &metapb.AdminRequest_Transfer{
		Transfer: &metapb.TransferRequest{Shard: uint64(step.Shard), To: uint64(step.To)}}})
	return err
}

func (l *loop) call(ctx context.Context, to kv.NodeID, req *metapb.AdminRequest) (*metapb.AdminAnswer, error) {
	return callAdmin(ctx, l.peers, to, req)
}

// callAdmin asks another node on behalf of the control plane.
func callAdmin(ctx context.Context, peers Peers, to kv.NodeID, req *metapb.AdminRequest) (*metapb.AdminAnswer, error) {
	data, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	resp, err := peers.Call(ctx, to, MethodAdmin, data)
	if err != nil {
		return nil, err
	}
	answer := &metapb.AdminAnswer{}
	if err := proto.Unmarshal(resp, answer); err != nil {
		return nil, kv.Errorf(kv.CodeInternal, kv.OutcomeUnknown, "decode the answer of node %s: %w", to, err)
	}
	return answer, nil
}

// ask has a node do something with its replica of a shard.
func (l *loop) ask(ctx context.Context, node kv.NodeID, req *metapb.ShardRequest) (*metapb.AdminAnswer, error) {
	if node == l.self {
		defer l.nudge()
		return doShard(ctx, l.actions, l.replicas, req)
	}
	return l.call(ctx, node, &metapb.AdminRequest{Body: &metapb.AdminRequest_Shard{Shard: req}})
}

func (l *loop) changeReplica(ctx context.Context, step Step, action metapb.ShardAction) error {
	_, err := l.ask(ctx, step.From, &metapb.ShardRequest{
		Action: action, Shard: uint64(step.Shard),
		Server: &kvpb.ReplicaDescriptor{Node: uint64(step.Server.Node), Incarnation: step.Server.Incarnation},
	})
	return err
}

// split asks for a split, and gives it up if the shard refuses.
func (l *loop) split(ctx context.Context, step Step) error {
	s := step.Split
	_, err := l.ask(ctx, step.From, &metapb.ShardRequest{
		Action: metapb.ShardAction_SHARD_SPLIT, Shard: s.Shard, Generation: s.Generation, Other: s.Child, Key: s.Key, ByLoad: s.ByLoad,
	})
	switch kv.CodeOf(err) {
	case kv.CodeConflict, kv.CodeInvalid, kv.CodeNotFound:
	default:
		return err
	}
	rest := splitRest
	if s.ByLoad {
		rest = hotRest
	}
	l.restUntil(Step{Kind: StepBeginSplit, Shard: step.Shard}.Key(), l.now().Add(rest))
	return l.command(ctx, &metapb.Command{Body: &metapb.Command_EndSplit{
		EndSplit: &metapb.EndSplit{Shard: s.Shard, Child: s.Child, Error: shorten(kv.AsError(err).Detail)}}})
}

// restUntil keeps steps of a key from being planned for a while.
func (l *loop) restUntil(key string, t time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.retry[key] = attempt{notBefore: t}
}

// shorten bounds a text that goes into the meta shard's state.
func shorten(text string) string { return text[:min(len(text), eventDetailMax)] }

func (l *loop) freeze(ctx context.Context, step Step) error {
	m := step.Merge
	answer, err := l.ask(ctx, step.From, &metapb.ShardRequest{
		Action: metapb.ShardAction_SHARD_FREEZE, Shard: m.Right, Other: m.Left, Generation: m.RightGeneration,
	})
	if err != nil {
		return err
	}
	return l.command(ctx, advanceMergeCommand(m, metapb.MergeStage_MERGE_FROZEN, answer.Index, ""))
}

// absorb waits until every replica of the right shard has frozen and then has the
// left one take it over. That it did so shows in its report.
func (l *loop) absorb(ctx context.Context, step Step) error {
	m := step.Merge
	for _, r := range step.Right.GetReplicas() {
		if err := l.awaitFrozen(ctx, kv.NodeID(r.Node), m); err != nil {
			return err
		}
	}
	_, err := l.ask(ctx, step.From, &metapb.ShardRequest{
		Action: metapb.ShardAction_SHARD_ABSORB, Shard: m.Left, Generation: m.LeftGeneration, Right: step.Right, FrozenIndex: m.FrozenIndex,
	})
	return err
}

func (l *loop) awaitFrozen(ctx context.Context, node kv.NodeID, m *metapb.Merge) error {
	if planted.On(planted.AbsorbUnfrozen) {
		return nil
	}
	for {
		answer, err := l.ask(ctx, node, &metapb.ShardRequest{Action: metapb.ShardAction_SHARD_FROZEN, Shard: m.Right})
		if err != nil {
			return err
		}
		if answer.Index == m.FrozenIndex {
			return nil
		}
		if err := pause(ctx, frozenPoll); err != nil {
			return kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "node %s has not frozen shard %d yet", node, m.Right)
		}
	}
}

func (l *loop) refuse(ctx context.Context, step Step) error {
	m := step.Merge
	if _, err := l.ask(ctx, step.From, &metapb.ShardRequest{
		Action: metapb.ShardAction_SHARD_REFUSE_ABSORB, Shard: m.Left, Generation: m.LeftGeneration,
	}); err != nil {
		return err
	}
	return l.command(ctx, advanceMergeCommand(m, metapb.MergeStage_MERGE_UNFREEZING, 0, ""))
}

func (l *loop) unfreeze(ctx context.Context, step Step) error {
	m := step.Merge
	if _, err := l.ask(ctx, step.From, &metapb.ShardRequest{
		Action: metapb.ShardAction_SHARD_UNFREEZE, Shard: m.Right, FrozenIndex: m.FrozenIndex,
	}); err != nil {
		return err
	}
	return l.command(ctx, advanceMergeCommand(m, metapb.MergeStage_MERGE_ENDED, 0, m.Why))
}

// doShard does what the control plane asks of this node's replica of a shard.
func doShard(ctx context.Context, actions Actions, replicas Replicas, in *metapb.ShardRequest) (*metapb.AdminAnswer, error) {
	shard := kv.ShardID(in.Shard)
	server := kv.ServerID{Node: kv.NodeID(in.Server.GetNode()), Shard: shard, Incarnation: in.Server.GetIncarnation()}
	answer := &metapb.AdminAnswer{}
	var err error
	switch {
	case in.Action == metapb.ShardAction_SHARD_FROZEN:
		answer.Index, err = frozenHere(replicas, shard)
		return answer, err
	case actions == nil:
		return nil, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "this node cannot change shards")
	}
	switch in.Action {
	case metapb.ShardAction_SHARD_ADD_NONVOTER:
		err = actions.AddNonvoter(ctx, shard, server)
	case metapb.ShardAction_SHARD_PROMOTE:
		err = actions.Promote(ctx, shard, server)
	case metapb.ShardAction_SHARD_REMOVE:
		err = actions.Remove(ctx, shard, server)
	case metapb.ShardAction_SHARD_MEMBERS:
		err = tellMembers(ctx, actions, shard, answer)
	case metapb.ShardAction_SHARD_SPLIT:
		err = actions.Split(ctx, SplitOrder{Shard: shard, Generation: in.Generation, Child: kv.ShardID(in.Other), Key: in.Key, ByLoad: in.ByLoad})
	case metapb.ShardAction_SHARD_FREEZE:
		answer.Index, err = actions.Freeze(ctx, shard, kv.ShardID(in.Other), in.Generation)
	case metapb.ShardAction_SHARD_ABSORB:
		err = actions.Absorb(ctx, shard, in.Generation, in.Right, in.FrozenIndex)
	case metapb.ShardAction_SHARD_REFUSE_ABSORB:
		err = actions.RefuseAbsorb(ctx, shard, in.Generation)
	case metapb.ShardAction_SHARD_UNFREEZE:
		err = actions.Unfreeze(ctx, shard, in.FrozenIndex)
	default:
		err = kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "an action on shards that this release does not know")
	}
	if err != nil {
		return nil, err
	}
	return answer, nil
}

func tellMembers(ctx context.Context, actions Actions, shard kv.ShardID, answer *metapb.AdminAnswer) error {
	members, index, err := actions.Members(ctx, shard)
	answer.Index, answer.Members = index, kv.DescribeMembers(members)
	return err
}

// frozenHere gives the index at which this node's replica froze, 0 if it did not.
func frozenHere(replicas Replicas, shard kv.ShardID) (uint64, error) {
	for _, s := range replicas.States() {
		if s.Status.ID.Shard == shard {
			return s.FrozenIndex, nil
		}
	}
	return 0, &kv.Error{Code: kv.CodeNoReplica, Outcome: kv.OutcomeNotApplied, Shard: shard}
}
