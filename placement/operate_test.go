package placement

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// operate runs f in a bubble with a cluster of nodes 1 to n that has come up.
func operate(t *testing.T, n int, f func(ctx context.Context, w *world, any *Control)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stopAll()
		ids := make([]kv.NodeID, n)
		for i := range ids {
			ids[i] = kv.NodeID(i + 1)
		}
		for _, id := range ids {
			w.start(id, addresses(ids...), n, func(o *Options) { o.Config.DeadGrace = 30 * time.Second })
		}
		time.Sleep(20 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		f(ctx, w, w.nodes[ids[n-1]].control)
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, node := range w.nodes {
			if err := node.machine.State().check(); err != nil {
				t.Error(err)
			}
		}
	})
}

// await waits until an operation is over, and gives how it ended.
func await(ctx context.Context, t *testing.T, c *Control, op kv.Operation, err error) kv.Operation {
	t.Helper()
	for range 600 {
		if err != nil {
			t.Fatal(err)
		}
		if op.State != kv.OperationRunning {
			return op
		}
		time.Sleep(time.Second)
		op, err = c.Operation(ctx, op.ID)
	}
	t.Fatalf("not over: %+v", op)
	return op
}

// mergeWhenFree merges a shard with the next one once no replica of the two is being
// moved: what else has just changed may have left the nodes uneven.
func mergeWhenFree(ctx context.Context, c *Control, shard kv.ShardID) (kv.Operation, error) {
	for {
		op, err := c.Merge(ctx, shard)
		if kv.CodeOf(err) != kv.CodeConflict || ctx.Err() != nil {
			return op, err
		}
		time.Sleep(time.Second)
	}
}

// killMetaLeader stops the node that leads the meta shard, unless it is spare, and
// starts it again a little later.
func (w *world) killMetaLeader(spare kv.NodeID) {
	var leader *fakeNode
	w.locked(func() {
		for _, n := range w.nodes {
			if g := n.groupLocked(); g != nil && g.leader == n.id && n.up && n.id != spare {
				leader = n
			}
		}
	})
	if leader != nil {
		leader.stop()
		time.Sleep(3 * time.Second)
		w.start(leader.id, leader.opts.Join, leader.opts.Expect, nil)
	}
}

// A node is removed while the meta leader changes: its replicas move off and are
// destroyed, it leaves the meta shard, is forgotten, and cannot come back.
func TestRemovalSurvivesTheMetaLeader(t *testing.T) {
	operate(t, 5, func(ctx context.Context, w *world, c *Control) {
		op, err := c.RemoveNode(ctx, 1)
		if err == nil && op.Total == 0 {
			t.Errorf("nothing to do for it: %+v", op)
		}
		time.Sleep(1500 * time.Millisecond)
		w.killMetaLeader(5)
		if got := await(ctx, t, c, op, err); got.State != kv.OperationDone {
			t.Fatalf("%+v", got)
		}
		w.locked(func() {
			for key, d := range w.data {
				for _, m := range d.members {
					if m.ID.Node == 1 {
						t.Errorf("shard %s still has node 1", key.shard)
					}
				}
				if len(d.members) != 3 {
					t.Errorf("shard %s has %v", key.shard, d.members)
				}
			}
			for id := range w.nodes[1].disk.records {
				if id.Shard != kv.MetaShard && !w.nodes[1].disk.tombs[id] {
					t.Errorf("%s is left on the removed node", id)
				}
			}
		})
		if nodes := c.Nodes(ctx); len(nodes) != 4 {
			t.Errorf("%d nodes", len(nodes))
		}
		select {
		case <-w.nodes[1].control.Failed():
		case <-time.After(time.Minute):
			t.Error("the removed node goes on")
		}
		if _, err := c.RemoveNode(ctx, 2); err != nil {
			t.Error(err)
		}
		if _, err := c.RemoveNode(ctx, 3); kv.CodeOf(err) != kv.CodeConflict {
			t.Errorf("a removal that leaves two nodes: %v", err)
		}
	})
}

// A split by hand, then a merge of what was split, by way of another node.
func TestSplitAndMergeByHand(t *testing.T) {
	operate(t, 5, func(ctx context.Context, w *world, c *Control) {
		before := len(c.Shards(ctx))
		op, err := c.Split(ctx, 2, nil)
		if got := await(ctx, t, c, op, err); got.State != kv.OperationDone {
			t.Fatalf("%+v", got)
		}
		if got := len(c.Shards(ctx)); got != before+1 {
			t.Fatalf("%d shards, want %d", got, before+1)
		}
		op, err = mergeWhenFree(ctx, c, 2)
		if got := await(ctx, t, c, op, err); got.State != kv.OperationDone {
			t.Fatalf("%+v", got)
		}
		if got := len(c.Shards(ctx)); got != before {
			t.Fatalf("%d shards, want %d", got, before)
		}
		// One between shards on different nodes aligns first.
		op, err = mergeWhenFree(ctx, c, 2)
		if got := await(ctx, t, c, op, err); got.State != kv.OperationDone {
			t.Fatalf("%+v", got)
		}
		events, err := c.Events(ctx, 0, 1000)
		kinds := map[string]int{}
		for _, e := range events {
			kinds[e.Kind]++
		}
		if err != nil || kinds[EventSplit] != 1 || kinds[EventMerge] != 2 || kinds[EventNodeJoined] != 5 {
			t.Errorf("events %v, %v", kinds, err)
		}
		if last, _ := c.Events(ctx, events[len(events)-2].Seq, 1); len(last) != 1 || last[0].Seq != events[len(events)-1].Seq {
			t.Errorf("events after the last but one: %v", last)
		}
	})
}

// A merge whose absorption is refused is given up, and the right shard goes on.
func TestMergeIsGivenUp(t *testing.T) {
	operate(t, 3, func(ctx context.Context, w *world, c *Control) {
		w.locked(func() { w.refuseAbsorb = true })
		op, err := c.Merge(ctx, 2)
		if got := await(ctx, t, c, op, err); got.State != kv.OperationFailed || got.Error == "" {
			t.Fatalf("%+v", got)
		}
		w.locked(func() {
			for key, d := range w.data {
				if d.frozen != 0 || d.absorptions != 0 {
					t.Errorf("shard %s: frozen %d, %d absorptions", key.shard, d.frozen, d.absorptions)
				}
			}
		})
	})
}

// Settings, moves, transfers, drains, rebalance: what each answers.
func TestAdministration(t *testing.T) {
	operate(t, 4, func(ctx context.Context, w *world, c *Control) {
		config, err := c.Config(ctx)
		if err != nil || config.DeadGrace != 30*time.Second || config.ReplicationFactor != 3 {
			t.Fatalf("%+v, %v", config, err)
		}
		config.SnapshotRate = 1 << 20
		if _, err = c.SetConfig(ctx, config); err != nil {
			t.Fatal(err)
		}
		if _, err = c.SetConfig(ctx, config); kv.CodeOf(err) != kv.CodeConditionFailed {
			t.Errorf("an old revision: %v", err)
		}
		shard := c.Shards(ctx)[0]
		from, to := kv.NodeID(shard.Descriptor.Replicas[0].Node), kv.NodeID(0)
		for id := kv.NodeID(1); id <= 4; id++ {
			if replicaOf(shard.Descriptor, uint64(id)) == nil {
				to = id
			}
		}
		op, err := c.Move(ctx, kv.ShardID(shard.Descriptor.Shard), from, to)
		if got := await(ctx, t, c, op, err); got.State != kv.OperationDone {
			t.Fatalf("%+v", got)
		}
		if _, err := c.Move(ctx, kv.ShardID(shard.Descriptor.Shard), from, to); kv.CodeOf(err) != kv.CodeConflict {
			t.Errorf("the same move again: %v", err)
		}
		if err := c.TransferLeader(ctx, kv.ShardID(shard.Descriptor.Shard), from); kv.CodeOf(err) != kv.CodeConflict {
			t.Errorf("a leader where there is no replica: %v", err)
		}
		if err := c.Drain(ctx, 2, true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		w.locked(func() {
			for key, d := range w.data {
				if d.leader == 2 {
					t.Errorf("the draining node leads shard %s", key.shard)
				}
			}
			if w.nodes[4].disk.rate != 1<<20 {
				t.Errorf("snapshot rate %d", w.nodes[4].disk.rate)
			}
		})
		problems, err := c.Problems(ctx)
		if err != nil || len(problems) != 1 || problems[0].Code != "node-draining" {
			t.Errorf("%v, %v", problems, err)
		}
		if err := c.Drain(ctx, 2, false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		steps, op, err := c.Rebalance(ctx, true)
		if err != nil || op.ID != 0 || len(steps) != 0 {
			t.Errorf("a rebalance of what is even: %v %v %v", steps, op, err)
		}
		_, op, err = c.Rebalance(ctx, false)
		if got := await(ctx, t, c, op, err); got.State != kv.OperationDone {
			t.Errorf("%+v", got)
		}
		if err := c.Drain(ctx, 9, true); kv.CodeOf(err) != kv.CodeNotFound {
			t.Errorf("a node that does not exist: %v", err)
		}
		if _, err := c.Cancel(ctx, op.ID); kv.CodeOf(err) != kv.CodeConflict {
			t.Errorf("cancel what is over: %v", err)
		}
	})
}

// A node dies for good: its replicas are rebuilt on the others after the grace, and
// when it comes back it destroys what it has.
func TestDeadNodeIsReplaced(t *testing.T) {
	operate(t, 5, func(_ context.Context, w *world, c *Control) {
		dead := w.nodes[1]
		dead.stop()
		time.Sleep(25 * time.Second)
		w.locked(func() {
			if moves := w.nodes[5].machine.State().Moves(); len(moves) != 0 {
				t.Errorf("moves within the grace: %v", moves)
			}
		})
		time.Sleep(2 * time.Minute)
		w.locked(func() {
			for key, d := range w.data {
				if len(d.members) != 3 {
					t.Errorf("shard %s has %v", key.shard, d.members)
				}
				for _, m := range d.members {
					if m.ID.Node == 1 {
						t.Errorf("shard %s still has node 1", key.shard)
					}
				}
			}
		})
		w.start(1, dead.opts.Join, dead.opts.Expect, nil)
		time.Sleep(4 * time.Minute) // it is trusted again after a while, and takes its share
		w.locked(func() {
			held := 0
			for _, d := range w.data {
				for _, m := range d.members {
					if m.ID.Node == 1 {
						held++
					}
				}
			}
			if held < 4 || held > 5 { // 24 replicas on 5 nodes
				t.Errorf("the node that is back holds %d replicas", held)
			}
		})
	})
}
