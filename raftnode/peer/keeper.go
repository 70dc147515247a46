package peer

import (
	"math"
	"sync/atomic"
	"time"
)

const (
	// sweepEvery is the least time between two looks at deadlines: that late may
	// a request learn that it has failed.
	sweepEvery = 5 * time.Millisecond
	// checkEvery is how often connections are looked at for pings, silence and
	// requests that a handler never answered. Shorter times make it shorter.
	checkEvery = time.Second
)

// keeper is the one goroutine that minds the time for all connections. It
// sleeps until the earliest deadline of any call.
//
// Invariant: a deadline that expect was told of is at or after wakeAt, or poke
// holds a token, or the keeper is looking at the connections and has not yet
// looked at the call's.
type keeper struct {
	tcp    *TCP
	every  time.Duration
	poke   chan struct{}
	wakeAt atomic.Int64 // clock reading; MaxInt64 while it looks
}

func (k *keeper) init(t *TCP) {
	k.tcp = t
	k.every = min(checkEvery, t.opts.Timing.Ping, t.opts.Timing.Dead/3)
	k.poke = make(chan struct{}, 1)
	k.wakeAt.Store(math.MaxInt64)
}

// expect tells the keeper of a new deadline, after the call is in its
// connection's calls.
func (k *keeper) expect(deadline int64) {
	if deadline < k.wakeAt.Load() {
		select {
		case k.poke <- struct{}{}:
		default:
		}
	}
}

func (k *keeper) run() {
	timer := time.NewTimer(k.every)
	defer timer.Stop()
	checkAt := k.tcp.clock() + int64(k.every)
	var outs []*outConn
	var ins []*inConn
	for {
		k.wakeAt.Store(math.MaxInt64)
		now := k.tcp.clock()
		next := checkAt
		outs = k.tcp.outs.all(outs[:0])
		for _, c := range outs {
			next = min(next, c.expire(now))
		}
		if now >= checkAt {
			stood := k.stood(now - checkAt)
			for _, c := range outs {
				c.check(now, stood)
			}
			ins = k.tcp.ins.all(ins[:0])
			for _, c := range ins {
				c.check(now, stood)
			}
			checkAt = now + int64(k.every)
			next = min(next, checkAt)
		}
		clear(outs)
		clear(ins)
		next = max(next, now+int64(sweepEvery))
		timer.Reset(time.Duration(next - k.tcp.clock()))
		k.wakeAt.Store(next)
		select {
		case <-k.tcp.ctx.Done():
			return
		case <-timer.C:
		case <-k.poke:
			k.rest()
		}
	}
}

// stood gives how long this process has not run, judged by how late the keeper is. Who
// stands still hears nothing and writes nothing: to take that for the peer's silence would
// end all connections whenever a machine wakes up.
func (k *keeper) stood(late int64) time.Duration {
	if d := time.Duration(late); d > k.tcp.opts.Timing.Dead/10 {
		return d
	}
	return 0
}

// rest keeps a burst of new deadlines from waking the keeper for each.
func (k *keeper) rest() {
	k.wakeAt.Store(0)
	timer := time.NewTimer(sweepEvery)
	defer timer.Stop()
	select {
	case <-k.tcp.ctx.Done():
	case <-timer.C:
	}
}
