package httpd

import (
	"context"
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// pace holds one client to so many bytes of large bodies and answers in a second. What
// they cost is processor time, of this node and of those that it asks, and others'
// requests wait for that. Nothing is refused for it: who is too fast is read and
// answered later, as long as others want something of this node at all (rivals).
//
// Invariants:
//
//  1. Whoever comes takes what he needs when there is any credit, also beyond it, and
//     whoever comes next waits until there is credit again: nothing is too large.
//  2. Those who wait go on in the order in which they came.
type pace struct {
	rate int64         // bytes a second; 0 = no bound
	turn chan struct{} // held by the first of those who wait
	gave chan struct{} // somebody gave back

	mu   sync.Mutex
	paid time.Time // when there will be all of the credit again
}

const (
	// paceFree is how much of each body and each answer is not counted.
	paceFree = 64 << 10
	// paceCredit is what a client may take at once who took nothing for a while.
	paceCredit = 2 << 20
	// pagePaced is the shortest that a page gets because its client has little credit.
	pagePaced = 256 << 10
)

func newPace(rate int64) pace {
	return pace{rate: rate, turn: make(chan struct{}, 1), gave: make(chan struct{}, 1)}
}

// enter takes bytes when it is their turn. The error is the context's.
func (p *pace) enter(ctx context.Context, bytes int64) error {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.turn }()
	for {
		wait := p.take(time.Now(), bytes)
		if wait <= 0 {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-p.gave:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// take takes bytes if there is credit, and tells how long that will take if not.
func (p *pace) take(now time.Time, bytes int64) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if owes := max(0, p.paid.Sub(now)); owes >= p.lasts(paceCredit) {
		return max(owes-p.lasts(paceCredit), time.Microsecond)
	}
	p.addLocked(now, bytes)
	return 0
}

// add corrects what was taken, and wakes the first of those who wait if it was too much.
func (p *pace) add(bytes int64) {
	p.mu.Lock()
	p.addLocked(time.Now(), bytes)
	p.mu.Unlock()
	if bytes < 0 {
		select {
		case p.gave <- struct{}{}:
		default:
		}
	}
}

func (p *pace) addLocked(now time.Time, bytes int64) {
	if p.paid.Before(now) {
		p.paid = now
	}
	p.paid = p.paid.Add(p.lasts(bytes))
}

func (p *pace) lasts(bytes int64) time.Duration {
	return time.Duration(float64(bytes) / float64(p.rate) * float64(time.Second))
}

// credit tells how many bytes may be taken without debts, at least 0.
func (p *pace) credit(now time.Time) int64 {
	return max(0, paceCredit-int64(p.owes(now).Seconds()*float64(p.rate)))
}

// owes tells how long it takes until there is all of the credit again.
func (p *pace) owes(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(0, p.paid.Sub(now))
}

// paced gives the pace of the request's client, nil if it has none or is alone.
func (x *exchange) paced() *pace {
	c := x.share.client
	if c == nil || c.pace.rate <= 0 || x.s.door.rivals.alone(c, time.Now()) {
		return nil
	}
	return &c.pace
}

// await waits until bytes of a large body or answer may come.
func (x *exchange) await(ctx context.Context, bytes int64) *problem {
	p := x.paced()
	x.share.paced = p != nil
	if p == nil || bytes <= 0 {
		return nil
	}
	if p.enter(ctx, bytes) == nil {
		return nil
	}
	return refusal(kv.CodeOverloaded, "large requests and answers from and to this address wait for their turn for longer than the request may take")
}

// awaitPage waits for the turn of a page of at most want bytes, and gives how many it may
// have: fewer, the less credit its client has.
func (x *exchange) awaitPage(ctx context.Context, want int64) (int64, error) {
	p := x.paced()
	if p == nil {
		return want, nil
	}
	want = min(want, max(pagePaced, p.credit(time.Now())/pageShare))
	if no := x.await(ctx, max(0, want-paceFree)); no != nil {
		return 0, no
	}
	return want, nil
}

// settlePace counts what an answer has in place of what it was thought to have.
func (x *exchange) settlePace(gave, used int64) {
	off := max(0, used-paceFree) - max(0, gave-paceFree)
	if x.share.paced && off != 0 {
		x.share.client.pace.add(off)
	}
}
