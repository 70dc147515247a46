package peer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
)

var (
	errClosed    = kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "this node's peer port is closed")
	errShutdown  = errors.New("this node shuts down")
	errRetired   = errors.New("replaced by a newer connection")
	errGoodbye   = errors.New("the peer shut down")
	errPeerFault = errors.New("the peer gave up the connection")
	errPeerMoved = errors.New("the peer replaced the connection")
)

// call is a request that waits for its answer.
type call struct {
	done     func([]byte, error)
	deadline int64 // clock reading
}

// waiting is a request that waits for the connection.
type waiting struct {
	h       frameHeader
	payload []byte
}

// outConn is a connection that this node dialled, to send requests of one class.
//
// Invariants:
//  1. A call is in calls exactly until its done is called, and whoever takes it
//     out calls it.
//  2. Nothing enters calls once ended is set, and then calls is emptied.
//  3. earliest is at or before the deadline of every call.
//  4. While wire is nil no request has left.
//
// Lock order: link.mu, outConn.mu, wire.mu.
type outConn struct {
	link    *link
	tcp     *TCP
	cluster string // as this node greeted
	// replaces is the connection that this one is to replace, nil if there is none.
	replaces *outConn

	mu       sync.Mutex
	wire     *wire // nil until connected
	calls    map[uint64]call
	lastID   uint64
	earliest int64
	waiting  []waiting // while not connected
	waitSize int       // bytes of their payloads
	pingAt   int64     // clock reading when the next ping is due
	ended    bool
	retired  bool
	drainBy  int64 // clock reading at which a replaced connection is closed, 0 = it is in use
	revoked  int64 // clock reading at which it was found to be, 0 = never
	madeAt   int64 // clock reading when it was connected
}

func newOutConn(l *link, cluster string) *outConn {
	return &outConn{
		link:     l,
		tcp:      l.tcp,
		cluster:  cluster,
		calls:    make(map[uint64]call),
		earliest: math.MaxInt64,
	}
}

// send takes a request on. An error means that done is not called: errEnded, or
// what Send answers.
func (c *outConn) send(m Method, req []byte, deadline int64, done func([]byte, error)) error {
	limits := &c.tcp.opts.Limits
	h := frameHeader{kind: kindRequest, method: uint16(m)}
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return errEnded
	}
	if len(c.calls) >= limits.Calls || c.wire == nil && c.waitSize > 0 && c.waitSize+len(req) > limits.QueueBytes {
		c.mu.Unlock()
		return c.overloaded()
	}
	c.lastID++
	h.id = c.lastID
	c.calls[h.id] = call{done, deadline}
	c.earliest = min(c.earliest, deadline)
	w := c.wire
	if w == nil {
		c.waiting = append(c.waiting, waiting{h, append([]byte(nil), req...)})
		c.waitSize += len(req)
	}
	c.mu.Unlock()
	c.tcp.keeper.expect(deadline)
	if w == nil {
		return nil
	}
	h.left = leftOf(time.Duration(deadline - c.tcp.clock()))
	switch err := w.enqueue(h, req, limits.QueueBytes); {
	case err == nil:
		return nil
	case !c.take(h.id):
		return nil // it met its end meanwhile and done was called
	case errors.Is(err, errWireFull):
		return c.overloaded()
	default:
		return kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "node %s: %w", c.link.to, err)
	}
}

func (c *outConn) overloaded() error {
	c.tcp.opts.Hooks.Overloaded(c.link.to, c.link.class)
	return kv.Errorf(kv.CodeOverloaded, kv.OutcomeNotApplied, "queue of %s requests to node %s is full", c.link.class, c.link.to)
}

// take removes a call, if it is still there.
func (c *outConn) take(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.calls[id]
	delete(c.calls, id)
	return ok
}

// run lives as long as the connection: it dials, reads answers, and cleans up.
func (c *outConn) run() {
	opts := &c.tcp.opts
	start := c.tcp.clock()
	w, welcome, err := c.connect()
	opts.Hooks.Dialled(c.link.to, c.link.class, time.Duration(c.tcp.clock()-start), err)
	var lived time.Duration
	if err == nil {
		c.tcp.log.Debug("connected", "peer", c.link.to, "class", c.link.class, "address", w.conn.RemoteAddr())
		c.tcp.met(infoOf(welcome, false))
		start = c.tcp.clock()
		err = c.serve(w)
		lived = time.Duration(c.tcp.clock() - start)
		opts.Hooks.Closed(c.link.class, false, err)
	}
	c.tcp.outs.remove(c)
	c.link.drop(c, lived, err)
	c.failAll(err)
	c.tcp.judgeEnd(c.link.to, w != nil, err)
	if !errors.Is(err, errShutdown) && !errors.Is(err, errRetired) && c.link.worthLogging(err) {
		c.tcp.log.Warn("no connection", "peer", c.link.to, "class", c.link.class, "err", err)
	}
}

// connect dials and greets.
func (c *outConn) connect() (*wire, *greeting, error) {
	t := c.tcp
	address, ok := t.opts.Directory(c.link.to)
	if !ok {
		return nil, nil, errors.New("no address is known")
	}
	ctx, cancel := context.WithTimeout(t.ctx, t.opts.Timing.Dial)
	defer cancel()
	hello := t.greeting(greetHello, c.cluster)
	hello.class, hello.expected, hello.renewal = c.link.class, c.link.to, c.replaces != nil
	return t.dial(ctx, address, hello)
}

// serve hands the waiting requests over and reads answers until the connection
// ends.
func (c *outConn) serve(w *wire) error {
	w.class = c.link.class
	w.start(func() {})
	c.mu.Lock()
	for _, q := range c.waiting {
		// Who met its deadline is not sent: not-applied was the answer.
		if cl, ok := c.calls[q.h.id]; ok {
			q.h.left = leftOf(time.Duration(cl.deadline - c.tcp.clock()))
			_ = w.enqueue(q.h, q.payload, math.MaxInt) // only a broken wire refuses; then all calls fail
		}
	}
	c.waiting, c.waitSize = nil, 0
	c.wire = w
	c.madeAt = c.tcp.clock()
	c.pingAt = c.madeAt + int64(c.tcp.opts.Timing.Ping)
	retired := c.retired
	c.mu.Unlock()
	if c.replaces != nil {
		c.link.adopt(c)
	}
	if retired {
		w.close(closeReplaced, errRetired)
	}
	if c.tcp.ctx.Err() != nil {
		w.close(closeShutdown, errShutdown)
	}
	err := c.read(w)
	w.finish(err)
	if reason := w.reason(); reason != nil {
		err = reason
	}
	return err
}

// read handles what the peer sends.
func (c *outConn) read(w *wire) error {
	tally := 0
	for {
		h, payload, err := w.next(kv.FrameBytesMax, &tally)
		if err != nil {
			return err
		}
		var answer error
		switch h.kind {
		case kindAnswer:
		case kindFailure:
			if answer, err = decodeFailure(payload); err != nil {
				return err
			}
			payload = nil
		case kindPong:
			c.tcp.opts.Hooks.RoundTrip(c.link.to, c.link.class, time.Duration(c.tcp.clock()-int64(h.id)))
			continue
		case kindClose:
			return goodbye(h, payload)
		default:
			return malformed("frame kind %d from a listener", h.kind)
		}
		c.mu.Lock()
		cl, ok := c.calls[h.id]
		delete(c.calls, h.id)
		c.mu.Unlock()
		if ok {
			cl.done(payload, answer)
		}
	}
}

// goodbye gives the error for a close frame.
func goodbye(h frameHeader, payload []byte) error {
	text := clip(string(payload), closeTextBytesMax)
	switch closeCode(h.method) {
	case closeShutdown:
		return fmt.Errorf("%w: %q", errGoodbye, text)
	case closeReplaced:
		return fmt.Errorf("%w: %q", errPeerMoved, text)
	default:
		return fmt.Errorf("%w: %q", errPeerFault, text)
	}
}

// failAll ends all calls.
func (c *outConn) failAll(reason error) {
	c.mu.Lock()
	c.ended = true
	calls := c.calls
	c.calls = nil
	connected := c.wire != nil
	c.waiting = nil
	c.mu.Unlock()
	for _, cl := range calls {
		cl.done(nil, c.lost(connected, reason))
	}
}

// lost gives the error of a call that ends without an answer.
func (c *outConn) lost(connected bool, reason error) error {
	if !connected {
		return kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "node %s: %w", c.link.to, reason)
	}
	return kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown, "node %s: %w", c.link.to, reason)
}

// expire ends the calls whose deadline has passed and gives the next deadline.
func (c *outConn) expire(now int64) int64 {
	c.mu.Lock()
	if c.earliest > now {
		defer c.mu.Unlock()
		return c.earliest
	}
	var late []func([]byte, error)
	c.earliest = math.MaxInt64
	for id, cl := range c.calls {
		if cl.deadline <= now {
			late = append(late, cl.done)
			delete(c.calls, id)
		} else {
			c.earliest = min(c.earliest, cl.deadline)
		}
	}
	next, connected := c.earliest, c.wire != nil
	c.mu.Unlock()
	for _, done := range late {
		done(nil, c.lost(connected, errLate))
	}
	return next
}

var errLate = errors.New("no answer in time")

// check pings, and gives up a peer that has gone silent.
func (c *outConn) check(now int64, stood time.Duration) {
	t := &c.tcp.opts.Timing
	c.mu.Lock()
	w := c.wire
	due := w != nil && now >= c.pingAt
	if due {
		c.pingAt = now + int64(t.Ping)
	}
	c.mu.Unlock()
	if w == nil {
		return // the dial has its own deadline
	}
	if due {
		_ = w.enqueue(frameHeader{kind: kindPing, id: uint64(now)}, nil, math.MaxInt)
	}
	w.check(now, stood, t.Dead)
	c.review(now, w)
}

// retire ends the connection because a newer one takes its place.
func (c *outConn) retire() {
	c.mu.Lock()
	c.retired = true
	w := c.wire
	c.mu.Unlock()
	if w != nil {
		w.close(closeReplaced, errRetired)
	}
}

// shutdown ends the connection because the node ends.
func (c *outConn) shutdown() {
	c.mu.Lock()
	w := c.wire
	c.mu.Unlock()
	if w != nil {
		w.close(closeShutdown, errShutdown)
	}
}
