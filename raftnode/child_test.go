package raftnode

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/internal/simnet"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

const childShard = kv.ShardID(9)

// born puts a state on the disks of some nodes such as a split leaves: at the start
// index, with a configuration of n members.
func (c *testCluster) born(n int, nodes ...kv.NodeID) {
	c.t.Helper()
	saved, err := json.Marshal(testState{
		Applied: kv.Applied{
			Index: kv.ChildStartIndex, Term: kv.ChildStartTerm,
			Config: EncodeMembers(c.members(childShard, n)), ConfigIndex: kv.ChildStartIndex,
			LastVersion: kv.VersionAt(1000), Ceiling: kv.VersionAt(2000), NowMs: 1000,
		},
		Values: map[string]string{"inherited": "v"},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, node := range nodes {
		c.nodes[node].disks[childShard] = &testDisk{saved: saved}
	}
}

func (c *testCluster) childLeader() *Replica {
	c.t.Helper()
	var found *Replica
	c.until("a leader of the child", 20*time.Second, func() bool {
		for _, n := range c.nodes {
			if n.host == nil {
				continue
			}
			if r, ok := n.host.Replica(childShard); ok && r.Status().LeaderReady {
				found = r
				return true
			}
		}
		return false
	})
	return found
}

func (c *testCluster) childConverged() {
	c.t.Helper()
	c.until("equal children", 60*time.Second, func() bool {
		digests := map[string]bool{}
		for _, n := range c.nodes {
			if n.host == nil {
				continue
			}
			if r, ok := n.host.Replica(childShard); ok {
				digests[fmt.Sprint(r.Machine().Applied().Index, machineOf(r).digest(), machineOf(r).get("inherited"))] = true
			}
		}
		return len(digests) == 1
	})
}

// A machine that starts with a configuration and an empty log makes a group: its
// members elect, replicate, take in a fourth, and come back from crashes.
func TestShardBornOfASplit(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		c.born(3, 1, 2, 3)
		for node := kv.NodeID(1); node <= 3; node++ {
			c.create(node, childShard, 1, nil)
		}
		if r := c.replicaOf(1, childShard); r.snaps.flushedIndex() != kv.ChildStartIndex {
			t.Fatalf("flushed up to %d", r.snaps.flushedIndex())
		}
		l := c.childLeader()
		c.mustPut(l, "a", "1")
		if first, _ := c.nodes[l.id.Node].logs.store(l.id).FirstIndex(); first != kv.ChildStartIndex {
			t.Fatalf("its log begins at %d", first)
		}
		c.childConverged()
		// A fourth can only come by the state: the log does not go back far enough.
		c.up(4)
		four := kv.ServerID{Node: 4, Shard: childShard, Incarnation: 1}
		c.create(4, childShard, 1, nil)
		ctx, cancel := within(20 * time.Second)
		defer cancel()
		if err := l.AddNonvoter(ctx, four); err != nil {
			t.Fatal(err)
		}
		c.childConverged()
		c.until("promoted", 20*time.Second, func() bool { return c.childLeader().Promote(ctx, four) == nil })
		for node := range c.nodes { // everything that was not flushed is gone
			c.down(node)
		}
		for node := range c.nodes {
			c.up(node)
		}
		l = c.childLeader()
		if got := machineOf(l).get("a") + machineOf(l).get("inherited"); got != "1v" {
			t.Fatalf("came back with %q", got)
		}
		c.mustPut(l, "b", "2")
		c.childConverged()
	})
}

// Where a log begins right behind the state, appends may overtake one another or come
// twice, and the follower has to find the place. Else the leader sends it the state
// again and again, and nothing else.
func TestAppendsOvertakeAtTheStartOfALog(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		c.born(3, 1, 2, 3)
		for node := kv.NodeID(1); node <= 3; node++ {
			c.create(node, childShard, 1, nil)
		}
		l := c.childLeader()
		c.mustPut(l, "a", "1")
		c.childConverged()
		follower := c.replicaOf(l.id.Node%3+1, childShard)
		var first raft.Log
		if err := c.nodes[l.id.Node].logs.store(l.id).GetLog(kv.ChildStartIndex+1, &first); err != nil {
			t.Fatal(err)
		}
		again := &raft.AppendEntriesRequest{
			Term: l.Status().Term, PrevLogEntry: kv.ChildStartIndex, PrevLogTerm: kv.ChildStartTerm, Entries: []*raft.Log{&first},
		}
		ctx, cancel := within(time.Second)
		defer cancel()
		data, err := peer.Call(ctx, c.nodes[l.id.Node].mesh, follower.id.Node, peer.MethodAppendEntries,
			encodeAppend(envelope{from: l.id, to: follower.id}, again))
		var answer raft.AppendEntriesResponse
		if err == nil {
			err = decodeAppendResponse(data, &answer)
		}
		if err != nil || !answer.Success {
			t.Fatalf("the first entry again: %+v, %v", answer, err)
		}
		// The whole of it: a network on which they do overtake.
		c.net.SetAll(simnet.Link{DelayMax: 20 * time.Millisecond, Duplicate: 0.3})
		for i := range 50 {
			c.mustPut(c.childLeader(), "b", fmt.Sprint(i))
		}
		c.net.SetAll(simnet.Link{})
		c.childConverged()
	})
}

// A node that comes to the split late has no state yet. It must not start from an
// empty log, only from the state of the others; or from its own, once it has it.
func TestShardBornWithoutOne(t *testing.T) {
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprint("own=", own), func(t *testing.T) {
			bubble(t, 3, func(c *testCluster) {
				c.born(3, 1, 2)
				c.create(1, childShard, 1, nil)
				c.create(2, childShard, 1, nil)
				l := c.childLeader()
				c.mustPut(l, "a", "1")
				pause(5 * time.Second) // the leader knocks
				if _, ok := c.nodes[3].host.Replica(childShard); ok {
					t.Fatal("messages have made a replica")
				}
				if own {
					c.born(3, 3)
				}
				c.create(3, childShard, 1, nil)
				c.childConverged()
				if got := c.replicaOf(3, childShard).Machine().Applied(); got.ConfigIndex != kv.ChildStartIndex {
					t.Fatalf("got %+v", got)
				}
				c.down(1)
				c.mustPut(c.childLeader(), "b", "2")
			})
		})
	}
}

// The child's log is empty when the process dies: nothing of it is missed.
func TestShardBornBeforeACrash(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		c.born(3, 1, 2, 3)
		for node := kv.NodeID(1); node <= 3; node++ {
			c.create(node, childShard, 1, nil)
			c.down(node)
		}
		for node := kv.NodeID(1); node <= 3; node++ {
			c.up(node)
		}
		c.mustPut(c.childLeader(), "a", "1")
		c.childConverged()
	})
}

// The leader of the parent leads the child as soon as a majority of it runs, without
// a timeout.
func TestStandUntilLed(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		c.leader()
		c.born(3, 1, 2, 3)
		c.create(2, childShard, 1, nil)
		stood := make(chan error, 1)
		ctx, cancel := within(20 * time.Second)
		defer cancel()
		go func() { stood <- c.replicaOf(2, childShard).StandUntilLed(ctx) }()
		pause(300 * time.Millisecond)
		if s := c.replicaOf(2, childShard).Status(); s.Term != 0 {
			t.Fatalf("it stood alone: %+v", s)
		}
		born := time.Now()
		c.create(3, childShard, 1, nil) // node 1 is late
		if err := <-stood; err != nil {
			t.Fatal(err)
		}
		c.until("leads", time.Second, func() bool { return c.replicaOf(2, childShard).Status().LeaderReady })
		if took := time.Since(born); took > 100*time.Millisecond {
			t.Fatalf("the child had no leader for %s", took)
		}
		if term := c.replicaOf(2, childShard).Status().Term; term != 1 {
			t.Fatalf("elected in term %d", term)
		}
		// Whoever asks later is told at once that there is one.
		c.create(1, childShard, 1, nil)
		if err := c.replicaOf(1, childShard).StandUntilLed(ctx); err != nil {
			t.Fatal(err)
		}
		short, cancelShort := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancelShort()
		c.born(3, 1)
		c.down(2)
		c.down(3)
		c.until("no leader", 20*time.Second, func() bool { _, led := c.replicaOf(1, childShard).Leader(); return !led })
		if err := c.replicaOf(1, childShard).StandUntilLed(short); kv.CodeOf(err) != kv.CodeTimeout {
			t.Fatalf("alone: %v", err)
		}
	})
}

// A machine whose state was taken over stops its replica quietly: no failure, and
// nothing that would end the process. Then it can be destroyed.
func TestGoneIsNoFailure(t *testing.T) {
	failed := make(chan error, 8)
	bubbleWith(t, 3, Durable, func(o *Options) {
		o.Hooks.Failed = func(_ kv.ServerID, err error, _ bool) { failed <- err }
	}, func(c *testCluster) {
		l := c.leader()
		m := machineOf(l)
		m.mu.Lock()
		m.broken = fmt.Errorf("absorbed: %w", ErrGone)
		m.mu.Unlock()
		if err := put(l, "a", "1", time.Second); kv.CodeOf(err) != kv.CodeNoReplica || kv.OutcomeOf(err) != kv.OutcomeNotApplied {
			t.Fatalf("a command to a shard that was frozen first: %v", err)
		}
		c.until("another leader", 20*time.Second, func() bool { return c.leader(l.id.Node) != nil })
		c.until("stopped", 5*time.Second, func() bool { return l.Status().Role == kv.RoleStopped })
		if s := l.Status(); s.Failure != "" || len(failed) > 0 {
			t.Fatalf("counts as a failure: %+v", s)
		}
		if err := put(l, "a", "1", time.Second); kv.CodeOf(err) != kv.CodeNoReplica {
			t.Fatalf("got %v", err)
		}
		ctx, cancel := within(10 * time.Second)
		defer cancel()
		if err := c.nodes[l.id.Node].host.Destroy(ctx, l.id); err != nil {
			t.Fatal(err)
		}
	})
}

// The state of a destroyed replica goes before another incarnation is made, also
// where the first attempt came no further than the tombstone.
func TestDropBeforeTheNextIncarnation(t *testing.T) {
	var fail bool
	var dropped []kv.ServerID
	bubbleWith(t, 1, Durable, func(o *Options) {
		o.Drop = func(id kv.ServerID) error {
			if fail {
				return fmt.Errorf("the disk is full")
			}
			dropped = append(dropped, id)
			return nil
		}
	}, func(c *testCluster) {
		l := c.leader()
		h := c.nodes[1].host
		ctx, cancel := within(10 * time.Second)
		defer cancel()
		fail = true
		if err := h.Destroy(ctx, l.id); err == nil {
			t.Fatal("destroyed with its state there")
		}
		next := kv.ServerID{Node: 1, Shard: testShard, Incarnation: 2}
		if err := h.Create(ctx, Record{ID: next, Kind: Durable, Log: SharedLog}); err == nil {
			t.Fatal("made beside another's state")
		}
		fail = false
		if err := h.Create(ctx, Record{ID: next, Kind: Durable, Log: SharedLog}); err != nil {
			t.Fatal(err)
		}
		if len(dropped) != 1 || dropped[0] != l.id {
			t.Fatalf("dropped %v", dropped)
		}
	})
}
