package client

import (
	"sync"
	"sync/atomic"
	"time"
)

// How long an endpoint that cannot be reached is put aside, doubled with each
// failure.
const (
	asideMin = 100 * time.Millisecond
	asideMax = 5 * time.Second
)

// endpoint is one node as this client reaches it.
type endpoint struct {
	scheme string
	host   string // host:port
	url    string // scheme://host:port

	conns connPool // of the lean transport

	// asideUntil is not zero while the endpoint is put aside: Unix nanoseconds
	// from which one request at a time may try it.
	asideUntil atomic.Int64
	failures   atomic.Int32 // in a row
}

func newEndpoint(scheme, host string) *endpoint {
	return &endpoint{scheme: scheme, host: host, url: scheme + "://" + host}
}

// usable reports whether a request may go there. For an endpoint whose time
// aside is over it says so to one caller per asideMin, or else everybody would
// run into a dead node at once, each time.
func (e *endpoint) usable(now time.Time) bool {
	until := e.asideUntil.Load()
	if until == 0 {
		return true
	}
	if now.UnixNano() < until {
		return false
	}
	return e.asideUntil.CompareAndSwap(until, now.Add(asideMin).UnixNano())
}

// broken puts the endpoint aside.
func (e *endpoint) broken(now time.Time) {
	n := e.failures.Add(1)
	wait := asideMax
	if n < 7 {
		wait = min(asideMin<<(n-1), asideMax)
	}
	e.asideUntil.Store(now.Add(wait).UnixNano())
}

// works takes it back.
func (e *endpoint) works() {
	if e.asideUntil.Load() != 0 {
		e.failures.Store(0)
		e.asideUntil.Store(0)
	}
}

// endpointSet is the endpoints of a client: those it was given, in turn, and
// those that it learned from the cluster, for routing only.
type endpointSet struct {
	given []*endpoint
	next  atomic.Uint32

	mu      sync.Mutex
	learned map[string]*endpoint // by host:port
}

func newEndpointSet(given []string) (*endpointSet, error) {
	s := &endpointSet{learned: map[string]*endpoint{}}
	for _, text := range given {
		scheme, host, err := parseEndpoint(text)
		if err != nil {
			return nil, err
		}
		s.given = append(s.given, newEndpoint(scheme, host))
	}
	return s, nil
}

// pick gives the next endpoint in turn that is usable and not avoid. Where there
// is none it gives the one that will be usable first, avoid only if there is no other.
func (s *endpointSet) pick(now time.Time, avoid *endpoint) *endpoint {
	n := uint32(len(s.given))
	if n == 1 {
		return s.given[0]
	}
	first := s.next.Add(1)
	for i := range n {
		if e := s.given[(first+i)%n]; e != avoid && e.usable(now) {
			return e
		}
	}
	var best *endpoint
	for i := range n {
		e := s.given[(first+i)%n]
		if e != avoid && (best == nil || e.asideUntil.Load() < best.asideUntil.Load()) {
			best = e
		}
	}
	return best
}

// at gives the endpoint of an address that the cluster told of. At most limit
// such are kept; beyond it nil is given.
func (s *endpointSet) at(host string, limit int) *endpoint {
	for _, e := range s.given {
		if e.host == host {
			return e
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.learned[host]
	if e == nil && len(s.learned) < limit {
		e = newEndpoint(s.given[0].scheme, host)
		s.learned[host] = e
	}
	return e
}

// forget drops learned endpoints that keep says no to.
func (s *endpointSet) forget(keep func(host string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for host, e := range s.learned {
		if !keep(host) {
			e.conns.close()
			delete(s.learned, host)
		}
	}
}

// close closes the idle connections of every endpoint and refuses new ones.
func (s *endpointSet) close() {
	for _, e := range s.given {
		e.conns.close()
	}
	s.forget(func(string) bool { return false })
}
