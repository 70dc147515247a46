package faultfs

import (
	"math/rand/v2"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Chain asks injectors in order; the first error ends it.
func Chain(injectors ...Injector) Injector {
	return InjectorFunc(func(op Op) error {
		for _, i := range injectors {
			if err := i.Before(op); err != nil {
				return err
			}
		}
		return nil
	})
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
func When(match Match, then Injector) Injector {
	return InjectorFunc(func(op Op) error {
		if !match(op) {
			return nil
		}
		return then.Before(op)
	})
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

// Crash takes images of what a crash would leave behind, just before chosen
// operations. The program goes on undisturbed.
type Crash struct {
	mem *vfs.MemFS
	at  func(n int, op Op) bool
	got func(n int, op Op, image func(unsyncedPercent int, rng *rand.Rand) *vfs.MemFS)

	mu sync.Mutex
	n  int
}

// NewCrash makes a Crash over a file system of vfs.NewCrashableMem. Operations
// that change the disk are numbered from 0; for those that at chooses, got is
// called before the operation is done. No other operation begins meanwhile. In
// got, image gives the disk after a crash at this moment: everything that was
// synced, and of the rest each block with a probability in percent, drawn from
// rng (which may be nil for 0).
func NewCrash(mem *vfs.MemFS, at func(n int, op Op) bool,
	got func(n int, op Op, image func(unsyncedPercent int, rng *rand.Rand) *vfs.MemFS)) *Crash {
	return &Crash{mem: mem, at: at, got: got}
}

// Before implements Injector.
func (c *Crash) Before(op Op) error {
	if !op.Kind.Mutates() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.n
	c.n++
	if c.at(n, op) {
		c.got(n, op, func(percent int, rng *rand.Rand) *vfs.MemFS {
			return c.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
		})
	}
	return nil
}

// Operations gives how many operations have been numbered.
func (c *Crash) Operations() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}
