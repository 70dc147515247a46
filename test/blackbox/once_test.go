//go:build blackbox

package blackbox

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/test/proc"
)

// counters is how many clients have an addition in flight when a leader dies: some
// of those are in the logs of others by then, but not answered.
const counters = 96

// TestExactlyOnce kills leaders whose shard has many additions in flight. The
// clients are retried for, by the nodes and by themselves, and each of them sees
// its own counter go up by one each time: nothing is lost and nothing counted twice.
func TestExactlyOnce(t *testing.T) {
	random, _ := seeded(t)
	c := proc.Start(t, binary(t), proc.Shape{})
	k := &adders{t: t, client: c.Client(t, client.Config{})}
	for round := range scaled(t, 6) {
		layout := c.Layout(t)
		s := &layout.Shards[random.IntN(len(layout.Shards))]
		victim := layout.LeaderOf(s)
		stop := k.start(s, fmt.Sprintf("once%d", round))
		k.goOn(5 * counters)
		if err := c.Kill(victim); err != nil {
			t.Fatal(err)
		}
		k.goOn(5 * counters)
		stop()
		if err := c.Start(victim); err != nil {
			t.Fatal(err)
		}
		c.WaitReady(t)
	}
	t.Logf("%d additions, %d of unknown outcome, %d answered from memory", k.done.Load(), k.unknown.Load(), k.replayed.Load())
}

// adders are clients that add to counters of their own.
type adders struct {
	t      *testing.T
	client *client.Client

	done, unknown, replayed atomic.Int64
}

// start sets the adders to work on one shard, until what it gives is called.
func (k *adders) start(s *client.Shard, name string) (stop func()) {
	var over atomic.Bool
	var working sync.WaitGroup
	for i := range counters {
		key := proc.KeyIn(s, fmt.Sprintf("%s/%d", name, i))
		working.Go(func() { k.add(key, &over) })
	}
	return func() {
		over.Store(true)
		working.Wait()
	}
}

func (k *adders) add(key string, over *atomic.Bool) {
	low, high := int64(0), int64(0) // what the counter may be
	for !over.Load() {
		res, err := k.client.Add(k.t.Context(), key, 1, client.AddOptions{})
		switch {
		case err == nil && (res.Value <= low || res.Value > high+1):
			k.t.Errorf("%q is %d after an addition, want more than %d and at most %d", key, res.Value, low, high+1)
			return
		case err == nil:
			low, high = res.Value, res.Value
			if res.Replayed {
				k.replayed.Add(1)
			}
		case client.IsOutcomeUnknown(err):
			k.unknown.Add(1)
			high++
		case !client.IsUnavailable(err):
			k.t.Errorf("add to %q: %v", key, err)
			return
		}
		k.done.Add(1)
	}
}

// goOn waits until the adders have done n more additions.
func (k *adders) goOn(n int64) {
	k.t.Helper()
	goal := k.done.Load() + n
	proc.Eventually(k.t, proc.WaitMax, "additions go on", func(context.Context) error {
		if done := k.done.Load(); done < goal {
			return fmt.Errorf("%d to go", goal-done)
		}
		return nil
	})
}
