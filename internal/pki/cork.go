package pki

import (
	"net"
	"sync"
)

// corkBytesMax bounds what a cork holds back.
const corkBytesMax = 256 << 10

// cork holds back what is written while it is held, so that the records of a flush
// leave together, corkBytesMax at a time. Records that answer the other end, written by
// whoever reads, wait with them.
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
	return c.flushLocked()
}

func (c *cork) flushLocked() error {
	if len(c.buf) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.buf)
	c.buf = c.buf[:0]
	return err
}

// Write writes, now or at release.
func (c *cork) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.held {
		return c.Conn.Write(p)
	}
	if len(c.buf)+len(p) > corkBytesMax {
		if err := c.flushLocked(); err != nil {
			return 0, err
		}
	}
	c.buf = append(c.buf, p...)
	return len(p), nil
}
