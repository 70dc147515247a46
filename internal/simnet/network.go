package simnet

import (
	"container/heap"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// laneMessagesMax bounds the messages under way in one lane.
const laneMessagesMax = 1 << 16

// Network joins the endpoints of one test. All its methods may be called from
// any goroutine while it runs.
type Network struct {
	mu        sync.Mutex // guards everything below and the state of all nodes and lanes
	rng       *rand.Rand
	nodes     map[kv.NodeID]*Node // the newest started endpoint of each id
	addresses map[string]kv.NodeID
	links     map[linkKey]Link
	base      Link // of links that are not in links
	paused    map[kv.NodeID]bool
	counts    Counters
	seq       uint64 // of the last message
	filter    Filter // nil: everything passes
}

// New makes a network without nodes and without faults. The seed chooses what
// the probabilities and delays of its links draw.
func New(seed uint64) *Network {
	return &Network{
		rng:       rand.New(rand.NewPCG(seed, 0x51a0)),
		nodes:     make(map[kv.NodeID]*Node),
		addresses: make(map[string]kv.NodeID),
		links:     make(map[linkKey]Link),
		paused:    make(map[kv.NodeID]bool),
	}
}

// Node makes a new endpoint, which takes part from its Start on. Its address is
// AddressOf(id) until SetAddress adds another.
func (n *Network) Node(id kv.NodeID) *Node {
	n.SetAddress(id, AddressOf(id))
	return &Node{
		net:      n,
		id:       id,
		handlers: make(map[peer.Method]peer.Handler),
		calls:    make(map[uint64]*call),
		lanes:    make(map[laneKey]*lane),
		alarmed:  make(map[kv.NodeID]time.Time),
	}
}

// AddressOf is the address under which every node can be dialled.
func AddressOf(id kv.NodeID) string { return "sim-" + id.String() + ":7101" }

// SetAddress lets Dial find a node at an address.
func (n *Network) SetAddress(id kv.NodeID, address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addresses[address] = id
}

// Close closes all nodes.
func (n *Network) Close() {
	n.mu.Lock()
	nodes := make([]*Node, 0, len(n.nodes))
	for _, nd := range n.nodes {
		nodes = append(nodes, nd)
	}
	n.mu.Unlock()
	for _, nd := range nodes {
		nd.Close()
	}
}

// message is a request or an answer under way.
type message struct {
	due      time.Time
	seq      uint64
	from, to *Node
	method   peer.Method
	id       uint64 // of the request, unique at its sender
	answer   bool
	payload  []byte
	err      error // of an answer
	held     bool  // counted as held
}

// laneKey names a stream of messages towards a node that is in order by itself.
type laneKey struct {
	from   kv.NodeID
	class  peer.Class
	answer bool
}

// lane holds what is under way in one stream. Its goroutine, owned by the
// receiving node, hands messages over one at a time.
type lane struct {
	node  *Node
	queue messageHeap
	wake  chan struct{} // holds one token: look again
}

func (l *lane) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// transmitLocked puts a message on its link. It reports false if the lane is
// full; to lose the message is success.
func (n *Network) transmitLocked(m message) bool {
	if m.answer {
		n.counts.Answers++
	} else {
		n.counts.Requests++
	}
	link := n.linkLocked(m.from.id, m.to.id)
	switch {
	case link.Cut || n.filter != nil && !m.answer && !n.filter(m.from.id, m.to.id, m.method, m.payload):
		n.counts.Cut++
		return true
	case m.to.state != stateUp || m.from.state != stateUp:
		n.counts.Severed++
		return true
	case link.Drop > 0 && n.rng.Float64() < link.Drop:
		n.counts.Dropped++
		if m.answer {
			n.counts.Answerless++
		}
		return true
	}
	l := m.to.laneLocked(laneKey{m.from.id, peer.ClassOf(m.method), m.answer})
	if len(l.queue) >= laneMessagesMax {
		n.counts.Overflowed++
		return false
	}
	n.pushLocked(l, m, link)
	if link.Duplicate > 0 && bearsCopies(m.method) && n.rng.Float64() < link.Duplicate {
		n.counts.Duplicated++
		m.payload = append([]byte(nil), m.payload...) // each receiver owns its own
		n.pushLocked(l, m, link)
	}
	l.signal()
	return true
}

// bearsCopies: what is Raft's own. Other requests arrive once at most (peer.Mesh).
func bearsCopies(m peer.Method) bool {
	class := peer.ClassOf(m)
	return class == peer.ClassRaft || class == peer.ClassBulk
}

func (n *Network) pushLocked(l *lane, m message, link Link) {
	delay := n.delayLocked(link)
	if delay > 0 {
		n.counts.Delayed++
	}
	n.seq++
	m.seq = n.seq
	m.due = time.Now().Add(delay)
	heap.Push(&l.queue, m)
}

// run hands the lane's messages over until its node closes.
func (l *lane) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		m, wait, open := l.next()
		switch {
		case !open:
			return
		case m != nil:
			l.node.deliver(m)
		case wait > 0:
			timer.Reset(wait)
			select {
			case <-l.wake:
			case <-timer.C:
			}
		default:
			<-l.wake
		}
	}
}

// next gives the message that is due, or how long to wait for it; 0 = until the
// lane is signalled.
func (l *lane) next() (*message, time.Duration, bool) {
	n := l.node.net
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		if l.node.state == stateClosed {
			return nil, 0, false
		}
		if len(l.queue) == 0 {
			return nil, 0, true
		}
		top := &l.queue[0]
		if wait := time.Until(top.due); wait > 0 {
			return nil, wait, true
		}
		if n.paused[top.from.id] || n.paused[top.to.id] {
			if !top.held {
				top.held = true
				n.counts.Held++
			}
			return nil, 0, true
		}
		m := heap.Pop(&l.queue).(message)
		if n.linkLocked(m.from.id, m.to.id).Cut {
			n.counts.Cut++
			continue
		}
		n.counts.Delivered++
		return &m, 0, true
	}
}

// messageHeap orders by time due, then by order sent.
type messageHeap []message

func (h messageHeap) Len() int { return len(h) }
func (h messageHeap) Less(i, j int) bool {
	if !h[i].due.Equal(h[j].due) {
		return h[i].due.Before(h[j].due)
	}
	return h[i].seq < h[j].seq
}
func (h messageHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *messageHeap) Push(x any)   { *h = append(*h, x.(message)) }
func (h *messageHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = message{}
	*h = old[:len(old)-1]
	return last
}
