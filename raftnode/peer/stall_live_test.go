package peer

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
)

const stalls = 100

// gate holds who passes it while it is shut.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // closed while open
}

func newGate() *gate {
	g := &gate{open: make(chan struct{})}
	close(g.open)
	return g
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = make(chan struct{})
}

func (g *gate) reopen() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.open)
}

func (g *gate) pass() {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	<-open
}

func all(t *testing.T, chs []<-chan outcome) {
	t.Helper()
	for i, ch := range chs {
		if got := await(t, "answer after a stall", ch); got.err != nil {
			t.Fatalf("call %d: %v", i, got.err)
		}
	}
}

// TestHandlerStalls: a handler hangs a hundred times; after each, all that had
// piled up is answered.
func TestHandlerStalls(t *testing.T) {
	var n Loopback
	g := newGate()
	var entered atomic.Int64
	b := n.TCP(t, 2)
	b.Handle(MethodTerms, func(_ kv.NodeID, req []byte, reply func([]byte, error)) {
		entered.Add(1)
		g.pass()
		reply(req, nil)
	})
	start(t, b)
	a := n.started(t, 1)
	for range stalls {
		before := entered.Load()
		g.shut()
		var chs []<-chan outcome
		for range 50 {
			chs = append(chs, ask(a, 2, MethodTerms, make([]byte, 10_000), patience))
		}
		eventually(t, "stall", func() bool { return entered.Load() > before })
		g.reopen()
		all(t, chs)
	}
}

// TestInFlightStalls: answers stay away until the reader has stopped at its
// limit, a hundred times; then they come from other goroutines in any order.
func TestInFlightStalls(t *testing.T) {
	const limit = 8
	var n Loopback
	replies := make(chan func([]byte, error), 1000)
	b := n.TCP(t, 2, func(o *Options) { o.Limits.InFlight = limit })
	b.Handle(MethodTerms, func(_ kv.NodeID, _ []byte, reply func([]byte, error)) { replies <- reply })
	start(t, b)
	a := n.started(t, 1)
	for range stalls {
		var chs []<-chan outcome
		for range 5 * limit {
			chs = append(chs, ask(a, 2, MethodTerms, make([]byte, 100), patience))
		}
		eventually(t, "limit", func() bool { return b.Stats()[ClassRaft].InFlight == limit })
		if got := len(replies); got > limit {
			t.Fatalf("%d requests were handed out", got)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 5 * limit / 4 {
					(<-replies)(nil, nil)
				}
			})
		}
		all(t, chs)
		wg.Wait()
	}
}

// gatedConn stops reading while its gate is shut.
type gatedConn struct {
	*net.TCPConn
	g *gate
}

func (c gatedConn) Read(p []byte) (int, error) {
	c.g.pass()
	return c.TCPConn.Read(p)
}

// smallBuffers makes the system keep little of what is written.
type smallBuffers struct{ net.Listener }

func (l smallBuffers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		_ = c.(*net.TCPConn).SetWriteBuffer(stallBuffer)
	}
	return c, err
}

const stallBuffer = 256 << 10

// TestReaderStalls: the dialler stops reading answers a hundred times, so that
// the listener stops reading requests; after each, all is answered.
func TestReaderStalls(t *testing.T) {
	const pause, calls, size = 64 << 10, 60, 100_000
	var n Loopback
	g := newGate()
	var entered atomic.Int64
	b := n.TCP(t, 2, func(o *Options) {
		o.Limits.AnswersPause = pause
		o.Listener = smallBuffers{o.Listener}
	})
	b.Handle(MethodTerms, func(_ kv.NodeID, req []byte, reply func([]byte, error)) {
		entered.Add(1)
		reply(req, nil)
	})
	start(t, b)
	a := n.started(t, 1, func(o *Options) {
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", address)
			if err != nil {
				return nil, err
			}
			_ = c.(*net.TCPConn).SetReadBuffer(stallBuffer)
			return gatedConn{c.(*net.TCPConn), g}, nil
		}
	})
	reach(t, a, 2)
	for i := range stalls {
		before := entered.Load()
		g.shut()
		var chs []<-chan outcome
		for range calls {
			chs = append(chs, ask(a, 2, MethodTerms, make([]byte, size), patience))
		}
		eventually(t, "stall", func() bool { return b.Stats()[ClassRaft].QueueBytes > pause })
		if got := entered.Load() - before; i == 0 && got == calls {
			t.Fatal("the listener read on though its answers were not read")
		}
		g.reopen()
		all(t, chs)
	}
}

// TestGreedyPeersAreGivenUp: one who asks much and reads no answers loses the
// connection, and nobody else.
func TestGreedyPeersAreGivenUp(t *testing.T) {
	var n Loopback
	ended := make(chan error, 4)
	b := n.TCP(t, 2, func(o *Options) {
		o.Limits.AnswersPause, o.Limits.AnswersMax = 1<<30, 1<<20
		o.Hooks.Closed = func(_ Class, _ bool, err error) { ended <- err }
	})
	b.Handle(MethodTerms, func(_ kv.NodeID, _ []byte, reply func([]byte, error)) { reply(make([]byte, 500_000), nil) })
	start(t, b)
	c := rawDial(t, n.Address(2))
	c.greet(t, nil)
	for i := range uint64(200) {
		frame := appendFrame(nil, frameHeader{kind: kindRequest, method: uint16(MethodTerms), id: i + 1}, nil)
		if _, err := c.Write(frame); err != nil {
			break
		}
	}
	await(t, "end", ended)
	reach(t, n.started(t, 1), 2)
}

// TestSlowPeerMeetsTheWriteDeadline: a write that does not end is ended. Its reader is
// kept content, from before the write on, so that only the write can be what ends the
// connection, also where this machine stands still for longer than the deadline.
func TestSlowPeerMeetsTheWriteDeadline(t *testing.T) {
	var n Loopback
	conns := mute(t, &n, 2)
	a := n.started(t, 1, func(o *Options) { o.Timing.Dead = time.Second; o.Timing.Ping = time.Hour })
	first := ask(a, 2, MethodTerms, nil, patience)
	c := await(t, "connection", conns)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				_, _ = c.Write(appendFrame(nil, frameHeader{kind: kindPong, id: 1}, nil))
			}
		}
	})
	got := await(t, "end", ask(a, 2, MethodTerms, make([]byte, 32<<20), patience))
	close(stop)
	wg.Wait()
	await(t, "end of the first", first)
	wantErr(t, got.err, kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
	eventually(t, "log", func() bool { return n.Log.has("no connection", "one write took") })
}
