//go:build blackbox

package blackbox

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/internal/localcluster"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/test/proc"
)

// TestOperate does to a cluster under load what operators do from day to day.
func TestOperate(t *testing.T) {
	_, seed := seeded(t)
	c := proc.Start(t, binary(t), proc.Shape{})
	c.WaitBalanced(t, balanceMax, 5, 3)
	w := startWorkload(t, c, 400, seed)
	w.goOn(t, 200)
	w.lap(t, "nothing happens")
	t.Run("drain", func(t *testing.T) { testDrain(t, c, w, 2) })
	t.Run("replication factor 5", func(t *testing.T) { testReplicationFactor(t, c, w, 5) })
	t.Run("a removal that would leave too few", func(t *testing.T) { testRemoveRefused(t, c) })
	t.Run("replication factor 3", func(t *testing.T) { testReplicationFactor(t, c, w, 3) })
	// Last: a node that was dead is given no replicas for a while.
	t.Run("back before the grace is over", func(t *testing.T) { testBackInTime(t, c, w, 4) })
	w.judge(t, c)
}

// testDrain takes the leaders from a node, restarts it, and gives it leaders again.
func testDrain(t *testing.T, c *proc.Cluster, w *workload, node int) {
	name := localcluster.Name(node)
	before := places(t, c)
	quorate(t, c, "drain", name)
	proc.Eventually(t, balanceMax, "no leader on "+name, func(ctx context.Context) error {
		return leads(ctx, c, node, func(n int) bool { return n == 0 })
	})
	w.lap(t, "drain")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := c.Stop(ctx, node); err != nil {
		t.Error(err)
	}
	if err := c.Start(node); err != nil {
		t.Fatal(err)
	}
	c.WaitReady(t)
	w.lap(t, "restart of the drained node")
	if err := leads(t.Context(), c, node, func(n int) bool { return n == 0 }); err != nil {
		t.Errorf("after its restart the drained node leads: %v", err)
	}
	if now := places(t, c); !slices.Equal(now, before) {
		t.Errorf("replicas moved in a drain:\n%q\n%q", before, now)
	}
	quorate(t, c, "drain", name, "--undo")
	c.WaitBalanced(t, balanceMax, 5, 3)
	w.lap(t, "the end of the drain")
}

// leads holds the number of shards that a node leads to a condition.
func leads(ctx context.Context, c *proc.Cluster, node int, want func(int) bool) error {
	n, err := c.Admin().Node(ctx, localcluster.Name(node))
	if err == nil && !want(n.Leaders) {
		err = fmt.Errorf("%s leads %d shards", n.Name, n.Leaders)
	}
	return err
}

// places gives, for each data shard, where its replicas are.
func places(t testing.TB, c *proc.Cluster) []string {
	t.Helper()
	var out []string
	l := c.Layout(t)
	for i := range l.Shards {
		s := &l.Shards[i]
		var at []string
		for _, r := range s.Replicas {
			at = append(at, fmt.Sprintf("%s/%d/%t", r.Node, r.Incarnation, r.Voter))
		}
		slices.Sort(at)
		out = append(out, fmt.Sprintf("shard %s: %s", s.ID, strings.Join(at, " ")))
	}
	return out
}

// testBackInTime kills a node until it is called dead, and starts it again before
// dead_grace has passed: no replica moves.
func testBackInTime(t *testing.T, c *proc.Cluster, w *workload, node int) {
	before := places(t, c)
	if err := c.Kill(node); err != nil {
		t.Fatal(err)
	}
	proc.Eventually(t, balanceMax, "the node counts as dead", func(ctx context.Context) error {
		n, err := c.Admin().Node(ctx, localcluster.Name(node))
		if err == nil && n.Alive {
			err = fmt.Errorf("%+v", n)
		}
		return err
	})
	proc.Eventually(t, balanceMax, "a problem that names it", func(ctx context.Context) error {
		problems, err := c.Admin().Problems(ctx)
		if err != nil {
			return err
		}
		for _, p := range problems {
			if strings.Contains(p.Summary, localcluster.Name(node)) && p.Help != "" {
				return nil
			}
		}
		return fmt.Errorf("%+v", problems)
	})
	w.lap(t, "a node killed for a while")
	if err := c.Start(node); err != nil {
		t.Fatal(err)
	}
	c.WaitReady(t)
	c.WaitBalanced(t, balanceMax, 5, 3)
	if now := places(t, c); !slices.Equal(now, before) {
		t.Errorf("replicas moved although the node was back in time:\n%q\n%q", before, now)
	}
	w.lap(t, "its return")
}

// testReplicationFactor changes how many copies there are.
func testReplicationFactor(t *testing.T, c *proc.Cluster, w *workload, factor int) {
	quorate(t, c, "config", "set", fmt.Sprintf("replication_factor=%d", factor))
	c.WaitBalanced(t, balanceMax, 5, factor)
	w.lap(t, fmt.Sprintf("replication factor %d", factor))
}

// testRemoveRefused asks for the removal of one of as many nodes as there are copies.
func testRemoveRefused(t *testing.T, c *proc.Cluster) {
	before := places(t, c)
	got := proc.Run(t, binary(t), "", "nodes", "remove", localcluster.Name(1), "--endpoint="+c.Endpoint(2))
	if got.Code == 0 || !strings.Contains(got.Stderr, "conflict") {
		t.Errorf("removal of one of five nodes at replication factor 5: exit code %d\n%s%s", got.Code, got.Stdout, got.Stderr)
	}
	n, err := c.Admin().Node(t.Context(), localcluster.Name(1))
	if err != nil || n.State == kv.NodeRemoving {
		t.Errorf("after the refusal the node is %+v, %v", n, err)
	}
	if now := places(t, c); !slices.Equal(now, before) {
		t.Errorf("replicas moved although the removal was refused:\n%q\n%q", before, now)
	}
}

// TestZones spreads replicas over three zones of two nodes each, and kills a node for
// good: its replicas are rebuilt in its zone, as only that keeps three zones.
func TestZones(t *testing.T) {
	_, seed := seeded(t)
	c := proc.Start(t, binary(t), proc.Shape{Nodes: 6, Zones: []string{"a", "b", "c"}})
	c.Configure(t, client.ConfigChange{DeadGrace: ptr(client.Duration(grace))})
	s := c.WaitBalanced(t, balanceMax, 6, 3)
	if err := zonesApart(t.Context(), c, &s); err != nil {
		t.Fatal(err)
	}
	w := startWorkload(t, c, 400, seed)
	w.goOn(t, 200)
	if err := c.Kill(2); err != nil {
		t.Fatal(err)
	}
	proc.Eventually(t, balanceMax, "whole again in three zones", func(ctx context.Context) error {
		s, err := c.Shares(ctx, 3)
		if err == nil && len(s.Nodes) != 5 {
			err = fmt.Errorf("%d nodes in use: %s", len(s.Nodes), &s)
		}
		if err == nil {
			err = zonesApart(ctx, c, &s)
		}
		return err
	})
	w.lap(t, "a node of a zone killed for good")
	quorate(t, c, "nodes", "remove", localcluster.Name(2))
	waitRemoved(t, c, 2)
	w.judge(t, c)
}

// zonesApart tells whether no two replicas of a shard are in one zone.
func zonesApart(ctx context.Context, c *proc.Cluster, s *proc.Shares) error {
	nodes, err := c.Admin().Nodes(ctx)
	if err != nil {
		return err
	}
	zones := map[string]string{}
	for _, n := range nodes {
		zones[n.ID] = n.Zone
	}
	for i := range s.Shards {
		seen := map[string]bool{}
		for _, r := range s.Shards[i].Replicas {
			zone := zones[r.Node]
			if zone == "" || seen[zone] {
				return fmt.Errorf("shard %s: two replicas in zone %q, or none: %+v", s.Shards[i].ID, zone, s.Shards[i].Replicas)
			}
			seen[zone] = true
		}
	}
	return nil
}
