package pki

import (
	"net"
	"sync"
)

// corkKeepBytes is up to which size a buffer is kept for the next time.
const corkKeepBytes = 256 << 10

// cork holds back what is written while it is held, so that all records of a
// flush leave together. Records that answer the other end, written by whoever reads,
// wait with them.
type cork struct {
	net.Conn

	mu   sync.Mutex
	held bool
	buf  []byte
}

func (c *cork) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = true
}

// release writes what was held back.
func (c *cork) release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = false
	_, err := c.Conn.Write(c.buf)
	if c.buf = c.buf[:0]; cap(c.buf) > corkKeepBytes {
		c.buf = nil
	}
	return err
}

// Write writes, now or at release.
func (c *cork) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.held {
		return c.Conn.Write(p)
	}
	c.buf = append(c.buf, p...)
	return len(p), nil
}
