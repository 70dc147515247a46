package httpd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
)

// handshake secures the connection. It reports whether it is to be served here.
func (c *fastConn) handshake(others *handoff) bool {
	ctx, cancel := context.WithTimeout(c.ctx, c.s.opts.Limits.HeaderTimeout)
	err := c.secure.HandshakeContext(ctx)
	cancel()
	switch {
	case err != nil:
		c.s.log.Debug("no TLS with a client", "address", c.tcp.RemoteAddr(), "err", err)
		var header tls.RecordHeaderError
		if errors.As(err, &header) && isHTTP(header.RecordHeader[:]) {
			_, _ = io.WriteString(c.tcp, "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\nThis node speaks HTTPS: begin its address with https://\n")
		}
		_ = c.tcp.Close()
		return false
	case c.secure.ConnectionState().NegotiatedProtocol == "h2":
		c.handOver(others)
		return false
	}
	return true
}

// isHTTP reports whether a connection begins like a request without TLS.
func isHTTP(b []byte) bool {
	switch string(b) {
	case "GET /", "PUT /", "HEAD ", "POST ", "DELET", "OPTIO":
		return true
	}
	return false
}

// halfCloser is a connection of which each half can be closed.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}
