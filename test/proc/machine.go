//go:build blackbox

package hostile

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// machine watches what the test runs on: a goroutine that has next to nothing to do
// writes a few bytes to the disk over and over. When that takes long, something else
// has the machine, and that nodes elect is no fault of theirs.
type machine struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu    sync.Mutex
	since time.Time // the running write's beginning
	worst time.Duration
}

const (
	machineEvery = 50 * time.Millisecond
	// stallMax is from when on the machine is at fault: a sixth of what a follower waits
	// for its leader, because a heartbeat and its answer are several such waits.
	stallMax = 150 * time.Millisecond
)

func watchMachine(t *testing.T) *machine {
	f, err := os.Create(filepath.Join(t.TempDir(), "machine"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &machine{cancel: cancel, since: time.Now()}
	m.done.Go(func() {
		defer f.Close()
		for ctx.Err() == nil {
			if _, err := f.WriteAt(make([]byte, 4096), 0); err == nil {
				_ = f.Sync()
			}
			timer := time.NewTimer(machineEvery)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
			now := time.Now()
			m.mu.Lock()
			m.worst, m.since = max(m.worst, now.Sub(m.since)-machineEvery), now
			m.mu.Unlock()
		}
	})
	t.Cleanup(func() { cancel(); m.done.Wait() })
	return m
}

// stalled gives the longest wait since it was called last, a running one too.
func (m *machine) stalled() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	worst := max(m.worst, time.Since(m.since)-machineEvery)
	m.worst = 0
	return worst
}
