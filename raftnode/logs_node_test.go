package raftnode

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quorate-db/quorate/internal/simnet"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/raftlog"
)

const (
	sharedNodes  = 3
	sharedShards = 6
)

// sharedCluster is hosts on the real shared log, with several shards each.
type sharedCluster struct {
	t        *testing.T
	net      *simnet.Network
	disks    map[kv.NodeID]*vfs.MemFS
	machines map[kv.ServerID]*testDisk
	hosts    map[kv.NodeID]*Host
	logs     map[kv.NodeID]*raftlog.Shared
	meshes   map[kv.NodeID]*simnet.Node
}

func (c *sharedCluster) start(node kv.NodeID) {
	shared, err := raftlog.OpenShared(c.disks[node], "log", raftlog.Options{})
	if err != nil {
		c.t.Fatal(err)
	}
	mesh := c.net.Node(node)
	host, err := Open(context.Background(), Options{
		Node: node, Dir: "raft", FS: c.disks[node], Mesh: mesh, Logs: NewNodeLogs(shared, "unused"),
		Machine: func(r Record) (StateMachine, error) {
			if c.machines[r.ID] == nil {
				c.machines[r.ID] = &testDisk{}
			}
			return newTestMachine(c.machines[r.ID]), nil
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := mesh.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.hosts[node], c.logs[node], c.meshes[node] = host, shared, mesh
}

// stop ends a host; after a crash what was not synced is gone.
func (c *sharedCluster) stop(node kv.NodeID, crash bool) {
	if crash {
		c.meshes[node].Close()
	}
	ctx, cancel := within(20 * time.Second)
	defer cancel()
	if err := c.hosts[node].Close(ctx); err != nil {
		c.t.Error(err)
	}
	c.meshes[node].Close()
	if crash {
		c.disks[node] = c.disks[node].CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
	}
	if err := c.logs[node].Close(); err != nil {
		c.t.Error(err)
	}
}

// create makes this node's replicas of all shards.
func (c *sharedCluster) create(node kv.NodeID) {
	for s := kv.ShardID(2); s < 2+sharedShards; s++ {
		var members []kv.Member
		for n := kv.NodeID(1); n <= sharedNodes; n++ {
			members = append(members, kv.Member{ID: kv.ServerID{Node: n, Shard: s, Incarnation: 1}, Voter: true})
		}
		r := Record{ID: members[node-1].ID, Kind: Durable, Log: SharedLog, Members: members}
		if err := c.hosts[node].Create(context.Background(), r); err != nil {
			c.t.Fatal(err)
		}
	}
}

// write writes a key to a shard at whichever host leads it.
func (c *sharedCluster) write(s kv.ShardID, key string) {
	for end := time.Now().Add(time.Minute); ; pause(20 * time.Millisecond) {
		for _, h := range c.hosts {
			if r, ok := h.Replica(s); ok && put(r, key, "v", time.Second) == nil {
				return
			}
		}
		if time.Now().After(end) {
			c.t.Fatalf("shard %s does not write %s", s, key)
		}
	}
}

// whole waits until every replica of a shard has a key and so many writes.
func (c *sharedCluster) whole(s kv.ShardID, key string, writes uint64) {
	for end := time.Now().Add(time.Minute); ; pause(50 * time.Millisecond) {
		whole := 0
		for _, h := range c.hosts {
			r, _ := h.Replica(s)
			if m := machineOf(r); m.get(key) == "v" && uint64(m.state.Count) >= writes {
				whole++
			}
		}
		if whole == sharedNodes {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("shard %s: %d nodes have everything", s, whole)
		}
	}
}

// Hosts are restarted one after the other, every other time from what a crash
// leaves of the disk.
func TestNodesOnTheSharedLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &sharedCluster{
			t: t, net: simnet.New(1), disks: map[kv.NodeID]*vfs.MemFS{}, machines: map[kv.ServerID]*testDisk{},
			hosts: map[kv.NodeID]*Host{}, logs: map[kv.NodeID]*raftlog.Shared{}, meshes: map[kv.NodeID]*simnet.Node{},
		}
		for node := kv.NodeID(1); node <= sharedNodes; node++ {
			c.disks[node] = vfs.NewCrashableMem()
			c.start(node)
			c.create(node)
		}
		for round := range 6 {
			for s := kv.ShardID(2); s < 2+sharedShards; s++ {
				c.write(s, fmt.Sprint("k", round))
			}
			node := kv.NodeID(round%sharedNodes + 1)
			c.stop(node, round%2 == 0)
			c.start(node)
		}
		for s := kv.ShardID(2); s < 2+sharedShards; s++ {
			c.whole(s, "k5", 6)
		}
		for node := range c.hosts {
			c.stop(node, false)
		}
		c.net.Close()
	})
}

// A node whose meta shard keeps its log in bolt, on a real disk and real time.
func TestNodeOnBolt(t *testing.T) {
	dir := t.TempDir()
	shared, err := raftlog.OpenShared(vfs.NewMem(), "log", raftlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	net := simnet.New(1)
	fs := vfs.NewMem()
	start := func() (*Host, *simnet.Node) { return startOnBolt(t, net, fs, NewNodeLogs(shared, dir)) }
	stop := func(h *Host, mesh *simnet.Node) {
		ctx, cancel := within(20 * time.Second)
		defer cancel()
		if err := h.Close(ctx); err != nil {
			t.Error(err)
		}
		mesh.Close()
	}
	id := kv.ServerID{Node: 1, Shard: kv.MetaShard, Incarnation: 1}
	h, mesh := start()
	if err := h.Create(context.Background(), Record{ID: id, Kind: InMemory, Log: BoltLog, Members: []kv.Member{{ID: id, Voter: true}}}); err != nil {
		t.Fatal(err)
	}
	write := func(key string) *Replica {
		r, _ := h.Replica(kv.MetaShard)
		for end := time.Now().Add(20 * time.Second); ; <-time.After(10 * time.Millisecond) {
			if err := put(r, key, "v", time.Second); err == nil {
				return r
			} else if time.Now().After(end) {
				t.Fatal(err)
			}
		}
	}
	r := write("a")
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	if err := r.Snapshot(ctx); err != nil {
		t.Fatal(err)
	}
	write("b")
	stop(h, mesh)
	h, mesh = start()
	r = write("c")
	for _, key := range []string{"a", "b", "c"} {
		if machineOf(r).get(key) != "v" {
			t.Errorf("%s is lost", key)
		}
	}
	if err := h.Destroy(ctx, r.id); err != nil {
		t.Fatal(err)
	}
	stop(h, mesh)
	h, mesh = start()
	if len(h.Replicas()) != 0 {
		t.Error("a destroyed replica came back")
	}
	stop(h, mesh)
	net.Close()
	if err := shared.Close(); err != nil {
		t.Error(err)
	}
}

func startOnBolt(t *testing.T, net *simnet.Network, fs vfs.FS, logs Logs) (*Host, *simnet.Node) {
	mesh := net.Node(1)
	h, err := Open(context.Background(), Options{
		Node: 1, Dir: "raft", FS: fs, Mesh: mesh, Logs: logs,
		Machine: func(Record) (StateMachine, error) { return newTestMachine(nil), nil },
		Timing:  Timing{Heartbeat: 50 * time.Millisecond, Election: 50 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := mesh.Start(); err != nil {
		t.Fatal(err)
	}
	return h, mesh
}
