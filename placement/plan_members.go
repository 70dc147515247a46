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
	zones     map[string]int // voters by zone
	// candidates are the living active nodes that follow without a vote, in order
	// of registration.
	candidates []*metapb.Node
	wanted     int // voters
}

func membersOf(in *Input) members {
	m := members{voters: map[kv.NodeID]bool{}, nonvoters: map[kv.NodeID]bool{}, zones: map[string]int{}}
	for _, member := range in.Members {
		if !member.Voter {
			m.nonvoters[member.ID.Node] = true
			continue
		}
		m.voters[member.ID.Node] = true
		if n := in.State.Node(member.ID.Node); n != nil {
			m.zones[zoneOf(n)]++
		}
	}
	living := len(m.voters)
	for _, n := range in.State.Members() {
		id := kv.NodeID(n.Id)
		if m.voters[id] || n.State != metapb.NodeState_NODE_ACTIVE || !in.alive(id) {
			continue
		}
		living++
		if m.nonvoters[id] {
			m.candidates = append(m.candidates, n)
		}
	}
	m.wanted = metaVotersWanted(living, in.Tuning.VotersMax)
	return m
}

// planMembers admits living nodes to the meta shard, one change at a time:
// first everybody follows, then those that have caught up get votes.
func planMembers(in *Input) []Step {
	m := membersOf(in)
	for _, n := range in.State.Members() {
		id := kv.NodeID(n.Id)
		if !m.voters[id] && !m.nonvoters[id] && in.alive(id) {
			return []Step{{Kind: StepAddNonvoter, Server: metaServer(n)}}
		}
	}
	if len(m.voters) >= m.wanted {
		return nil
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
