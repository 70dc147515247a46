//go:build !unix

package httpd

import "net"

// peerGone cannot tell here: a request runs to its deadline.
func peerGone(*net.TCPConn) bool { return false }

// descriptors cannot be asked for here.
func descriptors() int { return 1 << 20 }
