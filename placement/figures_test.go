package placement

import (
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

// TestAgesOfWhatIsUnderWay: the oldest counts, and what has ended does not.
func TestAgesOfWhatIsUnderWay(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	ended := &metapb.Operation{State: string(kv.OperationDone), StartedMs: 1}
	for name, c := range map[string]struct {
		state             State
		change, operation time.Duration
	}{
		"nothing": {State{history: history{operations: []*metapb.Operation{ended}}}, 0, 0},
		"moves":   {State{changes: changes{moves: []*metapb.Move{{SinceMs: 999_000}, {SinceMs: 990_000}, {SinceMs: 995_000}}}}, 10 * time.Second, 0},
		"a split": {State{changes: changes{moves: []*metapb.Move{{SinceMs: 999_000}}, splits: []*metapb.Split{{SinceMs: 997_000}}}}, 3 * time.Second, 0},
		"a merge": {State{changes: changes{merges: []*metapb.Merge{{SinceMs: 996_000, StageSinceMs: 999_000}}}}, 4 * time.Second, 0},
		"operations": {State{history: history{operations: []*metapb.Operation{
			ended, {State: string(kv.OperationRunning), StartedMs: 940_000}, {State: string(kv.OperationRunning), StartedMs: 990_000},
		}}}, 0, time.Minute},
	} {
		var f Figures
		f.ages(&c.state, now)
		if f.OldestChange != c.change || f.OldestOperation != c.operation {
			t.Errorf("%s: a change of %s, an operation of %s; want %s and %s", name, f.OldestChange, f.OldestOperation, c.change, c.operation)
		}
	}
}
