package raftnode

import (
	"sync"
)

// waiters wakes who waits for an index to be applied.
type waiters struct {
	mu   sync.Mutex
	list []waiter // no order: there are few, and all are looked at together
}

type waiter struct {
	index uint64
	ch    chan struct{} // closed when the index is reached
}

// add gives a channel that is closed when advance is called with index or more.
// The caller looks at the applied index again after add, before it waits.
func (w *waiters) add(index uint64) chan struct{} {
	ch := make(chan struct{})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, waiter{index, ch})
	return ch
}

// remove takes a waiter out that gave up.
func (w *waiters) remove(ch chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.list {
		if w.list[i].ch == ch {
			last := len(w.list) - 1
			w.list[i] = w.list[last]
			w.list = w.list[:last]
			return
		}
	}
}

// advance wakes who waits for applied or less.
func (w *waiters) advance(applied uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	kept := w.list[:0]
	for _, e := range w.list {
		if e.index <= applied {
			close(e.ch)
		} else {
			kept = append(kept, e)
		}
	}
	clear(w.list[len(kept):])
	w.list = kept
}
