package sim

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// cells is how many keys a group has: all but the last are registers, that one is
// a counter. A group lies in one shard; it is what is checked as one object.
const (
	cells   = 3
	counter = cells - 1
)

// outcome is that of an operation as its client heard it.
type outcome uint8

const (
	succeeded outcome = iota
	refused           // a guard was false
	unknown
	applied // unknown to its client, but others have seen what it did (see resolve)
)

// guard is a condition on one cell.
type guard struct {
	cell    int
	absent  bool
	version uint64 // if not absent
}

// change is one operation of a transaction.
type change struct {
	kind  kvpb.OpKind // put, delete, add, get
	cell  int
	value string // put
	delta int64  // add
}

// request is what a client asked: a transaction, or a read of some cells. The
// changes of a transaction are of different cells, and each asks for what its cell
// held before.
type request struct {
	read    bool
	cells   []int // of a read
	guards  []guard
	changes []change
	look    bool // where a guard is false, it asks for all its cells
}

// looked gives the cells that a transaction asks for where a guard is false.
func (q request) looked() []int {
	var out []int
	for _, g := range q.guards {
		out = append(out, g.cell)
	}
	for _, c := range q.changes {
		if !slices.Contains(out, c.cell) {
			out = append(out, c.cell)
		}
	}
	return out
}

// seen is what an answer says of one cell. For a change it is the cell before.
type seen struct {
	found   bool
	version uint64
	value   string
	number  int64 // additions: after it
}

// answer is what the client was told.
type answer struct {
	outcome outcome
	version uint64 // of a transaction that wrote
	cells   []seen // by request.cells; of a transaction by request.changes, or looked if refused
	failed  int    // refused without a look: which guard
	current uint64 // and that cell's version, 0 = absent
	last    uint64 // the shard's last version in the view
}

// record is one operation of the history.
type record struct {
	client, node int
	shard, group int
	request      request
	answer       answer
	call, ret    int64         // places in the one order of all calls and returns
	called       time.Duration // virtual time
	returned     time.Duration
	stale        bool          // a read that asked for less
	bound        time.Duration // of a stale read; 0 = none
	owner        kv.ShardID    // who answered, 0 = nobody
	replayed     bool          // from what was remembered: another shard may have carried it out, before a merge
	detail       string        // the error of an unknown outcome, or who served a stale read
}

// history collects records.
type history struct {
	clock atomic.Int64

	mu      sync.Mutex
	records []record
	denied  []record // transactions that were answered to be certainly without effect
	counts  OpCounts
}

// OpCounts is what became of the operations.
type OpCounts struct {
	Asked        int // operations that were asked for
	Acknowledged int
	Refused      int // by a condition
	NotApplied   int // failed, certainly without effect
	Unknown      int
	NoAnswer     int // reads that got none
	Replayed     int // answered from what the shard remembered
	Stale        int // stale reads among the acknowledged
}

func (h *history) tick() int64 { return h.clock.Add(1) }

func (h *history) add(r record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.records = append(h.records, r)
	switch {
	case r.answer.outcome == unknown:
		h.counts.Unknown++
	case r.answer.outcome == refused:
		h.counts.Refused++
	default:
		h.counts.Acknowledged++
		if r.stale {
			h.counts.Stale++
		}
	}
}

// deny notes a transaction that was answered to have had no effect.
func (h *history) deny(r record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.denied = append(h.denied, r)
	h.counts.NotApplied++
}

func (h *history) count(f func(*OpCounts)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(&h.counts)
}

func (h *history) asked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.counts.Asked
}

// take gives all records so far.
func (h *history) take() ([]record, OpCounts) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]record(nil), h.records...), h.counts
}

// String gives an operation on one line.
func (r record) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%.4f–%.4fs client %d on n%d s%02d/g%02d %s → %s, shard %s", r.called.Seconds(), r.returned.Seconds(), r.client, r.node+1, r.shard, r.group, r.request, r.answer.describe(r.request), r.owner)
	if r.stale {
		fmt.Fprintf(&b, " (stale, bound %s)", r.bound)
	}
	if r.detail != "" {
		fmt.Fprintf(&b, " (%s)", r.detail)
	}
	return b.String()
}

func (q request) String() string {
	if q.read {
		return fmt.Sprintf("read %s", cellNames(q.cells))
	}
	var b strings.Builder
	for _, g := range q.guards {
		if g.absent {
			fmt.Fprintf(&b, "if %c absent ", 'a'+g.cell)
		} else {
			fmt.Fprintf(&b, "if %c at %d ", 'a'+g.cell, g.version)
		}
	}
	for _, c := range q.changes {
		switch c.kind {
		case kvpb.OpKind_OP_PUT:
			fmt.Fprintf(&b, "put %c=%s ", 'a'+c.cell, c.value)
		case kvpb.OpKind_OP_DELETE:
			fmt.Fprintf(&b, "delete %c ", 'a'+c.cell)
		case kvpb.OpKind_OP_ADD:
			fmt.Fprintf(&b, "add %c %+d ", 'a'+c.cell, c.delta)
		default:
			fmt.Fprintf(&b, "get %c ", 'a'+c.cell)
		}
	}
	return strings.TrimSpace(b.String())
}

func cellNames(list []int) string {
	names := make([]byte, len(list))
	for i, c := range list {
		names[i] = byte('a' + c)
	}
	return string(names)
}

func (a answer) describe(q request) string {
	switch {
	case a.outcome == unknown:
		return "unknown"
	case a.outcome == applied:
		return fmt.Sprintf("unknown, but it was applied at %d", a.version)
	case a.outcome == refused && !q.look:
		return fmt.Sprintf("refused by guard %d, the version is %d", a.failed, a.current)
	}
	var b strings.Builder
	switch {
	case a.outcome == refused:
		fmt.Fprintf(&b, "refused, %s: ", cellNames(q.looked()))
	case !q.read:
		fmt.Fprintf(&b, "version %d, before: ", a.version)
	}
	for _, c := range a.cells {
		if !c.found {
			b.WriteString("[absent] ")
		} else {
			fmt.Fprintf(&b, "[%s at %d] ", c.value, c.version)
		}
		if c.number != 0 {
			fmt.Fprintf(&b, "now %d ", c.number)
		}
	}
	fmt.Fprintf(&b, "last %d", a.last)
	return b.String()
}

// txn gives the transaction that a request stands for.
func (q request) txn(shard, group int) *kvpb.Txn {
	key := func(cell int) []byte { return []byte(keyOf(shard, group, cell)) }
	out := &kvpb.Txn{}
	for _, g := range q.guards {
		if g.absent {
			out.Guards = append(out.Guards, &kvpb.Guard{Key: key(g.cell), Kind: kvpb.GuardKind_GUARD_ABSENT})
		} else {
			out.Guards = append(out.Guards, &kvpb.Guard{Key: key(g.cell), Kind: kvpb.GuardKind_GUARD_VERSION_EQ, Versions: []uint64{g.version}})
		}
	}
	get := func(cell int) *kvpb.Op { return &kvpb.Op{Kind: kvpb.OpKind_OP_GET, Key: key(cell)} }
	for _, c := range q.changes {
		out.Then = append(out.Then, get(c.cell), &kvpb.Op{Kind: c.kind, Key: key(c.cell), Value: []byte(c.value), Delta: c.delta})
	}
	if q.look {
		for _, cell := range q.looked() {
			out.Otherwise = append(out.Otherwise, get(cell))
		}
	}
	return out
}

// answerOf reads what a transaction's result says.
func answerOf(q request, w kv.Written) answer {
	r := w.Result
	a := answer{version: r.Version, last: uint64(w.Served.LastVersion)}
	if r.Status == kvpb.Status_STATUS_CONDITION_FAILED {
		a.outcome, a.failed, a.current = refused, int(r.FailedGuard), r.CurrentVersion
		return a
	}
	if !r.Succeeded {
		a.outcome = refused
	}
	for i, op := range r.Ops {
		if r.Succeeded && i%2 == 1 {
			a.cells[i/2].number = op.Number
		} else {
			a.cells = append(a.cells, seen{found: op.Found, version: op.Item.GetVersion(), value: string(op.Item.GetValue())})
		}
	}
	return a
}
