package placement

import (
	"slices"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// leaderBoard is the planner's view of who leads what, with the moves planned so
// far taken into account.
type leaderBoard struct {
	*board
	in    *Input
	count map[*holder]int // leaders of each node that may lead
	led   map[*holder][]*seat
	seats []seat
	steps []Step
}

// seat is the leadership of one shard.
type seat struct {
	p      *part
	leader *holder   // or who is about to be
	may    []*holder // who may lead it now, in the order of its replicas
	free   bool      // it may be moved now
}

// planLeaders takes leaders off nodes that shall not lead (draining, leaving, not
// in the leaders' zone) and evens out how many each of the others has, when two
// differ by more than one. Each step lowers the potential of P7.
func planLeaders(b *board) []Step {
	l := newLeaderBoard(b)
	l.evacuate()
	if b.balancing() {
		for len(l.steps) < b.in.Tuning.TransfersMax && l.level() {
		}
	}
	l.evacuateMeta()
	return l.steps
}

func newLeaderBoard(b *board) *leaderBoard {
	l := &leaderBoard{board: b, in: b.in, count: map[*holder]int{}, led: map[*holder][]*seat{}, seats: make([]seat, 0, len(b.parts))}
	for i := range b.parts {
		p := &b.parts[i]
		lead, led := b.in.Leads[p.id]
		to, moving := b.in.Moving[p.id]
		s := seat{p: p, leader: p.leader}
		if moving { // whoever leads meanwhile
			s.leader, lead.Node = b.byID[uint64(to)], to
		}
		if (led || moving) && s.leader != nil {
			s.may = l.mayLead(p, lead.Node)
			s.free = !moving && !l.receives(p) && !b.in.Busy[Step{Kind: StepTransfer, Shard: p.id}.Key()] && b.in.Now.Sub(lead.Since) >= b.in.Tuning.LeaderStable &&
				!b.beingMerged(p)
		}
		l.seats = append(l.seats, s)
	}
	for i := range l.seats {
		s := &l.seats[i]
		for _, h := range s.may {
			l.count[h] += 0
		}
		if s.leader != nil && slices.Contains(s.may, s.leader) {
			l.count[s.leader]++
			l.led[s.leader] = append(l.led[s.leader], s)
		}
	}
	return l
}

// receives reports whether a new replica of the shard is on its way, which a change of
// leaders would have to begin again: what is sent to it ends with the term of who
// sends. That the leader's own replica is to go can wait until the new one votes; that
// its node shall lead no more cannot.
func (l *leaderBoard) receives(p *part) bool {
	if !p.busy || p.leader == nil || p.leader.node.State != metapb.NodeState_NODE_ACTIVE {
		return false
	}
	m := l.in.State.Move(p.id)
	if m == nil || m.Cancelled || m.Add == nil {
		return false
	}
	added := replicaOf(p.record.Current, m.Add.Node)
	return added == nil || added.Incarnation != m.Add.Incarnation || added.Role != kvpb.ReplicaRole_ROLE_VOTER
}

// beingMerged reports whether a merge of the shard is past aligning: it is over in
// a moment, or its leader is being asked.
func (b *board) beingMerged(p *part) bool {
	if !p.busy {
		return false
	}
	m := b.in.State.Merge(p.id)
	return m != nil && m.Stage != metapb.MergeStage_MERGE_ALIGNING
}

// mayLead gives the nodes that should lead a shard, as far as they could now: in
// the leaders' zone, if it has one of its replicas on a living node.
func (l *leaderBoard) mayLead(p *part, leader kv.NodeID) []*holder {
	out := make([]*holder, 0, len(p.record.Current.Replicas))
	inZone := 0
	for _, r := range p.record.Current.Replicas {
		h := l.byID[r.Node]
		if h == nil || !h.alive || h.node.State != metapb.NodeState_NODE_ACTIVE || r.Role != kvpb.ReplicaRole_ROLE_VOTER || l.removing(p, r.Node) {
			continue
		}
		if kv.NodeID(r.Node) != leader && !l.canTakeOver(p, r) {
			continue
		}
		out = append(out, h)
		if l.cfg.LeaderZone != "" && h.node.Zone == l.cfg.LeaderZone {
			inZone++
		}
	}
	if inZone == 0 || inZone == len(out) {
		return out
	}
	return slices.DeleteFunc(out, func(h *holder) bool { return h.node.Zone != l.cfg.LeaderZone })
}

// removing reports whether the shard's replica on a node is about to go.
func (l *leaderBoard) removing(p *part, node uint64) bool {
	if !p.busy {
		return false
	}
	m := l.in.State.Move(p.id)
	return m != nil && !m.Cancelled && m.Remove.GetNode() == node
}

// hand plans a transfer.
func (l *leaderBoard) hand(s *seat, to *holder) {
	from := s.leader
	if _, counted := l.count[from]; counted && slices.Contains(l.led[from], s) {
		l.count[from]--
		l.led[from] = slices.DeleteFunc(l.led[from], func(o *seat) bool { return o == s })
	}
	l.count[to]++
	l.led[to] = append(l.led[to], s)
	l.steps = append(l.steps, Step{Kind: StepTransfer, Shard: s.p.id, From: kv.NodeID(from.node.Id), To: kv.NodeID(to.node.Id)})
	s.leader, s.free = to, false
}

// evacuate moves the leaders that sit where they should not, to whoever of those
// that may has the fewest.
func (l *leaderBoard) evacuate() {
	for i := range l.seats {
		s := &l.seats[i]
		if len(l.steps) >= l.in.Tuning.TransfersMax {
			return
		}
		if !s.free || s.leader == nil || len(s.may) == 0 || slices.Contains(s.may, s.leader) {
			continue
		}
		l.hand(s, slices.MinFunc(s.may, func(a, b *holder) int { return l.count[a] - l.count[b] }))
	}
}

// evacuateMeta hands the meta shard over if this node is draining. One that is being
// removed does it last (forget).
func (l *leaderBoard) evacuateMeta() {
	h := l.byID[uint64(l.in.Self)]
	if h != nil && h.node.State == metapb.NodeState_NODE_DRAINING {
		l.steps = append(l.steps, l.leaveMeta()...)
	}
}

// level finds the shortest chain of shards along which leaders can be handed from
// one of the nodes with the most to one with at least two fewer, and hands along it,
// the last first. On a shortest chain no step makes the counts less even than
// before it, and all of them together make them more even.
func (l *leaderBoard) level() bool {
	most := 0
	for _, n := range l.count {
		most = max(most, n)
	}
	type hop struct {
		from *holder
		seat *seat
	}
	came := map[*holder]hop{}
	var queue []*holder
	for _, h := range l.nodes {
		if n, ok := l.count[h]; ok && n == most {
			came[h] = hop{}
			queue = append(queue, h)
		}
	}
	for ; len(queue) > 0; queue = queue[1:] {
		for _, first := range []bool{true, false} { // preferred leaders before others
			for _, s := range l.led[queue[0]] {
				if !s.free {
					continue
				}
				for _, h := range s.may {
					preferred := h.node.Id == s.p.record.Current.Replicas[0].Node
					if _, seen := came[h]; seen || preferred != first {
						continue
					}
					came[h] = hop{queue[0], s}
					queue = append(queue, h)
					if most-l.count[h] < 2 {
						continue
					}
					for at := h; came[at].seat != nil; at = came[at].from {
						l.hand(came[at].seat, at)
					}
					return true
				}
			}
		}
	}
	return false
}
