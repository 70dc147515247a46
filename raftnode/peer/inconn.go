package peer

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate-db/quorate/kv"
)

var errGreedy = errors.New("answers are not read")

// inConn is a connection that a peer dialled to send requests of one class.
//
// Invariants:
//  1. A request is in the list from before its handler is called until the first
//     of reply, expiry and the end of the connection; count is the list's length.
//  2. The reader waits only while there is no room, and whoever makes room, or
//     ends the wire, wakes it.
//
// Lock order: inConn.mu, wire.mu.
type inConn struct {
	tcp     *TCP
	wire    *wire
	peer    kv.NodeID
	cluster string // as the peer greeted
	member  atomic.Bool

	mu      sync.Mutex
	room    sync.Cond // on mu
	head    *incoming // the newest
	count   int
	stalled bool // the reader waits for room

	revoked int64 // clock reading at which the connection was found to be; the keeper's
}

// incoming is a request that its handler has not answered.
type incoming struct {
	conn       *inConn
	id         uint64
	method     Method
	deadline   int64 // clock reading
	answered   atomic.Bool
	prev, next *incoming // guarded by conn.mu
	listed     bool      // guarded by conn.mu
}

func newInConn(t *TCP, w *wire, hello *greeting) *inConn {
	c := &inConn{tcp: t, wire: w, peer: hello.self, cluster: hello.cluster}
	c.room.L = &c.mu
	w.class = hello.class
	return c
}

// serve handles requests until the connection ends.
func (c *inConn) serve() error {
	c.wire.start(c.flushed)
	err := c.read()
	c.wire.finish(err)
	if reason := c.wire.reason(); reason != nil {
		err = reason
	}
	return err
}

func (c *inConn) read() error {
	tally := 0
	g := guest{door: &c.tcp.door}
	defer g.leave()
	for {
		limit := kv.FrameBytesMax
		if c.isMember() {
			g.leave()
		} else if err := g.stay(c.tcp.ctx, &c.tcp.opts.Limits); err != nil {
			return err
		} else {
			limit = frameStrangerMax
		}
		h, payload, err := c.wire.next(limit, &tally)
		if err != nil {
			return err
		}
		switch h.kind {
		case kindRequest:
			if err := c.request(h, payload); err != nil {
				return err
			}
		case kindPing:
			if err := c.pong(h); err != nil {
				return err
			}
		case kindClose:
			return goodbye(h, payload)
		default:
			return malformed("frame kind %d from a dialler", h.kind)
		}
	}
}

// request hands a request to its handler, when there is room.
func (c *inConn) request(h frameHeader, payload []byte) error {
	m := Method(h.method)
	r := &incoming{conn: c, id: h.id, method: m}
	if h.left == 0 {
		h.left = leftOf(kv.RequestTimeoutMax)
	}
	r.deadline = c.tcp.clock() + int64(h.left)*int64(time.Microsecond)
	if err := c.enter(r); err != nil {
		return err
	}
	handler := c.tcp.handlers[m]
	switch {
	case !OpenTo(m) && !c.isMember():
		r.reply(nil, c.refuse(m))
	case ClassOf(m) != c.wire.class:
		r.reply(nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "method %d on a connection of class %s", m, c.wire.class))
	case handler == nil:
		r.reply(nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "method %d is not served by node %s", m, c.tcp.opts.Self))
	default:
		return c.call(handler, r, payload)
	}
	return nil
}

// enter lists a request, after waiting for room.
func (c *inConn) enter(r *incoming) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.awaitRoomLocked(); err != nil {
		return err
	}
	r.next, r.listed = c.head, true
	if c.head != nil {
		c.head.prev = r
	}
	c.head = r
	c.count++
	return nil
}

func (c *inConn) removeLocked(r *incoming) {
	if !r.listed {
		return
	}
	r.listed = false
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		c.head = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	}
	r.prev, r.next = nil, nil
	c.count--
	if c.stalled {
		c.room.Signal()
	}
}

// reply answers a request once.
func (r *incoming) reply(resp []byte, err error) {
	c := r.conn
	if r.answered.Swap(true) {
		c.tcp.log.Error("a handler answered twice", "method", r.method, "peer", c.peer)
		return
	}
	if err == nil && len(resp) > PayloadBytesMax {
		err = kv.Errorf(kv.CodeTooLarge, kv.OutcomeUnknown, "answer of %d bytes: at most %d", len(resp), PayloadBytesMax)
	}
	h := frameHeader{kind: kindAnswer, method: uint16(r.method), id: r.id}
	if err != nil {
		h.kind = kindFailure
		resp = encodeFailure(err)
	}
	c.answer(h, resp)
	c.mu.Lock()
	c.removeLocked(r)
	c.mu.Unlock()
}

// answer queues a frame. A peer that lets answers pile up loses the connection.
func (c *inConn) answer(h frameHeader, payload []byte) {
	if c.wire.enqueue(h, payload, c.tcp.opts.Limits.AnswersMax) == errWireFull {
		c.wire.fail(fmt.Errorf("%w: more than %d bytes wait", errGreedy, c.tcp.opts.Limits.AnswersMax))
	}
}

// flushed wakes the reader: there may be room, or the wire has ended.
func (c *inConn) flushed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stalled {
		c.room.Signal()
	}
}

// check gives up requests that their handler keeps for too long, and a peer
// that has gone silent.
func (c *inConn) check(now int64, stood time.Duration) {
	c.mu.Lock()
	for r := c.head; r != nil; {
		next := r.next
		if now-r.deadline > int64(c.tcp.opts.Timing.Grace) {
			c.removeLocked(r)
		}
		r = next
	}
	c.mu.Unlock()
	c.wire.check(now, stood, c.tcp.opts.Timing.Dead)
	c.review(now)
}

// inFlight gives how many requests are unanswered.
func (c *inConn) inFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

func (c *inConn) shutdown() { c.wire.close(closeShutdown, errShutdown) }
