package placement

import (
	"github.com/quorate-db/quorate/kv"
)

// Figures sums up what the control plane has to do, as the node that leads the meta
// shard sees it.
type Figures struct {
	Moves, Splits, Merges int // under way
	Operations            int // running
	UnderReplicated       int // shards with fewer living replicas than asked for
	Leaderless            int // shards
	Problems              map[kv.Severity]int
}

// Figures gives the figures, false on a node that does not lead the meta shard.
func (c *Control) Figures() (Figures, bool) {
	if !c.agent.meta.IsLeader() {
		return Figures{}, false
	}
	in, ok := c.loop.input()
	if !ok {
		return Figures{}, false
	}
	in.Tuning = in.Tuning.withDefaults()
	out := Figures{
		Moves: len(in.State.Moves()), Splits: len(in.State.Splits()), Merges: len(in.State.Merges()), Operations: in.State.running(),
		Problems: map[kv.Severity]int{kv.SeverityCritical: 0, kv.SeverityWarning: 0, kv.SeverityInfo: 0},
	}
	b := newBoard(&in)
	for i := range b.parts {
		p := &b.parts[i]
		alive := 0
		for _, r := range p.record.Current.Replicas {
			if h := b.byID[r.Node]; h != nil && h.alive && p.voterOn(r.Node) != nil && b.failure(r.Node, p.id) == "" {
				alive++
			}
		}
		if alive < b.cfg.ReplicationFactor {
			out.UnderReplicated++
		}
		if p.leader == nil && in.Moving[p.id] == 0 {
			out.Leaderless++
		}
	}
	for _, p := range c.problems(&in) {
		out.Problems[kv.Severity(p.Severity)]++
	}
	return out, true
}
