package raftnode

import (
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// gatheredMax bounds what is held back for one peer: with more, all of it leaves at
// once.
const gatheredMax = 4096

// gatherer holds messages that are in no hurry back for a moment, so that those of
// all shards leave together. What costs in an idle node is not the bytes of its
// heartbeats but that for each of them goroutines and threads are woken, here and at
// the other end; those that arrive together are worked off together.
//
// It takes heartbeats, and appends that tell a follower nothing new. Holding these
// back is safe, because no guarantee rests on when a message of Raft arrives. Nor does
// it cost a leader its office: the library sends a heartbeat a tenth to a fifth of
// Timing.Heartbeat after the last was answered, and wait is a twentieth of it. So
// heartbeats follow each other within a quarter of the time after which a follower
// begins an election at the earliest, and within half of the leader's lease. A
// message with entries, with news of what is committed, or about an election is never
// held back.
type gatherer struct {
	mesh peer.Mesh
	wait time.Duration

	mu     sync.Mutex
	closed bool
	timer  *time.Timer // of what is held; nil: nothing is
	held   map[kv.NodeID][]heldMessage
}

// heldMessage is one message that waits.
type heldMessage struct {
	t        *transport
	method   peer.Method
	req      []byte
	made     time.Time // zero: when it is given to send
	deadline time.Time
	aged     bool // req is to end with how old it was when it left, in microseconds (uvarint)
	done     func(resp []byte, err error)
}

func newGatherer(mesh peer.Mesh, wait time.Duration) *gatherer {
	return &gatherer{mesh: mesh, wait: wait, held: map[kv.NodeID][]heldMessage{}}
}

// send takes a message on. Its done is called as by Mesh.Send.
func (g *gatherer) send(to kv.NodeID, m heldMessage) {
	begin := time.Now()
	if m.made.IsZero() {
		m.made = begin
	}
	g.mu.Lock()
	g.held[to] = append(g.held[to], m)
	now := g.closed || len(g.held[to]) >= gatheredMax
	if !now && g.timer == nil {
		g.timer = time.AfterFunc(untilTick(begin, g.wait), g.flushAll)
	}
	g.mu.Unlock()
	if now {
		g.flush(to)
	}
}

// untilTick gives how long it is until the wall clock is at a multiple of every: more
// than zero, at most every. Nodes whose clocks agree send at the same moments, and so
// each is woken once for what it sends and what the others send to it. If clocks do
// not agree nothing is lost but that.
func untilTick(now time.Time, every time.Duration) time.Duration {
	return every - time.Duration(now.UnixNano())%every
}

// flush sends what is held for a peer. Whoever sends it something that must not
// overtake what is held calls it before.
func (g *gatherer) flush(to kv.NodeID) {
	g.mu.Lock()
	held := g.held[to]
	delete(g.held, to)
	g.mu.Unlock()
	g.sendAll(to, held)
}

// flushAll sends what is held for all peers.
func (g *gatherer) flushAll() {
	g.mu.Lock()
	held := g.held
	g.held = make(map[kv.NodeID][]heldMessage, len(held))
	g.timer = nil
	g.mu.Unlock()
	for to, messages := range held {
		g.sendAll(to, messages)
	}
}

func (g *gatherer) sendAll(to kv.NodeID, held []heldMessage) {
	now := time.Now()
	for _, m := range held {
		if m.t.mute.Load() > 0 { // it may have become so meanwhile (R12, R13)
			m.done(nil, errMute)
			continue
		}
		if m.aged {
			m.req = appendUvarint(m.req, uint64(now.Sub(m.made).Microseconds()))
		}
		g.mesh.Send(to, m.method, m.req, m.deadline, m.done)
	}
}

// close sends what is held, and from then on everything at once.
func (g *gatherer) close() {
	g.mu.Lock()
	g.closed = true
	if g.timer != nil {
		g.timer.Stop()
	}
	g.mu.Unlock()
	g.flushAll()
}
