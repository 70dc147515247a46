package placement

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// Bounds of what the state remembers of the past.
const (
	operationsKept    = 100 // that ended
	operationsRunning = 1000
	eventsKept        = 1000
	retiredKept       = 4096
	movesMax          = kv.MovesPerClusterMax + 1024 // also those that are ordered by hand
	splitsMax         = 1024
	mergesMax         = 64
)

// changes is the part of the state that says what is under way. Like all of State
// it is immutable: who changes a slice makes a new one.
type changes struct {
	moves   []*metapb.Move  // ascending shard
	splits  []*metapb.Split // ascending shard
	merges  []*metapb.Merge // ascending left
	retired []*metapb.Retired
}

// history is the part that says what was done.
type history struct {
	operations    []*metapb.Operation // ascending id
	events        []*metapb.Event     // ascending seq
	nextOperation uint64
	nextEvent     uint64
}

// Moves gives the moves under way, by shard.
func (s *State) Moves() []*metapb.Move { return s.changes.moves }

// Splits gives the splits under way, by shard.
func (s *State) Splits() []*metapb.Split { return s.changes.splits }

// Merges gives the merges under way, by their left shard.
func (s *State) Merges() []*metapb.Merge { return s.changes.merges }

// Operations gives those under way and the last that ended, by id.
func (s *State) Operations() []*metapb.Operation { return s.history.operations }

// Events gives the last events, the oldest first.
func (s *State) Events() []*metapb.Event { return s.history.events }

// Move finds the move of a shard, nil if there is none.
func (s *State) Move(shard kv.ShardID) *metapb.Move {
	return found(s.changes.moves, uint64(shard), (*metapb.Move).GetShard)
}

// Split finds the split of a shard, nil if there is none.
func (s *State) Split(shard kv.ShardID) *metapb.Split {
	return found(s.changes.splits, uint64(shard), (*metapb.Split).GetShard)
}

// Merge finds the merge that a shard takes part in, on either side.
func (s *State) Merge(shard kv.ShardID) *metapb.Merge {
	for _, m := range s.changes.merges {
		if m.Left == uint64(shard) || m.Right == uint64(shard) {
			return m
		}
	}
	return nil
}

// Retired finds what became of a shard that was merged away, nil if it was not or
// if that is long ago.
func (s *State) Retired(shard kv.ShardID) *metapb.Retired {
	return found(s.changes.retired, uint64(shard), (*metapb.Retired).GetShard)
}

// Operation finds an operation, nil if it is unknown or long over.
func (s *State) Operation(id uint64) *metapb.Operation {
	return found(s.history.operations, id, (*metapb.Operation).GetId)
}

// changing says in words what is being done to a shard, "" if nothing is.
func (s *State) changing(shard kv.ShardID) string {
	switch m := s.Merge(shard); {
	case s.Move(shard) != nil:
		return "a replica of it is being moved"
	case s.Split(shard) != nil:
		return "it is being split"
	case m != nil && m.Left == uint64(shard):
		return fmt.Sprintf("it is about to absorb shard %d", m.Right)
	case m != nil:
		return fmt.Sprintf("shard %d is about to absorb it", m.Left)
	}
	return ""
}

func search[T any](list []T, id uint64, key func(T) uint64) (int, bool) {
	return slices.BinarySearchFunc(list, id, func(e T, id uint64) int { return cmp.Compare(key(e), id) })
}

func found[T any](list []*T, id uint64, key func(*T) uint64) *T {
	if i, ok := search(list, id, key); ok {
		return list[i]
	}
	return nil
}

// with gives a copy of an ascending list in which e replaces or joins the others.
func with[T any](list []*T, e *T, key func(*T) uint64) []*T {
	i, ok := search(list, key(e), key)
	list = slices.Clone(list)
	if ok {
		list[i] = e
		return list
	}
	return slices.Insert(list, i, e)
}

// without gives a copy of an ascending list that lacks id.
func without[T any](list []*T, id uint64, key func(*T) uint64) []*T {
	i, ok := search(list, id, key)
	if !ok {
		return list
	}
	return slices.Delete(slices.Clone(list), i, i+1)
}

// event adds an event. The receiver is not shared yet.
func (s *State) event(at int64, kind string, node, shard uint64, detail string) {
	h := &s.history
	h.events = append(slices.Clip(h.events), &metapb.Event{Seq: h.nextEvent, TimeMs: at, Kind: kind, Node: node, Shard: shard, Detail: detail})
	h.nextEvent++
	if over := len(h.events) - eventsKept; over > 0 {
		h.events = slices.Clone(h.events[over:])
	}
}

// begin adds a running operation and gives it. The receiver is not shared yet.
func (s *State) begin(at int64, kind kv.OperationKind, op *metapb.Operation) *metapb.Operation {
	h := &s.history
	op.Id, op.Kind, op.State, op.StartedMs, op.UpdatedMs = h.nextOperation, string(kind), string(kv.OperationRunning), at, at
	h.nextOperation++
	h.operations = append(slices.Clip(h.operations), op)
	return op
}

// running counts the operations under way.
func (s *State) running() int {
	n := 0
	for _, op := range s.history.operations {
		if op.State == string(kv.OperationRunning) {
			n++
		}
	}
	return n
}

// end ends an operation that is under way and forgets the oldest that ended
// before. The receiver is not shared yet. Nothing happens for id 0.
func (s *State) end(at int64, id uint64, state kv.OperationState, reason string) {
	op := s.Operation(id)
	if op == nil || op.State != string(kv.OperationRunning) {
		return
	}
	op = cloneOf(op)
	op.State, op.UpdatedMs, op.Error, op.Cancellable, op.Detail = string(state), at, reason, false, ""
	if state == kv.OperationDone {
		op.Done = op.Total
	}
	list := with(s.history.operations, op, (*metapb.Operation).GetId)
	over := len(list) - s.running() + 1 - operationsKept // of s, in which it still runs
	s.history.operations = slices.DeleteFunc(list, func(o *metapb.Operation) bool {
		if over > 0 && o.State != string(kv.OperationRunning) {
			over--
			return true
		}
		return false
	})
}

// checkChanges gives an error unless what is under way and what was done could
// have come from commands.
func (s *State) checkChanges() error {
	c, h := &s.changes, &s.history
	if err := errors.Join(
		ascending("move", c.moves, (*metapb.Move).GetShard), ascending("split", c.splits, (*metapb.Split).GetShard),
		ascending("merge", c.merges, (*metapb.Merge).GetLeft), ascending("retired shard", c.retired, (*metapb.Retired).GetShard),
		ascending("operation", h.operations, (*metapb.Operation).GetId), ascending("event", h.events, (*metapb.Event).GetSeq),
	); err != nil {
		return err
	}
	busy := map[uint64]string{}
	take := func(shard uint64, what string) error {
		if s.Shard(kv.ShardID(shard)) == nil {
			return fmt.Errorf("a %s of shard %d, which has no record", what, shard)
		}
		if busy[shard] != "" && what+busy[shard] != "movealignment" {
			return fmt.Errorf("shard %d has a %s and a %s", shard, busy[shard], what)
		}
		busy[shard] = what
		return nil
	}
	for _, m := range c.merges {
		right := "merge"
		if m.Stage == metapb.MergeStage_MERGE_ALIGNING {
			right = "alignment"
		}
		if err := errors.Join(take(m.Left, "merge"), take(m.Right, right)); err != nil {
			return err
		}
	}
	for _, m := range c.moves {
		if err := take(m.Shard, "move"); err != nil {
			return err
		}
		if m.Add == nil && m.Remove == nil || m.Add != nil && m.Add.Incarnation >= nextIncarnation(s.Shard(kv.ShardID(m.Shard))) {
			return fmt.Errorf("the move of shard %d changes nothing or adds what was not given out", m.Shard)
		}
	}
	for _, p := range c.splits {
		if err := take(p.Shard, "split"); err != nil {
			return err
		}
		if p.Child >= s.nextShard {
			return fmt.Errorf("child %d was not given out", p.Child)
		}
	}
	for _, r := range c.retired {
		if s.Shard(kv.ShardID(r.Shard)) != nil {
			return fmt.Errorf("shard %d is retired and has a record", r.Shard)
		}
	}
	return s.checkHistory()
}

func (s *State) checkHistory() error {
	h := &s.history
	if n := len(h.operations); n > 0 && h.operations[n-1].Id >= h.nextOperation {
		return fmt.Errorf("operation %d was not given out", h.operations[n-1].Id)
	}
	if n := len(h.events); n > 0 && h.events[n-1].Seq >= h.nextEvent {
		return fmt.Errorf("event %d was not given out", h.events[n-1].Seq)
	}
	return nil
}

func ascending[T any](what string, list []*T, key func(*T) uint64) error {
	for i, e := range list {
		if key(e) == 0 || i > 0 && key(list[i-1]) >= key(e) {
			return fmt.Errorf("%s %d is out of order", what, key(e))
		}
	}
	return nil
}

// nextIncarnation gives the least incarnation that no replica of the shard had.
func nextIncarnation(h *metapb.Shard) uint64 {
	next := max(h.GetNextIncarnation(), firstShardIncarnation+1)
	for _, d := range []*kvpb.ShardDescriptor{h.GetCurrent(), h.GetInitial()} {
		for _, r := range d.GetReplicas() {
			next = max(next, r.Incarnation+1)
		}
	}
	return next
}
