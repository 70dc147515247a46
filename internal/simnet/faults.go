package simnet

import (
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// Link says what happens to messages over one directed link. The zero value
// delivers everything at once and in order.
type Link struct {
	// Drop and Duplicate are probabilities from 0 to 1, drawn per message. Only what is
	// Raft's own is doubled: everything else arrives once at most (peer.Mesh).
	Drop      float64
	Duplicate float64
	// DelayMin and DelayMax bound the time a message takes; where they differ,
	// messages overtake one another. DelayMax below DelayMin counts as DelayMin.
	DelayMin, DelayMax time.Duration
	// Cut loses everything without telling anybody, also what is in flight.
	Cut bool
}

// DownKind says what the others see of a node that is down.
type DownKind int

const (
	// Killed: the process is gone, its machine is not. Requests that wait for its
	// answer break at once, new ones are refused and OnUnreachable fires.
	Killed DownKind = iota
	// Lost: the machine is gone. Nobody is told; requests to it run into their
	// deadlines.
	Lost
)

// Counters tells what the network has done so far, in messages.
type Counters struct {
	Requests   int64 // requests that entered a link
	Answers    int64 // answers that entered a link
	Delivered  int64 // handed to a handler or to done, duplicates included
	Dropped    int64 // requests and answers lost by Link.Drop
	Answerless int64 // of these, answers
	Duplicated int64 // requests and answers doubled
	Delayed    int64 // took longer than no time
	Cut        int64 // lost on a cut link
	Held       int64 // kept back because an end was paused
	Severed    int64 // lost because an end went down or closed
	Refused    int64 // sends that a missing process refused
	Overflowed int64 // refused because a lane was full
	Expired    int64 // requests that met their deadline
	TwiceDone  int64 // replies beyond a request's first: a bug of the handler
}

// Filter decides about a request that is about to enter a link: false loses it, as a
// cut would. It must not call the Network.
type Filter func(from, to kv.NodeID, method peer.Method, req []byte) bool

// SetFilter has every request asked about, nil none. Heal leaves it alone.
func (n *Network) SetFilter(f Filter) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.filter = f
}

type linkKey struct{ from, to kv.NodeID }

// SetLink sets the faults of the link from one node to another.
func (n *Network) SetLink(from, to kv.NodeID, l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links[linkKey{from, to}] = l
}

// LinkOf gives the faults of the link from one node to another.
func (n *Network) LinkOf(from, to kv.NodeID) Link {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.linkLocked(from, to)
}

// SetAll gives every link, also of nodes yet to come, the same faults.
func (n *Network) SetAll(l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.base = l
	clear(n.links)
}

// Heal makes every link flawless. Nodes that are paused or down stay so.
func (n *Network) Heal() { n.SetAll(Link{}) }

// Cut cuts or restores the link from one node to another and leaves its other
// faults alone.
func (n *Network) Cut(from, to kv.NodeID, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cutLocked(from, to, cut)
}

// CutBoth does what Cut does in both directions.
func (n *Network) CutBoth(a, b kv.NodeID, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cutLocked(a, b, cut)
	n.cutLocked(b, a, cut)
}

// Isolate cuts a node off from all others that exist, or joins it again.
func (n *Network) Isolate(id kv.NodeID, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for other := range n.nodes {
		if other != id {
			n.cutLocked(id, other, cut)
			n.cutLocked(other, id, cut)
		}
	}
}

// Partition cuts every link between nodes of different groups and restores
// those inside a group. Nodes in no group form one together.
func (n *Network) Partition(groups ...[]kv.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	group := make(map[kv.NodeID]int)
	for i, members := range groups {
		for _, id := range members {
			group[id] = i + 1
		}
	}
	for a := range n.nodes {
		for b := range n.nodes {
			if a != b {
				n.cutLocked(a, b, group[a] != group[b])
			}
		}
	}
}

// Pause holds all messages from and to a node until Resume, when they arrive at
// once. The node itself runs on: its deadlines pass.
func (n *Network) Pause(id kv.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.paused[id] = true
}

// Resume ends Pause.
func (n *Network) Resume(id kv.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.paused, id)
	for _, nd := range n.nodes {
		for _, l := range nd.lanes {
			l.signal()
		}
	}
}

// Down takes a node off the network as if its process or machine had died:
// everything in flight from and to it is lost, its own requests break. It stays
// so until Up, or until a new endpoint of the id is started.
func (n *Network) Down(id kv.NodeID, kind DownKind) {
	n.mu.Lock()
	nd := n.nodes[id]
	if nd == nil || nd.state != stateUp {
		n.mu.Unlock()
		return
	}
	nd.state = stateDown
	nd.silent = kind == Lost
	failed := n.severLocked(nd)
	n.mu.Unlock()
	failAll(failed)
}

// Up ends Down for an endpoint that was not closed meanwhile.
func (n *Network) Up(id kv.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if nd := n.nodes[id]; nd != nil && nd.state == stateDown {
		nd.state, nd.silent = stateUp, false
		n.returnedLocked(id)
	}
}

// Counters gives what the network has done so far.
func (n *Network) Counters() Counters {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.counts
}

func (n *Network) linkLocked(from, to kv.NodeID) Link {
	if l, ok := n.links[linkKey{from, to}]; ok {
		return l
	}
	return n.base
}

func (n *Network) cutLocked(from, to kv.NodeID, cut bool) {
	l := n.linkLocked(from, to)
	l.Cut = cut
	n.links[linkKey{from, to}] = l
}

// delayLocked draws how long a message takes.
func (n *Network) delayLocked(l Link) time.Duration {
	d := max(l.DelayMin, 0)
	if spread := l.DelayMax - d; spread > 0 {
		d += time.Duration(n.rng.Int64N(int64(spread) + 1))
	}
	return d
}
