//go:build blackbox

package blackbox

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/internal/localcluster"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/test/history"
	"github.com/quorate-db/quorate/test/load"
	"github.com/quorate-db/quorate/test/proc"
)

// balanceMax bounds how long a cluster with little data may take to share it evenly,
// on a machine where all nodes and the load share two cores.
const balanceMax = 2 * time.Minute

// grace is the dead_grace of these tests.
const grace = 5 * time.Second

func ptr[T any](v T) *T { return &v }

// workload is clients that must not notice anything: each has the default deadline,
// tries again as clients do, and may see no error.
type workload struct {
	*campaign
	pulse *load.Pulse
}

func startWorkload(t testing.TB, c *proc.Cluster, rate float64, seed uint64) *workload {
	t.Helper()
	h := history.NewRecorder()
	return &workload{
		campaign: &campaign{Load: load.Start(t, load.Options{Endpoints: c.Endpoints(), Clients: 8, Rate: rate, Seed: seed, Strict: true}, h), history: h},
		pulse:    load.StartPulse(t, c.Endpoints(), load.PulseKeys()),
	}
}

// judge ends the load and checks everything that it has seen.
func (w *workload) judge(t testing.TB, c *proc.Cluster) {
	t.Helper()
	w.pulse.Stop()
	w.campaign.judge(t, c)
	if err := w.pulse.Finish(t); err != nil {
		t.Error(err)
	}
}

// lap logs the longest waits of writes since the last lap.
func (w *workload) lap(t testing.TB, what string) {
	t.Helper()
	gaps := w.pulse.Lap()
	t.Logf("%s: a write waited %s at worst, %s for the median key", what, gaps[0], gaps[len(gaps)/2].Wait.Round(time.Millisecond))
}

// quorate runs a command against the cluster; it has to end with code 0.
func quorate(t testing.TB, c *proc.Cluster, args ...string) proc.Finished {
	t.Helper()
	var endpoints []string
	for _, i := range c.RunningNodes() {
		endpoints = append(endpoints, c.Endpoint(i))
	}
	got := proc.RunFor(t, balanceMax, binary(t), "", append(args, "--endpoint="+strings.Join(endpoints, ","))...)
	if got.Code != 0 {
		t.Fatalf("quorate %s: exit code %d\n%s%s", strings.Join(args, " "), got.Code, got.Stdout, got.Stderr)
	}
	return got
}

// waitRemoved waits until a node's process has ended by itself and nobody lists it.
func waitRemoved(t testing.TB, c *proc.Cluster, i int) {
	t.Helper()
	proc.Eventually(t, proc.WaitMax, "the removed node ends and is forgotten", func(ctx context.Context) error {
		if c.Running(i) {
			return fmt.Errorf("%s runs", localcluster.Name(i))
		}
		nodes, err := c.Admin().Nodes(ctx)
		for _, n := range nodes {
			if n.Name == localcluster.Name(i) {
				return fmt.Errorf("%s is listed: %+v", n.Name, n)
			}
		}
		return err
	})
}

// TestGrowAndShrink adds two nodes to five under load, kills one for good, and
// removes another and then the dead one: the clients notice nothing, nothing that was
// acknowledged is lost, and each time the data is shared evenly afterwards.
func TestGrowAndShrink(t *testing.T) {
	random, seed := seeded(t)
	c := proc.Start(t, binary(t), proc.Shape{Spare: 2})
	c.Configure(t, client.ConfigChange{DeadGrace: ptr(client.Duration(grace))})
	c.WaitBalanced(t, balanceMax, 5, 3)
	w := startWorkload(t, c, 500, seed)
	w.goOn(t, 500)
	w.lap(t, "nothing happens")

	six, seven := c.AddNode(t), c.AddNode(t)
	begin := time.Now()
	proc.Eventually(t, proc.WaitMax, "moves begin", func(ctx context.Context) error { return movesBegun(ctx, c, six, seven) })
	t.Logf("first replica or move for a new node %s after their start", time.Since(begin).Round(time.Millisecond))
	c.WaitBalanced(t, balanceMax, 7, 3)
	w.lap(t, "two nodes added")

	victims := random.Perm(5)
	dead, leaves := victims[0]+1, victims[1]+1
	if err := c.Kill(dead); err != nil {
		t.Fatal(err)
	}
	c.WaitBalanced(t, balanceMax, 6, 3)
	w.lap(t, localcluster.Name(dead)+" killed for good")

	quorate(t, c, "nodes", "remove", localcluster.Name(leaves))
	waitRemoved(t, c, leaves)
	c.WaitBalanced(t, balanceMax, 5, 3)
	w.lap(t, localcluster.Name(leaves)+" removed")

	quorate(t, c, "nodes", "remove", localcluster.Name(dead))
	waitRemoved(t, c, dead)
	c.WaitBalanced(t, balanceMax, 5, 3)
	w.goOn(t, 300)
	w.lap(t, "the dead node removed")
	w.judge(t, c)
	testNeverAgain(t, c, leaves)
}

// movesBegun tells whether one of the nodes has a replica or is being given one.
func movesBegun(ctx context.Context, c *proc.Cluster, numbers ...int) error {
	nodes, err := c.Admin().Nodes(ctx)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, n := range nodes {
		for _, i := range numbers {
			if n.Name == localcluster.Name(i) {
				wanted[n.ID] = true
			}
		}
	}
	shards, err := c.Admin().Shards(ctx)
	if err != nil {
		return err
	}
	for _, s := range shards {
		if s.ID == kv.MetaShard {
			continue
		}
		if s.Change != nil && wanted[s.Change.To] {
			return nil
		}
		for _, r := range s.Replicas {
			if wanted[r.Node] {
				return nil
			}
		}
	}
	return fmt.Errorf("nothing on %v", numbers)
}

// testNeverAgain starts a removed node on its old data: it has to say no, and the
// cluster does not take it back.
func testNeverAgain(t *testing.T, c *proc.Cluster, removed int) {
	got := proc.Run(t, binary(t), "", c.Args(removed)...)
	if got.Code != 1 || !strings.Contains(got.Stderr, "removed") {
		t.Errorf("a removed node that is started again: exit code %d, want 1 and a word about its removal:\n%s", got.Code, lastLines(got.Stderr, 10))
	}
	nodes, err := c.Admin().Nodes(t.Context())
	if err != nil || len(nodes) != 5 {
		t.Errorf("%d nodes after a removed one came back, %v, want 5", len(nodes), err)
	}
}

// TestRemoveOutlivesMetaLeader kills the leader of the meta shard while a node is
// being removed: the operation goes on under the next one.
func TestRemoveOutlivesMetaLeader(t *testing.T) {
	_, seed := seeded(t)
	c := proc.Start(t, binary(t), proc.Shape{Nodes: 6})
	// One move at a time, so that the removal takes a while.
	c.Configure(t, client.ConfigChange{MovesPerNode: ptr(1), MovesPerCluster: ptr(1)})
	c.WaitBalanced(t, balanceMax, 6, 3)
	w := startWorkload(t, c, 400, seed)
	metaLeader := metaLeader(t, c)
	leaves := metaLeader%c.Size + 1
	op, err := c.Admin().RemoveNode(t.Context(), localcluster.Name(leaves))
	if err != nil {
		t.Fatal(err)
	}
	proc.Eventually(t, balanceMax, "the removal is in the middle", func(ctx context.Context) error {
		now, err := c.Admin().Operation(ctx, op.ID)
		if err == nil && now.Done == 0 {
			err = fmt.Errorf("%+v", now)
		}
		return err
	})
	if err := c.Kill(metaLeader); err != nil {
		t.Fatal(err)
	}
	if now, err := c.Admin().Operation(t.Context(), op.ID); err == nil && now.Over() {
		t.Fatalf("the removal was over when the meta leader died: %+v", now)
	}
	proc.Eventually(t, balanceMax, "the removal is done", func(ctx context.Context) error {
		now, err := c.Admin().Operation(ctx, op.ID)
		if err == nil && now.State != kv.OperationDone {
			err = fmt.Errorf("%+v", now)
		}
		return err
	})
	waitRemoved(t, c, leaves)
	w.lap(t, "meta leader killed while a node is removed")
	if err := c.Start(metaLeader); err != nil {
		t.Fatal(err)
	}
	c.WaitReady(t)
	w.judge(t, c)
}

// metaLeader gives the number of the node that leads the meta shard.
func metaLeader(t testing.TB, c *proc.Cluster) int {
	t.Helper()
	var number int
	proc.Eventually(t, proc.WaitMax, "a meta leader", func(ctx context.Context) error {
		nodes, err := c.Admin().Nodes(ctx)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			if n.MetaRole == kv.RoleLeader {
				_, err := fmt.Sscanf(n.Name, "node%d", &number)
				return err
			}
		}
		return fmt.Errorf("none among %d nodes", len(nodes))
	})
	return number
}
