package placement

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// cloneOf spares the generics of proto.CloneOf at each place.
func cloneOf[T proto.Message](m T) T { return proto.CloneOf(m) }

// beginMove records a change of a shard's replicas and gives the new one its
// name (decision 0011).
func (s *State) beginMove(c *metapb.BeginMove, at int64) (*State, *metapb.Result) {
	shard := kv.ShardID(c.GetShard())
	h := s.Shard(shard)
	switch {
	case h == nil:
		return s, refuse(kv.CodeNotFound, "no shard %s", shard)
	case h.State != metapb.ShardState_SHARD_ACTIVE:
		return s, refuse(kv.CodeConflict, "shard %s has not come up yet", shard)
	case c.ConfigIndex != 0 && c.ConfigIndex != h.ConfigIndex:
		return s, refuse(kv.CodeConflict, "shard %s has configuration %d, not %d", shard, h.ConfigIndex, c.ConfigIndex)
	case len(s.changes.moves) >= movesMax || c.Ordered && s.running() >= operationsRunning:
		return s, refuse(kv.CodeOverloaded, "too many moves or operations are under way")
	}
	if why := s.changing(shard); why != "" && !s.aligns(shard, c.Reason) {
		return s, refuse(kv.CodeConflict, "shard %s: %s", shard, why)
	}
	m := &metapb.Move{Shard: c.Shard, Reason: c.Reason, SinceMs: at}
	if err := s.checkMove(h, c); err != nil {
		return s, &metapb.Result{Error: kv.ToWire(err)}
	}
	next := *s
	if c.Add != 0 {
		m.Add = &kvpb.ReplicaDescriptor{Node: c.Add, Incarnation: nextIncarnation(h), Role: kvpb.ReplicaRole_ROLE_VOTER}
		record := cloneOf(h)
		record.NextIncarnation = m.Add.Incarnation + 1
		next.shards = with(s.shards, record, shardOf)
	}
	if c.Remove != 0 {
		m.Remove = cloneOf(replicaOf(h.Current, c.Remove))
	}
	var op *metapb.Operation
	if c.Ordered {
		op = next.begin(at, kv.OperationMove, &metapb.Operation{
			Target: fmt.Sprintf("shard %s: %s", shard, s.moveText(m)), Shard: c.Shard, Node: c.Add, Total: 1, Cancellable: true,
		})
		m.Operation = op.Id
	}
	next.changes.moves = with(s.changes.moves, m, (*metapb.Move).GetShard)
	next.event(at, EventMoveStarted, c.Add, c.Shard, fmt.Sprintf("shard %s: %s (%s)", shard, s.moveText(m), reasonText(c.Reason)))
	return &next, &metapb.Result{Move: m, Operation: op}
}

// aligns reports whether a move belongs to the merge that its shard waits for.
func (s *State) aligns(shard kv.ShardID, reason metapb.MoveReason) bool {
	m := s.Merge(shard)
	return reason == metapb.MoveReason_MOVE_ALIGN && m != nil && m.Right == uint64(shard) &&
		m.Stage == metapb.MergeStage_MERGE_ALIGNING && s.Move(shard) == nil
}

func (s *State) checkMove(h *metapb.Shard, c *metapb.BeginMove) error {
	conflict := func(format string, args ...any) error {
		return kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, format, args...)
	}
	switch target := s.Node(kv.NodeID(c.Add)); {
	case c.Add == 0 && c.Remove == 0:
		return kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "a move of nothing to nowhere")
	case c.Add == 0:
	case target == nil:
		return kv.Errorf(kv.CodeNotFound, kv.OutcomeNotApplied, "no node %s", kv.NodeID(c.Add))
	case target.State != metapb.NodeState_NODE_ACTIVE:
		return conflict("node %s is %s and takes no replicas", target.Name, stateWord(target.State))
	case replicaOf(h.Current, c.Add) != nil:
		return conflict("node %s has a replica of shard %d already", target.Name, c.Shard)
	case len(h.Current.Replicas) >= replicasPerShardMax:
		return conflict("shard %d has %d replicas already", c.Shard, len(h.Current.Replicas))
	}
	if c.Remove == 0 {
		return nil
	}
	gone := replicaOf(h.Current, c.Remove)
	if gone == nil {
		return conflict("node %s has no replica of shard %d", s.nodeName(c.Remove), c.Shard)
	}
	if c.Add == 0 && gone.Role == kvpb.ReplicaRole_ROLE_VOTER && voters(h.Current) == 1 {
		return conflict("the replica on node %s is the only one of shard %d", s.nodeName(c.Remove), c.Shard)
	}
	return nil
}

// cancelMove stops a move. It goes on in a way if the new replica was added
// already: then that is removed again first.
func (s *State) cancelMove(c *metapb.Move, at int64) (*State, *metapb.Result) {
	m := s.Move(kv.ShardID(c.GetShard()))
	if m == nil || m.Add.GetIncarnation() != c.GetAdd().GetIncarnation() || m.Remove.GetIncarnation() != c.GetRemove().GetIncarnation() ||
		m.SinceMs != c.GetSinceMs() {
		return s, refuse(kv.CodeConflict, "that move of shard %d is over", c.GetShard())
	}
	next := *s
	next.cancel(m, at)
	return &next, &metapb.Result{Move: m}
}

// cancel marks a move as cancelled and ends it if nothing of it has happened. The
// receiver is not shared yet.
func (s *State) cancel(m *metapb.Move, at int64) {
	if m.Cancelled {
		return
	}
	m = cloneOf(m)
	m.Cancelled = true
	s.changes.moves = with(s.changes.moves, m, (*metapb.Move).GetShard)
	s.settleMove(m, s.Shard(kv.ShardID(m.Shard)).Current, at)
}

// settle ends what a report shows to be done. The receiver is not shared yet.
func (s *State) settle(h *metapb.Shard, at int64) {
	d := h.Current
	if m := s.Move(kv.ShardID(d.Shard)); m != nil {
		s.settleMove(m, d, at)
	}
	s.settleSplits(d, at)
	s.settleMerge(d, at)
}

func (s *State) settleMove(m *metapb.Move, d *kvpb.ShardDescriptor, at int64) {
	added := held(d, m.Add)
	votes := added != nil && added.Role == kvpb.ReplicaRole_ROLE_VOTER
	gone := held(d, m.Remove) == nil
	kind, state := EventMoveDone, kv.OperationDone
	switch {
	case m.Cancelled && (added == nil || votes):
		if !(votes && gone) {
			kind, state = EventMoveCancelled, kv.OperationCancelled
		}
	case m.Cancelled || m.Add != nil && !votes || !gone:
		return
	}
	s.changes.moves = without(s.changes.moves, m.Shard, (*metapb.Move).GetShard)
	s.event(at, kind, m.Add.GetNode(), m.Shard, fmt.Sprintf("shard %d: %s", m.Shard, s.moveText(m)))
	s.end(at, m.Operation, state, "")
}

func shardOf(h *metapb.Shard) uint64 { return h.GetCurrent().GetShard() }

func voters(d *kvpb.ShardDescriptor) int {
	n := 0
	for _, r := range d.GetReplicas() {
		if r.Role == kvpb.ReplicaRole_ROLE_VOTER {
			n++
		}
	}
	return n
}

// nodeName gives a node's name, or its id if it is not known.
func (s *State) nodeName(node uint64) string {
	if n := s.Node(kv.NodeID(node)); n != nil {
		return n.Name
	}
	return kv.NodeID(node).String()
}

func (s *State) moveText(m *metapb.Move) string {
	switch {
	case m.Remove == nil:
		return "a replica to node " + s.nodeName(m.Add.GetNode())
	case m.Add == nil:
		return "no replica on node " + s.nodeName(m.Remove.Node) + " any more"
	default:
		return "a replica from node " + s.nodeName(m.Remove.Node) + " to node " + s.nodeName(m.Add.Node)
	}
}

func reasonText(r metapb.MoveReason) string {
	switch r {
	case metapb.MoveReason_MOVE_GROW:
		return "too few replicas"
	case metapb.MoveReason_MOVE_SHRINK:
		return "too many replicas"
	case metapb.MoveReason_MOVE_DEAD:
		return "its node is dead"
	case metapb.MoveReason_MOVE_LEAVING:
		return "its node is being removed"
	case metapb.MoveReason_MOVE_ZONE:
		return "zones"
	case metapb.MoveReason_MOVE_BALANCE:
		return "balance"
	case metapb.MoveReason_MOVE_ALIGN:
		return "before a merge"
	case metapb.MoveReason_MOVE_ORDERED:
		return "by hand"
	case metapb.MoveReason_MOVE_LEFTOVER:
		return "left over"
	case metapb.MoveReason_MOVE_FAILED:
		return "the replica failed"
	default:
		return "no reason given"
	}
}

func stateWord(s metapb.NodeState) string {
	switch s {
	case metapb.NodeState_NODE_ACTIVE:
		return "active"
	case metapb.NodeState_NODE_DRAINING:
		return "draining"
	case metapb.NodeState_NODE_REMOVING:
		return "being removed"
	case metapb.NodeState_NODE_REMOVED:
		return "removed"
	default:
		return "in no known state"
	}
}
