package placement

import (
	"time"

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
	OldestChange          time.Duration // age of the oldest move, split or merge under way; 0 = none
	OldestOperation       time.Duration // age of the oldest operation that runs; 0 = none
	SplitBytes            int64         // a shard larger than this splits; 0 = never by size
}

// ages fills in how long what is under way has been.
func (f *Figures) ages(s *State, now time.Time) {
	age := func(oldest time.Duration, sinceMs int64) time.Duration {
		return max(oldest, now.Sub(time.UnixMilli(sinceMs)))
	}
	for _, m := range s.Moves() {
		f.OldestChange = age(f.OldestChange, m.SinceMs)
	}
	for _, m := range s.Splits() {
		f.OldestChange = age(f.OldestChange, m.SinceMs)
	}
	for _, m := range s.Merges() {
		f.OldestChange = age(f.OldestChange, m.SinceMs)
	}
	for _, op := range s.history.operations {
		if op.State == string(kv.OperationRunning) {
			f.OldestOperation = age(f.OldestOperation, op.StartedMs)
		}
	}
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
	out.SplitBytes = in.State.Config().SplitBytes
	out.ages(in.State, in.Now)
	b := newBoard(&in)
	for i := range b.parts {
		p := &b.parts[i]
		if alive, _ := b.living(p); alive < b.cfg.ReplicationFactor {
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
