package sim

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"github.com/anishathalye/porcupine"

	"github.com/quorate-db/quorate/kv/kvpb"
)

// resolve gives the linearizable part of a group's history to the checker, with as
// few operations of unknown outcome as can be: a search over n of them takes up to
// 2ⁿ steps. What is known of an operation that its client heard nothing of:
//
//   - A value is written once. Who read it, read it at the operation's version, and
//     it had taken effect by then.
//   - A digit of a counter counts the additions of one client. As many as are
//     counted had taken effect by then; they are alike, so they are the first.
//   - Every change of a cell tells what the cell held before. So an operation whose
//     values nobody saw either had no effect, or its effect was replaced by another
//     one of unknown outcome before anybody saw it. It may be left out.
//
// The third does not hold of deletions, which leave nothing to see: they stay open.
// A refusal that tells only a version, of which nobody knows the value, is left out,
// and so is a guard that held at such a version: what wrote it may be left out.
func resolve(records []record, config Config) []porcupine.Operation {
	e := newEvidence(records)
	unknownAdds := map[int][]*record{} // by client, in order of call
	var out []porcupine.Operation
	keep := func(r record, ret int64) {
		r.request.guards = e.guardsOf(&r)
		out = append(out, porcupine.Operation{ClientId: r.client, Input: r.request, Output: r.answer, Call: r.call, Return: ret, Metadata: r.String()})
	}
	for i := range records {
		r := &records[i]
		switch {
		case r.stale, e.mute(r):
		case r.answer.outcome != unknown:
			keep(*r, r.ret)
		case r.request.changes[0].kind == kvpb.OpKind_OP_ADD:
			unknownAdds[r.client] = append(unknownAdds[r.client], r)
		case r.request.changes[0].kind == kvpb.OpKind_OP_DELETE:
			keep(*r, math.MaxInt64)
		default:
			if sight, ok := e.sightOf(r); ok {
				known := *r
				known.answer = answer{outcome: applied, version: sight.version}
				keep(known, max(sight.ret, r.call+1))
			}
		}
	}
	for client, list := range unknownAdds {
		slices.SortFunc(list, func(a, b *record) int { return cmp.Compare(a.call, b.call) })
		for i, ret := range e.countedBy(client, slotOf(config, client, list[0].shard, list[0].group)) {
			if i < len(list) {
				known := *list[i]
				known.answer = answer{outcome: applied}
				keep(known, max(ret, known.call+1))
			}
		}
	}
	return out
}

// sight is that a value was seen at a version by somebody who had returned by ret.
type sight struct {
	version uint64
	ret     int64
}

// evidence is what the answers of a group tell.
type evidence struct {
	records  []record
	values   map[int]map[string]sight // by cell and value
	known    map[told]bool            // versions of which more is known than the number
	counters []counted                // ascending in version
}

// told is a version of a cell.
type told struct {
	cell    int
	version uint64
}

// counted is a value of the counter.
type counted struct {
	value   string
	version uint64
	ret     int64
}

func newEvidence(records []record) *evidence {
	e := &evidence{records: records, values: map[int]map[string]sight{}, known: map[told]bool{}}
	for i := range cells {
		e.values[i] = map[string]sight{}
	}
	for i := range records {
		r := &records[i]
		if r.answer.outcome == unknown {
			continue
		}
		which := r.request.cells
		if !r.request.read {
			which = nil
			for n, c := range r.request.changes {
				which = append(which, c.cell)
				if c.kind == kvpb.OpKind_OP_ADD && r.answer.outcome == succeeded {
					e.counters = append(e.counters, counted{strconv.FormatInt(r.answer.cells[n].number, 10), r.answer.version, r.ret})
				}
			}
			if r.answer.version != 0 {
				for _, c := range r.request.changes {
					e.known[told{c.cell, r.answer.version}] = true
				}
			}
			if r.answer.outcome == refused {
				which = r.request.looked()
				if !r.request.look {
					continue
				}
			}
		}
		for n, cell := range which {
			e.see(cell, r.answer.cells[n], r.ret)
		}
	}
	slices.SortFunc(e.counters, func(a, b counted) int {
		return cmp.Or(cmp.Compare(a.version, b.version), cmp.Compare(a.ret, b.ret))
	})
	return e
}

func (e *evidence) see(cell int, s seen, ret int64) {
	if !s.found {
		return
	}
	e.known[told{cell, s.version}] = true
	if cell == counter {
		e.counters = append(e.counters, counted{s.value, s.version, ret})
		return
	}
	first, ok := e.values[cell][s.value]
	if !ok || ret < first.ret {
		e.values[cell][s.value] = sight{s.version, ret}
	}
}

// mute recognises a refusal that tells only a version, of which nobody knows the
// value.
func (e *evidence) mute(r *record) bool {
	if r.answer.outcome != refused || r.request.look || r.answer.current == 0 || r.answer.failed >= len(r.request.guards) {
		return false
	}
	return !e.known[told{r.request.guards[r.answer.failed].cell, r.answer.current}]
}

// guardsOf gives the guards of a request without those that held at a version of
// which nobody knows the value.
func (e *evidence) guardsOf(r *record) []guard {
	if r.answer.outcome != succeeded && r.answer.outcome != applied {
		return r.request.guards
	}
	return slices.DeleteFunc(slices.Clone(r.request.guards), func(g guard) bool {
		return !g.absent && !e.known[told{g.cell, g.version}]
	})
}

// sightOf tells whether somebody saw a value that an operation wrote.
func (e *evidence) sightOf(r *record) (sight, bool) {
	var best sight
	found := false
	for _, c := range r.request.changes {
		if s, ok := e.values[c.cell][c.value]; ok && (!found || s.ret < best.ret) {
			best, found = s, true
		}
	}
	return best, found
}

// countedBy gives, for each unknown addition of a client that is counted, when the
// first to see that many had returned.
func (e *evidence) countedBy(client, slot int) []int64 {
	var acked []uint64 // versions of acknowledged additions
	for _, r := range e.records {
		if r.client == client && r.answer.outcome == succeeded && len(r.request.changes) > 0 && r.request.changes[0].kind == kvpb.OpKind_OP_ADD {
			acked = append(acked, r.answer.version)
		}
	}
	slices.Sort(acked)
	var out []int64
	for _, c := range e.counters {
		n, _ := slices.BinarySearch(acked, c.version+1)
		extra := int(digit(c.value, slot)) - n
		for i := range min(extra, len(e.records)) {
			if i == len(out) {
				out = append(out, c.ret)
			}
			out[i] = min(out[i], c.ret)
		}
	}
	return out
}

// digit gives how many additions of a slot a counter's value counts, -1 if it is
// not a counter's.
func digit(value string, slot int) int64 {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return -1
	}
	return n >> (slotBits * slot) & (1<<slotBits - 1)
}
