package sim

import (
	"math"
	"strconv"

	"github.com/anishathalye/porcupine"

	"github.com/quorate-db/quorate/kv/kvpb"
)

// cell is one key as the model knows it. An unknown write leaves a cell whose
// version is not known yet, only that it lies between floor and ceiling; the first
// answer that tells it settles it.
type cell struct {
	exists         bool
	value          string
	version        uint64 // 0 = not known
	floor, ceiling uint64 // while it is not known; both excluded
	last           uint64 // the largest version that its shard is known to have used by now
}

// group is the model's state. A split may part the cells of a group, and a merge
// unite them: versions grow for each cell, whichever shard it lies in, but not from
// one cell to another.
type group struct {
	cells [cells]cell
}

// groupModel is the sequential specification of one group of keys (C1).
func groupModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return group{} },
		Step: func(state, input, output any) (bool, any) {
			g := state.(group)
			ok := g.step(input.(request), output.(answer))
			return ok, g
		},
		DescribeOperation: func(input, output any) string {
			q := input.(request)
			return q.String() + " → " + output.(answer).describe(q)
		},
	}
}

// step changes the group as the request does if it could have been answered so.
func (g *group) step(q request, a answer) bool {
	switch {
	case q.read:
		return a.last >= g.lastOf(q.cells) && g.match(q.cells, a.cells)
	case a.outcome == refused:
		return g.refuse(q, a)
	case a.outcome == unknown:
		g.maybe(q)
		return true
	case a.outcome == applied:
		return g.mayHold(q) && (a.version == 0 || a.version > g.lastOf(q.looked())) && g.commit(q, a.version)
	default:
		return g.write(q, a)
	}
}

// lastOf gives the largest version that is known to have been used where all of
// some cells lie.
func (g *group) lastOf(which []int) uint64 {
	var last uint64
	for _, i := range which {
		last = max(last, g.cells[i].last)
	}
	return last
}

// settle holds a cell against a version that an answer tells of it.
func (g *group) settle(i int, version uint64) bool {
	c := &g.cells[i]
	if c.version == version {
		return true
	}
	if c.version != 0 || version <= c.floor || c.ceiling != 0 && version >= c.ceiling {
		return false
	}
	c.version = version
	c.last = max(c.last, version)
	return true
}

// match holds cells against what an answer says of them.
func (g *group) match(which []int, told []seen) bool {
	if len(told) != len(which) {
		return false
	}
	for n, i := range which {
		c, s := g.cells[i], told[n]
		if s.found != c.exists || s.found && (c.value != s.value || !g.settle(i, s.version)) {
			return false
		}
	}
	return true
}

func (g *group) refuse(q request, a answer) bool {
	if q.look {
		if !g.match(q.looked(), a.cells) {
			return false
		}
		before := *g // every version is known now
		return !before.mayHold(q)
	}
	if a.failed >= len(q.guards) || !g.mayHold(request{guards: q.guards[:a.failed]}) {
		return false
	}
	at := q.guards[a.failed]
	c := &g.cells[at.cell]
	if at.absent || c.exists {
		// False because the cell is there, at a version other than the asked one.
		return c.exists && a.current != 0 && (at.absent || a.current != at.version) && g.settle(at.cell, a.current)
	}
	return a.current == 0
}

// mayHold reports whether all guards can be true, and settles what that tells.
func (g *group) mayHold(q request) bool {
	for _, at := range q.guards {
		c := g.cells[at.cell]
		if at.absent == c.exists || !at.absent && !g.settle(at.cell, at.version) {
			return false
		}
	}
	return true
}

// maybe applies a request of which nothing was heard, where it could apply. Had it
// no effect, it can as well come after everything else.
func (g *group) maybe(q request) {
	before := *g
	if !g.mayHold(q) {
		*g = before
		return
	}
	g.commit(q, 0)
}

func (g *group) write(q request, a answer) bool {
	which := make([]int, len(q.changes))
	for n, c := range q.changes {
		which[n] = c.cell
	}
	if !g.mayHold(q) || !g.match(which, a.cells) {
		return false
	}
	wrote := false
	for n, c := range q.changes { // each of another cell
		if c.kind == kvpb.OpKind_OP_ADD && a.cells[n].number != number(g.cells[c.cell])+c.delta {
			return false
		}
		wrote = wrote || c.kind != kvpb.OpKind_OP_DELETE || a.cells[n].found
	}
	if !wrote {
		return a.version == 0 && a.last >= g.lastOf(q.looked())
	}
	return a.version > g.lastOf(q.looked()) && g.commit(q, a.version)
}

// commit makes the changes at a version, 0 = not known.
func (g *group) commit(q request, version uint64) bool {
	for _, c := range q.changes {
		g.apply(c, version)
	}
	if version == 0 {
		return true
	}
	for _, i := range q.looked() { // they lay in one shard
		c := &g.cells[i]
		c.last = max(c.last, version)
		if c.exists && c.version == 0 && c.ceiling == 0 {
			c.ceiling = version
		}
	}
	return true
}

// apply makes one change.
func (g *group) apply(c change, version uint64) {
	now := &g.cells[c.cell]
	switch c.kind {
	case kvpb.OpKind_OP_PUT:
		*now = cell{exists: true, value: c.value, version: version, last: now.last}
	case kvpb.OpKind_OP_ADD:
		*now = cell{exists: true, value: strconv.FormatInt(number(*now)+c.delta, 10), version: version, last: now.last}
	case kvpb.OpKind_OP_DELETE:
		*now = cell{last: now.last}
		return
	default:
		return
	}
	if version == 0 {
		now.floor = now.last
	}
}

func number(c cell) int64 {
	if !c.exists {
		return 0
	}
	n, err := strconv.ParseInt(c.value, 10, 64)
	if err != nil {
		return math.MinInt64 // the counter holds something else: never right
	}
	return n
}
