package load

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
)

// pulseEvery is the pause between two writes of one key.
const pulseEvery = 10 * time.Millisecond

// Pulse writes keys over and over, each with a client of its own that has the
// default deadline, and measures how long a write has to wait at worst. That is what a
// client sees of an event in the cluster: it is about to write when it happens.
type Pulse struct {
	config client.Config // of each client
	beats  []*beat
	stop   context.CancelFunc
	done   sync.WaitGroup
}

// beat is one key that is written.
type beat struct {
	key    string
	client *client.Client

	mu     sync.Mutex
	acked  int       // the last number that was acknowledged
	sent   int       // the last number that was sent
	begun  time.Time // when the write that is under way began; zero if none is
	worst  Gap
	errors []error
}

// Gap is the longest wait of one key.
type Gap struct {
	Key   string
	Begun time.Time
	Wait  time.Duration
}

// String gives it with the time of day that the nodes' logs have too.
func (g Gap) String() string {
	return fmt.Sprintf("%s (%s from %s)", g.Wait.Round(time.Millisecond), g.Key, g.Begun.UTC().Format("15:04:05.000"))
}

// PulseKeys gives keys that are spread over the key space.
func PulseKeys() []string {
	var keys []string
	for _, letter := range "07EMTZcgkqvz" {
		keys = append(keys, fmt.Sprintf("%c~pulse", letter))
	}
	return keys
}

// StartPulse sets it to work; Stop ends it, at the latest when the test does.
func StartPulse(t testing.TB, endpoints, keys []string) *Pulse {
	t.Helper()
	return StartPulseOf(t, client.Config{Endpoints: endpoints}, keys)
}

// StartPulseOf is StartPulse with more that the clients need.
func StartPulseOf(t testing.TB, cfg client.Config, keys []string) *Pulse {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &Pulse{config: cfg, stop: cancel}
	for _, key := range keys {
		c, err := client.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		b := &beat{key: key, client: c}
		p.beats = append(p.beats, b)
		p.done.Go(func() {
			defer c.Close()
			b.run(ctx)
		})
	}
	t.Cleanup(p.Stop)
	return p
}

func (b *beat) run(ctx context.Context) {
	pause := time.NewTicker(pulseEvery)
	defer pause.Stop()
	for n := 1; ; n++ {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		begun := time.Now()
		b.mu.Lock()
		b.sent, b.begun = n, begun
		b.mu.Unlock()
		// Not cut off by Stop: its outcome is wanted.
		_, err := b.client.Put(context.Background(), b.key, []byte(strconv.Itoa(n)), client.PutOptions{})
		b.mu.Lock()
		wait := time.Since(begun)
		b.begun = time.Time{}
		if wait > b.worst.Wait {
			b.worst = Gap{b.key, begun, wait}
		}
		switch {
		case err == nil:
			b.acked = n
		case len(b.errors) < failuresMax:
			b.errors = append(b.errors, fmt.Errorf("put of %q, %s after the call: %w", b.key, wait.Round(time.Millisecond), err))
		}
		b.mu.Unlock()
	}
}

// Lap gives the longest wait of each key since the last Lap, the longest first. A
// write that is under way counts with what it has waited so far.
func (p *Pulse) Lap() []Gap {
	gaps := make([]Gap, len(p.beats))
	for i, b := range p.beats {
		b.mu.Lock()
		gaps[i] = b.worst
		if wait := time.Since(b.begun); !b.begun.IsZero() && wait > gaps[i].Wait {
			gaps[i] = Gap{b.key, b.begun, wait}
		}
		b.worst = Gap{Key: b.key}
		b.mu.Unlock()
	}
	slices.SortFunc(gaps, func(a, b Gap) int { return cmp.Compare(b.Wait, a.Wait) })
	return gaps
}

// Stop ends it and waits for what is under way.
func (p *Pulse) Stop() {
	p.stop()
	p.done.Wait()
}

// Finish, after Stop, gives what went wrong: each error, and each key that does not
// hold what was acknowledged last (or a write of unknown outcome after it).
func (p *Pulse) Finish(t testing.TB) error {
	t.Helper()
	cfg := p.config
	cfg.Timeout = 30 * time.Second
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var errs []error
	for _, b := range p.beats {
		errs = append(errs, b.errors...)
		item, err := c.Get(t.Context(), b.key, client.ReadOptions{})
		if err != nil {
			errs = append(errs, fmt.Errorf("%q, of which write %d was acknowledged: %w", b.key, b.acked, err))
			continue
		}
		n, err := strconv.Atoi(string(item.Value))
		if err != nil || n < b.acked || n > b.sent {
			errs = append(errs, fmt.Errorf("%q holds %q, want %d, which was acknowledged, to %d", b.key, item.Value, b.acked, b.sent))
		}
		if b.acked == 0 {
			errs = append(errs, fmt.Errorf("%q was never written", b.key))
		}
	}
	return errors.Join(errs...)
}
