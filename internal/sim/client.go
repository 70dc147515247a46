package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/quorate-db/quorate/internal/server"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// client asks one thing after the other and writes down what it hears.
type client struct {
	c     *Cluster
	h     *history
	id    int
	rng   *rand.Rand
	count int               // of values written
	known map[[3]int]uint64 // versions last seen, by shard, group and cell
	home  int               // the node that is asked mostly
}

func newClient(c *Cluster, h *history, id int) *client {
	return &client{c: c, h: h, id: id, rng: c.rng(uint64(5000 + id)), known: map[[3]int]uint64{}, home: id % len(c.nodes)}
}

// run asks until enough was asked, or stop is closed.
func (cl *client) run(stop <-chan struct{}) {
	for cl.h.asked() < cl.c.config.Ops {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(cl.rng.Int64N(2*int64(cl.c.config.Think) + 1))):
		}
		cl.once()
	}
}

// target picks a node that runs.
func (cl *client) target() (*Node, *server.Node, int) {
	i := cl.home
	if cl.rng.IntN(3) == 0 {
		i = cl.rng.IntN(len(cl.c.nodes))
	}
	for range cl.c.nodes {
		n := cl.c.nodes[i]
		if running, epoch := n.current(); running != nil {
			return n, running, epoch
		}
		i = (i + 1) % len(cl.c.nodes)
	}
	return nil, nil, 0
}

func (cl *client) deadline() (context.Context, context.CancelFunc) {
	limits := []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second, 8 * time.Second}
	return context.WithTimeout(context.Background(), limits[cl.rng.IntN(len(limits))])
}

// place picks a group.
func (cl *client) place() (shard, group int) {
	return cl.rng.IntN(cl.c.config.Shards), cl.rng.IntN(cl.c.config.Groups)
}

// once asks one thing.
func (cl *client) once() {
	shard, group := cl.place()
	switch p := cl.rng.IntN(100); {
	case p < 1:
		cl.again()
	case p < 30:
		cl.read(shard, group, []int{cl.rng.IntN(cells)}, kv.ReadOptions{})
	case p < 36:
		cl.read(shard, group, []int{0, 1, counter}, kv.ReadOptions{})
	case p < 44:
		cl.stale(shard, group)
	case p < 50:
		cl.batch()
	default:
		cl.write(shard, group, cl.transaction(shard, group))
	}
}

// transaction makes up a write.
func (cl *client) transaction(shard, group int) request {
	register := cl.rng.IntN(counter)
	look := cl.rng.IntN(2) == 0
	switch p := cl.rng.IntN(100); {
	case p < 28:
		return request{changes: []change{cl.put(register)}}
	case p < 44:
		return request{guards: []guard{cl.guard(shard, group, register)}, changes: []change{cl.put(register)}, look: look}
	case p < 48:
		return request{changes: []change{{kind: kvpb.OpKind_OP_DELETE, cell: register}}}
	case p < 72 && cl.slot(shard, group) >= 0:
		return request{changes: []change{cl.add(shard, group)}}
	case p < 88: // both registers at once
		return request{changes: []change{cl.put(0), cl.put(1)}}
	default: // a condition on one register, a change of the other
		return request{guards: []guard{cl.guard(shard, group, register)}, changes: []change{cl.put(1 - register)}, look: look}
	}
}

func (cl *client) put(cell int) change {
	cl.count++
	return change{kind: kvpb.OpKind_OP_PUT, cell: cell, value: fmt.Sprintf("c%d-%d", cl.id, cl.count)}
}

// slot gives which digit of a group's counter is this client's, -1 for none.
func (cl *client) slot(shard, group int) int {
	return slotOf(cl.c.config, cl.id, shard, group)
}

// slotOf: a counter has few digits, so each client adds to some of the groups only.
func slotOf(c Config, client, shard, group int) int {
	teams := (c.Clients + slots - 1) / slots
	if client%teams != (shard*c.Groups+group)%teams {
		return -1
	}
	return client / teams
}

// slots and slotBits are the shape of a counter: every client that adds to it has
// a digit of its own, which counts how many of its additions were applied.
const (
	slots    = 4
	slotBits = 15
)

func (cl *client) add(shard, group int) change {
	return change{kind: kvpb.OpKind_OP_ADD, cell: counter, delta: 1 << (slotBits * cl.slot(shard, group))}
}

// guard asks for what this client believes, which may be out of date.
func (cl *client) guard(shard, group, cell int) guard {
	version := cl.known[[3]int{shard, group, cell}]
	return guard{cell: cell, absent: version == 0, version: version}
}

func (cl *client) see(shard, group, cell int, version uint64) {
	cl.known[[3]int{shard, group, cell}] = version
}

// begin notes what is about to be asked.
func (cl *client) begin(n *Node, shard, group int, q request) record {
	cl.h.count(func(o *OpCounts) { o.Asked++ })
	return record{client: cl.id, node: n.index, shard: shard, group: group, request: q, called: cl.c.now(), call: cl.h.tick()}
}

func (cl *client) end(r *record) { r.ret, r.returned = cl.h.tick(), cl.c.now() }

func (cl *client) read(shard, group int, which []int, opts kv.ReadOptions) {
	n, running, epoch := cl.target()
	if n == nil {
		return
	}
	ctx, cancel := cl.deadline()
	defer cancel()
	r := cl.begin(n, shard, group, request{read: true, cells: which})
	r.stale, r.bound = opts.Consistency == kv.Stale, opts.MaxStaleness
	keys := make([][]byte, len(which))
	for i, cell := range which {
		keys[i] = []byte(keyOf(shard, group, cell))
	}
	var readings []kv.Reading
	var err error
	if len(keys) == 1 {
		readings = make([]kv.Reading, 1)
		readings[0], err = running.Router().Get(ctx, keys[0], opts)
	} else {
		readings, err = running.Router().MultiGet(ctx, keys, opts)
	}
	cl.end(&r)
	if err != nil || n.crashedSince(epoch) {
		cl.h.count(func(o *OpCounts) { o.NoAnswer++ })
		return
	}
	for _, part := range cl.parts(r, readings) {
		for i, cell := range part.request.cells {
			cl.see(shard, group, cell, part.answer.cells[i].version)
		}
		cl.h.add(part)
	}
}

// parts gives what a read was answered, a record for each state of a shard that had a
// part in it: cells that lie in different shards are read at different times, also where
// one of them has absorbed the other by the time it answers for both.
func (cl *client) parts(r record, readings []kv.Reading) []record {
	which := r.request.cells
	var out []record
	for i, reading := range readings {
		last := uint64(reading.Served.LastVersion)
		at := slices.IndexFunc(out, func(o record) bool { return o.owner == reading.Served.Shard && o.answer.last == last })
		if at < 0 {
			part := r
			part.owner, part.request.cells, part.answer.last = reading.Served.Shard, nil, last
			if r.stale {
				part.detail = "served by " + cl.c.nameOf(reading.Served.Node)
			}
			at, out = len(out), append(out, part)
		}
		part := &out[at]
		part.request.cells = append(part.request.cells, which[i])
		part.answer.cells = append(part.answer.cells, seen{found: reading.Item != nil, version: reading.Item.GetVersion(), value: string(reading.Item.GetValue())})
	}
	return out
}

func (cl *client) stale(shard, group int) {
	bounds := []time.Duration{0, time.Second, 5 * time.Second}
	opts := kv.ReadOptions{Consistency: kv.Stale, MaxStaleness: bounds[cl.rng.IntN(len(bounds))]}
	cl.read(shard, group, []int{cl.rng.IntN(cells)}, opts)
}

// write asks for one transaction. One in four times it does so as a client does
// that brings a request id of its own and tries again until it knows.
func (cl *client) write(shard, group int, q request) {
	n, running, epoch := cl.target()
	if n == nil {
		return
	}
	ctx, cancel := cl.deadline()
	defer cancel()
	r := cl.begin(n, shard, group, q)
	var written kv.Written
	var err error
	if cl.rng.IntN(4) == 0 {
		written, err = cl.insist(q.txn(shard, group))
	} else {
		written, err = running.Router().Txn(ctx, q.txn(shard, group), nil)
		if n.crashedSince(epoch) {
			err = kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown, "the node crashed")
		}
	}
	cl.end(&r)
	cl.wrote(r, written, err)
}

// insist asks different nodes under one request id.
func (cl *client) insist(txn *kvpb.Txn) (kv.Written, error) {
	id := &kvpb.RequestID{Hi: cl.rng.Uint64(), Lo: cl.rng.Uint64(), IssuedMs: time.Now().UnixMilli()}
	var doubt bool
	var last error
	for range 4 {
		n, running, epoch := cl.target()
		if n == nil {
			time.Sleep(500 * time.Millisecond)
			continue
		}
		ctx, cancel := cl.deadline()
		written, err := running.Router().Txn(ctx, txn, id)
		cancel()
		if n.crashedSince(epoch) {
			err = kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown, "the node crashed")
		}
		if err == nil {
			if v := written.Result.GetVersion(); v != 0 && written.Result.GetSucceeded() {
				cl.c.sent.add(sentRequest{id: id, txn: txn, version: v, at: time.Now()})
			}
			return written, nil
		}
		doubt = doubt || kv.OutcomeOf(err) != kv.OutcomeNotApplied
		last = err
	}
	if doubt || last == nil {
		last = kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown, "tried four times: %w", last)
	}
	return kv.Written{}, last
}

// again asks once more for something that was done already.
func (cl *client) again() {
	n, _, _ := cl.target()
	list := cl.c.sent.all()
	if n == nil || len(list) == 0 {
		return
	}
	cl.c.again(n, list[cl.rng.IntN(len(list))], 2*time.Second)
}

// wrote writes down how a transaction ended.
func (cl *client) wrote(r record, written kv.Written, err error) {
	switch {
	case err == nil:
		r.answer, r.owner = answerOf(r.request, written), written.Served.Shard
		if r.replayed = written.Replayed; r.replayed {
			cl.h.count(func(o *OpCounts) { o.Replayed++ })
		}
		cl.learn(r)
	case kv.OutcomeOf(err) == kv.OutcomeNotApplied:
		r.answer.outcome, r.detail = unknown, "not applied: "+err.Error()
		cl.h.deny(r)
		return
	default:
		r.answer.outcome, r.detail = unknown, err.Error()
	}
	cl.h.add(r)
}

func (cl *client) learn(r record) {
	switch {
	case r.answer.outcome == refused && r.request.look:
		for i, cell := range r.request.looked() {
			cl.see(r.shard, r.group, cell, r.answer.cells[i].version)
		}
		return
	case r.answer.outcome == refused:
		cl.see(r.shard, r.group, r.request.guards[r.answer.failed].cell, r.answer.current)
		return
	}
	for _, c := range r.request.changes {
		switch c.kind {
		case kvpb.OpKind_OP_DELETE:
			cl.see(r.shard, r.group, c.cell, 0)
		case kvpb.OpKind_OP_PUT, kvpb.OpKind_OP_ADD:
			cl.see(r.shard, r.group, c.cell, r.answer.version)
		}
	}
}

// batch asks for independent transactions in one request.
func (cl *client) batch() {
	n, running, epoch := cl.target()
	if n == nil {
		return
	}
	ctx, cancel := cl.deadline()
	defer cancel()
	var records []record
	var txns []*kvpb.Txn
	for range 2 + cl.rng.IntN(4) {
		shard, group := cl.place()
		r := cl.begin(n, shard, group, cl.transaction(shard, group))
		records = append(records, r)
		txns = append(txns, r.request.txn(shard, group))
	}
	results := running.Router().Batch(ctx, txns, nil)
	crashed := n.crashedSince(epoch)
	for i := range records {
		cl.end(&records[i])
		err := results[i].Err
		if crashed {
			err = kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown, "the node crashed")
		}
		cl.wrote(records[i], results[i].Written, err)
	}
}
