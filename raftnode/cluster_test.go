package raftnode

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quorate-db/quorate/internal/simnet"
	"github.com/quorate-db/quorate/kv"
)

const testShard = kv.FirstDataShard

// testCluster is a group of hosts on a simulated network and virtual time.
type testCluster struct {
	t     *testing.T
	net   *simnet.Network
	nodes map[kv.NodeID]*testNode
	setup func(*Options) // changes every host's options
	kind  Kind
}

type testNode struct {
	id    kv.NodeID
	logs  *testLogs
	fs    vfs.FS
	disks map[kv.ShardID]*testDisk
	skew  atomic.Int64 // of its wall clock, nanoseconds

	mesh *simnet.Node
	host *Host // nil while it is down
}

// bubble runs a test on virtual time with a cluster of n nodes, all voters of one
// shard. Everything has to be gone at the end.
func bubble(t *testing.T, n int, f func(*testCluster)) {
	t.Helper()
	bubbleWith(t, n, Durable, nil, f)
}

func bubbleWith(t *testing.T, n int, kind Kind, setup func(*Options), f func(*testCluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &testCluster{t: t, net: simnet.New(1), nodes: map[kv.NodeID]*testNode{}, setup: setup, kind: kind}
		c.net.SetAll(simnet.Link{DelayMin: 200 * time.Microsecond, DelayMax: 200 * time.Microsecond})
		for i := 1; i <= n; i++ {
			c.up(kv.NodeID(i))
		}
		for i := 1; i <= n; i++ {
			c.create(kv.NodeID(i), testShard, 1, c.members(testShard, n))
		}
		defer func() {
			for id := range c.nodes {
				c.down(id)
			}
			c.net.Close()
		}()
		f(c)
	})
}

func (c *testCluster) members(shard kv.ShardID, n int) []kv.Member {
	var m []kv.Member
	for i := 1; i <= n; i++ {
		m = append(m, kv.Member{ID: kv.ServerID{Node: kv.NodeID(i), Shard: shard, Incarnation: 1}, Voter: true})
	}
	return m
}

func (c *testCluster) create(node kv.NodeID, shard kv.ShardID, incarnation uint64, members []kv.Member) {
	c.t.Helper()
	record := Record{
		ID:   kv.ServerID{Node: node, Shard: shard, Incarnation: incarnation},
		Kind: c.kind, Log: SharedLog, Members: members,
	}
	if err := c.nodes[node].host.Create(context.Background(), record); err != nil {
		c.t.Fatal(err)
	}
}

// up starts a node, with what it had on disk.
func (c *testCluster) up(id kv.NodeID) {
	c.t.Helper()
	n := c.nodes[id]
	if n == nil {
		n = &testNode{id: id, logs: newTestLogs(), fs: vfs.NewMem(), disks: map[kv.ShardID]*testDisk{}}
		c.nodes[id] = n
	}
	n.mesh = c.net.Node(id)
	opts := Options{
		Node: id, Dir: "raft", FS: n.fs, Mesh: n.mesh, Logs: n.logs,
		Machine: func(r Record) (StateMachine, error) {
			if r.Kind == InMemory {
				return newTestMachine(nil), nil
			}
			if n.disks[r.ID.Shard] == nil {
				n.disks[r.ID.Shard] = &testDisk{}
			}
			return newTestMachine(n.disks[r.ID.Shard]), nil
		},
		Now: func() time.Time { return time.Now().Add(time.Duration(n.skew.Load())) },
	}
	if os.Getenv("RAFTNODE_TEST_LOG") != "" {
		opts.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if c.setup != nil {
		c.setup(&opts)
	}
	host, err := Open(context.Background(), opts)
	if err != nil {
		c.t.Fatal(err)
	}
	n.host = host
	if err := n.mesh.Start(); err != nil {
		c.t.Fatal(err)
	}
}

// down ends a node as a crash does: the network goes first, and what was not
// flushed is gone.
func (c *testCluster) down(id kv.NodeID) {
	n := c.nodes[id]
	if n.host == nil {
		return
	}
	n.mesh.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := n.host.Close(ctx); err != nil {
		c.t.Errorf("close node %s: %v", id, err)
	}
	n.host = nil
}

func (c *testCluster) replica(id kv.NodeID) *Replica { return c.replicaOf(id, testShard) }

func (c *testCluster) replicaOf(id kv.NodeID, shard kv.ShardID) *Replica {
	c.t.Helper()
	r, ok := c.nodes[id].host.Replica(shard)
	if !ok {
		c.t.Fatalf("node %s has no replica of shard %s", id, shard)
	}
	return r
}

func machineOf(r *Replica) *testMachine { return r.Machine().(*testMachine) }

// until waits for a condition on virtual time.
func (c *testCluster) until(what string, within time.Duration, ok func() bool) {
	c.t.Helper()
	for end := time.Now().Add(within); !ok(); {
		if time.Now().After(end) {
			for id, n := range c.nodes {
				if n.host == nil {
					continue
				}
				for _, r := range n.host.Replicas() {
					c.t.Logf("node %s: %+v", id, r.Status())
				}
			}
			c.t.Fatalf("not within %s: %s", within, what)
		}
		pause(5 * time.Millisecond)
	}
}

// pause lets virtual time pass.
func pause(d time.Duration) { <-time.After(d) }

// leader waits for a ready leader that is not one of those named.
func (c *testCluster) leader(not ...kv.NodeID) *Replica {
	c.t.Helper()
	var found *Replica
	c.until("a ready leader", 20*time.Second, func() bool {
		for id, n := range c.nodes {
			skip := n.host == nil
			for _, x := range not {
				skip = skip || x == id
			}
			if skip {
				continue
			}
			if r, ok := n.host.Replica(testShard); ok && r.Status().LeaderReady {
				found = r
				return true
			}
		}
		return false
	})
	return found
}

func within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// put proposes key=value at a replica.
func put(r *Replica, key, value string, d time.Duration) error {
	ctx, cancel := within(d)
	defer cancel()
	_, err := r.Propose(ctx, []byte(key+"="+value), 1)
	return err
}

func (c *testCluster) mustPut(r *Replica, key, value string) {
	c.t.Helper()
	if err := put(r, key, value, 10*time.Second); err != nil {
		c.t.Fatalf("put %s at node %s: %v", key, r.id.Node, err)
	}
}

// mustPutSomewhere proposes until some leader has it. The outcome must never be
// unknown.
func (c *testCluster) putSomewhere(key, value string) {
	c.t.Helper()
	c.until("put "+key, 30*time.Second, func() bool {
		for _, n := range c.nodes {
			if n.host == nil {
				continue
			}
			if r, ok := n.host.Replica(testShard); ok && put(r, key, value, 5*time.Second) == nil {
				return true
			}
		}
		return false
	})
}

// converged waits until all running replicas are equal.
func (c *testCluster) converged() {
	c.t.Helper()
	c.until("equal state everywhere", 60*time.Second, func() bool {
		digest := ""
		for _, n := range c.nodes {
			if n.host == nil {
				continue
			}
			r, ok := n.host.Replica(testShard)
			if !ok {
				continue
			}
			d := fmt.Sprintf("%d %s", r.Machine().Applied().Index, machineOf(r).digest())
			if digest == "" {
				digest = d
			}
			if d != digest {
				return false
			}
		}
		return true
	})
}
