package server

import (
	"fmt"

	"github.com/quorate-db/quorate/httpd"
	"github.com/quorate-db/quorate/kv"
)

// Clients is what an operator decides about the clients of one node.
type Clients struct {
	Connections int // at most; 0 = kv.ConnectionsMax, or half of the file descriptors
	// BehindProxy: they come from the address of a proxy, or a few, so that what one
	// address may take is all that there is.
	BehindProxy bool
}

// connectionsLeast leaves room for a cluster's own tools and a scrape.
const connectionsLeast = 16

func (c Clients) validate() error {
	if c.Connections != 0 && c.Connections < connectionsLeast {
		return fmt.Errorf("--connections-max %d: want at least %d, or 0 for the default", c.Connections, connectionsLeast)
	}
	return nil
}

// limits gives them as the edge takes them.
func (c Clients) limits() httpd.Limits {
	l := httpd.Limits{Connections: c.Connections}
	if c.Connections != 0 {
		l.ConnectionsPerClient = c.Connections / 4
	}
	if c.BehindProxy {
		l.ConnectionsPerClient = max(c.Connections, kv.ConnectionsMax) // the limit of all comes first
		l.DataPerClient, l.StreamsPerClient = kv.RequestsInFlightMax, kv.StreamsInFlightMax
		l.LargeBytesPerClient = -1
		l.BodyBytesPerClient, l.AnswerBytesPerClient = kv.BodyBytesInFlightMax, kv.AnswerBytesInFlightMax
	}
	return l
}
