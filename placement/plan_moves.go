package placement

import (
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// carryMoves takes each move that is under way one step on (decision 0011).
func (b *board) carryMoves() {
	for _, m := range b.in.State.Moves() {
		if p := b.part(m.Shard); p != nil {
			b.carryMove(p, m)
		}
	}
}

func (b *board) carryMove(p *part, m *metapb.Move) {
	d := p.record.Current
	added := held(d, m.Add)
	votes := added != nil && added.Role == kvpb.ReplicaRole_ROLE_VOTER
	if !m.Cancelled {
		if why := b.pointless(p, m, added, votes); why != "" {
			b.propose(StepCancelMove, p, &metapb.Command{Body: &metapb.Command_CancelMove{CancelMove: m}}, why,
				"cancel the move of shard "+p.id.String()+": "+why)
			return
		}
	}
	if p.leader == nil {
		return // nobody to ask; reports will tell
	}
	switch {
	case m.Cancelled:
		b.ask(StepRemoveReplica, p, m.Add)
	case m.Add != nil && added == nil:
		if r := b.in.replicaReport(kv.NodeID(m.Add.Node), p.id); r.GetIncarnation() == m.Add.Incarnation {
			b.ask(StepAddReplica, p, m.Add)
		}
	case m.Add != nil && !votes:
		switch {
		case !b.caughtUp(p, m.Add):
		case b.deadWeight(p, m) && b.quorumWithout(p, m.Remove.Node, 0):
			b.removeReplica(p, m.Remove)
		case b.quorumWithout(p, 0, m.Add.Node):
			b.ask(StepPromoteReplica, p, m.Add)
		}
	case m.Remove != nil && b.mayRemove(p, m):
		b.removeReplica(p, m.Remove)
	}
}

// mayRemove reports whether the old replica can go: the new one lives, and a
// majority of what is left does.
func (b *board) mayRemove(p *part, m *metapb.Move) bool {
	if m.Add != nil && (b.byID[m.Add.Node] == nil || !b.byID[m.Add.Node].alive) {
		return false
	}
	return m.Remove.Role != kvpb.ReplicaRole_ROLE_VOTER || b.quorumWithout(p, m.Remove.Node, 0)
}

// deadWeight reports whether the voter that is to go is on a node that is gone. It goes
// before the new one votes: beside it the new one makes the majority larger, and until
// the next step every write would have to wait for a replica that has just come.
// Without it no fewer failures are survived than with it.
func (b *board) deadWeight(p *part, m *metapb.Move) bool {
	old := held(p.record.Current, m.Remove)
	return old != nil && old.Role == kvpb.ReplicaRole_ROLE_VOTER && b.lost(old.Node)
}

// lost reports whether a node is gone, or not known any more.
func (b *board) lost(node uint64) bool {
	h := b.byID[node]
	return h == nil || h.gone
}

// lostBeside reports whether a shard has a voter on a node that is gone, other than
// a certain one.
func (b *board) lostBeside(p *part, node uint64) bool {
	for _, r := range p.record.Current.Replicas {
		if r.Node != node && r.Role == kvpb.ReplicaRole_ROLE_VOTER && b.lost(r.Node) {
			return true
		}
	}
	return false
}

// removeReplica takes a replica out of a shard's configuration. If it leads, it
// hands over first.
func (b *board) removeReplica(p *part, r *kvpb.ReplicaDescriptor) {
	if p.leader.node.Id != r.Node {
		b.ask(StepRemoveReplica, p, r)
		return
	}
	var best *holder
	for _, other := range p.record.Current.Replicas {
		h := b.byID[other.Node]
		if other.Node != r.Node && h != nil && b.canTakeOver(p, other) && (best == nil || h.node.State == metapb.NodeState_NODE_ACTIVE) {
			best = h
		}
	}
	if best == nil {
		return
	}
	b.steps = append(b.steps, Step{Kind: StepTransfer, Shard: p.id, From: kv.NodeID(r.Node), To: kv.NodeID(best.node.Id)})
}

// canTakeOver reports whether a replica could lead its shard now: it votes, lives
// and has caught up.
func (b *board) canTakeOver(p *part, r *kvpb.ReplicaDescriptor) bool {
	h := b.byID[r.Node]
	health := b.in.Health[kv.NodeID(r.Node)]
	if h == nil || !h.alive || r.Role != kvpb.ReplicaRole_ROLE_VOTER || health.SilentFor > b.in.Tuning.ReportEvery*3/2 {
		return false // one that missed a report may have died: while it is asked to take over, nobody writes
	}
	report := b.in.replicaReport(kv.NodeID(r.Node), p.id)
	return report != nil && report.Failure == "" && report.Role == string(kv.RoleFollower) && b.recent(p, report)
}

func (b *board) caughtUp(p *part, r *kvpb.ReplicaDescriptor) bool {
	report := b.in.replicaReport(kv.NodeID(r.Node), p.id)
	return report.GetIncarnation() == r.Incarnation && report.Failure == "" && report.AppliedIndex > 0 && b.recent(p, report)
}

// recent reports whether a replica lags its leader by little.
func (b *board) recent(p *part, r *metapb.ReplicaReport) bool {
	lead := b.in.replicaReport(b.in.Leads[p.id].Node, p.id)
	return r.AppliedIndex+b.in.Tuning.CatchUpEntries >= lead.GetCommitIndex()
}

func (b *board) ask(kind StepKind, p *part, r *kvpb.ReplicaDescriptor) {
	b.steps = append(b.steps, Step{
		Kind: kind, Shard: p.id, From: kv.NodeID(p.leader.node.Id),
		Server: kv.ServerID{Node: kv.NodeID(r.Node), Shard: p.id, Incarnation: r.Incarnation},
	})
}

// pointless says why a move should not go on, "" if it should. Added is its
// replica as far as the shard's configuration has it.
func (b *board) pointless(p *part, m *metapb.Move, added *kvpb.ReplicaDescriptor, votes bool) string {
	if m.Add != nil {
		target := b.byID[m.Add.Node]
		report := b.in.replicaReport(kv.NodeID(m.Add.Node), p.id)
		switch {
		case target == nil:
			return "its target was removed"
		case !votes && b.in.Health[kv.NodeID(m.Add.Node)].Liveness == Dead:
			return "its target died"
		case !votes && target.node.State == metapb.NodeState_NODE_REMOVING:
			return "its target is being removed"
		case votes && target.gone:
			return "its target died"
		case !votes && report.GetIncarnation() == m.Add.Incarnation && report.GetFailure() != "":
			return "the new replica failed: " + report.Failure
		case !votes && report.GetIncarnation() > m.Add.Incarnation:
			return "its target has a later replica"
		}
	}
	if m.Remove != nil && (m.Add == nil || votes) && b.lostBeside(p, m.Remove.Node) && !b.mayRemove(p, m) {
		return "another replica was lost meanwhile" // which has to go first
	}
	if votes || m.Remove != nil && held(p.record.Current, m.Remove) == nil {
		return "" // without the new one there would be one too few
	}
	source := b.byID[m.Remove.GetNode()]
	switch m.Reason {
	case metapb.MoveReason_MOVE_DEAD:
		if source != nil && source.alive {
			return "the node is back"
		}
	case metapb.MoveReason_MOVE_LEAVING:
		if source != nil && source.node.State != metapb.NodeState_NODE_REMOVING {
			return "the node stays"
		}
	case metapb.MoveReason_MOVE_FAILED:
		if b.failure(m.Remove.GetNode(), p.id) == "" {
			return "the replica is well again"
		}
	case metapb.MoveReason_MOVE_GROW:
		if added == nil && voters(p.record.Current) >= b.cfg.ReplicationFactor {
			return "there are enough replicas"
		}
	case metapb.MoveReason_MOVE_SHRINK:
		if voters(p.record.Current) <= b.cfg.ReplicationFactor {
			return "there are not too many replicas"
		}
	}
	return ""
}
