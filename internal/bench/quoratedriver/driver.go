// Package quoratedriver drives Quorate with the load generator, through the same
// client that everybody has.
package quoratedriver

import (
	"context"
	"crypto/tls"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/internal/bench"
	"github.com/quorate-db/quorate/kv"
)

// Options say how the cluster is reached.
type Options struct {
	Endpoints     []string
	Timeout       time.Duration // of one operation
	RouteToLeader bool
	Retry         bool        // let the client retry, which hides failures; else each counts
	NetHTTP       bool        // Go's own transport instead of the lean one
	TLS           *tls.Config // for https endpoints; nil = what the system trusts
	Clients       int         // that will be opened: connections to keep
	Token         string
}

// Driver is a bench.Driver. All sessions share one client, and its connections.
type Driver struct{ c *client.Client }

var _ bench.Driver = (*Driver)(nil)

// New makes a driver; Close it.
func New(o Options) (*Driver, error) {
	cfg := client.Config{
		Endpoints:            o.Endpoints,
		Timeout:              o.Timeout,
		RouteToLeader:        o.RouteToLeader,
		Lean:                 !o.NetHTTP,
		TLS:                  o.TLS,
		IdleConnsPerEndpoint: max(o.Clients, 1),
		UserAgent:            "quorate-bench",
		Token:                o.Token,
	}
	if !o.Retry {
		cfg.Retry.Attempts = 1
	}
	c, err := client.New(cfg)
	if err != nil {
		return nil, err
	}
	return &Driver{c}, nil
}

// Name gives "quorate".
func (d *Driver) Name() string { return "quorate" }

// Close closes the connections.
func (d *Driver) Close() error { return d.c.Close() }

// Session gives a session. It connects when it is first used.
func (d *Driver) Session(context.Context) (bench.Session, error) { return session(*d), nil }

// Outcome gives the error's outcome, "read" for reads.
func (d *Driver) Outcome(err error) string {
	if outcome := client.OutcomeOf(err); outcome != kv.OutcomeNone {
		return string(outcome)
	}
	return "read"
}

type session struct{ c *client.Client }

var _ bench.Reader = session{}

// Put writes a key. The context's end does not interrupt it: watching for that would
// cost each operation a lock that all clients share, and it has a timeout.
func (s session) Put(ctx context.Context, key string, value []byte) error {
	_, err := s.c.Put(context.WithoutCancel(ctx), key, value, client.PutOptions{})
	return err
}

// Get reads a key.
func (s session) Get(ctx context.Context, key string, stale bool) (bool, error) {
	var o client.ReadOptions
	if stale {
		o.Consistency = kv.Stale
	}
	_, err := s.c.Get(context.WithoutCancel(ctx), key, o)
	if client.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// Value reads a key and gives what it holds.
func (s session) Value(ctx context.Context, key string) ([]byte, bool, error) {
	item, err := s.c.Get(context.WithoutCancel(ctx), key, client.ReadOptions{})
	if client.IsNotFound(err) {
		return nil, false, nil
	}
	return item.Value, err == nil, err
}

// Scan reads items in order, in one page if they fit.
func (s session) Scan(ctx context.Context, start string, limit int) (int, error) {
	n := 0
	for _, err := range s.c.Scan(context.WithoutCancel(ctx), client.Range{Start: start, Limit: limit}) {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// Close does nothing: the connections are the driver's.
func (s session) Close() error { return nil }
