package raftlog

import "sync"

// turn is a mutex for writes, which may take as long as a disk pleases: those who
// wait are served in their order, and they wait on a channel, which lets time pass
// in a testing/synctest bubble. The zero value is free.
type turn struct {
	mu      sync.Mutex
	taken   bool
	waiting []chan struct{}
}

// Lock takes the turn.
func (t *turn) Lock() {
	t.mu.Lock()
	if !t.taken {
		t.taken = true
		t.mu.Unlock()
		return
	}
	mine := make(chan struct{})
	t.waiting = append(t.waiting, mine)
	t.mu.Unlock()
	<-mine
}

// Unlock gives it to whoever waits longest.
func (t *turn) Unlock() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) == 0 {
		t.taken = false
		return
	}
	close(t.waiting[0])
	t.waiting[0] = nil
	t.waiting = t.waiting[1:]
}
