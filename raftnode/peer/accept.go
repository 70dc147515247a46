package peer

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// refusalLogsMax is how many refused handshakes are logged per second.
const refusalLogsMax = 10

// door counts who comes in.
type door struct {
	mu       sync.Mutex
	inside   int // connections accepted and not ended
	greeting int // of which still greet
	newest   map[linkKey]*inConn

	strangers int                    // connections of nodes not known to be members
	crowds    map[netip.Prefix]crowd // by address

	logSecond int64
	logged    int
}

// enter makes c the connection of its peer and class, and gives the one that it
// replaces: a node has one, so the older is dead or dying. A stranger who says that he
// is a member's node replaces nothing.
func (d *door) enter(c *inConn) *inConn {
	member := c.isMember()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.newest == nil {
		d.newest = make(map[linkKey]*inConn)
	}
	key := linkKey{c.peer, c.wire.class}
	old := d.newest[key]
	if old != nil && old.member.Load() && !member {
		return nil
	}
	d.newest[key] = c
	return old
}

func (d *door) leave(c *inConn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inside--
	if c == nil {
		return
	}
	if key := (linkKey{c.peer, c.wire.class}); d.newest[key] == c {
		delete(d.newest, key)
	}
}

// mayLog bounds the log lines that strangers can cause.
func (d *door) mayLog() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now().Unix(); now != d.logSecond {
		d.logSecond, d.logged = now, 0
	}
	d.logged++
	return d.logged <= refusalLogsMax
}

// accept takes connections in until the listener closes.
func (t *TCP) accept() {
	pause := time.Duration(0)
	for {
		conn, err := t.listener.Accept()
		if err == nil {
			pause = 0
			t.receive(conn)
			continue
		}
		if t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		// Out of file descriptors, most likely: they come back.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		t.log.Error("accept failed", "err", err, "retry_in", pause)
		timer := time.NewTimer(pause)
		select {
		case <-t.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// receive gives a new connection its goroutine.
func (t *TCP) receive(conn net.Conn) {
	from := addressOf(conn)
	if !t.door.admit(&t.opts.Limits, from) {
		t.refused(conn, "limit", errors.New("too many connections"))
		_ = conn.Close()
		return
	}
	if !t.spawn(func() {
		defer t.door.gone(from)
		t.welcome(conn)
	}) {
		t.door.greeted(conn)
		t.door.leave(nil)
		t.door.gone(from)
		_ = conn.Close()
	}
}

func (t *TCP) refused(conn net.Conn, reason string, err error) {
	t.opts.Hooks.Refused(reason)
	if t.door.mayLog() {
		t.log.Warn("refused a connection", "address", conn.RemoteAddr(), "reason", reason, "err", err)
	}
}

// welcome greets whoever dialled and serves it until the connection ends.
func (t *TCP) welcome(conn net.Conn) {
	release := t.closeWith(t.ctx, conn)
	w, hello, version, err := t.greetBack(conn)
	if err != nil {
		if t.ctx.Err() == nil {
			t.refused(conn, reasonOf(err), err)
		}
		t.turnAway(conn, err)
		release()
		t.door.greeted(conn)
		t.door.leave(nil)
		return
	}
	t.door.greeted(conn)
	c := newInConn(t, w, hello)
	t.ins.add(c)
	release()
	if t.ctx.Err() != nil {
		_ = conn.Close() // it may have been closed already
	}
	if !hello.byAddress {
		if old := t.door.enter(c); old != nil && !hello.renewal {
			old.wire.close(closeReplaced, errRetired)
		}
	}
	t.log.Debug("accepted", "peer", hello.self, "class", hello.class, "protocol", version, "address", conn.RemoteAddr())
	info := infoOf(hello, true)
	t.met(info)
	err = c.serve()
	t.opts.Hooks.Closed(hello.class, true, err)
	t.ins.remove(c)
	t.door.leave(c)
	switch {
	case errors.Is(err, errMalformed):
		t.refused(conn, "malformed", err)
	case errors.Is(err, errCrowded):
		t.refused(conn, "limit", err)
	}
	if !hello.byAddress && c.member.Load() {
		t.judgeEnd(c.peer, true, err)
	}
}

// greetBack secures a connection that was accepted, reads a hello and answers it.
func (t *TCP) greetBack(conn net.Conn) (*wire, *greeting, uint16, error) {
	_ = conn.SetDeadline(time.Now().Add(t.opts.Timing.Handshake))
	cluster := t.opts.ClusterID() // certificate and greeting say the same
	conn, err := t.secure(t.ctx, conn, cluster, false)
	if err != nil {
		return nil, nil, 0, err
	}
	w := t.newWire(conn)
	hello, err := readHello(w.in)
	if err != nil {
		return nil, nil, 0, err
	}
	version, no := judgeHello(hello, t.opts.Self, cluster)
	if forged := judgeClaim(conn, hello); forged != nil {
		no = forged
	}
	answer := t.greeting(greetWelcome, cluster)
	answer.expected = hello.self
	answer.class = hello.class
	if no != nil {
		answer.kind, answer.refusal, answer.text = greetRefusal, no.reason, no.text
	} else {
		answer.versionMin, answer.versionMax = version, version
	}
	if _, err := conn.Write(appendGreeting(nil, answer)); err != nil {
		return nil, nil, 0, err
	}
	if no != nil {
		return nil, nil, 0, no
	}
	return w, hello, version, conn.SetDeadline(time.Time{})
}

// member reports whether a dialler that greeted with a cluster is known to be a
// member of ours. Once it is, it stays so.
func (c *inConn) isMember() bool {
	if c.member.Load() {
		return true
	}
	if !fellows(c.cluster, c.tcp.opts.ClusterID()) {
		return false
	}
	c.member.Store(true)
	return true
}

// refuse answers a request that its sender may not make.
func (c *inConn) refuse(m Method) error {
	return kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied,
		"node %s is not known to be of the same cluster as node %s: method %d refused", c.peer, c.tcp.opts.Self, m)
}
