package placement

import (
	"slices"
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

// What hangs is a problem, also where clocks make it look as if it had not begun.
func TestChangesThatTakeLongAreProblems(t *testing.T) {
	splitting, merging := active(t), active(t)
	splitting.must(t, cmdSplit(3, "t"))
	merging.must(t, cmdMerge(2, 3))
	merging.must(t, cmdAdvance(2, 3, metapb.MergeStage_MERGE_ALIGNING, metapb.MergeStage_MERGE_FREEZING, 0))
	for code, d := range map[string]*driver{"split-slow": splitting, "merge-slow": merging} {
		c := &Control{tracker: newTracker(Tuning{}.withDefaults(), Hooks{}), loop: &loop{retry: map[string]attempt{}}}
		began := time.UnixMilli(1)
		for _, after := range []time.Duration{0, 5 * time.Second, 2 * time.Minute} {
			now := began.Add(after)
			in := Input{State: d.m.State(), Now: now, Health: map[kv.NodeID]Health{}, Leads: map[kv.ShardID]Lead{}, Seen: c.loop.see(d.m.State(), now), Tuning: c.tracker.tuning}
			told := slices.ContainsFunc(c.problems(&in), func(p *metapb.Problem) bool { return p.Code == code })
			if told != (after > time.Minute) {
				t.Errorf("%s after %s: %t", code, after, told)
			}
		}
	}
}
