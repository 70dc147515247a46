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

// Hosts on the real shared log, with several shards each, restarted from what a
// crash leaves of the disk.
func TestNodesOnTheSharedLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const nodes, shards = 3, 6
		net := simnet.New(1)
		disks := map[kv.NodeID]*vfs.MemFS{}
		machines := map[kv.ServerID]*testDisk{}
		hosts := map[kv.NodeID]*Host{}
		logs := map[kv.NodeID]*raftlog.Shared{}
		meshes := map[kv.NodeID]*simnet.Node{}
		start := func(node kv.NodeID) {
			shared, err := raftlog.OpenShared(disks[node], "log", raftlog.Options{})
			if err != nil {
				t.Fatal(err)
			}
			mesh := net.Node(node)
			host, err := Open(context.Background(), Options{
				Node: node, Dir: "raft", FS: disks[node], Mesh: mesh, Logs: NewNodeLogs(shared, "unused"),
				Machine: func(r Record) (StateMachine, error) {
					if machines[r.ID] == nil {
						machines[r.ID] = &testDisk{}
					}
					return newTestMachine(machines[r.ID]), nil
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := mesh.Start(); err != nil {
				t.Fatal(err)
			}
			hosts[node], logs[node], meshes[node] = host, shared, mesh
		}
		stop := func(node kv.NodeID, crash bool) {
			if crash {
				meshes[node].Close()
			}
			ctx, cancel := within(20 * time.Second)
			defer cancel()
			if err := hosts[node].Close(ctx); err != nil {
				t.Error(err)
			}
			meshes[node].Close()
			if crash { // what was not synced is gone
				disks[node] = disks[node].CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
			}
			if err := logs[node].Close(); err != nil {
				t.Error(err)
			}
		}
		for node := kv.NodeID(1); node <= nodes; node++ {
			disks[node] = vfs.NewCrashableMem()
			start(node)
			for s := kv.ShardID(2); s < 2+shards; s++ {
				var members []kv.Member
				for n := kv.NodeID(1); n <= nodes; n++ {
					members = append(members, kv.Member{ID: kv.ServerID{Node: n, Shard: s, Incarnation: 1}, Voter: true})
				}
				r := Record{ID: members[node-1].ID, Kind: Durable, Log: SharedLog, Members: members}
				if err := hosts[node].Create(context.Background(), r); err != nil {
					t.Fatal(err)
				}
			}
		}
		putAt := func(s kv.ShardID, key string) bool {
			for _, h := range hosts {
				if r, ok := h.Replica(s); ok && put(r, key, "v", time.Second) == nil {
					return true
				}
			}
			return false
		}
		for round := range 6 {
			for s := kv.ShardID(2); s < 2+shards; s++ {
				for end := time.Now().Add(time.Minute); !putAt(s, fmt.Sprint("k", round)); pause(20 * time.Millisecond) {
					if time.Now().After(end) {
						t.Fatalf("round %d: shard %s does not write", round, s)
					}
				}
			}
			node := kv.NodeID(round%nodes + 1)
			stop(node, round%2 == 0)
			start(node)
		}
		for s := kv.ShardID(2); s < 2+shards; s++ {
			for end := time.Now().Add(time.Minute); ; pause(50 * time.Millisecond) {
				whole := 0
				for _, h := range hosts {
					r, _ := h.Replica(s)
					if machineOf(r).get("k5") == "v" && machineOf(r).state.Count >= 6 {
						whole++
					}
				}
				if whole == nodes {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("shard %s: %d nodes have everything", s, whole)
				}
			}
		}
		for node := range hosts {
			stop(node, false)
		}
		net.Close()
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
	start := func() (*Host, *simnet.Node) {
		mesh := net.Node(1)
		h, err := Open(context.Background(), Options{
			Node: 1, Dir: "raft", FS: fs, Mesh: mesh, Logs: NewNodeLogs(shared, dir),
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
	if err := h.Destroy(ctx, kv.MetaShard); err != nil {
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
