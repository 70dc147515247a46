package placement

import (
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// leaderBoard is the planner's view of who leads what, with the moves planned so
// far taken into account.
type leaderBoard struct {
	in    *Input
	count map[kv.NodeID]int // leaders of each living active node that holds replicas
	moved map[kv.ShardID]bool
}

// move is a possible transfer.
type move struct {
	shard     kv.ShardID
	from, to  kv.NodeID
	gain      int // how many more leaders from has than to
	preferred bool
}

// planLeaders evens out how many leaders each node has, when two differ by more
// than one. Each move lowers the potential of P7; nothing moves for preference
// alone.
func planLeaders(in *Input) []Step {
	b := newLeaderBoard(in)
	var steps []Step
	for len(steps) < in.Tuning.TransfersMax && b.uneven() {
		m, ok := b.best()
		if !ok {
			break
		}
		b.count[m.from]--
		b.count[m.to]++
		b.moved[m.shard] = true
		steps = append(steps, Step{Kind: StepTransfer, Shard: m.shard, From: m.from, To: m.to})
	}
	return steps
}

func newLeaderBoard(in *Input) *leaderBoard {
	b := &leaderBoard{in: in, count: map[kv.NodeID]int{}, moved: map[kv.ShardID]bool{}}
	for _, h := range in.State.Shards() {
		for _, r := range h.Current.Replicas {
			if node := kv.NodeID(r.Node); b.canLead(node) {
				b.count[node] += 0
			}
		}
	}
	for _, h := range in.State.Shards() {
		if node := b.leader(kv.ShardID(h.Current.Shard)); b.canLead(node) {
			b.count[node]++
		}
	}
	return b
}

// leader gives who leads a shard, or will once it has been told to.
func (b *leaderBoard) leader(shard kv.ShardID) kv.NodeID {
	if to, ok := b.in.Moving[shard]; ok {
		return to
	}
	return b.in.Leads[shard].Node
}

func (b *leaderBoard) canLead(node kv.NodeID) bool {
	return b.in.alive(node) && b.in.State.Node(node).GetState() == metapb.NodeState_NODE_ACTIVE
}

// uneven reports whether two nodes differ by more than one leader.
func (b *leaderBoard) uneven() bool {
	least, most := -1, 0
	for _, n := range b.count {
		if least < 0 || n < least {
			least = n
		}
		most = max(most, n)
	}
	return most-least > 1
}

// best gives the most useful move: to a preferred leader that has at least two
// fewer, else to a preferred one that has one fewer (which makes way for
// others), else to any replica that has at least two fewer.
func (b *leaderBoard) best() (move, bool) {
	var best move
	rank := func(m move) int {
		switch {
		case m.preferred && m.gain >= 2:
			return 3
		case m.preferred && m.gain == 1:
			return 2
		case m.gain >= 2:
			return 1
		default:
			return 0
		}
	}
	for _, h := range b.in.State.Shards() {
		b.moves(h.Current, func(m move) {
			if rm, rb := rank(m), rank(best); rm > rb || rm == rb && rm > 0 && m.gain > best.gain {
				best = m
			}
		})
	}
	return best, rank(best) > 0
}

// moves calls yield for each transfer of the shard's leadership that is possible
// now: from a settled leader to a living voter that has caught up.
func (b *leaderBoard) moves(d *kvpb.ShardDescriptor, yield func(move)) {
	shard := kv.ShardID(d.Shard)
	lead, led := b.in.Leads[shard]
	_, moving := b.in.Moving[shard]
	if !led || moving || b.moved[shard] || b.in.Busy[Step{Kind: StepTransfer, Shard: shard}.Key()] ||
		!b.canLead(lead.Node) || b.in.Now.Sub(lead.Since) < b.in.Tuning.LeaderStable {
		return
	}
	leader := b.in.replicaReport(lead.Node, shard)
	for i, r := range d.Replicas {
		to := kv.NodeID(r.Node)
		if to == lead.Node || r.Role != kvpb.ReplicaRole_ROLE_VOTER || !b.canLead(to) {
			continue
		}
		replica := b.in.replicaReport(to, shard)
		if replica == nil || replica.Failure != "" || replica.Role != string(kv.RoleFollower) ||
			replica.AppliedIndex+b.in.Tuning.CatchUpEntries < leader.GetCommitIndex() {
			continue
		}
		yield(move{shard: shard, from: lead.Node, to: to, gain: b.count[lead.Node] - b.count[to], preferred: i == 0})
	}
}
