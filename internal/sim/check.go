package sim

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// Check checks a run's history (C1, C2, C5, C6) and gives what is wrong with it.
// It must be called outside of the bubble.
func (r *Result) Check() []string {
	return append(r.quickCheck(), checkGroups(r.records, r.Config)...)
}

// quickCheck is Check without the search for linearizations.
func (r *Result) quickCheck() []string {
	wrong := slices.Clone(r.Violations)
	wrong = append(wrong, checkVersions(r.records)...)
	wrong = append(wrong, checkSights(r.denied, r.records)...) // first: it names the writer
	wrong = append(wrong, r.checkStale()...)
	return append(wrong, checkCounters(r.records, r.Config)...)
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
func checkGroups(records []record, config Config) []string {
	var wrong []string
	var mu sync.Mutex
	var wg sync.WaitGroup
	lanes := make(chan struct{}, 2)
	for key, list := range byGroup(records) {
		wg.Go(func() {
			lanes <- struct{}{}
			defer func() { <-lanes }()
			ops := resolve(list, config)
			verdict, info := porcupine.CheckOperationsVerbose(groupModel(), ops, config.CheckWithin)
			var problem string
			switch verdict {
			case porcupine.Illegal:
				problem = fmt.Sprintf("C1: the history of s%02d/g%02d is not linearizable; it makes sense up to around:\n%s", key.shard, key.group, impasse(ops, info))
			case porcupine.Unknown:
				problem = fmt.Sprintf("C1: no verdict on s%02d/g%02d after %s", key.shard, key.group, config.CheckWithin)
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

// impasseShown is how many operations before the impasse of a history are shown.
const impasseShown = 25

// impasse shows where the longest linearization that was found gets stuck.
func impasse(ops []porcupine.Operation, info porcupine.LinearizationInfo) string {
	var longest []porcupine.Operation
	for _, list := range info.PartialLinearizationsOperations()[0] {
		if len(list) > len(longest) {
			longest = list
		}
	}
	placed := map[int64]bool{}
	for _, op := range longest {
		placed[op.Call] = true
	}
	out := ""
	for _, op := range longest[max(0, len(longest)-impasseShown):] {
		out += "    " + op.Metadata.(string) + "\n"
	}
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	shown := 0
	for _, op := range ops {
		if !placed[op.Call] && shown < 6 {
			out += " ?? " + op.Metadata.(string) + "\n"
			shown++
		}
	}
	return out
}

// checkVersions holds versions against real time (C2).
func checkVersions(records []record) []string {
	var wrong []string
	byShard := map[kv.ShardID][]record{}
	for _, r := range records {
		if !r.stale && !r.replayed && r.answer.outcome != unknown {
			byShard[r.owner] = append(byShard[r.owner], r)
		}
	}
	for shard, list := range byShard {
		wrong = append(wrong, checkOrder(shard, list)...)
	}
	return wrong
}

// checkOrder goes through the calls and returns of a shard in their order.
func checkOrder(shard kv.ShardID, list []record) []string {
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
				wrong = append(wrong, fmt.Sprintf("C2: shard %s: two transactions have one version:\n  %s\n  %s", shard, other, r))
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
			wrong = append(wrong, fmt.Sprintf("C2: shard %s: a write has a smaller version than one that was acknowledged before it began:\n  %s\n  %s", shard, floor, e.r))
		}
		if floor != nil && e.r.answer.last != 0 && e.r.answer.last < floor.answer.version {
			wrong = append(wrong, fmt.Sprintf("C2: shard %s: an answer comes from a state older than a write that was acknowledged before it began:\n  %s\n  %s", shard, floor, e.r))
		}
		if v := e.r.answer.version; v != 0 && (newest == nil || v > newest.answer.version) {
			newest = e.r
		}
	}
	return wrong[:min(len(wrong), violationsMax)]
}

// checkCounters counts every client's additions (C5). The last answer of a counter
// is the run's own last read of it.
func checkCounters(records []record, config Config) []string {
	type key struct{ shard, group, slot int }
	type tally struct{ low, high, final int64 }
	read := map[[2]int]bool{} // groups whose counter was read at the end
	tallies := map[key]*tally{}
	at := func(k key) *tally {
		if tallies[k] == nil {
			tallies[k] = &tally{}
		}
		return tallies[k]
	}
	for _, r := range records {
		for _, c := range r.request.changes {
			if c.kind == kvpb.OpKind_OP_ADD {
				t := at(key{r.shard, r.group, slotOf(config, r.client, r.shard, r.group)})
				t.high++
				if r.answer.outcome == succeeded {
					t.low++
				}
			}
		}
		if r.client != finalClient {
			continue
		}
		i := slices.Index(r.request.cells, counter)
		if i < 0 {
			continue
		}
		read[[2]int{r.shard, r.group}] = true
		if r.answer.cells[i].found {
			for slot := range slots {
				at(key{r.shard, r.group, slot}).final = digit(r.answer.cells[i].value, slot)
			}
		}
	}
	var wrong []string
	for k, t := range tallies {
		if read[[2]int{k.shard, k.group}] && (t.final < t.low || t.final > t.high) {
			wrong = append(wrong, fmt.Sprintf("C5: the counter of s%02d/g%02d ends with %d additions of the client of digit %d; %d were acknowledged, %d with all that are unknown",
				k.shard, k.group, t.final, k.slot, t.low, t.high))
		}
	}
	return wrong
}

// place is where versions only grow: a shard, or a cell, whichever shard that lies
// in.
type place struct {
	owner kv.ShardID
	cell  string
}

func placesOf(r record) []place {
	out := []place{{owner: r.owner}}
	cells := r.request.cells
	if !r.request.read {
		cells = r.request.looked()
	}
	for _, cell := range cells {
		out = append(out, place{cell: keyOf(r.shard, r.group, cell)})
	}
	return out
}

// checkSights holds what was seen of each value against what its writer was told
// (C1): a transaction that was answered to have had no effect has none, and one that
// was acknowledged has it at its version. A search for a linearization would fail on
// that too, but not say why.
func checkSights(denied, records []record) []string {
	type at struct{ cell, value string }
	written := map[at]*record{}
	note := func(list []record, all bool) {
		for i := range list {
			r := &list[i]
			for _, c := range r.request.changes {
				if c.kind == kvpb.OpKind_OP_PUT && (all || r.answer.outcome != unknown) {
					written[at{keyOf(r.shard, r.group, c.cell), c.value}] = r
				}
			}
		}
	}
	note(records, false)
	note(denied, true)
	var wrong []string
	for i := range records {
		r := &records[i]
		which := r.request.seenCells(r.answer)
		for n, s := range r.answer.cells {
			if !s.found || n >= len(which) {
				continue
			}
			w := written[at{keyOf(r.shard, r.group, which[n]), s.value}]
			if w != nil && (w.answer.outcome != succeeded || w.answer.version != s.version) {
				wrong = append(wrong, fmt.Sprintf("C1: what was seen of a transaction is not what its client was told:\n  %s\n  %s", w, r))
			}
		}
	}
	return wrong[:min(len(wrong), violationsMax)]
}

// seenCells gives the cells that an answer tells of, in its order.
func (q request) seenCells(a answer) []int {
	switch {
	case q.read:
		return q.cells
	case a.outcome == unknown:
		return nil
	case a.outcome == refused && q.look:
		return q.looked()
	case a.outcome == refused:
		return nil
	}
	out := make([]int, len(q.changes))
	for i, c := range q.changes {
		out[i] = c.cell
	}
	return out
}

// checkStale checks stale reads (C6).
func (r *Result) checkStale() []string {
	var wrong []string
	records := r.records
	written := map[string]bool{}
	acked := map[place][]record{}
	for _, r := range records {
		for _, c := range r.request.changes {
			if c.kind == kvpb.OpKind_OP_PUT {
				written[keyOf(r.shard, r.group, c.cell)+"="+c.value] = true
			}
		}
		if r.answer.outcome == succeeded && r.answer.version != 0 && !r.stale {
			for _, p := range placesOf(r) {
				acked[p] = append(acked[p], r)
			}
		}
	}
	// newest[i] is the largest version among the first i+1 in order of return.
	newest := map[place][]*record{}
	for at, list := range acked {
		slices.SortFunc(list, func(a, b record) int { return cmp.Compare(a.returned, b.returned) })
		best := make([]*record, len(list))
		for i := range list {
			best[i] = &list[i]
			if i > 0 && best[i-1].answer.version > best[i].answer.version {
				best[i] = best[i-1]
			}
		}
		newest[at] = best
	}
	for _, read := range records {
		if !read.stale {
			continue
		}
		for i, s := range read.answer.cells {
			if s.found && read.request.cells[i] != counter && !written[keyOf(read.shard, read.group, read.request.cells[i])+"="+s.value] {
				wrong = append(wrong, fmt.Sprintf("C6: a stale read gives what nobody wrote: %s", read))
			}
		}
		if read.bound == 0 {
			continue
		}
		reach := read.bound + r.Config.StaleSlack
		before := read.called - reach - r.delayed(read.called-reach, read.returned)
		for _, p := range placesOf(read) {
			n, _ := slices.BinarySearchFunc(acked[p], before, func(w record, at time.Duration) int { return cmp.Compare(w.returned, at) })
			if n > 0 && newest[p][n-1].answer.version > read.answer.last {
				wrong = append(wrong, fmt.Sprintf("C6: a stale read is older than its bound:\n  %s\n  %s", newest[p][n-1], read))
				break
			}
		}
	}
	return wrong[:min(len(wrong), violationsMax)]
}

// delayed gives for how long a message may have been on its way that arrived
// between two times.
func (r *Result) delayed(from, to time.Duration) time.Duration {
	var most time.Duration
	for _, d := range r.delays {
		if d.from <= to && from <= d.to+d.by {
			most = max(most, d.by)
		}
	}
	return most
}
