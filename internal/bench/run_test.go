package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a database that takes as long as it is told to, on virtual time.
type fake struct {
	took func(n int, now time.Duration) (time.Duration, error) // of the n-th operation

	mu      sync.Mutex
	start   time.Time
	n       int
	open    int
	most    int
	flights int
	keys    map[string]int
	puts    int
}

func newFake(took func(n int, now time.Duration) (time.Duration, error)) *fake {
	return &fake{took: took, start: time.Now(), keys: map[string]int{}}
}

func constant(d time.Duration) func(int, time.Duration) (time.Duration, error) {
	return func(int, time.Duration) (time.Duration, error) { return d, nil }
}

func (f *fake) Name() string             { return "fake" }
func (f *fake) Outcome(err error) string { return "unknown" }

func (f *fake) Session(context.Context) (Session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open++
	return f, nil
}

func (f *fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open--
	return nil
}

func (f *fake) op(key string, put bool) (bool, error) {
	f.mu.Lock()
	n := f.n
	f.n++
	f.flights++
	f.most = max(f.most, f.flights)
	_, found := f.keys[key]
	f.mu.Unlock()
	d, err := f.took(n, time.Since(f.start))
	time.Sleep(d)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flights--
	if put && err == nil {
		f.keys[key]++
		f.puts++
	}
	return found, err
}

func (f *fake) Put(_ context.Context, key string, value []byte) error {
	if len(value) != 100 {
		return errors.New("a value of another size")
	}
	_, err := f.op(key, true)
	return err
}

func (f *fake) Get(_ context.Context, key string, _ bool) (bool, error) { return f.op(key, false) }

func (f *fake) Scan(_ context.Context, key string, limit int) (int, error) {
	_, err := f.op(key, false)
	return limit, err
}

func config(name string) Config {
	w, err := FindWorkload(name)
	if err != nil {
		panic(err)
	}
	return Config{Workload: w, Clients: 4, Duration: 10 * time.Second, Keys: 1000, ValueBytes: 100, ScanItems: 10, Seed: 1}
}

// TestClosedLoop: with a constant latency everything can be calculated.
func TestClosedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(constant(2 * time.Millisecond))
		cfg := config("put")
		cfg.Warmup = time.Second
		var p Progress
		r, err := Run(t.Context(), f, cfg, &p)
		if err != nil {
			t.Fatal(err)
		}
		const ops = 4 * 5000
		if r.Ops != ops || f.n != ops+4*500 || f.most != 4 || f.open != 0 || p.Done() != ops {
			t.Errorf("%d operations measured, %d sent, %d in flight, %d sessions left, progress %d", r.Ops, f.n, f.most, f.open, p.Done())
		}
		if r.Seconds != 10 || r.OpsPerSecond != 2000 || r.LargestGapMs != 2 || r.Failed != 0 {
			t.Errorf("%.3f s, %.1f ops/s, gap %.3f ms, %d failed", r.Seconds, r.OpsPerSecond, r.LargestGapMs, r.Failed)
		}
		if l := r.All; l.P50 != 2000 || l.P999 != 2000 || l.Max != 2000 || l.Mean < 1999 || l.Mean > 2001 {
			t.Errorf("latency %+v", l)
		}
		for s, n := range r.PerSecond[:10] {
			if n < 1996 || n > 2004 {
				t.Errorf("second %d: %d operations", s, n)
			}
		}
		if r.Driver != "fake" || r.Workload != "put" || r.Clients != 4 || len(r.Kinds) != 1 || r.Kinds[0].Kind != "put" {
			t.Errorf("described as %+v", r)
		}
	})
}

// TestStallShowsAsGap: percentiles hide a stall, the gap does not.
func TestStallShowsAsGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(func(_ int, now time.Duration) (time.Duration, error) {
			if now >= 5*time.Second && now < 8*time.Second {
				return 8*time.Second - now, nil
			}
			return time.Millisecond, nil
		})
		var p Progress
		r, err := Run(t.Context(), f, config("get"), &p)
		if err != nil || r.LargestGapMs < 2999 || r.LargestGapMs > 3001 || r.All.P999 > 1100 || r.All.Max < 2_990_000 {
			t.Errorf("gap %.1f ms, %+v, %v", r.LargestGapMs, r.All, err)
		}
		if r.PerSecond[6] != 0 {
			t.Errorf("%d operations in the stall", r.PerSecond[6])
		}
	})
}

// TestGapAtTheEnd: a database that never comes back is a gap up to the end.
func TestGapAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(func(_ int, now time.Duration) (time.Duration, error) {
			if now >= 2*time.Second {
				return time.Second, errors.New("gone")
			}
			return time.Millisecond, nil
		})
		var p Progress
		r, err := Run(t.Context(), f, config("get"), &p)
		if err != nil || r.LargestGapMs < 7999 {
			t.Errorf("gap %.1f ms, %v", r.LargestGapMs, err)
		}
		if r.Failed == 0 || r.Errors["unknown"] != r.Failed || r.ErrorQuotes["gone"] != r.Failed || r.Kinds[0].Failed != r.Failed {
			t.Errorf("failures: %+v", r)
		}
		if r.Ops != 4*2000 || r.All.Max > 1000 {
			t.Errorf("failures count as successes: %d, %+v", r.Ops, r.All)
		}
	})
}

func TestErrorsDoNotSpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(func(int, time.Duration) (time.Duration, error) { return 0, errors.New("refused") })
		var p Progress
		r, err := Run(t.Context(), f, config("put"), &p)
		if err != nil || r.Ops != 0 || r.Failed != 4*5000 {
			t.Errorf("%d successes, %d failures, %v", r.Ops, r.Failed, err)
		}
		if r.LargestGapMs != 10_000 {
			t.Errorf("gap %.1f ms", r.LargestGapMs)
		}
	})
}

func TestErrorQuotesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(func(n int, _ time.Duration) (time.Duration, error) {
			return 0, fmt.Errorf("%d%s", n%100, strings.Repeat("x", 1000))
		})
		var p Progress
		cfg := config("put")
		cfg.Ops, cfg.Duration = 200, 0
		r, err := Run(t.Context(), f, cfg, &p)
		if err != nil || r.Failed != 200 || len(r.ErrorQuotes) != errorKindsMax {
			t.Errorf("%d failures, %d quotes, %v", r.Failed, len(r.ErrorQuotes), err)
		}
		for quote := range r.ErrorQuotes {
			if len(quote) != errorQuoteSize {
				t.Errorf("a quote of %d bytes", len(quote))
			}
		}
	})
}

func TestOpsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(constant(time.Millisecond))
		var p Progress
		cfg := config("put")
		cfg.Ops, cfg.Duration, cfg.Warmup = 1001, 0, 100*time.Millisecond
		r, err := Run(t.Context(), f, cfg, &p)
		if err != nil || r.Ops != 1001 || f.n != 1001+400 {
			t.Errorf("%d measured, %d sent, %v", r.Ops, f.n, err)
		}
	})
}

func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(constant(time.Millisecond))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var p Progress
		r, err := Run(ctx, f, config("put"), &p)
		if !errors.Is(err, context.DeadlineExceeded) || r.Ops < 3996 || r.Ops > 4004 || f.open != 0 {
			t.Errorf("%d operations, %d sessions left, %v", r.Ops, f.open, err)
		}
	})
}

// TestLoadThenWorkloads: what load writes the workloads find, and inserts go
// beyond it.
func TestLoadThenWorkloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(constant(time.Millisecond))
		cfg := config("put")
		cfg.Duration = 0
		var p Progress
		r, err := Load(t.Context(), f, cfg, &p)
		if err != nil || r.Ops != 1000 || len(f.keys) != 1000 || f.puts != 1000 || p.Done() != 1000 || f.open != 0 {
			t.Fatalf("%d loaded, %d keys, %d puts, %v", r.Ops, len(f.keys), f.puts, err)
		}
		for _, name := range []string{"a", "b", "c", "d", "e", "f", "get", "scan"} {
			cfg := config(name)
			cfg.Duration = time.Second
			before := len(f.keys)
			var p Progress
			r, err := Run(t.Context(), f, cfg, &p)
			if err != nil || r.Missed != 0 || r.Failed != 0 || len(r.Kinds) == 0 {
				t.Errorf("workload %s: %+v, %v", name, r, err)
			}
			if added := len(f.keys) - before; uint64(added) != r.Inserted {
				t.Errorf("workload %s: %d keys more, %d inserted", name, added, r.Inserted)
			}
			if (name == "d" || name == "e") != (r.Inserted > 0) {
				t.Errorf("workload %s inserted %d", name, r.Inserted)
			}
			f.mu.Lock()
			for i := uint64(1000); i < 1000+r.Inserted; i++ {
				delete(f.keys, keyOf("", i)) // the next run starts from what was loaded
			}
			f.mu.Unlock()
		}
	})
}

func TestLoadTriesAgainAndGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(func(n int, _ time.Duration) (time.Duration, error) {
			if n%5 == 0 {
				return time.Millisecond, errors.New("now and then")
			}
			return time.Millisecond, nil
		})
		cfg := config("put")
		cfg.Duration = 0
		var p Progress
		if r, err := Load(t.Context(), f, cfg, &p); err != nil || len(f.keys) != 1000 || r.Failed == 0 {
			t.Errorf("%d keys, %d failures, %v", len(f.keys), r.Failed, err)
		}
		gone := newFake(func(int, time.Duration) (time.Duration, error) { return 0, errors.New("gone") })
		if _, err := Load(t.Context(), gone, cfg, &p); err == nil || !strings.Contains(err.Error(), "gone") {
			t.Errorf("error %v", err)
		}
	})
}

func TestConfigIsValidated(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"clients": func(c *Config) { c.Clients = 0 }, "too many clients": func(c *Config) { c.Clients = ClientsMax + 1 },
		"no bound": func(c *Config) { c.Duration = 0 }, "negative": func(c *Config) { c.Warmup = -1 }, "keys": func(c *Config) { c.Keys = 0 },
		"value": func(c *Config) { c.ValueBytes = -1 }, "scan": func(c *Config) { c.ScanItems = 0 }, "ops": func(c *Config) { c.Ops = -1 },
	} {
		cfg := config("put")
		change(&cfg)
		var p Progress
		if _, err := Run(t.Context(), newFake(constant(0)), cfg, &p); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
