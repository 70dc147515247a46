package client

import (
	"context"
	"sync"
	"sync/atomic"
)

// Client talks to one cluster. Its methods may be called from any goroutines.
type Client struct {
	cfg       Config
	endpoints *endpointSet
	transport transport
	routes    *routes // nil unless Config.RouteToLeader

	life   context.Context // ends with Close
	end    context.CancelFunc
	closed atomic.Bool
	once   sync.Once
}

// New checks the configuration and makes a Client. It connects to nobody.
func New(cfg Config) (*Client, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	set, err := newEndpointSet(cfg.Endpoints)
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, endpoints: set}
	c.life, c.end = context.WithCancel(context.Background())
	if cfg.Lean {
		c.transport = newLeanTransport(cfg)
	} else {
		c.transport = newNetTransport(cfg)
	}
	if cfg.RouteToLeader {
		c.routes = newRoutes(c)
	}
	return c, nil
}

// Close ends waits between attempts, closes idle connections and waits for what
// the client does in the background. Calls that are under way end as they
// would have; later ones are refused.
func (c *Client) Close() error {
	c.once.Do(func() {
		c.closed.Store(true)
		c.end()
		if c.routes != nil {
			c.routes.close()
		}
		c.endpoints.close()
		c.transport.closeIdle()
	})
	return nil
}
