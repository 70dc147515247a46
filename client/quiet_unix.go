//go:build unix

package client

import (
	"crypto/tls"
	"syscall"
)

// quiet reports whether an idle connection is still open with nothing to read:
// a byte or an end that came unasked means that it must not be used again.
func (c *leanConn) quiet() bool {
	if c.in.Buffered() > 0 {
		return false
	}
	nc := c.nc
	if secured, ok := nc.(*tls.Conn); ok {
		nc = secured.NetConn()
	}
	conn, ok := nc.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Control(func(fd uintptr) {
		var one [1]byte
		// The socket does not block: with nothing to read this fails at once.
		_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK)
		quiet = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
	})
	return err == nil && quiet
}
