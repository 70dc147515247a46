package engine

import (
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Pebble repeats a flush that failed at once, and again, as fast as a processor
// allows. A full disk would cost a core and a log that fills what is left.
const (
	paceMin = 50 * time.Millisecond
	paceMax = time.Second
)

// errFlushFailed is why a Flush gave up; what was to be flushed still is.
var errFlushFailed = errors.New("engine: a flush failed and will be tried again")

// pace slows the repetition of background work that fails, and tells those who
// wait for it.
type pace struct {
	mu       sync.Mutex
	failures int           // in a row
	failed   chan struct{} // closed at the next failure
}

func newPace() *pace { return &pace{failed: make(chan struct{})} }

// fail notes a failure and wakes those who wait for the work.
func (p *pace) fail() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures++
	close(p.failed)
	p.failed = make(chan struct{})
}

// succeed notes that the work succeeded.
func (p *pace) succeed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures = 0
}

// nextFailure gives a channel that is closed at the next failure.
func (p *pace) nextFailure() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

// delay is how long the next attempt has to wait.
func (p *pace) delay() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failures == 0 {
		return 0
	}
	return min(paceMin<<min(p.failures-1, 10), paceMax)
}

// pacedFS lets the first step of a flush or compaction, the new table, wait for
// its turn. Pebble holds no lock of its own there.
type pacedFS struct {
	FS
	pace *pace
}

func (f pacedFS) Create(name string, category vfs.DiskWriteCategory) (File, error) {
	if strings.HasSuffix(name, ".sst") {
		if d := f.pace.delay(); d > 0 {
			time.Sleep(d)
		}
	}
	return f.FS.Create(name, category)
}

// Unwrap implements vfs.FS.
func (f pacedFS) Unwrap() FS { return f.FS }
