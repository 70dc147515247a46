//go:build !unix

package client

// quiet cannot look without reading here; a connection that turns out to be
// closed costs one more attempt.
func (c *leanConn) quiet() bool { return c.in.Buffered() == 0 }
