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

// loadTries is how often one key is written before the load gives up; between
// tries it waits loadRetryPause times the number of tries.
const (
	loadTries      = 6
	loadRetryPause = 200 * time.Millisecond
)

// Load writes the keys that a run with the same Config reads: each once, by all
// clients together. It ends with the first key that cannot be written.
func Load(ctx context.Context, d Driver, cfg Config, p *Progress) (Report, error) {
	cfg.Workload = Workload{Name: "load"}
	if cfg.Ops == 0 {
		cfg.Ops = int64(cfg.Keys)
	}
	if err := cfg.Validate(); err != nil {
		return Report{}, fmt.Errorf("bench: %w", err)
	}
	contents := newValues(cfg.ValueBytes, cfg.Seed)
	workers, err := openSessions(ctx, d, min(cfg.Clients, int(min(cfg.Keys, ClientsMax))), func(i int) *worker {
		return &worker{config: &cfg, values: contents, rand: rand.New(rand.NewPCG(cfg.Seed, uint64(i)+2))}
	})
	if err != nil {
		return Report{}, err
	}
	p.measured.Store(true)
	l := loader{recorder: newRecorder(time.Now(), cfg.Clients), config: &cfg, driver: d, progress: p}
	l.recorder.begin()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i, w := range workers {
		wg.Go(func() {
			if err := l.loop(ctx, w, i); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	report := l.recorder.report(time.Time{})
	report.describe(d, &cfg, uint64(report.Ops))
	return report, errors.Join(context.Cause(ctx), closeSessions(workers))
}

type loader struct {
	recorder *recorder
	config   *Config
	driver   Driver
	progress *Progress
	next     atomic.Uint64
}

func (l *loader) loop(ctx context.Context, w *worker, client int) error {
	for ctx.Err() == nil {
		i := l.next.Add(1) - 1
		if i >= l.config.Keys {
			return nil
		}
		if err := l.put(ctx, w, client, keyOf(l.config.KeyPrefix, i)); err != nil {
			return err
		}
		l.progress.done.Add(1)
	}
	return nil
}

// put writes one key, again if it fails: writing the same value twice is harmless.
func (l *loader) put(ctx context.Context, w *worker, client int, key string) error {
	value := w.values.draw(w.rand)
	return l.try(ctx, client, KindInsert, key, func(ctx context.Context) (bool, error) {
		return false, w.session.Put(ctx, key, value)
	})
}

// try does an operation until it succeeds or has failed loadTries times. It gives no
// error when ctx ends first.
func (l *loader) try(ctx context.Context, client int, kind Kind, key string, do func(ctx context.Context) (missed bool, err error)) error {
	for try := 1; ; try++ {
		start := time.Now()
		missed, err := do(ctx)
		if err != nil && ctx.Err() != nil {
			return nil
		}
		l.recorder.record(client, sample{kind: kind, start: start, end: time.Now(), missed: missed && err == nil, err: err}, l.driver)
		if err == nil {
			return nil
		}
		if try == loadTries {
			return fmt.Errorf("bench: %s: key %q, after %d tries: %w", l.config.Workload.Name, key, try, err)
		}
		pause(ctx, time.Duration(try)*loadRetryPause)
	}
}
