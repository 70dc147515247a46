package sim

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/quorate-db/quorate/kv/kvpb"
)

// checkWithin bounds the search for a linearization of one group. It is real time:
// the check runs outside of the bubble.
const checkWithin = 2 * time.Minute

// Check checks a run's history (C1, C2, C5, C6) and gives what is wrong with it.
// It must be called outside of the bubble.
func (r *Result) Check() []string {
	wrong := slices.Clone(r.Violations)
	wrong = append(wrong, checkVersions(r.records)...)
	wrong = append(wrong, checkStale(r.records, r.Config.StaleSlack)...)
	wrong = append(wrong, checkCounters(r.records, r.Config)...)
	wrong = append(wrong, checkGroups(r.records)...)
	return wrong
}

type groupKey struct{ shard, group int }

func byGroup(records []record) map[groupKey][]record {
	out := map[groupKey][]record{}
	for _, r := range records {
		k := groupKey{r.shard, r.group}
		out[k] = append(out[k], r)
	}
	return out
}

// checkGroups looks for a linearization of every group (C1).
func checkGroups(records []record) []string {
	var wrong []string
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, 2)
	for key, list := range byGroup(records) {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			var problem string
			switch porcupine.CheckOperationsTimeout(groupModel(), operations(list), checkWithin) {
			case porcupine.Illegal:
				problem = fmt.Sprintf("C1: the history of s%02d/g%02d is not linearizable\n%s", key.shard, key.group, tail(list))
			case porcupine.Unknown:
				problem = fmt.Sprintf("C1: no verdict on s%02d/g%02d after %s", key.shard, key.group, checkWithin)
			default:
				return
			}
			mu.Lock()
			defer mu.Unlock()
			wrong = append(wrong, problem)
		})
	}
	wg.Wait()
	return wrong
}

// tailMax is how many operations of a history that is wrong are shown.
const tailMax = 40

// tail finds the shortest beginning of a history that is not linearizable and
// gives its last operations.
func tail(list []record) string {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b record) int { return cmp.Compare(a.ret, b.ret) })
	wrong := func(n int) bool {
		ops := operations(list[:n])
		// Operations that return later may have taken effect already.
		for _, r := range list[n:] {
			if !r.stale && !r.request.read && (n == 0 || r.call < list[n-1].ret) {
				ops = append(ops, operations([]record{withoutAnswer(r)})...)
			}
		}
		return porcupine.CheckOperationsTimeout(groupModel(), ops, 10*time.Second) == porcupine.Illegal
	}
	low, high := 0, len(list)
	for low < high {
		if n := (low + high) / 2; wrong(n) {
			high = n
		} else {
			low = n + 1
		}
	}
	shown := list[max(0, low-tailMax):min(low, len(list))]
	out := ""
	for _, r := range shown {
		out += "  " + r.String() + "\n"
	}
	return out
}

func withoutAnswer(r record) record {
	r.answer = answer{outcome: unknown}
	return r
}

// checkVersions holds versions against real time (C2).
func checkVersions(records []record) []string {
	var wrong []string
	byShard := map[int][]record{}
	for _, r := range records {
		if !r.stale && r.answer.outcome != unknown {
			byShard[r.shard] = append(byShard[r.shard], r)
		}
	}
	for shard, list := range byShard {
		wrong = append(wrong, checkOrder(shard, list)...)
	}
	return wrong
}

// checkOrder goes through the calls and returns of a shard in their order.
func checkOrder(shard int, list []record) []string {
	type event struct {
		at  int64
		r   *record
		ret bool
	}
	var events []event
	used := map[uint64]*record{}
	var wrong []string
	for i := range list {
		r := &list[i]
		events = append(events, event{r.call, r, false}, event{r.ret, r, true})
		if v := r.answer.version; v != 0 {
			if other := used[v]; other != nil {
				wrong = append(wrong, fmt.Sprintf("C2: s%02d: two transactions have one version:\n  %s\n  %s", shard, other, r))
			}
			used[v] = r
		}
	}
	slices.SortFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	floors := map[*record]*record{} // the newest acknowledged write when it was called
	var newest *record
	for _, e := range events {
		if !e.ret {
			floors[e.r] = newest
			continue
		}
		floor := floors[e.r]
		if floor != nil && e.r.answer.version != 0 && e.r.answer.version <= floor.answer.version {
			wrong = append(wrong, fmt.Sprintf("C2: s%02d: a write has a smaller version than one that was acknowledged before it began:\n  %s\n  %s", shard, floor, e.r))
		}
		if floor != nil && e.r.answer.last != 0 && e.r.answer.last < floor.answer.version {
			wrong = append(wrong, fmt.Sprintf("C2: s%02d: an answer comes from a state older than a write that was acknowledged before it began:\n  %s\n  %s", shard, floor, e.r))
		}
		if v := e.r.answer.version; v != 0 && (newest == nil || v > newest.answer.version) {
			newest = e.r
		}
	}
	return wrong[:min(len(wrong), violationsMax)]
}

// checkCounters adds up (C5). The last answer of a counter is the run's own last
// read of it.
func checkCounters(records []record, config Config) []string {
	type sums struct{ low, high, final int64 }
	totals := map[groupKey]*sums{}
	for _, r := range records {
		k := groupKey{r.shard, r.group}
		t := totals[k]
		if t == nil {
			t = &sums{}
			totals[k] = t
		}
		for _, c := range r.request.changes {
			if c.kind == kvpb.OpKind_OP_ADD && r.answer.outcome != refused {
				t.high += c.delta
				if r.answer.outcome == succeeded {
					t.low += c.delta
				}
			}
		}
		if r.client == finalClient && r.request.read {
			for i, cell := range r.request.cells {
				if cell == counter && r.answer.cells[i].found {
					t.final = parse(r.answer.cells[i].value)
				}
			}
		}
	}
	var wrong []string
	for k, t := range totals {
		if t.final < t.low || t.final > t.high {
			wrong = append(wrong, fmt.Sprintf("C5: the counter of s%02d/g%02d ends at %d; %d was acknowledged, %d with all that is unknown", k.shard, k.group, t.final, t.low, t.high))
		}
	}
	return wrong
}

// checkStale checks stale reads (C6).
func checkStale(records []record, slack time.Duration) []string {
	var wrong []string
	written := map[string]bool{}
	acked := map[int][]record{} // by shard
	for _, r := range records {
		for _, c := range r.request.changes {
			if c.kind == kvpb.OpKind_OP_PUT {
				written[keyOf(r.shard, r.group, c.cell)+"="+c.value] = true
			}
		}
		if r.answer.outcome == succeeded && r.answer.version != 0 && !r.stale {
			acked[r.shard] = append(acked[r.shard], r)
		}
	}
	// newest[i] is the largest version among the first i+1 in order of return.
	newest := map[int][]*record{}
	for shard, list := range acked {
		slices.SortFunc(list, func(a, b record) int { return cmp.Compare(a.returned, b.returned) })
		best := make([]*record, len(list))
		for i := range list {
			best[i] = &list[i]
			if i > 0 && best[i-1].answer.version > best[i].answer.version {
				best[i] = best[i-1]
			}
		}
		newest[shard] = best
	}
	for _, r := range records {
		if !r.stale {
			continue
		}
		for i, s := range r.answer.cells {
			if s.found && r.request.cells[i] != counter && !written[keyOf(r.shard, r.group, r.request.cells[i])+"="+s.value] {
				wrong = append(wrong, fmt.Sprintf("C6: a stale read gives what nobody wrote: %s", r))
			}
		}
		if r.bound == 0 {
			continue
		}
		before := r.called - r.bound - slack
		n, _ := slices.BinarySearchFunc(acked[r.shard], before, func(w record, at time.Duration) int { return cmp.Compare(w.returned, at) })
		if n > 0 && newest[r.shard][n-1].answer.version > r.answer.last {
			wrong = append(wrong, fmt.Sprintf("C6: a stale read is older than its bound:\n  %s\n  %s", newest[r.shard][n-1], r))
		}
	}
	return wrong[:min(len(wrong), violationsMax)]
}
