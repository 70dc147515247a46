package peer

import (
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// steadyAfter is how long a connection must have lived for its end not to count
// as a failed dial.
const steadyAfter = time.Second

// failureLogEvery is how often the same failure to connect is logged.
const failureLogEvery = 30 * time.Second

// link is this node's way to one peer for one class: at most one connection,
// dialled when a request needs it, and not before a growing pause is over after
// failures.
type link struct {
	tcp   *TCP
	to    kv.NodeID
	class Class

	mu       sync.Mutex
	conn     *outConn // the newest, nil if it has ended
	next     *outConn // is to replace conn, once it is connected
	renewAt  int64    // clock reading before which no other is dialled for that
	failures int      // in a row
	retryAt  int64    // clock reading before which nobody dials
	lastErr  error    // why conn ended
	logged   string   // the failure last logged
	loggedAt int64
}

// errEnded: the connection ended between being found and being used.
var errEnded = errors.New("connection ended")

// send hands a request to the connection. If it returns an error, done is not
// and will not be called.
func (l *link) send(m Method, req []byte, deadline int64, done func([]byte, error)) error {
	for {
		c, err := l.get()
		if err != nil {
			return err
		}
		if err = c.send(m, req, deadline, done); err != errEnded {
			return err
		}
	}
}

// get gives the link's connection, a new one if there is none and the time for
// it has come. Each one it gives has not ended, or is about to be forgotten by
// drop, so that send's loop ends.
func (l *link) get() (*outConn, error) {
	cluster := l.tcp.opts.ClusterID()
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.conn; c != nil {
		if c.cluster == cluster {
			return c, nil
		}
		// We greeted as a stranger and have become a member since.
		l.conn = nil
		c.retire()
	}
	if now := l.tcp.clock(); now < l.retryAt {
		return nil, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "node %s: next try in %v: %w",
			l.to, time.Duration(l.retryAt-now).Round(time.Millisecond), l.lastErr)
	}
	c := newOutConn(l, cluster)
	l.tcp.outs.add(c) // run takes it out
	if !l.tcp.spawn(c.run) {
		l.tcp.outs.remove(c)
		return nil, errClosed
	}
	l.conn = c
	return c, nil
}

// drop forgets a connection that has ended, and decides when the next may be
// dialled. It is called before the connection's calls are failed, so that who
// tries again finds a new one.
func (l *link) drop(c *outConn, lived time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next == c {
		l.next = nil
	}
	if l.conn != c {
		return
	}
	l.conn, l.lastErr = nil, err
	if lived >= steadyAfter {
		l.failures, l.retryAt = 0, 0
		return
	}
	t := &l.tcp.opts.Timing
	pause := min(t.BackoffMin<<min(l.failures, 16), t.BackoffMax)
	pause = pause/2 + rand.N(pause/2+1)
	l.failures++
	l.retryAt = l.tcp.clock() + int64(pause)
}

// hasten lets the next request dial at once: the peer has just shown that it is
// there.
func (l *link) hasten() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures, l.retryAt = 0, 0
}

// worthLogging reports whether a failure to connect is news.
func (l *link) worthLogging(err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.tcp.clock()
	text := err.Error()
	if text == l.logged && time.Duration(now-l.loggedAt) < failureLogEvery {
		return false
	}
	l.logged, l.loggedAt = text, now
	return true
}
