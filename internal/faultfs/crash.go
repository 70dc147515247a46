package faultfs

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Image gives the disk after a crash at this moment: everything that was synced,
// and of the rest each block with a probability in percent, drawn from rng
// (which may be nil for 0).
type Image func(unsyncedPercent int, rng *rand.Rand) *vfs.MemFS

// Crash takes images of what a crash would leave behind, just before chosen
// operations. The program goes on undisturbed.
//
// In a Chain it goes behind whatever may hold operations up: while an operation
// is between its Before and its After no image can be taken.
type Crash struct {
	mem *vfs.MemFS
	at  func(n int, op Op) bool
	got func(n int, op Op, image Image)

	numbered atomic.Int64
	// operating is held for reading by operations that change the disk: the
	// file system in memory deadlocks if it is cloned during a Link or a
	// ReuseForWrite.
	operating sync.RWMutex
}

// NewCrash makes a Crash over a file system of vfs.NewCrashableMem. Operations
// that change the disk are numbered from 0; for those that at chooses, got is
// called while none is under way and before this one is done.
func NewCrash(mem *vfs.MemFS, at func(n int, op Op) bool, got func(n int, op Op, image Image)) *Crash {
	return &Crash{mem: mem, at: at, got: got}
}

// Before implements Injector.
func (c *Crash) Before(op Op) error {
	if !op.Kind.Mutates() {
		return nil
	}
	if n := int(c.numbered.Add(1)) - 1; c.at(n, op) {
		c.operating.Lock()
		c.got(n, op, func(percent int, rng *rand.Rand) *vfs.MemFS {
			return c.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
		})
		c.operating.Unlock()
	}
	c.operating.RLock()
	return nil
}

// After implements Finisher.
func (c *Crash) After(op Op) {
	if op.Kind.Mutates() {
		c.operating.RUnlock()
	}
}

// Operations gives how many operations have been numbered.
func (c *Crash) Operations() int { return int(c.numbered.Load()) }
