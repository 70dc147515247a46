package simnet

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// alarmInterval is the least time between two OnUnreachable calls about the
// same peer.
const alarmInterval = 500 * time.Millisecond

type state int

const (
	stateNew state = iota
	stateUp
	stateDown
	stateClosed
)

// Node is one endpoint of a Network. It satisfies peer.Mesh.
type Node struct {
	net *Network
	id  kv.NodeID
	wg  sync.WaitGroup // lanes, deadlines and alarms

	// Below is guarded by net.mu; handlers does not change after Start.
	state       state
	silent      bool // went down as Lost: whoever asks is told nothing
	handlers    map[peer.Method]peer.Handler
	unreachable []func(kv.NodeID)
	calls       map[uint64]*call
	lastCall    uint64
	lanes       map[laneKey]*lane
	alarmed     map[kv.NodeID]time.Time // when OnUnreachable last fired about a peer
}

var _ peer.Mesh = (*Node)(nil)

// call is a request that waits for its answer.
type call struct {
	to    *Node
	done  func([]byte, error)
	timer *time.Timer
}

// failure is a done that has to be called without the lock.
type failure struct {
	done func([]byte, error)
	err  error
}

func failAll(failures []failure) {
	for _, f := range failures {
		f.done(nil, f.err)
	}
}

// Self is this node.
func (nd *Node) Self() kv.NodeID { return nd.id }

// Address is where Dial finds this node.
func (nd *Node) Address() string { return AddressOf(nd.id) }

// Handle registers the handler of a method, before Start.
func (nd *Node) Handle(m peer.Method, h peer.Handler) {
	nd.net.mu.Lock()
	defer nd.net.mu.Unlock()
	if nd.state != stateNew {
		panic("simnet: Handle after Start")
	}
	nd.handlers[m] = h
}

// OnUnreachable registers a callback as peer.Mesh says. It runs on a goroutine
// of the node.
func (nd *Node) OnUnreachable(f func(kv.NodeID)) {
	nd.net.mu.Lock()
	defer nd.net.mu.Unlock()
	nd.unreachable = append(nd.unreachable, f)
}

// Start takes part in the network, in the place of an earlier endpoint of the
// same id, which must have been closed.
func (nd *Node) Start() error {
	n := nd.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if nd.state != stateNew {
		return fmt.Errorf("simnet: node %s was started before", nd.id)
	}
	if old := n.nodes[nd.id]; old != nil && old.state != stateClosed {
		return fmt.Errorf("simnet: node %s is still open", nd.id)
	}
	nd.state = stateUp
	n.nodes[nd.id] = nd
	n.returnedLocked(nd.id)
	return nil
}

// Close leaves the network as a process that ends does: the requests of this
// node and those that others wait for here end as unknown. It waits until
// nothing of the node runs any more, so it must not be called by a handler.
func (nd *Node) Close() {
	n := nd.net
	n.mu.Lock()
	var failed []failure
	if nd.state != stateClosed {
		nd.state = stateClosed
		failed = n.severLocked(nd)
		for _, l := range nd.lanes {
			l.signal()
		}
	}
	n.mu.Unlock()
	failAll(failed)
	nd.wg.Wait()
}

// Send asks a peer as peer.Mesh says.
func (nd *Node) Send(to kv.NodeID, m peer.Method, req []byte, deadline time.Time, done func([]byte, error)) {
	nd.net.mu.Lock()
	err := nd.sendLocked(to, m, req, deadline, done)
	nd.net.mu.Unlock()
	if err != nil {
		done(nil, err)
	}
}

// Dial asks whoever is at an address as peer.Mesh says.
func (nd *Node) Dial(ctx context.Context, address string, m peer.Method, req []byte) (kv.NodeID, []byte, error) {
	n := nd.net
	n.mu.Lock()
	id, ok := n.addresses[address]
	n.mu.Unlock()
	switch {
	case !peer.OpenTo(m):
		return 0, nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "method %d may not be called by address", m)
	case !ok:
		return 0, nil, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "nobody at %s", address)
	}
	resp, err := peer.Call(ctx, nd, id, m, req)
	return id, resp, err
}

func (nd *Node) sendLocked(to kv.NodeID, m peer.Method, req []byte, deadline time.Time, done func([]byte, error)) error {
	n := nd.net
	left := time.Until(deadline)
	switch {
	case to == nd.id:
		return kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "node %s asks itself", to)
	case len(req) > peer.PayloadBytesMax:
		return kv.Errorf(kv.CodeTooLarge, kv.OutcomeNotApplied, "request of %d bytes: at most %d", len(req), peer.PayloadBytesMax)
	case nd.state != stateUp:
		return kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "node %s is not on the network", nd.id)
	case left <= 0:
		return kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "deadline passed before node %s was asked", to)
	}
	dst := n.nodes[to]
	if dst == nil {
		return kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "node %s is not known", to)
	}
	if dst.goneLocked() && !n.linkLocked(nd.id, to).Cut && !n.linkLocked(to, nd.id).Cut {
		n.counts.Refused++
		nd.alarmLocked(to)
		return kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "node %s refuses connections", to)
	}
	nd.lastCall++
	id := nd.lastCall
	msg := message{from: nd, to: dst, method: m, id: id, payload: append([]byte(nil), req...)}
	if !n.transmitLocked(msg) {
		return kv.Errorf(kv.CodeOverloaded, kv.OutcomeNotApplied, "queue to node %s is full", to)
	}
	nd.wg.Add(1)
	nd.calls[id] = &call{to: dst, done: done, timer: time.AfterFunc(left, func() { nd.expire(id) })}
	return nil
}

// expire ends a call at its deadline. The timer's share of wg was taken when it
// was set.
func (nd *Node) expire(id uint64) {
	defer nd.wg.Done()
	n := nd.net
	n.mu.Lock()
	c := nd.calls[id]
	delete(nd.calls, id)
	if c != nil {
		n.counts.Expired++
	}
	n.mu.Unlock()
	if c != nil {
		c.done(nil, kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown, "no answer from node %s in time", c.to.id))
	}
}

// takeLocked ends a call and gives it, nil if it has ended before.
func (nd *Node) takeLocked(id uint64) *call {
	c := nd.calls[id]
	if c == nil {
		return nil
	}
	delete(nd.calls, id)
	if c.timer.Stop() {
		nd.wg.Done()
	}
	return c
}

// deliver hands a message to the node, on the goroutine of its lane.
func (nd *Node) deliver(m *message) {
	n := nd.net
	if m.answer {
		n.mu.Lock()
		c := nd.takeLocked(m.id)
		n.mu.Unlock()
		if c != nil {
			c.done(m.payload, m.err)
		}
		return
	}
	var replied bool
	reply := func(resp []byte, err error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if replied {
			n.counts.TwiceDone++
			return
		}
		replied = true
		n.replyLocked(m, resp, err)
	}
	h := nd.handlers[m.method]
	if h == nil {
		reply(nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "method %d is not served by node %s", m.method, nd.id))
		return
	}
	h(m.from.id, m.payload, reply)
}

// replyLocked sends an answer the way a wire would carry it.
func (n *Network) replyLocked(m *message, resp []byte, err error) {
	if err == nil && len(resp) > peer.PayloadBytesMax {
		err = kv.Errorf(kv.CodeTooLarge, kv.OutcomeUnknown, "answer of %d bytes: at most %d", len(resp), peer.PayloadBytesMax)
	}
	answer := message{from: m.to, to: m.from, method: m.method, id: m.id, answer: true}
	if err != nil {
		answer.err = kv.FromWire(kv.ToWire(err))
	} else {
		answer.payload = append([]byte(nil), resp...)
	}
	n.transmitLocked(answer)
}

// severLocked loses all that is in flight from and to a node that just went
// down, and gives the calls that break by it: the node's own, and, unless its
// loss is silent, those that others wait for.
func (n *Network) severLocked(nd *Node) []failure {
	var failed []failure
	for id := range nd.calls {
		failed = append(failed, broken(nd.takeLocked(id)))
	}
	for _, l := range nd.lanes {
		n.counts.Severed += int64(len(l.queue))
		l.queue = nil
	}
	for _, other := range n.nodes {
		if other == nd || other.state == stateClosed {
			continue
		}
		talked := false
		for key, l := range other.lanes {
			if key.from == nd.id {
				talked = true
				n.counts.Severed += int64(l.removeFrom(nd))
			}
		}
		for key := range nd.lanes {
			talked = talked || key.from == other.id
		}
		if nd.silent || n.linkLocked(nd.id, other.id).Cut {
			continue
		}
		for id, c := range other.calls {
			if c.to == nd {
				failed = append(failed, broken(other.takeLocked(id)))
			}
		}
		if talked {
			other.alarmLocked(nd.id)
		}
	}
	return failed
}

func broken(c *call) failure {
	return failure{c.done, kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown, "connection to node %s broke", c.to.id)}
}

func (l *lane) removeFrom(nd *Node) int {
	before := len(l.queue)
	l.queue = slices.DeleteFunc(l.queue, func(m message) bool { return m.from == nd })
	// Removing may break the heap's order.
	slices.SortFunc(l.queue, func(a, b message) int {
		if c := a.due.Compare(b.due); c != 0 {
			return c
		}
		return int(int64(a.seq) - int64(b.seq))
	})
	return before - len(l.queue)
}

// laneLocked gives a lane towards this node, started if it is new. The node
// must be up, so that Close will still wait for the lane.
func (nd *Node) laneLocked(key laneKey) *lane {
	l := nd.lanes[key]
	if l == nil {
		l = &lane{node: nd, wake: make(chan struct{}, 1)}
		nd.lanes[key] = l
		nd.wg.Go(l.run)
	}
	return l
}

// alarmLocked tells this node that a peer's process is gone.
func (nd *Node) alarmLocked(gone kv.NodeID) {
	now := time.Now()
	last, ok := nd.alarmed[gone]
	if nd.state != stateUp || len(nd.unreachable) == 0 || ok && now.Sub(last) < alarmInterval {
		return
	}
	nd.alarmed[gone] = now
	callbacks := slices.Clone(nd.unreachable)
	nd.wg.Go(func() {
		for _, f := range callbacks {
			f(gone)
		}
	})
}

// returnedLocked: if the node goes again, that is news to the others.
func (n *Network) returnedLocked(id kv.NodeID) {
	for _, nd := range n.nodes {
		delete(nd.alarmed, id)
	}
}

// goneLocked: whoever asks is told at once that no process is there.
func (nd *Node) goneLocked() bool {
	return !nd.silent && (nd.state == stateDown || nd.state == stateClosed)
}
