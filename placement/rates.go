package placement

import (
	"math"
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// rateSpan is over how long rates are smoothed: a burst that is shorter is not a
// load to split for.
const rateSpan = 15 * time.Second

// rates works out from counters how many reads and writes a second local replicas
// serve.
type rates struct {
	mu    sync.Mutex
	last  time.Time
	known map[kv.ServerID]rate
}

type rate struct {
	reads, writes         uint64 // counters, as last seen
	readsRate, writesRate float64
}

func newRates() *rates { return &rates{known: map[kv.ServerID]rate{}} }

// take takes the counters of all local replicas. A replica that was not there
// before begins at a rate of zero.
func (r *rates) take(states []ReplicaState, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	past := now.Sub(r.last)
	if !r.last.IsZero() && past <= 0 {
		return
	}
	keep := math.Exp(-past.Seconds() / rateSpan.Seconds())
	next := make(map[kv.ServerID]rate, len(states))
	for _, s := range states {
		now := rate{reads: s.Reads, writes: s.Writes}
		if old, ok := r.known[s.Status.ID]; ok {
			now.readsRate = keep*old.readsRate + (1-keep)*perSecond(old.reads, s.Reads, past)
			now.writesRate = keep*old.writesRate + (1-keep)*perSecond(old.writes, s.Writes, past)
		}
		next[s.Status.ID] = now
	}
	r.known, r.last = next, now
}

func perSecond(before, after uint64, past time.Duration) float64 {
	if after < before {
		return 0 // the counter began anew
	}
	return float64(after-before) / past.Seconds()
}

// of gives a replica's reads and writes a second.
func (r *rates) of(id kv.ServerID) (reads, writes float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[id].readsRate, r.known[id].writesRate
}
