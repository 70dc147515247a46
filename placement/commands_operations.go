package placement

import (
	"fmt"
	"strings"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

// The kinds of events (kv.Event.Kind).
const (
	EventNodeJoined    = "node-joined"
	EventNodeDead      = "node-dead"
	EventNodeBack      = "node-back"
	EventNodeDraining  = "node-draining"
	EventNodeActive    = "node-active"
	EventNodeRemoving  = "node-removing"
	EventNodeRemoved   = "node-removed"
	EventLeader        = "leader-elected"
	EventMetaLeader    = "meta-leader-elected"
	EventMoveStarted   = "move-started"
	EventMoveDone      = "move-done"
	EventMoveCancelled = "move-cancelled"
	EventSplit         = "shard-split"
	EventMerge         = "shards-merged"
	EventMergeRefused  = "merge-refused"
	EventConfig        = "config-changed"
	EventRebalance     = "rebalance-started"
)

// eventsPerCommand and eventDetailMax bound what one AppendEvents brings.
const (
	eventsPerCommand = 256
	eventDetailMax   = 512
)

// removal finds the operation that removes a node, nil if there is none.
func (s *State) removal(node uint64) *metapb.Operation {
	for _, op := range s.history.operations {
		if op.Kind == string(kv.OperationRemoveNode) && op.State == string(kv.OperationRunning) && op.Node == node {
			return op
		}
	}
	return nil
}

// replicasOn counts the replicas that shards have on a node.
func (s *State) replicasOn(node uint64) int64 {
	n := int64(0)
	for _, h := range s.shards {
		if replicaOf(h.Current, node) != nil {
			n++
		}
	}
	return n
}

// removeNode begins to remove a node, if enough others stay. Asked again, it gives
// the operation that is under way.
func (s *State) removeNode(c *metapb.RemoveNode, at int64) (*State, *metapb.Result) {
	known := s.Node(kv.NodeID(c.GetNode()))
	if known == nil {
		return s, refuse(kv.CodeNotFound, "no node %s", kv.NodeID(c.GetNode()))
	}
	if known.State == metapb.NodeState_NODE_REMOVED {
		return s, refuse(kv.CodeConflict, "node %s was removed already", known.Name)
	}
	if op := s.removal(c.Node); op != nil {
		return s, &metapb.Result{Operation: op, Node: known}
	}
	stay := 0
	for _, n := range s.nodes {
		if n.Id != c.Node && (n.State == metapb.NodeState_NODE_ACTIVE || n.State == metapb.NodeState_NODE_DRAINING) {
			stay++
		}
	}
	rf := int(s.config.ReplicationFactor)
	switch {
	case stay < rf:
		return s, refuse(kv.CodeConflict, "without node %s there would be %d nodes for %d replicas of each shard: add a node first, or lower the "+
			"replication factor (quorate config set replication_factor=%d)", known.Name, stay, rf, max(1, stay))
	case s.running() >= operationsRunning:
		return s, refuse(kv.CodeOverloaded, "too many operations are under way")
	}
	record := cloneOf(known)
	record.State = metapb.NodeState_NODE_REMOVING
	next := s.withNode(record)
	op := next.begin(at, kv.OperationRemoveNode, &metapb.Operation{
		Target: "node " + known.Name, Node: c.Node, Total: s.replicasOn(c.Node), Cancellable: true,
	})
	next.event(at, EventNodeRemoving, c.Node, 0, fmt.Sprintf("node %s is being removed: its %d replicas move off", known.Name, op.Total))
	return next, &metapb.Result{Operation: op, Node: record}
}

// beginRebalance begins to even out replicas and leaders, or gives the operation
// that does.
func (s *State) beginRebalance(at int64) (*State, *metapb.Result) {
	if op := s.rebalancing(); op != nil {
		return s, &metapb.Result{Operation: op}
	}
	switch {
	case s.clusterID == "":
		return s, refuse(kv.CodeConflict, "the cluster is not founded yet")
	case s.running() >= operationsRunning:
		return s, refuse(kv.CodeOverloaded, "too many operations are under way")
	}
	next := *s
	op := next.begin(at, kv.OperationRebalance, &metapb.Operation{Target: "the cluster", Cancellable: true})
	next.event(at, EventRebalance, 0, 0, "replicas and leaders are evened out")
	return &next, &metapb.Result{Operation: op}
}

// rebalancing finds the rebalance under way, nil if there is none.
func (s *State) rebalancing() *metapb.Operation {
	for _, op := range s.history.operations {
		if op.Kind == string(kv.OperationRebalance) && op.State == string(kv.OperationRunning) {
			return op
		}
	}
	return nil
}

// endOperation ends an operation, or cancels it: what it began is then undone as
// far as that can be.
func (s *State) endOperation(c *metapb.EndOperation, at int64) (*State, *metapb.Result) {
	op := s.Operation(c.GetId())
	state := kv.OperationState(c.State)
	switch {
	case op == nil:
		return s, refuse(kv.CodeNotFound, "no operation %d, or it is long over", c.GetId())
	case op.State != string(kv.OperationRunning):
		return s, refuse(kv.CodeConflict, "operation %d is over: %s", op.Id, op.State)
	case state != kv.OperationDone && state != kv.OperationFailed && state != kv.OperationCancelled:
		return s, refuse(kv.CodeInvalid, "no such final state: %q", c.State)
	case state == kv.OperationCancelled && !op.Cancellable:
		return s, refuse(kv.CodeConflict, "operation %d (%s of %s) cannot be cancelled any more", op.Id, op.Kind, op.Target)
	case len(c.Error) > eventDetailMax:
		return s, refuse(kv.CodeTooLarge, "a reason has at most %d bytes", eventDetailMax)
	}
	next := *s
	if state == kv.OperationCancelled {
		if err := next.undo(op, at); err != nil {
			return s, &metapb.Result{Error: kv.ToWire(err)}
		}
	}
	if kv.OperationKind(op.Kind) != kv.OperationMerge || state != kv.OperationCancelled {
		next.end(at, op.Id, state, c.Error)
	}
	return &next, &metapb.Result{Operation: next.Operation(op.Id)}
}

// undo takes back what a cancelled operation began. The receiver is not shared yet.
func (s *State) undo(op *metapb.Operation, at int64) error {
	switch kv.OperationKind(op.Kind) {
	case kv.OperationRemoveNode:
		known := s.Node(kv.NodeID(op.Node))
		if known.GetState() != metapb.NodeState_NODE_REMOVING {
			return nil
		}
		record := cloneOf(known)
		record.State = metapb.NodeState_NODE_ACTIVE
		*s = *s.withNode(record)
		for _, m := range s.changes.moves {
			if m.Reason == metapb.MoveReason_MOVE_LEAVING && m.Remove.GetNode() == op.Node {
				s.cancel(m, at)
			}
		}
		s.event(at, EventNodeActive, op.Node, 0, fmt.Sprintf("node %s stays: its removal was cancelled", known.Name))
	case kv.OperationMove:
		if m := s.Move(kv.ShardID(op.Shard)); m != nil && m.Operation == op.Id {
			s.cancel(m, at)
		}
	case kv.OperationMerge:
		return s.undoMerge(op, at)
	}
	return nil
}

// undoMerge gives a merge up. The operation ends with it: it is not over before
// the right shard goes on.
func (s *State) undoMerge(op *metapb.Operation, at int64) error {
	m := s.Merge(kv.ShardID(op.Shard))
	if m == nil || m.Operation != op.Id {
		return nil
	}
	to := metapb.MergeStage_MERGE_REFUSING
	switch m.Stage {
	case metapb.MergeStage_MERGE_ALIGNING:
		to = metapb.MergeStage_MERGE_ENDED
	case metapb.MergeStage_MERGE_FREEZING, metapb.MergeStage_MERGE_FROZEN:
	default:
		return kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "the merge of shards %d and %d is being given up already", m.Left, m.Right)
	}
	next, r := s.advanceMerge(&metapb.AdvanceMerge{Left: m.Left, Right: m.Right, From: m.Stage, To: to, Why: whyCancelled}, at)
	if r.Error != nil {
		return kv.FromWire(r.Error)
	}
	*s = *next
	return nil
}

func (s *State) appendEvents(c *metapb.AppendEvents) (*State, *metapb.Result) {
	if len(c.GetEvents()) == 0 || len(c.Events) > eventsPerCommand {
		return s, refuse(kv.CodeInvalid, "want 1 to %d events at a time", eventsPerCommand)
	}
	for _, e := range c.Events {
		if e.GetKind() == "" || len(e.Kind) > nameBytesMax || len(e.Detail) > eventDetailMax {
			return s, refuse(kv.CodeInvalid, "an event has a kind and at most %d bytes of detail", eventDetailMax)
		}
	}
	next := *s
	for _, e := range c.Events {
		next.event(e.TimeMs, e.Kind, e.Node, e.Shard, e.Detail)
	}
	return &next, &metapb.Result{}
}

// configChanges says in words what differs between two settings.
func configChanges(a, b kv.ClusterConfig) string {
	var out []string
	say := func(name string, from, to any) {
		if from != to {
			out = append(out, fmt.Sprintf("%s: %v, was %v", name, to, from))
		}
	}
	say("replication_factor", a.ReplicationFactor, b.ReplicationFactor)
	say("dead_grace", a.DeadGrace, b.DeadGrace)
	say("split_bytes", a.SplitBytes, b.SplitBytes)
	say("split_load", a.SplitLoad, b.SplitLoad)
	say("merge_bytes", a.MergeBytes, b.MergeBytes)
	say("auto_balance", a.AutoBalance, b.AutoBalance)
	say("leader_zone", a.LeaderZone, b.LeaderZone)
	say("snapshot_rate", a.SnapshotRate, b.SnapshotRate)
	say("moves_per_node", a.MovesPerNode, b.MovesPerNode)
	say("moves_per_cluster", a.MovesPerCluster, b.MovesPerCluster)
	return strings.Join(out, "; ")
}
