package proc

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Machine watches what a test runs on: a goroutine that has next to nothing to do
// writes a few bytes to the disk over and over. When that takes long, something else
// has the machine, and that nodes elect, or are slow to, is no fault of theirs.
type Machine struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu    sync.Mutex
	since time.Time // the running write's beginning
	waits []wait    // those that were worth remembering, at most waitsMax
	total time.Duration
}

// wait is how much longer than it should a write took.
type wait struct {
	end  time.Time
	late time.Duration
}

const (
	machineEvery = 50 * time.Millisecond
	// StallMax is from when on the machine is at fault: a sixth of what a follower waits
	// for its leader, because a heartbeat and its answer are several such waits.
	StallMax = 150 * time.Millisecond
	waitsMax = 10_000
)

// WatchMachine watches until Stop, at the latest until the test ends.
func WatchMachine(t testing.TB) *Machine {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "machine"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &Machine{cancel: cancel, since: time.Now()}
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
			late := now.Sub(m.since) - machineEvery
			if late > StallMax {
				m.total += late
			}
			m.noteLocked(wait{now, late})
			m.since = now
			m.mu.Unlock()
		}
	})
	t.Cleanup(m.Stop)
	return m
}

// Stop ends the watch; again, it does nothing.
func (m *Machine) Stop() {
	m.cancel()
	m.done.Wait()
}

// Stalled gives for how long the machine has stood still in all.
func (m *Machine) Stalled() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if running := time.Since(m.since) - machineEvery; running > StallMax {
		return m.total + running
	}
	return m.total
}

// noteLocked forgets the shorter ones before: since LongestStall looks at all after a
// moment, they are never its answer.
func (m *Machine) noteLocked(w wait) {
	for len(m.waits) > 0 && m.waits[len(m.waits)-1].late <= w.late {
		m.waits = m.waits[:len(m.waits)-1]
	}
	if len(m.waits) == waitsMax {
		m.waits = m.waits[1:]
	}
	m.waits = append(m.waits, w)
}

// LongestStall gives the longest wait that ended after a moment, or runs.
func (m *Machine) LongestStall(after time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	worst := time.Since(m.since) - machineEvery
	for _, w := range m.waits {
		if w.end.After(after) {
			worst = max(worst, w.late)
		}
	}
	return worst
}

// steadyTries bounds how often Steady tries: a machine that stands still each time is
// of no use.
const steadyTries = 10

// Steady tries again what failed while the machine stood still. try is told how often
// it was tried before.
func (m *Machine) Steady(try func(before int) error) error {
	for n := 0; ; n++ {
		begin := time.Now()
		err := try(n)
		if err == nil || n+1 == steadyTries || m.LongestStall(begin) < StallMax {
			return err
		}
	}
}
