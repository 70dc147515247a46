package httpd

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// reserveLife is how long a connection of the reserve keeps its place when another
// wants it. What it is for takes milliseconds.
const reserveLife = 2 * time.Second

// door counts the connections of clients, each address by itself, and lets no more in
// than there are places.
//
// Invariants:
//
//  1. Every connection in places counts at its client and, unless it is reserved, in
//     inside; whoever closes a connection takes it out.
//  2. The reserve is for the control plane and for probes: a flood of connections may
//     not lock the operator out. Its connections serve one request, never one for keys,
//     and the oldest gives way to a new one.
type door struct {
	limits *Limits

	mu      sync.Mutex
	places  map[net.Conn]*place
	clients map[netip.Prefix]*client
	inside  int
	reserve []*place // the oldest first

	refused atomic.Int64
	rivals  rivals
}

// client is all connections of one address (of one /64 in IPv6), with what it may
// take of the node at once.
type client struct {
	network          netip.Prefix
	inside, reserved int // guarded by door.mu

	data, streams   budget
	bodies, answers byteBudget
	pace            pace
	sawAt           atomic.Int64 // in Unix milliseconds, when rivals took note of it
}

// place is what a connection has got.
type place struct {
	client   *client
	conn     net.Conn
	reserved bool
	since    time.Time
}

// networkOf gives what counts as one client.
func networkOf(addr net.Addr) netip.Prefix {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{} // all of them are one
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64 // whoever has one address has all of these
	}
	network, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return network
}

// admit gives a connection its place; false if there is none.
func (d *door) admit(conn net.Conn) bool {
	network := networkOf(conn.RemoteAddr())
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.clients[network]
	if c == nil {
		c = &client{
			network: network,
			data:    budget{max: int64(d.limits.DataPerClient)}, streams: budget{max: int64(d.limits.StreamsPerClient)},
			bodies: byteBudget{max: d.limits.BodyBytesPerClient}, answers: byteBudget{max: d.limits.AnswerBytesPerClient},
			pace: newPace(d.limits.LargeBytesPerClient),
		}
	}
	p := &place{client: c, conn: conn, since: time.Now()}
	if d.inside >= d.limits.Connections || c.inside >= d.limits.ConnectionsPerClient {
		p.reserved = true
		if !d.makeRoomLocked(p) {
			d.refused.Add(1)
			return false
		}
		c.reserved++
		d.reserve = append(d.reserve, p)
	} else {
		c.inside++
		d.inside++
	}
	if d.places == nil {
		d.places, d.clients = map[net.Conn]*place{}, map[netip.Prefix]*client{}
	}
	d.places[conn], d.clients[network] = p, c
	return true
}

// makeRoomLocked finds a place in the reserve: a free one or that of the oldest. A
// client has a quarter of it, and can push out none but its own.
func (d *door) makeRoomLocked(p *place) bool {
	share := max(1, d.limits.ConnectionsReserve/4)
	if p.client.reserved < share && len(d.reserve) < d.limits.ConnectionsReserve {
		return true
	}
	for _, old := range d.reserve {
		if p.client.reserved >= share && old.client != p.client {
			continue
		}
		if p.since.Sub(old.since) < reserveLife {
			return false // and all after it are younger
		}
		_ = old.conn.Close()
		d.removeLocked(old)
		return true
	}
	return false
}

// leave takes a connection out. Again, or for one that has no place, it does nothing.
func (d *door) leave(conn net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.places[socketOf(conn)]; p != nil {
		d.removeLocked(p)
	}
}

func (d *door) removeLocked(p *place) {
	delete(d.places, p.conn)
	if p.reserved {
		p.client.reserved--
		d.reserve = slices.DeleteFunc(d.reserve, func(other *place) bool { return other == p })
	} else {
		p.client.inside--
		d.inside--
	}
	if p.client.inside+p.client.reserved == 0 {
		d.forgetLocked(p.client)
	}
}

// forgetLocked forgets a client without connections, though not before it has paid what
// it took: a new connection is no new client.
func (d *door) forgetLocked(c *client) {
	owes := time.Duration(0)
	if c.pace.rate > 0 {
		owes = c.pace.owes(time.Now())
	}
	if owes == 0 {
		delete(d.clients, c.network)
		return
	}
	time.AfterFunc(owes, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if c.inside+c.reserved == 0 && d.clients[c.network] == c {
			d.forgetLocked(c)
		}
	})
}

// figures tells how many connections there are, those of the reserve beside, and how
// many were refused.
func (d *door) figures() (inside, reserved int, refused int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inside, len(d.reserve), d.refused.Load()
}

type placeKey struct{}

// within makes the place of a connection known to its requests.
func (d *door) within(ctx context.Context, conn net.Conn) context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.places[socketOf(conn)]; p != nil {
		return context.WithValue(ctx, placeKey{}, p)
	}
	return ctx
}

// onState takes out the connections of net/http that have ended.
func (d *door) onState(conn net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		d.leave(conn)
	}
}

// socketOf gives the connection that was accepted, under what it was wrapped in since.
func socketOf(conn net.Conn) net.Conn {
	for {
		outer, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = outer.NetConn()
	}
}

// full gives the answer to a connection for which there is no place at all. It fits
// into any socket's buffer, so that writing it does not wait.
func full() []byte {
	p := refusal(kv.CodeOverloaded, "too many connections to this node")
	body := p.appendJSON(nil)
	head := "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/problem+json\r\nCache-Control: no-store\r\nRetry-After: 1\r\nConnection: close\r\n"
	head += "Content-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n"
	return append([]byte(head), body...)
}

// turnAway refuses a connection. Whoever speaks TLS does not understand, but sees that
// it is over.
func turnAway(conn net.Conn) {
	if conn.SetWriteDeadline(time.Now().Add(time.Second)) == nil {
		_, _ = conn.Write(full())
	}
	_ = conn.Close()
}
