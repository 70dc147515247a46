//go:build blackbox

package blackbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/test/proc"
)

// splitBytes is the split_bytes of TestSplits.
const splitBytes = 2 << 20

// TestSplits begins with one shard, splits it by hand and then by loading more
// than shards may hold, and merges shards again, while clients read, write, and scan:
// nobody notices, no scan misses a key or gives one twice.
func TestSplits(t *testing.T) {
	_, seed := seeded(t)
	c := proc.Start(t, binary(t), proc.Shape{Nodes: 3, Shards: 1, Args: []string{"--retention=2s"}})
	w := startWorkload(t, c, 300, seed)
	d := &dataset{client: c.Client(t, client.Config{})}
	d.load(t, 64)
	scans := startScans(t, c, d)
	w.goOn(t, 300)
	w.lap(t, "nothing happens")
	t.Run("by hand", func(t *testing.T) { testSplitByHand(t, c, w) })
	t.Run("by size", func(t *testing.T) { testSplitBySize(t, c, w, d) })
	t.Run("merge", func(t *testing.T) { testMerge(t, c, w) })
	scans.stop(t)
	d.check(t)
	w.judge(t, c)
}

// testSplitByHand splits the widest shard a few times and measures each split.
func testSplitByHand(t *testing.T, c *proc.Cluster, w *workload) {
	var gaps []time.Duration
	for range 4 {
		l := c.Layout(t)
		widest := slices.MaxFunc(l.Shards, func(a, b client.Shard) int { return int(a.Keys - b.Keys) })
		w.goOn(t, 100)
		w.pulse.Lap()
		quorate(t, c, "shards", "split", widest.ID.String())
		waitShards(t, c, func(n int) bool { return n == len(l.Shards)+1 })
		w.goOn(t, 50)
		gaps = append(gaps, w.pulse.Lap()[0].Wait)
	}
	reportGaps(t, "split by hand", gaps)
}

// waitShards waits until the number of data shards is as wanted, all are whole, and
// their ranges are all keys.
func waitShards(t testing.TB, c *proc.Cluster, want func(int) bool) proc.Shares {
	t.Helper()
	var s proc.Shares
	proc.Eventually(t, balanceMax, "number of shards", func(ctx context.Context) error {
		var err error
		if s, err = c.Shares(ctx, 3); err == nil && !want(len(s.Shards)) {
			err = fmt.Errorf("%s", &s)
		}
		return err
	})
	return s
}

// testSplitBySize loads several times what a shard may hold.
func testSplitBySize(t *testing.T, c *proc.Cluster, w *workload, d *dataset) {
	before := len(c.Layout(t).Shards)
	c.Configure(t, client.ConfigChange{SplitBytes: ptr(int64(splitBytes)), MergeBytes: ptr(int64(0))})
	w.lap(t, "settings changed")
	d.load(t, before*splitBytes*16/10/valueBytes)
	s := waitShards(t, c, func(n int) bool { return n > before })
	proc.Eventually(t, balanceMax, "no shard too large", func(ctx context.Context) error {
		var err error
		if s, err = c.Shares(ctx, 3); err != nil {
			return err
		}
		for _, shard := range s.Shards {
			if shard.Bytes > splitBytes*3/2 {
				return fmt.Errorf("shard %s has %d bytes", shard.ID, shard.Bytes)
			}
		}
		return nil
	})
	w.lap(t, "splits by size")
	t.Logf("%d shards after %d keys of %d bytes: %s", len(s.Shards), d.keys.Load(), valueBytes, &s)
}

// testMerge merges shards by hand, some of them with parts that were merged before.
func testMerge(t *testing.T, c *proc.Cluster, w *workload) {
	c.Configure(t, client.ConfigChange{SplitBytes: ptr(int64(0)), MergeBytes: ptr(int64(0))})
	var gaps []time.Duration
	for range 3 {
		l := c.Layout(t)
		n := len(l.Shards)
		first := l.Shards[n/2-1]
		w.pulse.Lap()
		quorate(t, c, "shards", "merge", first.ID.String())
		waitShards(t, c, func(now int) bool { return now == n-1 })
		w.goOn(t, 50)
		gaps = append(gaps, w.pulse.Lap()[0].Wait)
	}
	reportGaps(t, "merge", gaps)
}

// valueBytes is the size of a dataset's values.
const valueBytes = 16 << 10

// dataset is numbered keys with values that follow from them, spread over the
// key space.
type dataset struct {
	client *client.Client
	keys   atomic.Int64 // that are acknowledged, all below it
}

const datasetPrefix = "~data"

func (d *dataset) key(i int64) string {
	const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	h := uint64(i)*0x9e3779b97f4a7c15 + 0x1234567
	return fmt.Sprintf("%c%c%s%06d", letters[h>>32%62], letters[h>>40%62], datasetPrefix, i)
}

func (d *dataset) value(key string) []byte {
	return bytes.Repeat([]byte(key), valueBytes/len(key)+1)[:valueBytes]
}

// loaders is how many writes of a dataset are in flight.
const loaders = 8

// load adds n keys.
func (d *dataset) load(t testing.TB, n int) {
	t.Helper()
	first := d.keys.Load()
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, loaders)
	for i := range loaders {
		wg.Go(func() {
			for errs[i] == nil {
				k := next.Add(1) - 1
				if k >= int64(n) {
					return
				}
				key := d.key(first + k)
				_, errs[i] = d.client.Put(t.Context(), key, d.value(key), client.PutOptions{})
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("load: %v", err)
	}
	d.keys.Store(first + int64(n))
}

// check reads every key by itself.
func (d *dataset) check(t testing.TB) {
	t.Helper()
	for i := range d.keys.Load() {
		key := d.key(i)
		item, err := d.client.Get(t.Context(), key, client.ReadOptions{})
		if err != nil || !bytes.Equal(item.Value, d.value(key)) {
			t.Errorf("%q: %d bytes, %v", key, len(item.Value), err)
		}
	}
}

// scans reads the whole key space over and over, upwards and downwards, in pages whose
// cursors outlive the shards that gave them.
type scans struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	rounds atomic.Int64
	mu     sync.Mutex
	errors []error
}

func startScans(t testing.TB, c *proc.Cluster, d *dataset) *scans {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &scans{cancel: cancel}
	for _, reverse := range []bool{false, true} {
		reader := c.Client(t, client.Config{})
		s.done.Go(func() {
			for ctx.Err() == nil {
				if err := scanOnce(ctx, reader, d, reverse); err != nil && ctx.Err() == nil {
					s.mu.Lock()
					s.errors = append(s.errors, err)
					s.mu.Unlock()
					return
				}
				s.rounds.Add(1)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		s.done.Wait()
	})
	return s
}

// scanOnce reads all keys and misses none that was there when it began.
func scanOnce(ctx context.Context, reader *client.Client, d *dataset, reverse bool) error {
	known := d.keys.Load()
	missing := make(map[string]bool, known)
	for i := range known {
		missing[d.key(i)] = true
	}
	last := ""
	for item, err := range reader.Scan(ctx, client.Range{Reverse: reverse, PageItems: 20}) {
		if err != nil {
			return fmt.Errorf("scan, reverse %t, after %q: %w", reverse, last, err)
		}
		if last != "" && (item.Key <= last) != reverse || item.Key == last {
			return fmt.Errorf("scan, reverse %t: %q after %q", reverse, item.Key, last)
		}
		last = item.Key
		if len(item.Key) > 2+len(datasetPrefix) && item.Key[2:2+len(datasetPrefix)] == datasetPrefix {
			if !bytes.Equal(item.Value, d.value(item.Key)) {
				return fmt.Errorf("scan: %q holds %d other bytes", item.Key, len(item.Value))
			}
			delete(missing, item.Key)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("scan, reverse %t: %d of %d keys missed: %.200q", reverse, len(missing), known, fmt.Sprint(missing))
	}
	return nil
}

func (s *scans) stop(t testing.TB) {
	t.Helper()
	s.cancel()
	s.done.Wait()
	for _, err := range s.errors {
		if kv.Code(client.CodeOf(err)) != kv.CodeTimeout || !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	t.Logf("%d scans of everything", s.rounds.Load())
	if s.rounds.Load() == 0 {
		t.Error("no scan came to its end")
	}
}
