package placement

import (
	"cmp"
	"slices"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// beginsPerRound bounds the removals that one round begins. They copy nothing, so
// the limits of moves do not count for them.
const beginsPerRound = 64

// planRepairs begins the moves that are needed, at most one for a shard: what is
// left over goes, what is missing comes, what is on lost or leaving nodes is
// replaced, what is too many goes, what shares a zone moves apart.
func (b *board) planRepairs() {
	// The shards that lack most come first.
	var urgent, other []*part
	for i := range b.parts {
		p := &b.parts[i]
		if p.busy || p.leader == nil {
			continue
		}
		good, bad, leftover := b.sort(p)
		switch {
		case len(good) < b.wanted() && len(bad) > 0:
			urgent = append(urgent, p)
		case len(good) != b.wanted() || len(bad) > 0 || leftover != nil || b.crowded(good) != nil:
			other = append(other, p)
		}
	}
	begun := len(b.steps)
	for _, p := range append(urgent, other...) {
		if len(b.steps)-begun >= beginsPerRound || b.tries <= 0 {
			return
		}
		b.repair(p)
	}
}

// wanted is how many replicas a shard has where there are nodes enough.
func (b *board) wanted() int { return b.cfg.ReplicationFactor }

// sort tells the voters of a shard that are well placed from those that have to
// go, and gives a follower without a vote, all of which are left over: no move is
// under way.
func (b *board) sort(p *part) (good, bad []*holder, leftover *kvpb.ReplicaDescriptor) {
	var room [2 * replicationFactorMax]*holder
	good = room[:0:replicationFactorMax]
	for _, r := range p.record.Current.Replicas {
		h := b.byID[r.Node]
		switch {
		case r.Role != kvpb.ReplicaRole_ROLE_VOTER:
			leftover = r
		case h == nil:
			leftover = r // a node that was removed has nothing to say
		case !h.stays() || b.failed(h, p.id):
			bad = append(bad, h)
		default:
			good = append(good, h)
		}
	}
	return good, bad, leftover
}

// failed reports whether a replica has stopped for so long that it is not waited
// for any more.
func (b *board) failed(h *holder, shard kv.ShardID) bool {
	since, ok := b.in.Health[kv.NodeID(h.node.Id)].FailedSince[shard]
	return ok && b.in.Now.Sub(since) >= b.in.Tuning.FailedAfter
}

func (b *board) repair(p *part) {
	good, bad, leftover := b.sort(p)
	switch {
	case leftover != nil:
		b.begin(p, nil, b.leftoverHolder(leftover), metapb.MoveReason_MOVE_LEFTOVER)
	case len(good) < b.wanted():
		b.fill(p, good, bad)
	case len(bad) > 0:
		if gone := bad[0]; b.quorumWithout(p, gone.node.Id, 0) {
			b.begin(p, nil, gone, b.whyBad(gone))
		}
	case len(good) > b.wanted():
		if less := b.excess(p, good); b.quorumWithout(p, less.node.Id, 0) {
			b.begin(p, nil, less, metapb.MoveReason_MOVE_SHRINK)
		}
	default:
		b.spreadOut(p, good)
	}
}

// leftoverHolder gives the node of a replica that is left over, which may have
// been removed from the cluster.
func (b *board) leftoverHolder(r *kvpb.ReplicaDescriptor) *holder {
	if h := b.byID[r.Node]; h != nil {
		return h
	}
	return &holder{node: b.in.State.Node(kv.NodeID(r.Node)), zone: "removed"}
}

func (b *board) whyBad(h *holder) metapb.MoveReason {
	switch {
	case h.node.State == metapb.NodeState_NODE_REMOVING:
		return metapb.MoveReason_MOVE_LEAVING
	case h.gone:
		return metapb.MoveReason_MOVE_DEAD
	default:
		return metapb.MoveReason_MOVE_FAILED
	}
}

// fill gives a shard one more replica, instead of a bad one if it has any.
func (b *board) fill(p *part, good, bad []*holder) {
	target := b.pick(p, good)
	if target == nil {
		b.waiting++
		// Nowhere else to go: a replica that failed makes way for a new one on its own node.
		if len(bad) > 0 && !b.fullUp() && b.whyBad(bad[0]) == metapb.MoveReason_MOVE_FAILED && b.quorumWithout(p, bad[0].node.Id, 0) {
			b.begin(p, nil, bad[0], metapb.MoveReason_MOVE_FAILED)
		}
		return
	}
	reason := metapb.MoveReason_MOVE_GROW
	var remove *holder
	if len(bad) > 0 {
		remove, reason = bad[0], b.whyBad(bad[0])
	}
	b.begin(p, target, remove, reason)
}

// pick chooses a node for a new replica beside those that stay: in a zone that has
// the fewest of them, of those the node with the fewest replicas. Nil: there is
// none, or the limits of moves leave no room.
func (b *board) pick(p *part, stay []*holder) *holder {
	if b.fullUp() {
		return nil
	}
	var best *holder
	rank := func(x, y *holder) int {
		return cmp.Or(
			cmp.Compare(shared(stay, x.zone), shared(stay, y.zone)), cmp.Compare(x.replicas, y.replicas),
			cmp.Compare(x.bytes, y.bytes), cmp.Compare(x.node.Ordinal, y.node.Ordinal))
	}
	b.tries -= len(b.nodes)
	for _, h := range b.nodes {
		if h.target && b.room(h) && h.fits(p.bytes) && !p.holds(h) && (best == nil || rank(h, best) < 0) {
			best = h
		}
	}
	return best
}

// shared counts the nodes that are in a zone.
func shared(nodes []*holder, zone string) int {
	n := 0
	for _, h := range nodes {
		if h.zone == zone {
			n++
		}
	}
	return n
}

// excess chooses the replica that is one too many: one that shares its zone, else
// on the node with the most replicas; not the leader's if that does not matter.
func (b *board) excess(p *part, good []*holder) *holder {
	return slices.MaxFunc(good, func(x, y *holder) int {
		return cmp.Or(
			cmp.Compare(shared(good, x.zone), shared(good, y.zone)), cmp.Compare(x.replicas, y.replicas),
			boolean(x != p.leader, y != p.leader), cmp.Compare(x.node.Ordinal, y.node.Ordinal))
	})
}

func boolean(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	default:
		return -1
	}
}

// crowded gives a node whose zone holds another replica of the same shard although
// there is a zone without, nil if there is none.
func (b *board) crowded(good []*holder) *holder {
	if len(good) < 2 || distinct(good) >= min(len(good), b.zones) {
		return nil
	}
	return slices.MaxFunc(good, func(x, y *holder) int {
		return cmp.Or(cmp.Compare(shared(good, x.zone), shared(good, y.zone)), cmp.Compare(x.replicas, y.replicas),
			cmp.Compare(x.node.Ordinal, y.node.Ordinal))
	})
}

func distinct(nodes []*holder) int {
	n := 0
	for i, h := range nodes {
		if shared(nodes[:i], h.zone) == 0 {
			n++
		}
	}
	return n
}

// spreadOut moves a replica out of a zone that it shares.
func (b *board) spreadOut(p *part, good []*holder) {
	from := b.crowded(good)
	if from == nil || !b.room(from) {
		return
	}
	stay := slices.DeleteFunc(slices.Clone(good), func(h *holder) bool { return h == from })
	if to := b.pick(p, stay); to != nil && shared(stay, to.zone) == 0 {
		b.begin(p, to, from, metapb.MoveReason_MOVE_ZONE)
	}
}

// planRemovals takes nodes that hold nothing any more out of the meta shard and
// then forgets them.
func (b *board) planRemovals() {
	for _, h := range b.nodes {
		if h.node.State == metapb.NodeState_NODE_REMOVING && b.emptied(h) {
			b.forget(h)
		}
	}
}

// emptied reports whether a node holds no data, by the state and, if it lives, by
// its own word.
func (b *board) emptied(h *holder) bool {
	if b.in.State.replicasOn(h.node.Id) > 0 {
		return false
	}
	for _, m := range b.in.State.Moves() {
		if m.Add.GetNode() == h.node.Id {
			return false
		}
	}
	if h.alive {
		for _, r := range b.in.Health[kv.NodeID(h.node.Id)].Report.GetReplicas() {
			if kv.ShardID(r.Shard) != kv.MetaShard {
				return false
			}
		}
	}
	return true
}

func (b *board) forget(h *holder) {
	id := kv.NodeID(h.node.Id)
	member := slices.IndexFunc(b.in.Members, func(m kv.Member) bool { return m.ID.Node == id })
	switch {
	case member < 0:
		b.steps = append(b.steps, Step{
			Kind: StepNodeRemoved, From: id, Text: "forget node " + id.String(),
			Command: &metapb.Command{Body: &metapb.Command_SetNodeState{SetNodeState: &metapb.SetNodeState{
				Node: h.node.Id, State: metapb.NodeState_NODE_REMOVED}}},
		})
	case id == b.in.Self:
		b.steps = append(b.steps, b.leaveMeta()...)
	case !b.in.Members[member].Voter || b.metaQuorumWithout(id):
		b.steps = append(b.steps, Step{Kind: StepRemoveMember, Server: b.in.Members[member].ID})
	}
}

// leaveMeta gives the step that hands the leadership of the meta shard to another
// node, none if there is nobody to take it.
func (b *board) leaveMeta() []Step {
	for _, m := range b.in.Members {
		h := b.byID[uint64(m.ID.Node)]
		if m.ID.Node == b.in.Self || !m.Voter || h == nil || !h.alive || h.node.State != metapb.NodeState_NODE_ACTIVE {
			continue
		}
		r := b.in.replicaReport(m.ID.Node, kv.MetaShard)
		if r == nil || r.Failure != "" || r.AppliedIndex+b.in.Tuning.CatchUpEntries < b.in.Commit {
			continue
		}
		return []Step{{Kind: StepTransfer, Shard: kv.MetaShard, From: b.in.Self, To: m.ID.Node}}
	}
	return nil
}

// metaQuorumWithout reports whether the meta shard's voters, less one, have a
// living majority.
func (b *board) metaQuorumWithout(less kv.NodeID) bool {
	all, alive := 0, 0
	for _, m := range b.in.Members {
		if !m.Voter || m.ID.Node == less {
			continue
		}
		all++
		if h := b.byID[uint64(m.ID.Node)]; h != nil && h.alive {
			alive++
		}
	}
	return alive > all/2
}
