package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Reader is a Session that gives what it reads, which Verify needs.
type Reader interface {
	Session
	// Value reads a key linearizably. The caller owns the value.
	Value(ctx context.Context, key string) (value []byte, found bool, err error)
}

// FillConfig describes distinct data: keys From to Keys-1, each with a value that
// follows from Seed and the key's number alone. So nothing has to be remembered to
// check it, and what was broken off goes on at any number.
type FillConfig struct {
	Clients    int
	Keys       uint64
	From       uint64
	KeyPrefix  string
	ValueBytes int
	Seed       uint64
}

// fillOverhead is what a key adds to its value.
const fillOverhead = keyLen

// KeysOf gives how many keys make so many bytes of keys and values.
func (c *FillConfig) KeysOf(total int64) uint64 {
	each := int64(c.ValueBytes + fillOverhead + len(c.KeyPrefix))
	return uint64((total + each - 1) / each)
}

// FillReport is what Fill or Verify did.
type FillReport struct {
	Report
	From           uint64   `json:"from"`
	Next           uint64   `json:"next"`  // all keys from From up to here are done: go on here
	Bytes          int64    `json:"bytes"` // keys and values that were written, or read and found right
	BytesPerSecond float64  `json:"bytes_per_second"`
	Wrong          int64    `json:"wrong"` // keys with another value than they should have
	BadKeys        []string `json:"bad_keys"`
}

// badKeysMax bounds how many keys that are missing or wrong are named.
const badKeysMax = 10

// Fill writes all keys, each again until it is written or six tries have failed.
func Fill(ctx context.Context, d Driver, cfg FillConfig, p *Progress) (FillReport, error) {
	return fill(ctx, d, cfg, p, "fill", func(f *filler, w *worker, client int, i uint64) error {
		key, value := keyOf(cfg.KeyPrefix, i), fillValue(cfg.Seed, i, cfg.ValueBytes)
		return f.try(ctx, client, KindInsert, key, func(ctx context.Context) (bool, error) {
			return false, w.session.Put(ctx, key, value)
		})
	})
}

// Verify reads all keys and compares their values. Keys that are missing or wrong are
// counted, and it goes on; one that cannot be read in six tries ends it.
func Verify(ctx context.Context, d Driver, cfg FillConfig, p *Progress) (FillReport, error) {
	return fill(ctx, d, cfg, p, "verify", func(f *filler, w *worker, client int, i uint64) error {
		reader, ok := w.session.(Reader)
		if !ok {
			return fmt.Errorf("bench: %s cannot read values", d.Name())
		}
		key := keyOf(cfg.KeyPrefix, i)
		var value []byte
		var found bool
		err := f.try(ctx, client, KindGet, key, func(ctx context.Context) (missed bool, err error) {
			value, found, err = reader.Value(ctx, key)
			return !found, err
		})
		if err == nil && ctx.Err() == nil && !(found && bytes.Equal(value, fillValue(cfg.Seed, i, cfg.ValueBytes))) {
			f.bad(key, found)
		}
		return err
	})
}

// fillValue gives the value of key i: bytes that no compression makes smaller.
func fillValue(seed, i uint64, size int) []byte {
	out := make([]byte, size+7)
	r := rand.NewPCG(seed, mix(i))
	for at := 0; at < size; at += 8 {
		binary.LittleEndian.PutUint64(out[at:], r.Uint64())
	}
	return out[:size:size]
}

// filler is a Fill or Verify under way.
type filler struct {
	loader
	keys *keyCounter

	mu    sync.Mutex
	bads  []string // guarded by mu
	wrong int64    // guarded by mu
	miss  int64    // guarded by mu
}

func (f *filler) bad(key string, found bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if found {
		f.wrong++
	} else {
		f.miss++
	}
	if len(f.bads) < badKeysMax {
		f.bads = append(f.bads, key)
	}
}

func fill(ctx context.Context, d Driver, cfg FillConfig, p *Progress, name string, one func(f *filler, w *worker, client int, i uint64) error) (FillReport, error) {
	c := Config{Workload: Workload{Name: name}, Clients: cfg.Clients, Ops: 1, Keys: cfg.Keys, KeyPrefix: cfg.KeyPrefix, ValueBytes: cfg.ValueBytes, ScanItems: 1, Seed: cfg.Seed}
	if err := c.Validate(); err != nil {
		return FillReport{}, fmt.Errorf("bench: %w", err)
	}
	if cfg.From >= cfg.Keys {
		return FillReport{}, fmt.Errorf("bench: from key %d: there are %d", cfg.From, cfg.Keys)
	}
	workers, err := openSessions(ctx, d, int(min(uint64(cfg.Clients), cfg.Keys-cfg.From)), func(int) *worker { return &worker{config: &c} })
	if err != nil {
		return FillReport{}, err
	}
	p.measured.Store(true)
	f := &filler{loader: loader{recorder: newRecorder(time.Now(), cfg.Clients), config: &c, driver: d, progress: p}, keys: newKeyCounter(cfg.From)}
	f.recorder.begin()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for client, w := range workers {
		wg.Go(func() {
			if err := f.loop(ctx, w, client, one); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	report := FillReport{Report: f.recorder.report(time.Time{}), From: cfg.From, Next: f.keys.count(), Wrong: f.wrong, BadKeys: f.bads}
	report.describe(d, &c, 0)
	report.Missed = f.miss
	report.Bytes = (report.Ops - f.wrong - f.miss) * int64(cfg.ValueBytes+fillOverhead+len(cfg.KeyPrefix))
	if report.Seconds > 0 {
		report.BytesPerSecond = float64(report.Bytes) / report.Seconds
	}
	return report, errors.Join(context.Cause(ctx), closeSessions(workers))
}

func (f *filler) loop(ctx context.Context, w *worker, client int, one func(f *filler, w *worker, client int, i uint64) error) error {
	for ctx.Err() == nil {
		i := f.keys.take()
		if i >= f.config.Keys {
			return nil
		}
		if err := one(f, w, client, i); err != nil {
			return err
		}
		if ctx.Err() == nil {
			f.keys.answered(i)
			f.progress.done.Add(1)
		}
	}
	return nil
}
