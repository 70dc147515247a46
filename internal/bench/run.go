package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Config describes a run. Duration or Ops bounds it, or both.
type Config struct {
	Workload   Workload
	Clients    int
	Duration   time.Duration // of what is measured, after Warmup
	Ops        int64         // 0 = no bound
	Warmup     time.Duration // the same load, not measured
	Keys       uint64        // how many were loaded
	KeyPrefix  string
	ValueBytes int
	ScanItems  int
	Seed       uint64
}

// Bounds of Config.
const (
	ClientsMax  = 10_000
	DurationMax = 24 * time.Hour
)

// errorPause keeps a client from spinning while everything it sends fails at once.
const errorPause = 2 * time.Millisecond

// Validate checks everything that Run relies on.
func (c *Config) Validate() error {
	switch {
	case c.Clients < 1 || c.Clients > ClientsMax:
		return fmt.Errorf("%d clients: want 1 to %d", c.Clients, ClientsMax)
	case c.Duration < 0 || c.Warmup < 0 || c.Duration > DurationMax || c.Warmup > DurationMax:
		return fmt.Errorf("duration %s after %s: want 0 to %s", c.Duration, c.Warmup, DurationMax)
	case c.Ops < 0 || (c.Ops == 0 && c.Duration == 0):
		return errors.New("neither a duration nor a number of operations")
	case c.Keys < 1:
		return errors.New("no keys")
	case c.ValueBytes < 0:
		return fmt.Errorf("values of %d bytes", c.ValueBytes)
	case c.ScanItems < 1:
		return fmt.Errorf("scans of %d items", c.ScanItems)
	}
	return nil
}

// Progress tells from outside how far a run or load has come.
type Progress struct {
	done     atomic.Int64
	measured atomic.Bool
}

// Done gives the operations finished so far, failed ones included and warm-up
// left out.
func (p *Progress) Done() int64 { return p.done.Load() }

// Measuring reports whether the warm-up is over.
func (p *Progress) Measuring() bool { return p.measured.Load() }

// run is a run under way.
type run struct {
	config   *Config
	driver   Driver
	progress *Progress
	recorder *recorder
	start    time.Time // of what is measured
	end      time.Time // zero: no bound
	left     atomic.Int64
}

// Run drives the database and reports. If ctx ends before the run does, the
// report tells what was measured until then, and the error is ctx's.
func Run(ctx context.Context, d Driver, cfg Config, p *Progress) (Report, error) {
	if err := cfg.Validate(); err != nil {
		return Report{}, fmt.Errorf("bench: %w", err)
	}
	keys := newKeyCounter(cfg.Keys)
	choose := newChooser(cfg.Workload.Distribution, keys)
	contents := newValues(cfg.ValueBytes, cfg.Seed)
	workers, err := openSessions(ctx, d, cfg.Clients, func(i int) *worker {
		return &worker{
			config: &cfg, keys: keys, chooser: choose, values: contents,
			rand: rand.New(rand.NewPCG(cfg.Seed, uint64(i)+2)),
		}
	})
	if err != nil {
		return Report{}, err
	}
	r := &run{config: &cfg, driver: d, progress: p}
	r.start = time.Now().Add(cfg.Warmup)
	if cfg.Duration > 0 {
		r.end = r.start.Add(cfg.Duration)
	}
	r.left.Store(cfg.Ops)
	r.recorder = newRecorder(r.start, cfg.Clients)
	var wg sync.WaitGroup
	for i, w := range workers {
		wg.Go(func() { r.loop(ctx, w, i) })
	}
	wg.Wait()
	p.measured.Store(true)
	report := r.recorder.report(r.end)
	report.describe(d, &cfg, keys.next.Load()-cfg.Keys)
	return report, errors.Join(context.Cause(ctx), closeSessions(workers))
}

// loop is one client: closed-loop, until time or operations are used up.
func (r *run) loop(ctx context.Context, w *worker, i int) {
	for ctx.Err() == nil {
		kind := r.config.Workload.draw(w.rand)
		start := time.Now()
		if !r.end.IsZero() && !start.Before(r.end) {
			return
		}
		measured := !start.Before(r.start)
		if measured {
			r.recorder.begin()
			r.progress.measured.Store(true)
			if r.config.Ops > 0 && r.left.Add(-1) < 0 {
				return
			}
		}
		missed, err := w.do(ctx, kind)
		if err != nil && ctx.Err() != nil {
			return // cut off by us, not by the database
		}
		if measured {
			r.recorder.record(i, sample{kind: kind, start: start, end: time.Now(), missed: missed, err: err}, r.driver)
			r.progress.done.Add(1)
		}
		if err != nil {
			pause(ctx, errorPause)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// openSessions opens one session per worker; if one fails, it closes the others.
func openSessions(ctx context.Context, d Driver, n int, makeWorker func(i int) *worker) ([]*worker, error) {
	var workers []*worker
	for i := range n {
		s, err := d.Session(ctx)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("bench: session %d: %w", i, err), closeSessions(workers))
		}
		w := makeWorker(i)
		w.session = s
		workers = append(workers, w)
	}
	return workers, nil
}

func closeSessions(workers []*worker) error {
	var errs []error
	for _, w := range workers {
		errs = append(errs, w.session.Close())
	}
	return errors.Join(errs...)
}
