package raftlog

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// fence ends a database whose disk has failed. Pebble does not expect to live
// on then, and must not: it reports the failure of a commit through
// Logger.Fatalf and answers the commit with success if that returns; it panics
// with its locks unbalanced if it cannot make a new write-ahead log; it tries a
// failed flush again at once and for ever.
//
// So Pebble never learns of a fatal failure. When one happens the fence trips:
//
//   - from then on, the failed operation included, nothing more is changed on
//     disk, and every change is reported to Pebble as done;
//   - commit asks the fence after every commit, and tells the writer the truth.
//     The fence trips before Pebble learns that the sync is over, so no writer
//     can miss it;
//   - OnFatal is called.
//
// A restart finds the disk as it was at the failure.
type fence struct {
	onSync func(time.Duration)

	tripped chan struct{} // closed by trip
	closed  chan struct{} // closed by close

	mu       sync.Mutex
	cause    error
	isClosed bool
}

func newFence(onSync func(time.Duration)) *fence {
	return &fence{onSync: onSync, tripped: make(chan struct{}), closed: make(chan struct{})}
}

// trip records the first cause; later ones follow from it.
func (f *fence) trip(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cause == nil {
		f.cause = cause
		close(f.tripped)
	}
}

// err gives the cause, nil if the fence has not tripped.
func (f *fence) err() error {
	select {
	case <-f.tripped:
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.cause
	default:
		return nil
	}
}

// close ends pauses and lets the watcher go.
func (f *fence) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.isClosed {
		f.isClosed = true
		close(f.closed)
	}
}

// pauseTime is how long Pebble's background work is slowed down where it fails:
// it tries again without a pause of its own.
const pauseTime = 100 * time.Millisecond

func (f *fence) pause() {
	timer := time.NewTimer(pauseTime)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-f.closed:
	}
}

const markerPrefix = "marker."

// role says what a file is to Pebble, by its name.
type role struct {
	wal   bool
	vital bool // Pebble cannot go on when a change to it fails
}

func roleOf(base string) role {
	wal := strings.HasSuffix(base, ".log")
	return role{wal: wal, vital: wal || strings.HasPrefix(base, "MANIFEST") || strings.HasPrefix(base, markerPrefix)}
}

// change makes one change to the disk, or not if the fence has tripped. Its
// failure is fatal if fatal says so, and then not returned.
func (f *fence) change(what string, fatal bool, do func() error) error {
	if f.err() != nil {
		return nil
	}
	err := do()
	if err != nil && fatal {
		f.trip(fmt.Errorf("%s: %w", what, err))
		return nil
	}
	return err
}
