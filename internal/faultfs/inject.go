package faultfs

import "sync"

// Chain asks injectors in order; the first error ends it.
func Chain(injectors ...Injector) Injector { return chain(injectors) }

type chain []Injector

func (c chain) Before(op Op) error {
	for i, injector := range c {
		if err := injector.Before(op); err != nil {
			c[:i].After(op)
			return err
		}
	}
	return nil
}

func (c chain) After(op Op) {
	for i := len(c) - 1; i >= 0; i-- {
		finish(c[i], op)
	}
}

// Counter counts operations and lets them pass.
type Counter struct {
	mu    sync.Mutex
	kinds [kindCount]int
}

// NewCounter makes a Counter.
func NewCounter() *Counter { return &Counter{} }

// Before counts op.
func (c *Counter) Before(op Op) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kinds[op.Kind]++
	return nil
}

// Count gives how many operations of some kinds there were.
func (c *Counter) Count(kinds ...Kind) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, k := range kinds {
		n += c.kinds[k]
	}
	return n
}

// When asks another injector only about chosen operations.
func When(match Match, then Injector) Injector { return when{match, then} }

type when struct {
	match Match
	then  Injector
}

func (w when) Before(op Op) error {
	if !w.match(op) {
		return nil
	}
	return w.then.Before(op)
}

func (w when) After(op Op) {
	if w.match(op) {
		finish(w.then, op)
	}
}

// Switch answers chosen operations with an error while it is on.
type Switch struct {
	match Match

	mu    sync.Mutex
	err   error
	skip  int
	left  int // negative: no end
	fired int
}

// NewSwitch makes a Switch that is off.
func NewSwitch(match Match) *Switch { return &Switch{match: match} }

// Fail turns it on: after skip more chosen operations, the next times fail with
// err. Negative times means until Heal.
func (s *Switch) Fail(err error, skip, times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.skip, s.left = err, skip, times
}

// Heal turns it off.
func (s *Switch) Heal() { s.Fail(nil, 0, 0) }

// Fired gives how many operations were failed.
func (s *Switch) Fired() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fired
}

// Before implements Injector.
func (s *Switch) Before(op Op) error {
	if !s.match(op) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err == nil || s.left == 0:
		return nil
	case s.skip > 0:
		s.skip--
		return nil
	case s.left > 0:
		s.left--
	}
	s.fired++
	return s.err
}

// Gate holds up chosen operations while it is closed.
type Gate struct {
	match Match

	mu      sync.Mutex
	opening chan struct{} // nil = open; closed by Open
	held    int
	arrived chan struct{} // closed and replaced when an operation is held up
}

// NewGate makes a Gate that is open.
func NewGate(match Match) *Gate { return &Gate{match: match, arrived: make(chan struct{})} }

// Close closes the gate.
func (g *Gate) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opening == nil {
		g.opening = make(chan struct{})
	}
}

// Open opens the gate and lets go of everything that it holds up.
func (g *Gate) Open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opening != nil {
		close(g.opening)
		g.opening = nil
	}
}

// Held gives how many operations are held up now.
func (g *Gate) Held() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held
}

// Await returns when at least n operations are held up.
func (g *Gate) Await(n int) {
	for {
		g.mu.Lock()
		held, arrived := g.held, g.arrived
		g.mu.Unlock()
		if held >= n {
			return
		}
		<-arrived
	}
}

// Before implements Injector.
func (g *Gate) Before(op Op) error {
	if !g.match(op) {
		return nil
	}
	g.mu.Lock()
	opening := g.opening
	if opening == nil {
		g.mu.Unlock()
		return nil
	}
	g.held++
	close(g.arrived)
	g.arrived = make(chan struct{})
	g.mu.Unlock()

	<-opening

	g.mu.Lock()
	g.held--
	g.mu.Unlock()
	return nil
}
