package placement

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// stickyMs is how long a boundary that was made by hand stays: no merge of the
// planner's own undoes it before.
const stickyMs = 24 * 60 * 60 * 1000

func (s *State) beginSplit(c *metapb.BeginSplit, at int64) (*State, *metapb.Result) {
	shard := kv.ShardID(c.GetShard())
	h := s.Shard(shard)
	switch d := h.GetCurrent(); {
	case h == nil:
		return s, refuse(kv.CodeNotFound, "no shard %s", shard)
	case h.State != metapb.ShardState_SHARD_ACTIVE:
		return s, refuse(kv.CodeConflict, "shard %s has not come up yet", shard)
	case c.Generation != 0 && c.Generation != d.Generation:
		return s, refuse(kv.CodeConflict, "shard %s has generation %d, not %d", shard, d.Generation, c.Generation)
	case len(c.Key) > kv.KeyBytesMax:
		return s, refuse(kv.CodeKeyTooLong, "a key has at most %d bytes", kv.KeyBytesMax)
	case len(c.Key) > 0 && (bytes.Compare(c.Key, d.Start) <= 0 || len(d.End) > 0 && bytes.Compare(c.Key, d.End) >= 0):
		return s, refuse(kv.CodeInvalid, "shard %s cannot be split at %q: it holds the keys from %q to %q", shard, c.Key, d.Start, d.End)
	case s.changing(shard) != "":
		return s, refuse(kv.CodeConflict, "shard %s: %s", shard, s.changing(shard))
	case len(s.changes.splits) >= splitsMax || c.Ordered && s.running() >= operationsRunning:
		return s, refuse(kv.CodeOverloaded, "too many splits or operations are under way")
	}
	next := *s
	p := &metapb.Split{Shard: c.Shard, Child: s.nextShard, Generation: h.Current.Generation, Key: c.Key, ByLoad: c.ByLoad, SinceMs: at}
	next.nextShard++
	var op *metapb.Operation
	if c.Ordered {
		op = next.begin(at, kv.OperationSplit, &metapb.Operation{Target: "shard " + shard.String(), Shard: c.Shard, Total: 1})
		p.Operation = op.Id
	}
	next.changes.splits = with(s.changes.splits, p, (*metapb.Split).GetShard)
	return &next, &metapb.Result{Split: p, Operation: op, FirstShard: p.Child}
}

func (s *State) endSplit(c *metapb.EndSplit, at int64) (*State, *metapb.Result) {
	p := s.Split(kv.ShardID(c.GetShard()))
	if p == nil || p.Child != c.Child {
		return s, refuse(kv.CodeConflict, "that split of shard %d is over", c.GetShard())
	}
	next := *s
	next.changes.splits = without(s.changes.splits, p.Shard, (*metapb.Split).GetShard)
	next.end(at, p.Operation, kv.OperationFailed, c.Error)
	return &next, &metapb.Result{Split: p}
}

// settleSplits ends the splits that a report of d shows to be done: those of which
// both halves have been reported, in whatever order.
func (s *State) settleSplits(d *kvpb.ShardDescriptor, at int64) {
	for _, p := range s.changes.splits {
		if p.Shard != d.Shard && p.Child != d.Shard {
			continue
		}
		parent, child := s.Shard(kv.ShardID(p.Shard)), s.Shard(kv.ShardID(p.Child))
		if child == nil || parent.GetCurrent().GetGeneration() <= p.Generation {
			continue
		}
		s.changes.splits = without(s.changes.splits, p.Shard, (*metapb.Split).GetShard)
		s.event(at, EventSplit, 0, p.Shard, fmt.Sprintf("shard %d gave the keys from %q on to shard %d", p.Shard, child.Current.Start, p.Child))
		s.end(at, p.Operation, kv.OperationDone, "")
		if p.Operation != 0 {
			sticky := cloneOf(child)
			sticky.StickyUntilMs = at + stickyMs
			s.shards = with(s.shards, sticky, shardOf)
		}
		return
	}
}

func (s *State) beginMerge(c *metapb.BeginMerge, at int64) (*State, *metapb.Result) {
	left, right := s.Shard(kv.ShardID(c.GetLeft())), s.Shard(kv.ShardID(c.GetRight()))
	switch l, r := left.GetCurrent(), right.GetCurrent(); {
	case left == nil || right == nil:
		return s, refuse(kv.CodeNotFound, "no shard %d or no shard %d", c.GetLeft(), c.GetRight())
	case left.State != metapb.ShardState_SHARD_ACTIVE || right.State != metapb.ShardState_SHARD_ACTIVE:
		return s, refuse(kv.CodeConflict, "shards %d and %d have not both come up yet", c.Left, c.Right)
	case len(l.End) == 0 || !bytes.Equal(l.End, r.Start):
		return s, refuse(kv.CodeConflict, "shard %d does not begin where shard %d ends", c.Right, c.Left)
	case s.changing(kv.ShardID(c.Left)) != "":
		return s, refuse(kv.CodeConflict, "shard %d: %s", c.Left, s.changing(kv.ShardID(c.Left)))
	case s.changing(kv.ShardID(c.Right)) != "":
		return s, refuse(kv.CodeConflict, "shard %d: %s", c.Right, s.changing(kv.ShardID(c.Right)))
	case len(s.changes.merges) >= mergesMax || c.Ordered && s.running() >= operationsRunning:
		return s, refuse(kv.CodeOverloaded, "too many merges or operations are under way")
	}
	m := &metapb.Merge{Left: c.Left, Right: c.Right, Stage: metapb.MergeStage_MERGE_ALIGNING, SinceMs: at, StageSinceMs: at}
	if c.FrozenIndex != 0 {
		m.Stage, m.FrozenIndex, m.Why = metapb.MergeStage_MERGE_REFUSING, c.FrozenIndex, "it was frozen for a merge that nobody knows of"
	}
	m.LeftGeneration, m.RightGeneration = left.Current.Generation, right.Current.Generation
	next := *s
	var op *metapb.Operation
	if c.Ordered {
		op = next.begin(at, kv.OperationMerge, &metapb.Operation{
			Target: fmt.Sprintf("shards %d and %d", c.Left, c.Right), Shard: c.Left, Total: 1, Cancellable: true,
		})
		m.Operation = op.Id
	}
	next.changes.merges = with(s.changes.merges, m, (*metapb.Merge).GetLeft)
	return &next, &metapb.Result{Operation: op}
}

// aligned reports whether both shards have voters on the same nodes and no other
// members.
func aligned(a, b *kvpb.ShardDescriptor) bool {
	if len(a.GetReplicas()) != len(b.GetReplicas()) {
		return false
	}
	for _, r := range a.GetReplicas() {
		if r.Role != kvpb.ReplicaRole_ROLE_VOTER || replicaOf(b, r.Node).GetRole() != kvpb.ReplicaRole_ROLE_VOTER {
			return false
		}
	}
	return true
}

// advanceMerge takes a merge from one stage to the next, or gives it up.
func (s *State) advanceMerge(c *metapb.AdvanceMerge, at int64) (*State, *metapb.Result) {
	m := found(s.changes.merges, c.GetLeft(), (*metapb.Merge).GetLeft)
	if m == nil || m.Right != c.Right || m.Stage != c.From {
		return s, refuse(kv.CodeConflict, "the merge of shards %d and %d is not at that stage", c.GetLeft(), c.GetRight())
	}
	const (
		aligning, freezing = metapb.MergeStage_MERGE_ALIGNING, metapb.MergeStage_MERGE_FREEZING
		frozen, refusing   = metapb.MergeStage_MERGE_FROZEN, metapb.MergeStage_MERGE_REFUSING
		unfreezing, ended  = metapb.MergeStage_MERGE_UNFREEZING, metapb.MergeStage_MERGE_ENDED
	)
	left, right := s.Shard(kv.ShardID(m.Left)).GetCurrent(), s.Shard(kv.ShardID(m.Right)).GetCurrent()
	type change struct{ from, to metapb.MergeStage }
	switch (change{c.From, c.To}) {
	case change{aligning, freezing}:
		if !aligned(left, right) || s.Move(kv.ShardID(m.Right)) != nil {
			return s, refuse(kv.CodeConflict, "shards %d and %d have their replicas on different nodes", m.Left, m.Right)
		}
	case change{freezing, frozen}:
		if c.FrozenIndex == 0 {
			return s, refuse(kv.CodeInvalid, "frozen at no index")
		}
	case change{aligning, ended}, change{freezing, refusing}, change{frozen, refusing}, change{refusing, unfreezing}, change{unfreezing, ended}:
	default:
		return s, refuse(kv.CodeInvalid, "a merge does not go from %s to %s", c.From, c.To)
	}
	next := *s
	m = cloneOf(m)
	m.Stage, m.StageSinceMs = c.To, at
	if m.Why == "" && (c.To == refusing || c.To == ended) {
		m.Why = c.Why
	}
	if c.FrozenIndex != 0 {
		m.FrozenIndex = c.FrozenIndex
	}
	if c.To != ended {
		next.changes.merges = with(s.changes.merges, m, (*metapb.Merge).GetLeft)
		return &next, &metapb.Result{}
	}
	next.changes.merges = without(s.changes.merges, m.Left, (*metapb.Merge).GetLeft)
	next.event(at, EventMergeRefused, 0, m.Left, fmt.Sprintf("shards %d and %d stay apart: %s", m.Left, m.Right, m.Why))
	state := kv.OperationFailed
	if m.Why == whyCancelled {
		state = kv.OperationCancelled
	}
	next.end(at, m.Operation, state, m.Why)
	return &next, &metapb.Result{}
}

// whyCancelled is why a merge was given up that somebody cancelled.
const whyCancelled = "cancelled"

// settleMerge brings a merge's idea of generations up to date while its shards
// only align. That a merge is done shows in retire.
func (s *State) settleMerge(d *kvpb.ShardDescriptor, at int64) {
	m := s.Merge(kv.ShardID(d.Shard))
	if m == nil || m.Stage != metapb.MergeStage_MERGE_ALIGNING {
		return
	}
	left, right := s.Shard(kv.ShardID(m.Left)).GetCurrent(), s.Shard(kv.ShardID(m.Right)).GetCurrent()
	if left.GetGeneration() != m.LeftGeneration || right.GetGeneration() != m.RightGeneration {
		// Somebody changed a range behind the meta shard's back; nothing is frozen yet.
		s.changes.merges = without(s.changes.merges, m.Left, (*metapb.Merge).GetLeft)
		s.end(at, m.Operation, kv.OperationFailed, "a shard changed its range meanwhile")
	}
}

// retire forgets a shard that by has absorbed, with all that was under way for it,
// and remembers that it is gone. The receiver is not shared yet.
func (s *State) retire(shard uint64, by *kvpb.ShardDescriptor, at int64) {
	if m := s.Move(kv.ShardID(shard)); m != nil {
		s.end(at, m.Operation, kv.OperationFailed, "the shard was merged away")
	}
	if p := s.Split(kv.ShardID(shard)); p != nil {
		s.end(at, p.Operation, kv.OperationFailed, "the shard was merged away")
	}
	s.changes.moves = without(s.changes.moves, shard, (*metapb.Move).GetShard)
	s.changes.splits = without(s.changes.splits, shard, (*metapb.Split).GetShard)
	s.changes.merges = slices.DeleteFunc(slices.Clone(s.changes.merges), func(m *metapb.Merge) bool {
		if m.Left != shard && m.Right != shard {
			return false
		}
		if m.Right == shard && m.Left == by.Shard {
			s.end(at, m.Operation, kv.OperationDone, "")
		} else {
			s.end(at, m.Operation, kv.OperationFailed, "a shard was merged into another one")
		}
		return true
	})
	retired := with(s.changes.retired, &metapb.Retired{Shard: shard, Into: by.Shard, Generation: by.Generation}, (*metapb.Retired).GetShard)
	s.changes.retired = retired[max(0, len(retired)-retiredKept):]
	s.event(at, EventMerge, 0, by.Shard, fmt.Sprintf("shard %d absorbed shard %d", by.Shard, shard))
}
