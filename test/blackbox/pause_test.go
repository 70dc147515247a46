//go:build blackbox

package blackbox

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/test/proc"
)

// TestPausedLeader stops a leader by SIGSTOP, lets the others move on, and gives it
// reads to answer the moment it wakes up, when it still believes to lead: none of them
// may be of the past.
func TestPausedLeader(t *testing.T) {
	random, seed := seeded(t)
	c := proc.Start(t, binary(t), proc.Shape{})
	k := startCampaign(t, c, 10, limit, seed)
	var gaps []time.Duration
	for round := range scaled(t, 4) {
		k.goOn(t, 300)
		layout := c.Layout(t)
		paused := layout.LeaderOf(&layout.Shards[random.IntN(len(layout.Shards))])
		gaps = append(gaps, pauseRound(t, c, &layout, paused, fmt.Sprintf("pause%d", round))...)
		k.goOn(t, 300)
		c.WaitReady(t)
	}
	k.judge(t, c)
	reportGaps(t, "paused leader", gaps)
}

// sleepers is how many reads wait for the paused node.
const sleepers = 24

func pauseRound(t *testing.T, c *proc.Cluster, l *proc.Layout, paused int, name string) []time.Duration {
	var led []*client.Shard
	for i := range l.Shards {
		if l.LeaderOf(&l.Shards[i]) == paused {
			led = append(led, &l.Shards[i])
		}
	}
	var others []string
	for i := 1; i <= c.Size; i++ {
		if i != paused {
			others = append(others, c.Endpoint(i))
		}
	}
	writer := c.Client(t, client.Config{Endpoints: others, Timeout: proc.WaitMax})
	put := func(value string) {
		for _, s := range led {
			if _, err := writer.Put(t.Context(), proc.KeyIn(s, name), []byte(value), client.PutOptions{}); err != nil {
				t.Fatalf("put %q into shard %s: %v", value, s.ID, err)
			}
		}
	}
	put("old")
	c.Pause(t, paused)
	wake := time.NewTimer(5 * time.Second)
	defer wake.Stop()
	gaps, _ := measureGaps(t, c, l, paused)
	put("new")

	var reads sync.WaitGroup
	for i := range sleepers {
		s := led[i%len(led)]
		reads.Go(func() {
			a, err := proc.Do(t.Context(), http.MethodGet, c.Endpoint(paused)+"/v1/kv/"+proc.KeyIn(s, name), "", limit)
			switch {
			case err != nil:
				t.Errorf("read of shard %s at the paused node: %v", s.ID, err)
			case a.Status == http.StatusOK && a.Body != "new":
				t.Errorf("stale read of shard %s from node %d, which was paused: %q", s.ID, paused, a.Body)
			case a.Status != http.StatusOK && a.Status != http.StatusServiceUnavailable && a.Status != http.StatusGatewayTimeout:
				t.Errorf("read of shard %s at the paused node: %d %s", s.ID, a.Status, a.Body)
			}
		})
	}
	<-wake.C
	c.Resume(t, paused)
	reads.Wait()
	return gaps
}
