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
}

// group is the model's state: the cells of a group, and the largest version that
// is known to have been used in it.
type group struct {
	cells [cells]cell
	last  uint64
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
		return g.read(q, a)
	case a.outcome == refused:
		return g.refuse(q, a)
	case a.outcome == unknown:
		g.maybe(q)
		return true
	default:
		return g.write(q, a)
	}
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
	g.last = max(g.last, version)
	return true
}

func (g *group) read(q request, a answer) bool {
	if a.last < g.last {
		return false // the view is older than what was written
	}
	for n, i := range q.cells {
		if !g.matches(i, a.cells[n]) {
			return false
		}
	}
	return true
}

func (g *group) matches(i int, s seen) bool {
	c := &g.cells[i]
	if !s.found {
		return !c.exists
	}
	return c.exists && c.value == s.value && g.settle(i, s.version)
}

func (g *group) refuse(q request, a answer) bool {
	if a.failed >= len(q.guards) {
		return false
	}
	for _, at := range q.guards[:a.failed] {
		if !g.mayHold(at) {
			return false
		}
	}
	at := q.guards[a.failed]
	c := &g.cells[at.cell]
	if at.absent || c.exists {
		// False because the cell is there, at a version other than the asked one.
		return c.exists && a.current != 0 && (at.absent || a.current != at.version) && g.settle(at.cell, a.current)
	}
	return a.current == 0
}

// mayHold reports whether a guard can be true, and settles what that tells.
func (g *group) mayHold(at guard) bool {
	c := g.cells[at.cell]
	if at.absent {
		return !c.exists
	}
	return c.exists && g.settle(at.cell, at.version)
}

// maybe applies a request of which nothing was heard, where it could apply. Had it
// no effect, it can as well come after everything else.
func (g *group) maybe(q request) {
	before := *g
	for _, at := range q.guards {
		if !g.mayHold(at) {
			*g = before
			return
		}
	}
	for _, c := range q.changes {
		g.apply(c, 0)
	}
}

func (g *group) write(q request, a answer) bool {
	if len(a.cells) != len(q.changes) {
		return false
	}
	for _, at := range q.guards {
		if !g.mayHold(at) {
			return false
		}
	}
	wrote := false
	for n, c := range q.changes { // each of another cell
		s := a.cells[n]
		if s.found != g.cells[c.cell].exists || s.found && !g.settle(c.cell, s.version) || !g.told(c, s) {
			return false
		}
		wrote = wrote || c.kind != kvpb.OpKind_OP_GET && (c.kind != kvpb.OpKind_OP_DELETE || s.found)
	}
	if !wrote {
		return a.version == 0 && a.last >= g.last
	}
	if a.version <= g.last {
		return false
	}
	for _, c := range q.changes {
		g.apply(c, a.version)
	}
	g.last = a.version
	for i := range g.cells {
		if c := &g.cells[i]; c.exists && c.version == 0 && c.ceiling == 0 {
			c.ceiling = a.version
		}
	}
	return true
}

// told checks what the answer says beyond the version before.
func (g *group) told(c change, s seen) bool {
	now := g.cells[c.cell]
	switch c.kind {
	case kvpb.OpKind_OP_ADD:
		return s.number == number(now)+c.delta
	case kvpb.OpKind_OP_GET:
		return !s.found || s.value == now.value
	default:
		return true
	}
}

// apply makes one change. version 0 is not known.
func (g *group) apply(c change, version uint64) {
	now := &g.cells[c.cell]
	switch c.kind {
	case kvpb.OpKind_OP_PUT:
		*now = cell{exists: true, value: c.value, version: version}
	case kvpb.OpKind_OP_ADD:
		*now = cell{exists: true, value: strconv.FormatInt(number(*now)+c.delta, 10), version: version}
	case kvpb.OpKind_OP_DELETE:
		*now = cell{}
		return
	default:
		return
	}
	if version == 0 {
		now.floor = g.last
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

// operations gives the linearizable part of a group's history to the checker.
func operations(records []record) []porcupine.Operation {
	var out []porcupine.Operation
	for _, r := range records {
		if r.stale {
			continue
		}
		ret := r.ret
		if r.answer.outcome == unknown {
			ret = math.MaxInt64
		}
		out = append(out, porcupine.Operation{ClientId: r.client, Input: r.request, Output: r.answer, Call: r.call, Return: ret})
	}
	return out
}
