package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"

	"golang.org/x/time/rate"
)

// errCrowded ends the connection of a stranger who finds too many others there.
var errCrowded = errors.New("too many connections of nodes that are not known to be of this cluster")

// addressOf gives what counts as one dialler: an address, or a /64 in IPv6.
func addressOf(conn net.Conn) netip.Prefix {
	tcp, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Prefix{} // all of them are one
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	prefix, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}

// crowd is the connections from one address.
type crowd struct {
	inside   int // accepted and not ended
	greeting int // of which still greet
}

// admit takes a new connection in, if there is room: in all, and for its address.
func (d *door) admit(l *Limits, from netip.Prefix) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.crowds[from]
	if d.inside >= l.Incoming || d.greeting >= l.Handshakes || c.inside >= l.IncomingPerAddress || c.greeting >= l.HandshakesPerAddress {
		return false
	}
	c.inside++
	c.greeting++
	d.inside++
	d.greeting++
	d.setLocked(from, c)
	return true
}

func (d *door) setLocked(from netip.Prefix, c crowd) {
	if d.crowds == nil {
		d.crowds = make(map[netip.Prefix]crowd)
	}
	if c == (crowd{}) {
		delete(d.crowds, from)
		return
	}
	d.crowds[from] = c
}

// greeted notes that a connection has ended its handshake, in one way or the other.
func (d *door) greeted(conn net.Conn) {
	from := addressOf(conn)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.greeting--
	c := d.crowds[from]
	c.greeting--
	d.setLocked(from, c)
}

// gone notes that a connection from an address has ended.
func (d *door) gone(from netip.Prefix) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.crowds[from]
	c.inside--
	d.setLocked(from, c)
}

// strangerFramesPerSecond is how fast a stranger's frames are read: he has few to send,
// and each costs time that members need.
const strangerFramesPerSecond = 1000

// guest is the stay of a connection whose dialler is not known to be a member. Its
// zero value, with a door, has not begun.
type guest struct {
	door *door
	pace *rate.Limiter // nil: it is not staying
}

// stay is called before each frame. It waits while they come too fast, and gives
// errCrowded if there is no room for one more stranger.
func (g *guest) stay(ctx context.Context, l *Limits) error {
	if g.pace == nil {
		if !g.door.acquaint(l) {
			return errCrowded
		}
		g.pace = rate.NewLimiter(strangerFramesPerSecond, strangerFramesPerSecond)
	}
	return g.pace.Wait(ctx)
}

// leave ends the stay, if it has begun.
func (g *guest) leave() {
	if g.pace != nil {
		g.pace = nil
		g.door.part()
	}
}

// acquaint counts a stranger in, if there is room; part counts it out.
func (d *door) acquaint(l *Limits) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.strangers >= l.Strangers {
		return false
	}
	d.strangers++
	return true
}

func (d *door) part() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.strangers--
}

// answersPause is how many bytes of answers may wait before requests are read no
// further. Whoever is not known to be a member has little, and never waits for more.
func (c *inConn) answersPause() int {
	l := &c.tcp.opts.Limits
	if c.member.Load() {
		return l.AnswersPause
	}
	return min(l.AnswersPause, frameStrangerMax)
}

// pong answers a ping, when there is room: answers that are not read may not pile up.
func (c *inConn) pong(h frameHeader) error {
	c.mu.Lock()
	err := c.awaitRoomLocked()
	c.mu.Unlock()
	if err == nil {
		h.kind = kindPong
		c.answer(h, nil)
	}
	return err
}

// awaitRoomLocked waits until another answer may wait to be written (invariant 2).
func (c *inConn) awaitRoomLocked() error {
	for c.count >= c.tcp.opts.Limits.InFlight || c.wire.queuedBytes() > c.answersPause() {
		if c.wire.closed() {
			return errWireClosed
		}
		c.stalled = true
		c.room.Wait()
	}
	c.stalled = false
	return nil
}

// call runs a handler. What a peer sends may end its connection, but not this process:
// a handler that panics has met a message that it should have refused.
func (c *inConn) call(handler Handler, r *incoming, payload []byte) (err error) {
	defer func() {
		if v := recover(); v != nil {
			c.tcp.log.Error("panic in the handler of a peer's request", "method", r.method, "peer", c.peer, "panic", v, "stack", string(debug.Stack()))
			err = malformed("%s", fmt.Sprintf("request of method %d: %v", r.method, v))
		}
	}()
	handler(c.peer, payload, r.reply)
	return nil
}
