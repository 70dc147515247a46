package httpd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	fastBufferFirst = 4 << 10
	fastBufferMax   = fastHeadMax + 4 + fastBodyMax
	// fastPatience is how long the rest of a request may take to come: then net/http
	// waits for it, with its own limits.
	fastPatience = 100 * time.Millisecond
	// fastWatch is how often a connection whose request takes long is asked whether
	// its client is still there.
	fastWatch = 250 * time.Millisecond
)

// fastConn serves requests for single keys on one connection. net/http spends more on
// such a request than the rest of this node on answering a read: it reads the
// connection in the background while the handler runs, sets three deadlines, and
// allocates what the next request needs again. Here a request that has come whole is
// parsed in place, handled by the same handlers, and answered with one write.
//
// Invariants:
//
//  1. Only what fastRequest.parse takes is served here. At the first other byte the
//     connection goes to net/http for good, with every byte that was not answered.
//     So each request is judged by exactly one of the two.
//  2. One request at a time, in order; nothing of a request is kept after it.
//  3. A client that goes away ends its request, as with net/http, though only after
//     fastWatch; over TLS only if it does not say goodbye first, for that hides the end.
//  4. Over TLS, HTTP/2 is net/http's from the first byte.
type fastConn struct {
	s      *Server
	nc     net.Conn        // tcp, or TLS over it
	tcp    *net.TCPConn    // to see whether the client is gone
	secure *tls.Conn       // nc, nil if it is plain; the handshake is serve's
	ctx    context.Context // of all requests; ends when the client is gone
	cancel context.CancelFunc
	watch  *time.Timer // runs while a request does
	state  atomic.Int32

	buf        []byte
	start, end int // of what is in buf and not answered
	req        fastRequest
	res        fastResponse
	begun      bool      // a part of a request has come, and is waited for
	served     bool      // a request was, so that it may be idle for longer
	given      bool      // to net/http
	readBy     time.Time // deadlines as they are set
	writeBy    time.Time
}

// The states of a fastConn. Only idle ones are closed by others.
const (
	fastIdle int32 = iota
	fastBusy
	fastClosed
)

func newFastConn(s *Server, nc *net.TCPConn) *fastConn {
	c := &fastConn{s: s, nc: nc, tcp: nc, buf: make([]byte, fastBufferFirst)}
	if s.opts.TLS != nil {
		c.secure = tls.Server(nc, s.opts.TLS)
		c.nc = c.secure
	}
	c.ctx, c.cancel = context.WithCancel(s.door.within(context.Background(), nc))
	r := &http.Request{
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, RemoteAddr: nc.RemoteAddr().String(),
	}
	c.req.http = r.WithContext(c.ctx)
	c.res.header, c.res.conn = http.Header{}, c
	c.watch = time.AfterFunc(time.Hour, c.look)
	c.watch.Stop()
	return c
}

// serve answers requests until the connection ends, or gives it to net/http.
func (c *fastConn) serve(others *handoff) {
	defer c.cancel()
	defer c.watch.Stop()
	if c.secure != nil && !c.handshake(others) {
		return
	}
	for {
		n, v := c.req.parse(c.buf[c.start:c.end])
		switch v {
		case fastWhole:
			if !c.answer() {
				_ = c.nc.Close()
				return
			}
			c.start, c.begun, c.served = c.start+n, false, true
		case fastOther:
			c.handOver(others)
			return
		default:
			if err := c.read(); err == nil {
				continue
			}
			if c.begun { // and does not go on: net/http has an answer to that
				c.handOver(others)
				return
			}
			_ = c.nc.Close()
			return
		}
	}
}

// read waits for more. Deadlines are not set for each request, because that costs: an
// idle connection ends after once to one and a half times the idle timeout.
func (c *fastConn) read() error {
	now := time.Now()
	idle := c.s.opts.Limits.IdleTimeout
	if !c.served {
		idle = c.s.opts.Limits.HeaderTimeout / 3 * 2 // so that half as much again is all of it
	}
	switch {
	case c.end == c.start:
		c.start, c.end, c.begun = 0, 0, false
		if c.readBy.Sub(now) >= idle {
			break
		}
		c.readBy = now.Add(idle + idle/2)
		if err := c.nc.SetReadDeadline(c.readBy); err != nil {
			return err
		}
	case !c.begun:
		c.begun, c.readBy = true, time.Time{} // to be set again
		if err := c.nc.SetReadDeadline(now.Add(fastPatience)); err != nil {
			return err
		}
	}
	if c.end == len(c.buf) {
		c.makeRoom()
	}
	n, err := c.nc.Read(c.buf[c.end:])
	c.end += n
	if n > 0 {
		return nil // an error comes again
	}
	return err
}

// makeRoom moves what is there to the front, or into a larger buffer. There is room
// then, because what fills fastBufferMax is whole or not for us.
func (c *fastConn) makeRoom() {
	from := c.buf
	if c.start == 0 {
		c.buf = make([]byte, min(2*len(c.buf), fastBufferMax))
	}
	c.end = copy(c.buf, from[c.start:c.end])
	c.start = 0
}

// answer runs the handler and writes the answer. False: the connection has ended.
func (c *fastConn) answer() (ok bool) {
	if !c.state.CompareAndSwap(fastIdle, fastBusy) {
		return false
	}
	if now := time.Now(); c.writeBy.Sub(now) < writeTimeout {
		c.writeBy = now.Add(2 * writeTimeout)
		if err := c.nc.SetWriteDeadline(c.writeBy); err != nil {
			return false
		}
	}
	c.watch.Reset(fastWatch)
	defer func() {
		if v := recover(); v != nil && v != http.ErrAbortHandler {
			panic(v) // ServeHTTP lets nothing else through
		} else if v != nil {
			ok = false
		}
	}()
	c.res.reset(c.req.http.Method)
	c.s.ServeHTTP(&c.res, c.req.http)
	c.watch.Stop()
	if !c.res.send(c.nc, c.s.fast.ending()) {
		return false
	}
	c.state.Store(fastIdle)
	return !c.s.fast.ending()
}

// look runs while a request takes long.
func (c *fastConn) look() {
	if c.state.Load() != fastBusy {
		return
	}
	if peerGone(c.tcp) {
		c.cancel()
		return
	}
	c.watch.Reset(fastWatch)
}

// handOver gives the connection to net/http, with what was not answered.
func (c *fastConn) handOver(others *handoff) {
	if !c.state.CompareAndSwap(fastIdle, fastClosed) || c.nc.SetDeadline(time.Time{}) != nil {
		_ = c.nc.Close()
		return
	}
	c.given = true
	before := c.buf[c.start:c.end]
	switch {
	case c.secure == nil:
		others.give(&replayed{halfCloser: c.tcp, before: before})
	case len(before) == 0:
		others.give(c.secure) // net/http has to see it to speak HTTP/2
	default:
		others.give(&replayed{halfCloser: c.secure, before: before})
	}
}

// replayed is a connection of which a part was read before.
type replayed struct {
	halfCloser
	before []byte
}

// Read gives what was read before, and then what comes.
func (c *replayed) Read(p []byte) (int, error) {
	if len(c.before) == 0 {
		return c.halfCloser.Read(p)
	}
	n := copy(p, c.before)
	if c.before = c.before[n:]; len(c.before) == 0 {
		c.before = nil
	}
	return n, nil
}

// NetConn gives the connection within.
func (c *replayed) NetConn() net.Conn { return c.halfCloser }

// WriteTo is Read, for io.Copy: the connection's own does not know what was read.
func (c *replayed) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{c})
}

// handoff is the listener from which net/http gets its connections.
type handoff struct {
	net.Listener // for its address
	conns        chan net.Conn
	once         sync.Once
	done         chan struct{}
}

func newHandoff(l net.Listener) *handoff {
	return &handoff{Listener: l, conns: make(chan net.Conn), done: make(chan struct{})}
}

// Accept waits for the next connection.
func (h *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close ends it, and the listener behind it.
func (h *handoff) Close() error {
	h.once.Do(func() { close(h.done) })
	return h.Listener.Close()
}

func (h *handoff) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.done:
		_ = c.Close()
	}
}

// fastConns are the connections that are served here.
type fastConns struct {
	closing atomic.Bool

	mu    sync.Mutex
	conns map[*fastConn]struct{}
	wg    sync.WaitGroup // counted up under mu, while not closing
}

func (f *fastConns) ending() bool { return f.closing.Load() }

// spawn serves a connection; false after close.
func (f *fastConns) spawn(c *fastConn, others *handoff) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closing.Load() {
		return false
	}
	if f.conns == nil {
		f.conns = map[*fastConn]struct{}{}
	}
	f.conns[c] = struct{}{}
	f.wg.Go(func() {
		c.serve(others)
		if !c.given {
			c.s.door.leave(c.nc)
		}
		f.mu.Lock()
		delete(f.conns, c)
		f.mu.Unlock()
	})
	return true
}

// begin ends idle connections now; the others end with their answer.
func (f *fastConns) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closing.Store(true)
	for c := range f.conns {
		if c.state.CompareAndSwap(fastIdle, fastClosed) {
			_ = c.nc.Close()
		}
	}
}

// wait returns when all connections have ended. When ctx ends it closes what is left,
// and gives its error.
func (f *fastConns) wait(ctx context.Context) error {
	done := make(chan struct{})
	go func() { f.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		c.cancel()
		_ = c.nc.Close()
	}
	return ctx.Err()
}

// acceptPauseMax bounds the pause after a failure that may pass, such as having no
// file descriptors left.
const acceptPauseMax = time.Second

// accept takes connections until the listener is closed.
func (s *Server) accept(l net.Listener, others *handoff) error {
	pause := 5 * time.Millisecond
	for {
		nc, err := l.Accept()
		var ne net.Error
		switch {
		case err == nil:
			pause = 5 * time.Millisecond
		case s.fast.ending():
			return nil
		//lint:ignore SA1019 net/http asks the same; the errors that it means have no other mark.
		case errors.As(err, &ne) && ne.Temporary():
			s.log.Warn("cannot accept a connection", "err", err, "again_in", pause)
			select {
			case <-time.After(pause):
			case <-others.done:
			}
			pause = min(2*pause, acceptPauseMax)
			continue
		default:
			return fmt.Errorf("accept: %w", err)
		}
		if !s.door.admit(nc) {
			turnAway(nc)
			continue
		}
		tcp, ok := nc.(*net.TCPConn)
		if !ok && s.opts.TLS != nil {
			others.give(tls.Server(nc, s.opts.TLS))
		} else if !ok {
			others.give(nc)
		} else if !s.fast.spawn(newFastConn(s, tcp), others) {
			s.door.leave(nc)
			_ = nc.Close()
		}
	}
}
