//go:build blackbox

package blackbox

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/test/proc"
)

// hurry is the deadline of requests that are expected to be refused.
const hurry = 2 * time.Second

// slack is what a machine that five nodes share with other work may add to it.
const slack = 8 * time.Second

// TestTwoOfThreeDown takes the majority from some shards: their reads and writes are
// refused in time and with the truth about what happened, the other shards go on,
// and all that was acknowledged is there when the nodes return.
func TestTwoOfThreeDown(t *testing.T) {
	c := proc.Start(t, binary(t), proc.Shape{})
	layout := c.WaitSettled(t)
	writer := c.Client(t, client.Config{})
	for i := range layout.Shards {
		if _, err := writer.Put(t.Context(), proc.KeyIn(&layout.Shards[i], "before"), []byte("kept"), client.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	machine := proc.WatchMachine(t)
	layout, down := loseMajority(t, c, machine)
	first := &layout.Shards[0]
	for _, i := range down {
		if err := c.Kill(i); err != nil {
			t.Fatal(err)
		}
	}
	stopped, absent := 0, map[string]string{}
	for i := range layout.Shards {
		s := &layout.Shards[i]
		lost := 0
		for _, r := range layout.ReplicasOf(s) {
			if slices.Contains(down, r) {
				lost++
			}
		}
		if lost >= 2 {
			stopped++
			t.Run("stopped shard "+s.ID.String(), func(t *testing.T) { absent[s.ID.String()] = testStopped(t, c, s, machine) })
		} else {
			t.Run("working shard "+s.ID.String(), func(t *testing.T) { testWorking(t, c, s) })
		}
	}
	if stopped == 0 || stopped == len(layout.Shards) {
		t.Fatalf("%d of %d shards lost their majority: nothing to compare", stopped, len(layout.Shards))
	}
	for _, i := range down {
		if err := c.Start(i); err != nil {
			t.Fatal(err)
		}
	}
	c.WaitReady(t)
	testAllBack(t, c, &layout, absent)
	testProposed(t, c, first)
}

// loseMajority pauses all replicas of the first shard but its leader's, and writes. The
// leader still leads when the write reaches it, so it is proposed, and nobody can say
// what becomes of it. Where the machine stands still meanwhile the leader may know better.
// It gives the layout by then, and the paused nodes.
func loseMajority(t *testing.T, c *proc.Cluster, machine *proc.Machine) (layout proc.Layout, down []int) {
	err := machine.Steady(func(int) error {
		for _, i := range down {
			c.Resume(t, i)
		}
		layout = c.WaitSettled(t)
		c.WaitCaughtUp(t) // or else the one replica that is left may not know all there is
		first := &layout.Shards[0]
		leader := layout.LeaderOf(first)
		down = slices.DeleteFunc(layout.ReplicasOf(first), func(i int) bool { return i == leader })
		for _, i := range down {
			c.Pause(t, i)
		}
		a := proc.MustDo(t, http.MethodPut, c.Endpoint(leader)+"/v1/kv/"+proc.KeyIn(first, "proposed"), "maybe", hurry)
		if a.Status != http.StatusGatewayTimeout || a.Outcome != "unknown" {
			return fmt.Errorf("write that was proposed before the majority was lost: %d %s, want 504 unknown", a.Status, a.Body)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return layout, down
}

// testStopped holds a shard without majority to its word at each running node. It gives
// the name of a key that was refused.
func testStopped(t *testing.T, c *proc.Cluster, s *client.Shard, machine *proc.Machine) (name string) {
	refused := func(method, name string, wait time.Duration) func(context.Context) error {
		return func(ctx context.Context) error {
			var asked errgroup.Group
			for _, i := range c.RunningNodes() {
				asked.Go(func() error { return refusedAt(ctx, c, i, method, proc.KeyIn(s, name), wait) })
			}
			return asked.Wait()
		}
	}
	// The first ones may still meet a leader that does not know yet.
	for _, method := range []string{http.MethodPut, http.MethodGet} {
		proc.Eventually(t, proc.WaitMax, method+" refused", refused(method, "before-refusals", hurry+time.Second))
		err := machine.Steady(func(before int) error {
			if method == http.MethodPut {
				name = fmt.Sprintf("refused%d", before)
			}
			return refused(method, name, hurry+slack)(t.Context())
		})
		if err != nil {
			t.Errorf("%s: %v", method, err)
		}
	}
	for _, i := range c.RunningNodes() {
		a := proc.MustDo(t, http.MethodGet, c.Endpoint(i)+"/v1/kv/"+proc.KeyIn(s, "before")+"?consistency=stale", "", hurry)
		if a.Status != http.StatusOK || a.Body != "kept" || a.Header.Get("Quorate-Consistency") != "stale" {
			t.Errorf("stale read at node %d: %d %s %s", i, a.Status, a.Header.Get("Quorate-Consistency"), a.Body)
		}
	}
	return name
}

// refusedAt gives nil if a node refuses a request for a key in time and in form.
func refusedAt(ctx context.Context, c *proc.Cluster, node int, method, key string, wait time.Duration) error {
	a, err := proc.Do(ctx, method, c.Endpoint(node)+"/v1/kv/"+key, "x", hurry)
	switch {
	case err != nil:
		return fmt.Errorf("node %d: %w", node, err)
	case a.Status != http.StatusServiceUnavailable:
		return fmt.Errorf("node %d: %d %s", node, a.Status, a.Body)
	case method == http.MethodPut && a.Outcome != "not-applied":
		return fmt.Errorf("node %d: outcome %q, want not-applied: %s", node, a.Outcome, a.Body)
	case a.Header.Get("Retry-After") == "":
		return fmt.Errorf("node %d: 503 without Retry-After", node)
	case a.Took > wait:
		return fmt.Errorf("node %d: refused only after %s", node, a.Took)
	}
	return nil
}

func testWorking(t *testing.T, c *proc.Cluster, s *client.Shard) {
	for _, i := range c.RunningNodes() {
		key := "/v1/kv/" + proc.KeyIn(s, fmt.Sprintf("during%d", i))
		if a := proc.MustDo(t, http.MethodPut, c.Endpoint(i)+key, "kept", limit); a.Status != http.StatusCreated {
			t.Errorf("PUT at node %d: %d %s", i, a.Status, a.Body)
		}
		for _, k := range c.RunningNodes() {
			if a := proc.MustDo(t, http.MethodGet, c.Endpoint(k)+key, "", limit); a.Status != http.StatusOK || a.Body != "kept" {
				t.Errorf("GET at node %d: %d %s", k, a.Status, a.Body)
			}
		}
	}
}

// testProposed checks that a write whose outcome was not known has one now, the same
// at every node.
func testProposed(t *testing.T, c *proc.Cluster, s *client.Shard) {
	seen := map[string]bool{}
	for i := 1; i <= c.Size; i++ {
		a := proc.MustDo(t, http.MethodGet, c.Endpoint(i)+"/v1/kv/"+proc.KeyIn(s, "proposed"), "", limit)
		if a.Status != http.StatusNotFound && (a.Status != http.StatusOK || a.Body != "maybe") {
			t.Errorf("node %d: %d %s", i, a.Status, a.Body)
		}
		seen[fmt.Sprint(a.Status, a.Header.Get("Etag"))] = true
	}
	if len(seen) != 1 {
		t.Errorf("the nodes do not agree on it: %v", seen)
	}
}

// testAllBack checks that every shard works, has what was acknowledged and has
// nothing of what was refused, absent by shard.
func testAllBack(t *testing.T, c *proc.Cluster, layout *proc.Layout, absent map[string]string) {
	for i := range layout.Shards {
		s := &layout.Shards[i]
		for n := 1; n <= c.Size; n++ {
			base := c.Endpoint(n) + "/v1/kv/"
			if a := proc.MustDo(t, http.MethodGet, base+proc.KeyIn(s, "before"), "", limit); a.Status != http.StatusOK || a.Body != "kept" {
				t.Errorf("shard %s at node %d: %d %s", s.ID, n, a.Status, a.Body)
			}
			if name, stopped := absent[s.ID.String()]; stopped {
				if a := proc.MustDo(t, http.MethodGet, base+proc.KeyIn(s, name), "", limit); a.Status != http.StatusNotFound {
					t.Errorf("shard %s at node %d: a write that was not applied is there: %d %s", s.ID, n, a.Status, a.Body)
				}
			}
			if a := proc.MustDo(t, http.MethodPut, base+proc.KeyIn(s, "after"), "x", limit); a.Status != http.StatusCreated && a.Status != http.StatusNoContent {
				t.Errorf("shard %s at node %d: %d %s", s.ID, n, a.Status, a.Body)
			}
		}
	}
}
