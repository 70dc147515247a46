package raftnode

import (
	"fmt"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
)

func TestElectProposeRead(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		l := c.leader()
		for i := range 20 {
			c.mustPut(l, "k", fmt.Sprint(i))
		}
		for id := range c.nodes {
			r := c.replica(id)
			ctx, cancel := within(time.Second)
			if err := r.ReadIndex(ctx); err != nil {
				t.Fatalf("read index at node %s: %v", id, err)
			}
			cancel()
			if got := machineOf(r).get("k"); got != "19" {
				t.Fatalf("node %s reads %q", id, got)
			}
			if r != l {
				if err := put(r, "k", "x", time.Second); kv.CodeOf(err) != kv.CodeNotLeader || kv.OutcomeOf(err) != kv.OutcomeNotApplied {
					t.Fatalf("put at a follower: %v", err)
				}
			}
		}
		c.converged()
	})
}

func TestSingleVoter(t *testing.T) {
	bubble(t, 1, func(c *testCluster) {
		l := c.leader()
		c.mustPut(l, "a", "1")
		ctx, cancel := within(time.Second)
		defer cancel()
		if err := l.ReadIndex(ctx); err != nil {
			t.Fatal(err)
		}
		c.down(1)
		c.up(1)
		l = c.leader()
		if got := machineOf(l).get("a"); got != "1" {
			t.Fatalf("after a restart a = %q", got)
		}
	})
}
