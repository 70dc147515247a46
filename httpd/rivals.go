package httpd

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// rivalFor is how long after a client's last request for keys the others have to be
	// considerate of it, rivalEvery how often note is taken of one that goes on.
	rivalFor   = 2 * time.Second
	rivalEvery = 100 * time.Millisecond
)

// rivals tells whether a client has the node for itself: who loads or reads a database
// alone need not wait for anybody. Its zero value is empty.
type rivals struct {
	mu       sync.Mutex
	newest   netip.Prefix // whose request came last
	newestAt time.Time
	otherAt  time.Time // when the last came that was of somebody else
}

// saw takes note of a request for keys.
func (r *rivals) saw(c *client, now time.Time) {
	ms := now.UnixMilli()
	if ms-c.sawAt.Load() < rivalEvery.Milliseconds() {
		return
	}
	c.sawAt.Store(ms)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.newest != c.network {
		r.otherAt = r.newestAt
	}
	r.newest, r.newestAt = c.network, now
}

// alone reports whether no other client asked for keys lately.
func (r *rivals) alone(c *client, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := r.newestAt
	if r.newest == c.network {
		at = r.otherAt
	}
	return now.Sub(at) > rivalFor
}
