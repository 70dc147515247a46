package client

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate-db/quorate/kv"
)

const (
	// routesAgeMax is the age at which the table is fetched again even if
	// nothing seems wrong with it.
	routesAgeMax = 30 * time.Second
	// routesAgeMin keeps a client from asking for the table all the time while
	// leaders move.
	routesAgeMin = 250 * time.Millisecond
	// routesTimeout bounds one fetch.
	routesTimeout = 5 * time.Second
	// routesNodesMax bounds how many nodes are remembered.
	routesNodesMax = 1024
)

// routes knows which node leads the shard of a key. It is a hint: whoever is
// asked, the cluster finds the right replica.
type routes struct {
	c     *Client
	table atomic.Pointer[routeTable] // nil: not known yet

	mu      sync.Mutex
	running bool // a fetch is
	closed  bool
	denied  bool           // the last fetch was: the token may not look at the cluster
	last    time.Time      // when the last fetch began
	wg      sync.WaitGroup // of the fetch
}

// routeTable is immutable.
type routeTable struct {
	fetched time.Time
	starts  []string // of the shards, in order; the first is ""
	leaders []leader
}

type leader struct {
	node string
	ep   *endpoint // nil: no leader known
}

func newRoutes(c *Client) *routes { return &routes{c: c} }

// leader gives the endpoint of the key's leader, nil if it is not known.
func (r *routes) leader(key string, now time.Time) *endpoint {
	t := r.table.Load()
	if t == nil {
		r.refresh(now)
		return nil
	}
	if now.Sub(t.fetched) > routesAgeMax {
		r.refresh(now)
	}
	return t.find(key).ep
}

func (t *routeTable) find(key string) leader {
	i, found := slices.BinarySearch(t.starts, key)
	if !found {
		i-- // the last start below the key
	}
	if i < 0 {
		return leader{}
	}
	return t.leaders[i]
}

// observe looks at what became of a request that was sent to ep as the leader:
// if it failed or another node served it, the table may be out of date.
func (r *routes) observe(ep *endpoint, resp *response, err error, now time.Time) {
	if err != nil || resp.status >= 500 {
		r.refresh(now)
		return
	}
	t := r.table.Load()
	if t == nil || resp.servedBy == "" {
		return
	}
	for i := range t.leaders {
		if t.leaders[i].ep == ep {
			// A request over several shards names all that served it.
			if !strings.Contains(resp.servedBy, t.leaders[i].node) {
				r.refresh(now)
			}
			return
		}
	}
}

// refresh fetches the table in the background, one at a time and not too often.
func (r *routes) refresh(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pause := routesAgeMin
	if r.denied {
		pause = routesAgeMax
	}
	if r.running || r.closed || (!r.last.IsZero() && now.Sub(r.last) < pause) {
		return
	}
	r.running, r.last = true, now
	r.wg.Go(func() {
		err := r.fetch()
		r.mu.Lock()
		r.running, r.denied = false, IsDenied(err)
		r.mu.Unlock()
	})
}

// fetch replaces the table if the cluster can be asked; if not, the old one
// stays.
func (r *routes) fetch() error {
	ctx, cancel := context.WithTimeout(r.c.life, routesTimeout)
	defer cancel()
	t, err := r.c.fetchRoutes(ctx)
	if err == nil {
		r.table.Store(t)
	}
	return err
}

func (c *Client) fetchRoutes(ctx context.Context) (*routeTable, error) {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	shards, err := c.Shards(ctx)
	if err != nil {
		return nil, err
	}
	return c.routeTable(nodes, shards), nil
}

func (c *Client) routeTable(nodes []Node, shards []Shard) *routeTable {
	at := make(map[string]*endpoint, len(nodes))
	used := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		if ep := c.endpoints.at(n.HTTPAddress, routesNodesMax); ep != nil && n.HTTPAddress != "" {
			at[n.ID] = ep
			used[n.HTTPAddress] = true
		}
	}
	c.endpoints.forget(func(host string) bool { return used[host] })
	shards = slices.DeleteFunc(slices.Clone(shards), func(s Shard) bool { return s.ID == kv.MetaShard })
	slices.SortFunc(shards, func(a, b Shard) int { return strings.Compare(a.Start, b.Start) })
	t := &routeTable{fetched: time.Now(), starts: make([]string, len(shards)), leaders: make([]leader, len(shards))}
	for i, s := range shards {
		t.starts[i] = s.Start
		t.leaders[i] = leader{node: s.Leader, ep: at[s.Leader]}
	}
	return t
}

func (r *routes) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.wg.Wait()
}
