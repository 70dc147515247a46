//go:build blackbox

package hostile

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/test/proc"
)

const (
	witnesses    = 3
	witnessPause = 4 * time.Millisecond
	warmUp       = 500 * time.Millisecond
)

// witness is a well-behaved client: it writes and reads what it wrote, never tries
// again, and notes each error and how long each call took.
type witness struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex
	took    lap
	running [witnesses]time.Time // when its call began, zero if there is none
	fails   []error
}

// lap is how long each call of a witness took.
type lap []time.Duration

// quantile gives the time that so large a part of the calls did not exceed.
func (l lap) quantile(part float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(l))
	return sorted[min(len(l)-1, int(float64(len(l))*part))]
}

func (l lap) p99() time.Duration { return l.quantile(0.99) }

func startWitness(t *testing.T, c *proc.Cluster) *witness {
	ctx, cancel := context.WithCancel(context.Background())
	w := &witness{cancel: cancel}
	for i := range witnesses {
		one := c.Client(t, client.Config{Endpoints: []string{c.Endpoint(1 + i%c.Size)}, Retry: client.RetryPolicy{Attempts: 1}})
		w.done.Go(func() { w.run(ctx, one, i) })
	}
	t.Cleanup(w.stop)
	return w
}

func (w *witness) stop() { w.cancel(); w.done.Wait() }

func (w *witness) run(ctx context.Context, c *client.Client, id int) {
	tick := time.NewTicker(witnessPause)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// Spread over the shards; never cut off by stop.
		key := fmt.Sprintf("%c~witness%d", "0AKUeoy"[n%7], id)
		value := []byte(strconv.Itoa(n))
		w.time(id, "put "+key, func() error {
			_, err := c.Put(context.Background(), key, value, client.PutOptions{})
			return err
		})
		w.time(id, "get "+key, func() error {
			item, err := c.Get(context.Background(), key, client.ReadOptions{})
			if err == nil && !bytes.Equal(item.Value, value) {
				err = fmt.Errorf("holds %q, want %q", item.Value, value)
			}
			return err
		})
	}
}

func (w *witness) time(id int, what string, call func() error) {
	begin := time.Now()
	w.mu.Lock()
	w.running[id] = begin
	w.mu.Unlock()
	err := call()
	took := time.Since(begin)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running[id] = time.Time{}
	w.took = append(w.took, took)
	if err != nil && len(w.fails) < 10 {
		w.fails = append(w.fails, fmt.Errorf("%s, %s after the call: %w", what, took.Round(time.Millisecond), err))
	}
}

// lap waits, and tells how long the calls took since the last lap; those that run yet,
// so long as they have taken.
func (w *witness) lap(wait time.Duration) lap {
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		<-timer.C
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	took := w.took
	w.took = nil
	for _, begin := range w.running {
		if !begin.IsZero() {
			took = append(took, time.Since(begin))
		}
	}
	return took
}

// failed gives the errors since it was called last.
func (w *witness) failed() []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var fails []error
	for _, err := range w.fails {
		fails = append(fails, fmt.Errorf("the well-behaved client: %w", err))
	}
	w.fails = nil
	return fails
}

// fill puts data in place that is scanned.
func fill(t *testing.T, c *proc.Cluster) {
	one := c.Client(t, client.Config{})
	value := bytes.Repeat([]byte("0123456789abcdef"), 8<<10/16)
	for batch := range 20 {
		var ops []client.Op
		for i := range 50 {
			n := batch*50 + i
			ops = append(ops, client.PutOp(fmt.Sprintf("%c~hostile%04d", "0AKUeoy"[n%7], n), value))
		}
		if _, err := one.Batch(t.Context(), ops); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := one.Put(t.Context(), "large", bytes.Repeat(value, 512), client.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}
