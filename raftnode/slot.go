package raftnode

import "context"

// slot lets one in at a time, like a mutex whose wait can be given up. It is used
// where it is held for long: who waits for a mutex cannot be told that the caller
// has gone.
type slot chan struct{}

func newSlot() slot { return make(slot, 1) }

// take waits for the slot. A free one is given even to a context that has ended.
func (s slot) take(ctx context.Context) error {
	select {
	case s <- struct{}{}:
		return nil
	default:
	}
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s slot) give() { <-s }
