package peer

// How a connection ends whose secrets have changed: who dialled it dials another,
// moves there with what it asks from then on, and closes the old one when that has
// no answers to give any more. So nothing that was asked is lost. The listener closes
// only what was revoked and not replaced in time.

// review looks at what the secrets that count now make of a connection.
func (c *outConn) review(now int64, w *wire) {
	if w.secure == nil {
		return
	}
	pause := int64(c.tcp.opts.Timing.Renew)
	standing := w.secure.Standing()
	c.mu.Lock()
	if standing == Revoked && c.revoked == 0 {
		c.revoked = now
	}
	drained := c.drainBy != 0 && (len(c.calls) == 0 || now >= c.drainBy)
	draining := c.drainBy != 0
	late := c.revoked != 0 && now-c.revoked >= pause
	// The other end may be about to change too: its secret is given a moment.
	young := standing == Outdated && now-c.madeAt < pause
	c.mu.Unlock()
	switch {
	case drained:
		c.retire()
	case late:
		w.close(closeReplaced, errRevoked)
	case standing == Current || young || draining:
	default:
		c.link.renew(c, now)
	}
}

// drain lets the connection end with its last answer.
func (c *outConn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drainBy = c.tcp.clock() + int64(c.tcp.opts.Timing.Renew)
}

// renew dials a connection that is to replace old.
func (l *link) renew(old *outConn, now int64) {
	cluster := l.tcp.opts.ClusterID()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != old || l.next != nil || now < l.renewAt {
		return
	}
	l.renewAt = now + int64(l.tcp.opts.Timing.Renew)/2
	c := newOutConn(l, cluster)
	c.replaces = old
	l.tcp.outs.add(c) // run takes it out
	if !l.tcp.spawn(c.run) {
		l.tcp.outs.remove(c)
		return
	}
	l.next = c
}

// adopt makes c, which has just been connected, the link's connection. It is called
// by c's own goroutine.
func (l *link) adopt(c *outConn) {
	l.mu.Lock()
	wanted := l.next == c && (l.conn == c.replaces || l.conn == nil)
	if wanted {
		l.conn = c
	}
	if l.next == c {
		l.next = nil
	}
	l.mu.Unlock()
	if wanted {
		c.replaces.drain()
	} else {
		c.retire()
	}
	c.replaces = nil // and with it what it holds
}

// review closes a connection that was revoked and that its dialler has not
// replaced in time.
func (c *inConn) review(now int64) {
	if c.wire.secure == nil || c.wire.secure.Standing() != Revoked {
		return
	}
	if c.revoked == 0 {
		c.revoked = now
	}
	if now-c.revoked >= int64(c.tcp.opts.Timing.Renew) {
		c.wire.close(closeReplaced, errRevoked)
	}
}
