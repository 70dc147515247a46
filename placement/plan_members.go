package placement

import (
	"cmp"
	"slices"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

// metaVotersWanted gives how many of n nodes should vote in the meta shard: an
// odd number, because an even one survives no more failures than the odd one
// below it. Two nodes both vote: losing either's disk then loses nothing.
func metaVotersWanted(n, votersMax int) int {
	n = min(n, votersMax)
	if n > 2 && n%2 == 0 {
		n--
	}
	return max(n, 1)
}

// members is the meta shard's configuration seen by node.
type members struct {
	voters    map[kv.NodeID]bool
	nonvoters map[kv.NodeID]bool
	zones     map[string]int // lasting voters by zone
	// lasting counts the voters that are neither gone nor leaving; parting are the others.
	lasting int
	parting []kv.Member
	// candidates are the living active nodes that follow without a vote, in order
	// of registration.
	candidates []*metapb.Node
	wanted     int // voters
}

func (b *board) members() members {
	m := members{voters: map[kv.NodeID]bool{}, nonvoters: map[kv.NodeID]bool{}, zones: map[string]int{}}
	for _, member := range b.in.Members {
		if !member.Voter {
			m.nonvoters[member.ID.Node] = true
			continue
		}
		m.voters[member.ID.Node] = true
		if h := b.byID[uint64(member.ID.Node)]; h != nil && h.stays() {
			m.zones[h.zone]++
			m.lasting++
		} else {
			m.parting = append(m.parting, member)
		}
	}
	living := m.lasting
	for _, h := range b.nodes {
		id := kv.NodeID(h.node.Id)
		if m.voters[id] || h.node.State != metapb.NodeState_NODE_ACTIVE || !h.alive {
			continue
		}
		living++
		if m.nonvoters[id] {
			m.candidates = append(m.candidates, h.node)
		}
	}
	m.wanted = metaVotersWanted(living, b.in.Tuning.VotersMax)
	return m
}

// planMembers admits living nodes to the meta shard, one change at a time:
// first everybody follows, then those that have caught up get votes, then those
// that are gone lose theirs.
func planMembers(b *board) []Step {
	m, in := b.members(), b.in
	for _, h := range b.nodes {
		id := kv.NodeID(h.node.Id)
		if m.voters[id] || m.nonvoters[id] || !h.alive || h.node.State == metapb.NodeState_NODE_REMOVING && b.emptied(h) {
			continue
		}
		return []Step{{Kind: StepAddNonvoter, Server: metaServer(h.node)}}
	}
	if m.lasting >= m.wanted {
		return b.partMembers(&m)
	}
	slices.SortStableFunc(m.candidates, func(a, b *metapb.Node) int { return cmp.Compare(m.zones[zoneOf(a)], m.zones[zoneOf(b)]) })
	for _, n := range m.candidates {
		caughtUp, hopeful := in.metaProgress(n)
		if caughtUp {
			return []Step{{Kind: StepPromote, Server: metaServer(n)}}
		}
		if hopeful && in.betterThanRest(n, &m) {
			return nil // it will catch up; do not spend its zone's vote on another zone
		}
	}
	return nil
}

// partMembers takes the vote of a node that is gone, when the others are as many as there should be. With fewer than three of them, a node that is
// gone keeps its vote: without it nothing more could be lost than with it.
func (b *board) partMembers(m *members) []Step {
	for _, member := range m.parting {
		h := b.byID[uint64(member.ID.Node)]
		leaving := h != nil && h.node.State == metapb.NodeState_NODE_REMOVING // goes last, by forget
		if leaving || member.ID.Node == b.in.Self || h != nil && m.lasting < 3 || !b.metaQuorumWithout(member.ID.Node) {
			continue
		}
		return []Step{{Kind: StepRemoveMember, Server: member.ID}}
	}
	return nil
}

// metaProgress tells whether a node's replica of the meta shard has caught up,
// and if not, whether it is about to.
func (in *Input) metaProgress(n *metapb.Node) (caughtUp, hopeful bool) {
	r := in.replicaReport(kv.NodeID(n.Id), kv.MetaShard)
	if r == nil {
		return false, true // not created yet
	}
	if r.Failure != "" || r.Incarnation != n.MetaIncarnation {
		return false, false
	}
	return r.AppliedIndex+in.Tuning.CatchUpEntries >= in.Commit, true
}

// betterThanRest reports whether a caught-up candidate exists only in zones that
// have more votes than n's.
func (in *Input) betterThanRest(n *metapb.Node, m *members) bool {
	for _, other := range m.candidates {
		if caughtUp, _ := in.metaProgress(other); caughtUp && m.zones[zoneOf(other)] <= m.zones[zoneOf(n)] {
			return false
		}
	}
	return true
}

// metaServer gives the name of a node's replica of the meta shard.
func metaServer(n *metapb.Node) kv.ServerID {
	return kv.ServerID{Node: kv.NodeID(n.Id), Shard: kv.MetaShard, Incarnation: n.MetaIncarnation}
}
