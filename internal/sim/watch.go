package sim

import (
	"fmt"
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement"
	"github.com/quorate-db/quorate/raftnode"
)

// violationsMax bounds what is kept; the first ones tell.
const violationsMax = 20

// watch is what is seen of a cluster from outside of it while it runs.
type watch struct {
	mu         sync.Mutex
	violations []string
	leaders    map[termKey]kv.NodeID  // C3
	digests    map[digestKey]digestOf // C4
	counts     Counts
	events     uint64 // how far the cluster's own events are counted
}

type termKey struct {
	shard kv.ShardID
	term  uint64
}

type digestKey struct {
	shard kv.ShardID
	index uint64
}

type digestOf struct {
	sum  string
	node kv.NodeID
}

// Counts is what the hooks of all nodes were told.
type Counts struct {
	Elections int // shards' terms that had a leader
	Snapshots int // states put on disk
	Installs  int // states installed from a leader
	Stalls    int // writes to a Raft log over their deadline
	Digests   int // states compared with another replica's at the same index
	Resent    int // requests that were asked again after their answer, and answered

	Splits, Merges, Moves int // that were done
	Memberships           int // changes of a shard's configuration, the meta shard's too
	Joins, Removals       int // of nodes
	Deaths                int // nodes that were taken for dead
}

// count changes the counts.
func (w *watch) count(f func(*Counts)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.counts)
}

func (w *watch) init() {
	w.leaders, w.digests = map[termKey]kv.NodeID{}, map[digestKey]digestOf{}
}

// violation notes that the cluster broke one of its promises.
func (w *watch) violation(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violationLocked(format, args...)
}

func (w *watch) violationLocked(format string, args ...any) {
	if len(w.violations) < violationsMax {
		w.violations = append(w.violations, fmt.Sprintf(format, args...))
	}
}

// broken gives the violations so far.
func (w *watch) broken() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.violations...)
}

func (w *watch) hooks(c *Cluster) raftnode.Hooks {
	count := func(field *int) { w.count(func(*Counts) { *field++ }) }
	return raftnode.Hooks{
		LeaderChanged: func(id kv.ServerID, term uint64, leader kv.NodeID) {
			if leader == id.Node {
				w.leads(c, id, term)
			}
		},
		SnapshotTaken: func(_ kv.ServerID, _ time.Duration, err error) {
			if err == nil {
				count(&w.counts.Snapshots)
			}
		},
		SnapshotReceived: func(_ kv.ServerID, _ int64, _ time.Duration, err error) {
			if err == nil {
				count(&w.counts.Installs)
			}
		},
		Failed: func(id kv.ServerID, err error, storage bool) {
			if !storage {
				w.violation("C8: a replica has stopped and its disk is well: %s: %v", id, err)
			}
		},
		Stalled: func(_ kv.ServerID, stalled bool) {
			if stalled {
				count(&w.counts.Stalls)
			}
		},
	}
}

// step counts what the planner's loops do to configurations.
func (w *watch) step(s placement.Step, _ time.Duration, err error) {
	switch s.Kind {
	case "add-nonvoter", "promote", "remove-member", "add-replica", "promote-replica", "remove-replica":
		if err == nil {
			w.count(func(k *Counts) { k.Memberships++ })
		}
	}
}

// countEvents counts what the cluster itself says that has happened.
func (c *Cluster) countEvents() {
	state := c.state()
	if state == nil {
		return
	}
	c.watch.count(func(k *Counts) {
		for _, e := range state.Events() {
			if e.Seq <= c.watch.events {
				continue
			}
			c.watch.events = e.Seq
			switch e.Kind {
			case placement.EventSplit:
				k.Splits++
			case placement.EventMerge:
				k.Merges++
			case placement.EventMoveDone:
				k.Moves++
			case placement.EventNodeJoined:
				k.Joins++
			case placement.EventNodeRemoved:
				k.Removals++
			case placement.EventNodeDead:
				k.Deaths++
			}
		}
	})
}

// leads is told by a replica itself that it leads; what others believe of it is
// read in two steps and may mix terms.
func (w *watch) leads(c *Cluster, id kv.ServerID, term uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := termKey{id.Shard, term}
	switch other, known := w.leaders[key]; {
	case !known:
		w.leaders[key] = id.Node
		w.counts.Elections++
	case other != id.Node:
		w.violationLocked("C3: shard %s has two leaders in term %d: %s and %s", id.Shard, term, c.nameOf(other), c.nameOf(id.Node))
	}
}

// sampleDigests compares the digests of all replicas that run (C4).
func (c *Cluster) sampleDigests() {
	for shard := range c.shardMembers() {
		for _, r := range c.replicasOf(shard) {
			c.watch.digest(c, shard, r)
		}
	}
}

func (w *watch) digest(c *Cluster, shard kv.ShardID, r replica) {
	resp := r.Read(&kvpb.ReadRequest{Digest: true})
	if resp.Status != kvpb.Status_STATUS_OK || resp.AppliedIndex == 0 {
		return // it closes, or waits for the state of the others
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	key := digestKey{shard, resp.AppliedIndex}
	have, known := w.digests[key]
	switch {
	case !known:
		w.digests[key] = digestOf{string(resp.Digest), r.node}
	case have.node == r.node:
	case have.sum != string(resp.Digest):
		w.violationLocked("C4: shard %s at index %d: the states of %s and %s differ", shard, resp.AppliedIndex, c.nameOf(have.node), c.nameOf(r.node))
		w.digests[key] = digestOf{string(resp.Digest), r.node} // told once
	default:
		w.counts.Digests++
	}
}

// replica is a running replica's machine.
type replica struct {
	reader
	node   kv.NodeID
	status func() kv.ReplicaStatus
}

type reader interface {
	Read(*kvpb.ReadRequest) *kvpb.ReadResponse
}

// replicasOf gives the running replicas of a shard.
func (c *Cluster) replicasOf(shard kv.ShardID) []replica {
	var out []replica
	for _, n := range c.nodes {
		running := n.server()
		if running == nil {
			continue
		}
		if r, ok := running.Host().Replica(shard); ok {
			if m, ok := r.Machine().(reader); ok {
				out = append(out, replica{m, n.ID(), r.Status})
			}
		}
	}
	return out
}
