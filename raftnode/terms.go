package raftnode

import (
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

const (
	// termsAsksMax bounds the questions in one message.
	termsAsksMax = 1024
	// termsInFlightMax bounds the messages to one peer that have no answer, and
	// termsLate is how old the newest of them is before another one may join it:
	// until then questions gather.
	termsInFlightMax = 4
	termsLate        = 10 * time.Millisecond
)

// terms asks peers for the terms of their replicas: step 3 of the read index (R7).
// One message to a peer carries the questions of all shards that wait.
type terms struct {
	mesh    peer.Mesh
	timeout time.Duration

	mu    sync.Mutex
	peers map[kv.NodeID]*termsPeer
}

type termsPeer struct {
	pending  []termsAsk
	inFlight int
	lastSent time.Time
}

type termsAsk struct {
	of   kv.ServerID
	done func(termsAnswer)
}

// termsAnswer is what a replica says of itself. Not known: it did not answer, or
// does not run there.
type termsAnswer struct {
	known               bool
	term, last, applied uint64
}

// ask calls done exactly once, maybe before it returns.
func (t *terms) ask(of kv.ServerID, done func(termsAnswer)) {
	t.mu.Lock()
	p := t.peers[of.Node]
	if p == nil {
		p = &termsPeer{}
		t.peers[of.Node] = p
	}
	p.pending = append(p.pending, termsAsk{of, done})
	batch := p.nextLocked(time.Now())
	t.mu.Unlock()
	t.send(of.Node, p, batch)
}

// nextLocked gives what is to be sent now, nil for nothing.
func (p *termsPeer) nextLocked(now time.Time) []termsAsk {
	crowded := p.inFlight > 0 && (p.inFlight >= termsInFlightMax || now.Sub(p.lastSent) < termsLate)
	if len(p.pending) == 0 || crowded {
		return nil
	}
	n := min(len(p.pending), termsAsksMax)
	batch := p.pending[:n:n]
	p.pending = p.pending[n:]
	p.inFlight++
	p.lastSent = now
	return batch
}

func (t *terms) send(to kv.NodeID, p *termsPeer, batch []termsAsk) {
	if len(batch) == 0 {
		return
	}
	req := appendUvarint(append(make([]byte, 0, 8+8*len(batch)), wireFormat), uint64(len(batch)))
	for _, a := range batch {
		req = appendUvarint(appendUvarint(req, uint64(a.of.Shard)), a.of.Incarnation)
	}
	t.mesh.Send(to, peer.MethodTerms, req, time.Now().Add(t.timeout), func(resp []byte, err error) {
		answers := make([]termsAnswer, len(batch))
		if err == nil {
			decodeTerms(resp, answers)
		}
		t.mu.Lock()
		p.inFlight--
		next := p.nextLocked(time.Now())
		t.mu.Unlock()
		t.send(to, p, next)
		for i, a := range batch {
			a.done(answers[i])
		}
	})
}

// decodeTerms fills in the answers. What does not decode stays not known.
func decodeTerms(resp []byte, answers []termsAnswer) {
	in := wireReader{rest: resp}
	in.format()
	if in.uvarint() != uint64(len(answers)) {
		return
	}
	for i := range answers {
		a := termsAnswer{known: in.bool(), term: in.uvarint(), last: in.uvarint(), applied: in.uvarint()}
		if in.failed {
			return
		}
		answers[i] = a
	}
}

// handleTerms answers at once: it only reads what is in memory. A term there is
// stored before it can be seen, and before a vote is given in it.
func (h *Host) handleTerms(_ kv.NodeID, req []byte, reply func([]byte, error)) {
	in := wireReader{rest: req}
	in.format()
	n := in.uvarint()
	if in.failed || n > termsAsksMax {
		reply(nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "malformed question for terms"))
		return
	}
	out := appendUvarint(append(make([]byte, 0, 8+16*n), wireFormat), n)
	for range n {
		id := kv.ServerID{Node: h.opts.Node, Shard: kv.ShardID(in.uvarint()), Incarnation: in.uvarint()}
		a := h.termsOf(id)
		out = appendUvarint(appendUvarint(appendUvarint(appendBool(out, a.known), a.term), a.last), a.applied)
	}
	if err := in.done("question for terms"); err != nil {
		reply(nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "%w", err))
		return
	}
	reply(out, nil)
}

func (h *Host) termsOf(id kv.ServerID) termsAnswer {
	r, ok := h.Replica(id.Shard)
	if !ok || r.id != id || r.mute.Load() > 0 {
		return termsAnswer{}
	}
	inst := r.inst.Load()
	if inst == nil {
		return termsAnswer{}
	}
	return termsAnswer{
		known:   true,
		term:    inst.raft.CurrentTerm(),
		last:    inst.raft.LastIndex(),
		applied: r.machine.Applied().Index,
	}
}
