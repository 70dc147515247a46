package placement

import (
	"bytes"
	"fmt"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

const (
	splitsAtOnce = 8
	mergesAtOnce = 1 // of the planner's own
	// splitMax is how long a split may take before it is given up.
	splitMax = 5 * time.Minute
	// alignMax is how long a merge may wait for its shards to have their replicas on
	// the same nodes.
	alignMax = 30 * time.Minute
	// coldShare: shards merge if together they take less than such a part of what
	// would split them; coldLoad counts if nothing splits by load.
	coldShare = 4
	coldLoad  = 100.0
)

// carrySplits asks the leaders to carry out the splits under way.
func (b *board) carrySplits() {
	for _, c := range b.in.State.Splits() {
		p := b.part(c.Shard)
		if p == nil {
			continue
		}
		done := p.record.Current.Generation > c.Generation // its child's report is all that is missing
		switch {
		case b.under(splitKey(c), c.SinceMs) > splitMax:
			why := "it did not come about in time"
			b.propose(StepEndSplit, p, &metapb.Command{Body: &metapb.Command_EndSplit{
				EndSplit: &metapb.EndSplit{Shard: c.Shard, Child: c.Child, Error: why}}}, why, "give up the split of shard "+p.id.String())
		case !done && p.leader != nil:
			b.steps = append(b.steps, Step{Kind: StepSplit, Shard: p.id, From: kv.NodeID(p.leader.node.Id), Split: c})
		}
	}
}

// age gives how long ago a time of the meta shard's was.
func (b *board) age(ms int64) time.Duration { return b.in.Now.Sub(time.UnixMilli(ms)) }

// changeKey names a split or a merge that is under way, or one stage of a merge.
type changeKey struct {
	id    uint64 // the child's, the right shard's
	merge bool
	stage metapb.MergeStage // 0: all of it
}

func splitKey(c *metapb.Split) changeKey { return changeKey{id: c.Child} }
func mergeKey(m *metapb.Merge) changeKey { return changeKey{id: m.Right, merge: true} }
func stageKey(m *metapb.Merge) changeKey {
	return changeKey{id: m.Right, merge: true, stage: m.Stage + 1}
}

// under gives how long a change has been under way that began at a time of the meta
// shard's. That time may lie far ahead, if the clock of a node that led was: so it is
// not less than this node has known of it.
func (b *board) under(key changeKey, ms int64) time.Duration {
	age := b.age(ms)
	if since, ok := b.in.Seen[key]; ok {
		age = max(age, b.in.Now.Sub(since))
	}
	return age
}

// planSplits begins to split the shards that are too large, and those that take
// much more than their share of the load.
func (b *board) planSplits() {
	under := len(b.in.State.Splits())
	total, nodes := 0.0, 0
	for i := range b.parts {
		total += b.parts[i].load
	}
	for _, h := range b.nodes {
		if h.target {
			nodes++
		}
	}
	for i := range b.parts {
		p := &b.parts[i]
		if under >= splitsAtOnce {
			return
		}
		if p.busy || p.leader == nil || voters(p.record.Current) != len(p.record.Current.Replicas) {
			continue
		}
		large := b.cfg.SplitBytes > 0 && p.bytes > b.cfg.SplitBytes
		hot := b.cfg.SplitLoad > 0 && p.load > b.cfg.SplitLoad && nodes > 1 && p.load*float64(nodes) > total &&
			b.in.Now.Sub(b.in.Leads[p.id].Since) >= b.in.Tuning.HotAfter
		if !large && !hot {
			continue
		}
		why := fmt.Sprintf("it holds %d MiB", p.bytes>>20)
		if !large {
			why = fmt.Sprintf("it takes %.0f of %.0f operations a second", p.load, total)
		}
		step := Step{Kind: StepBeginSplit, Shard: p.id, Why: why, Text: "split shard " + p.id.String() + ": " + why}
		if b.in.Busy[step.Key()] {
			continue
		}
		step.Command = &metapb.Command{Body: &metapb.Command_BeginSplit{BeginSplit: &metapb.BeginSplit{
			Shard: uint64(p.id), Generation: p.record.Current.Generation, ByLoad: !large}}}
		p.busy = true
		under++
		b.steps = append(b.steps, step)
	}
}

// carryMerges takes each merge one stage on (decision 0011).
func (b *board) carryMerges() {
	for _, m := range b.in.State.Merges() {
		left, right := b.part(m.Left), b.part(m.Right)
		if left == nil || right == nil {
			continue
		}
		switch m.Stage {
		case metapb.MergeStage_MERGE_ALIGNING:
			b.align(m, left, right)
		case metapb.MergeStage_MERGE_FREEZING:
			b.freeze(m, right)
		case metapb.MergeStage_MERGE_FROZEN:
			b.absorb(m, left, right)
		case metapb.MergeStage_MERGE_REFUSING:
			b.refuse(m, left, right)
		case metapb.MergeStage_MERGE_UNFREEZING:
			b.unfreeze(m, right)
		}
	}
	b.thawStrays()
}

func (b *board) advance(m *metapb.Merge, p *part, to metapb.MergeStage, why string) {
	text := fmt.Sprintf("the merge of shards %d and %d goes on", m.Left, m.Right)
	if why != "" {
		text = fmt.Sprintf("give up the merge of shards %d and %d: %s", m.Left, m.Right, why)
	}
	b.propose(StepAdvanceMerge, p, advanceMergeCommand(m, to, 0, why), why, text)
}

func advanceMergeCommand(m *metapb.Merge, to metapb.MergeStage, index uint64, why string) *metapb.Command {
	return &metapb.Command{Body: &metapb.Command_AdvanceMerge{AdvanceMerge: &metapb.AdvanceMerge{
		Left: m.Left, Right: m.Right, From: m.Stage, To: to, FrozenIndex: index, Why: why}}}
}

// align moves the right shard's replicas to where the left's are, one by one, and
// goes on when all of both are well.
func (b *board) align(m *metapb.Merge, left, right *part) {
	l, r := left.record.Current, right.record.Current
	switch {
	case b.under(mergeKey(m), m.SinceMs) > alignMax:
		b.advance(m, right, metapb.MergeStage_MERGE_ENDED, "their replicas did not come together in time")
		return
	case b.in.State.Move(right.id) != nil:
		return
	case voters(l) != len(l.Replicas):
		b.advance(m, right, metapb.MergeStage_MERGE_ENDED, fmt.Sprintf("shard %s has a replica without a vote", left.id))
		return
	}
	for _, p := range []*part{left, right} {
		if _, bad, _ := b.sort(p); len(bad) > 0 { // repairs come first
			b.advance(m, right, metapb.MergeStage_MERGE_ENDED, fmt.Sprintf("shard %s has a replica to be replaced", p.id))
			return
		}
	}
	if aligned(l, r) {
		if left.leader != nil && right.leader != nil && b.allWell(left) && b.allWell(right) {
			b.advance(m, right, metapb.MergeStage_MERGE_FREEZING, "")
		}
		return
	}
	var add, remove *holder
	for _, x := range l.Replicas {
		if h := b.byID[x.Node]; replicaOf(r, x.Node) == nil && h != nil {
			add = h
			break
		}
	}
	for _, x := range r.Replicas {
		if h := b.byID[x.Node]; replicaOf(l, x.Node) == nil && h != nil {
			remove = h
			break
		}
	}
	switch {
	case right.leader == nil || add != nil && (!b.room(add) || b.fullUp() || !add.fits(right.bytes)):
	case add != nil && !add.target:
		b.advance(m, right, metapb.MergeStage_MERGE_ENDED, "node "+add.node.Name+" takes no replicas now")
	case add != nil || remove != nil && b.quorumWithout(right, remove.node.Id, 0):
		b.begin(right, add, remove, metapb.MoveReason_MOVE_ALIGN)
	}
}

// allWell reports whether every member of a shard lives and has caught up.
func (b *board) allWell(p *part) bool {
	for _, r := range p.record.Current.Replicas {
		h := b.byID[r.Node]
		if h == nil || !h.alive || !b.caughtUp(p, r) {
			return false
		}
	}
	return true
}

// late gives a merge up if its right shard has been frozen for too long: meanwhile
// it answers nothing.
func (b *board) late(m *metapb.Merge, p *part) bool {
	if b.under(stageKey(m), m.StageSinceMs) <= b.in.Tuning.FreezeMax {
		return false
	}
	b.advance(m, p, metapb.MergeStage_MERGE_REFUSING, "a replica or its leader did not answer in time")
	return true
}

func (b *board) freeze(m *metapb.Merge, right *part) {
	if !b.late(m, right) && right.leader != nil {
		b.mergeStep(StepFreeze, m, right)
	}
}

func (b *board) absorb(m *metapb.Merge, left, right *part) {
	if !b.late(m, right) && left.leader != nil {
		b.mergeStep(StepAbsorb, m, left)
		b.steps[len(b.steps)-1].Right = right.record.Current
	}
}

func (b *board) mergeStep(kind StepKind, m *metapb.Merge, p *part) {
	b.steps = append(b.steps, Step{Kind: kind, Shard: p.id, From: kv.NodeID(p.leader.node.Id), Merge: m,
		Text: fmt.Sprintf("%s, for the merge of shards %d and %d", kind, m.Left, m.Right)})
}

// refuse raises the left shard's generation, unless a report shows that it is
// above the merge's already while the range is the old one.
func (b *board) refuse(m *metapb.Merge, left, right *part) {
	switch {
	case left.record.Current.Generation > m.LeftGeneration && !covers(left.record.Current, right.record.Current):
		b.advance(m, left, metapb.MergeStage_MERGE_UNFREEZING, "")
	case left.leader != nil:
		b.mergeStep(StepRefuse, m, left)
	}
}

// covers reports whether a holds the first key of c.
func covers(a, c *kvpb.ShardDescriptor) bool {
	return bytes.Compare(a.Start, c.Start) <= 0 && (len(a.End) == 0 || bytes.Compare(c.Start, a.End) < 0)
}

func (b *board) unfreeze(m *metapb.Merge, right *part) {
	if right.leader == nil {
		return
	}
	report := b.in.replicaReport(kv.NodeID(right.leader.node.Id), right.id)
	if report.GetFrozenIndex() == 0 && b.under(stageKey(m), m.StageSinceMs) > 3*b.in.Tuning.ReportEvery {
		b.advance(m, right, metapb.MergeStage_MERGE_ENDED, m.Why) // it goes on: what was asked before would show by now
		return
	}
	m = cloneOf(m)
	if m.FrozenIndex == 0 {
		m.FrozenIndex = report.GetFrozenIndex()
	}
	if m.FrozenIndex == 0 {
		return
	}
	b.mergeStep(StepUnfreeze, m, right)
}

// thawStrays begins to let shards go on that are frozen for no merge that is
// known: a request to freeze that came late.
func (b *board) thawStrays() {
	for i := range b.parts {
		p := &b.parts[i]
		since := b.in.Leads[p.id].FrozenSince
		if p.busy || p.leader == nil || since.IsZero() || b.in.Now.Sub(since) < b.in.Tuning.FreezeMax {
			continue
		}
		report := b.in.replicaReport(kv.NodeID(p.leader.node.Id), p.id)
		left := b.part(report.GetFrozenInto())
		if report.GetFrozenIndex() == 0 || left == nil || left.busy || left.leader == nil {
			continue
		}
		p.busy, left.busy = true, true
		b.propose(StepBeginMerge, p, &metapb.Command{Body: &metapb.Command_BeginMerge{BeginMerge: &metapb.BeginMerge{
			Left: uint64(left.id), Right: uint64(p.id), FrozenIndex: report.FrozenIndex}}}, "",
			"let shard "+p.id.String()+" go on: it is frozen for no merge that is known")
	}
}

// planMerges begins to merge two small cold neighbours. What merged is at most a
// quarter of what would split, by size and by load, both have to have been left
// alone for a while, and there never are fewer shards than at the beginning: so
// nothing splits and merges in turns.
func (b *board) planMerges() {
	s := b.in.State
	if b.cfg.MergeBytes == 0 || !b.balancing() || len(s.Merges()) >= mergesAtOnce || len(s.shards) <= max(1, len(s.settings.SplitPoints)+1) {
		return
	}
	cold := coldLoad
	if b.cfg.SplitLoad > 0 {
		cold = b.cfg.SplitLoad / coldShare
	}
	for i := range max(0, len(s.segments)-1) {
		left, right := b.part(uint64(s.segments[i].shard)), b.part(uint64(s.segments[i+1].shard))
		if left == nil || right == nil || left.bytes+right.bytes >= b.cfg.MergeBytes || left.load+right.load >= cold ||
			!bytes.Equal(left.record.Current.End, right.record.Current.Start) || b.age(right.record.StickyUntilMs) < 0 ||
			!b.restful(left) || !b.restful(right) { // the last is what takes long
			continue
		}
		left.busy, right.busy = true, true
		b.steps = append(b.steps, Step{
			Kind: StepBeginMerge, Shard: left.id, Why: "both are small and cold",
			Text: fmt.Sprintf("merge shards %s and %s: both are small and cold", left.id, right.id),
			Command: &metapb.Command{Body: &metapb.Command_BeginMerge{BeginMerge: &metapb.BeginMerge{
				Left: uint64(left.id), Right: uint64(right.id)}}},
		})
		return
	}
}

// restful reports whether nothing was done to a shard lately and all of it is well.
func (b *board) restful(p *part) bool {
	return !p.busy && p.leader != nil && b.age(p.record.ChangedMs) >= b.in.Tuning.MergeRest && b.allWell(p)
}
