package placement

import (
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

// A merge whose right shard is frozen is given up in time even where it began, by the
// clock of the node that led then, an hour from now.
func TestFrozenMergeIsGivenUpWhateverTheClocksSay(t *testing.T) {
	d := active(t)
	d.must(t, cmdMerge(2, 3))
	d.must(t, cmdAdvance(2, 3, metapb.MergeStage_MERGE_ALIGNING, metapb.MergeStage_MERGE_FREEZING, 0))
	m := d.m.State().Merge(2)
	began := time.UnixMilli(m.StageSinceMs).Add(-time.Hour)
	l := &loop{}
	for _, tc := range []struct {
		after time.Duration
		want  bool
	}{{0, false}, {4 * time.Second, false}, {6 * time.Second, true}} {
		now := began.Add(tc.after)
		in := Input{
			State: d.m.State(), Now: now, Health: map[kv.NodeID]Health{}, Leads: map[kv.ShardID]Lead{}, Seen: l.see(d.m.State(), now),
			Tuning: Tuning{}.withDefaults(),
		}
		given := false
		for _, s := range Plan(in) {
			given = given || s.Kind == StepAdvanceMerge && s.Command.GetAdvanceMerge().To == metapb.MergeStage_MERGE_REFUSING
		}
		if given != tc.want {
			t.Errorf("after %s: given up: %t", tc.after, given)
		}
	}
}
