package raftnode

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/quorate-db/quorate/kv"
)

// A limit that leaves the receiver without a chunk for longer than it waits for a
// silent sender slows a snapshot down and does not break it.
func TestSnapshotAtALowRate(t *testing.T) {
	var sent, broken atomic.Int32
	bubbleWith(t, 3, Durable, func(o *Options) {
		o.SnapshotRate = rate.NewLimiter(4<<10, snapshotChunkBytes)
		o.Hooks.SnapshotSent = func(_ kv.ServerID, _ kv.NodeID, _ int64, _ time.Duration, err error) {
			sent.Add(1)
			if err != nil {
				broken.Add(1)
			}
		}
	}, func(c *testCluster) {
		l := c.leader()
		slow := c.leaveBehind(l)
		c.net.Heal()
		began := time.Now()
		c.until("arrived", 30*time.Minute, func() bool { return machineOf(c.replica(slow)).get("k") == "v" })
		if took := time.Since(began); took < 2*time.Minute {
			t.Fatalf("3 MiB at 4 KiB a second took %s", took)
		}
		c.until("told", time.Minute, func() bool { return sent.Load() > 0 })
		if sent.Load() != 1 || broken.Load() != 0 {
			t.Fatalf("%d snapshots were sent, of which %d broke", sent.Load(), broken.Load())
		}
		c.mustPut(c.leader(), "k", "w")
		c.converged()
	})
}

// A replica that never heard that it was removed cannot disturb the others,
// whatever it tries, and can be destroyed and come back as another one.
func TestRemovedWithoutKnowing(t *testing.T) {
	bubble(t, 4, func(c *testCluster) {
		l := c.leader()
		gone := c.replica(l.id.Node%4 + 1)
		c.net.Isolate(gone.id.Node, true)
		c.eventually("removed", func(ctx context.Context, l *Replica) error { return l.Remove(ctx, gone.id) })
		c.cutLog()
		c.net.Heal()
		l = c.leader(gone.id.Node)
		term := l.Status().Term
		for range 20 {
			gone.Stand()
			pause(500 * time.Millisecond)
			c.mustPut(l, "k", "v")
		}
		if s := l.Status(); s.Term != term || !s.LeaderReady {
			t.Fatalf("term %d became %+v", term, s)
		}
		if m, ok := gone.member(gone.id); !ok || !m.Voter {
			t.Fatal("it has heard of its removal: nothing was tested")
		}
		short, cancelShort := within(time.Second)
		defer cancelShort()
		if err := gone.ReadIndex(short); err == nil {
			t.Fatal("it confirmed a read")
		}
		ctx, cancel := within(20 * time.Second)
		defer cancel()
		if err := c.nodes[gone.id.Node].host.Destroy(ctx, gone.id); err != nil {
			t.Fatal(err)
		}
		delete(c.nodes[gone.id.Node].disks, testShard)
		next := kv.ServerID{Node: gone.id.Node, Shard: testShard, Incarnation: 2}
		c.create(next.Node, testShard, 2, nil)
		c.eventually("added", func(ctx context.Context, l *Replica) error { return l.AddNonvoter(ctx, next) })
		c.eventually("promoted", func(ctx context.Context, l *Replica) error { return l.Promote(ctx, next) })
		c.converged()
	})
}

// A learner that is removed while the state is on its way to it leaves nothing
// behind when it is destroyed.
func TestDestroyWhileReceiving(t *testing.T) {
	bubbleWith(t, 3, Durable, func(o *Options) {
		o.SnapshotRate = rate.NewLimiter(64<<10, snapshotChunkBytes)
	}, func(c *testCluster) {
		l := c.leader()
		for i := range 20 {
			c.mustPut(l, fmt.Sprint("k", i), "v")
		}
		c.cutLog()
		c.up(4)
		four := kv.ServerID{Node: 4, Shard: testShard, Incarnation: 1}
		c.create(4, testShard, 1, nil)
		ctx, cancel := within(30 * time.Second)
		defer cancel()
		if err := l.AddNonvoter(ctx, four); err != nil {
			t.Fatal(err)
		}
		machine := machineOf(c.replica(4))
		c.until("on its way", 10*time.Second, func() bool { return machine.countStaged(0) > 0 })
		if err := l.Promote(ctx, four); kv.CodeOf(err) != kv.CodeUnavailable {
			t.Fatalf("promoted without a state: %v", err)
		}
		if err := l.Remove(ctx, four); err != nil {
			t.Fatal(err)
		}
		if err := c.nodes[4].host.Destroy(ctx, four); err != nil {
			t.Fatal(err)
		}
		if n := machine.countStaged(0); n > 0 {
			t.Fatalf("%d staged images are left", n)
		}
		c.until("the log is free again", time.Minute, func() bool {
			ctx, cancel := within(time.Second)
			defer cancel()
			return l.Snapshot(ctx) == nil
		})
	})
}
