package sim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/quorate-db/quorate/internal/simnet"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

func init() {
	scenarios = append(scenarios,
		scenario{"replica-comes-after-a-split", Config{Spares: 1, Shards: 1, Groups: 2, ChangeEvery: time.Second}, replicaAfterSplit},
		scenario{"request-ids-over-split-and-merge", Config{Shards: 1, Groups: 2, ChangeEvery: time.Second}, requestsOverShapes},
		scenario{"power-cut-after-a-split", Config{Shards: 1, Groups: 2, ChangeEvery: time.Second}, powerCutAfterSplit},
		scenario{"merge-with-a-member-cut-off", Config{Shards: 1, Groups: 2, ChangeEvery: time.Second}, mergeCutOff},
		scenario{"merges-under-load", Config{Shards: 1, Groups: 2, Clients: 8, Think: 5 * time.Millisecond, ChangeEvery: time.Second}, mergesUnderLoad},
		scenario{"removed-node-comes-back", Config{Nodes: 4, Shards: 1, Groups: 1, ChangeEvery: time.Second}, removedComesBack},
		scenario{"four-nodes-in-three-zones", Config{Nodes: 4, Zones: 3, Shards: 4, Groups: 1, ChangeEvery: time.Second}, func(*stage) {}},
	)
}

// half is a key that parts the only shard of a scenario between its groups.
var half = []byte("s00/g01/")

// order has an operator's order carried out to its end. Nothing hinders it, so it has
// to be done.
func (s *stage) order(what string, begin func(ctx context.Context, to admin) (kv.Operation, error)) {
	var op kv.Operation
	err := eventually(func(ctx context.Context) (err error) {
		running := s.nodes[0].server()
		if running == nil {
			return errNobody
		}
		op, err = begin(ctx, running.Control())
		return err
	})
	if err != nil {
		s.watch.violation("%s: %v", what, err)
		return
	}
	err = s.await(settleWithin, 50*time.Millisecond, func() string {
		if now := s.operation(op.ID); now != nil && now.State != string(kv.OperationRunning) {
			op.State, op.Error = kv.OperationState(now.State), now.Error
			return ""
		}
		return what + " goes on"
	})
	if err != nil || op.State != kv.OperationDone {
		s.watch.violation("%s is %s: %s %v", what, op.State, op.Error, err)
	}
}

// operation gives an operation as the cluster has it, nil if nobody knows it.
func (s *stage) operation(id uint64) *metapb.Operation {
	state := s.state()
	if state == nil {
		return nil
	}
	return state.Operation(id)
}

func (s *stage) split(shard kv.ShardID, key []byte) {
	s.order("the split", func(ctx context.Context, to admin) (kv.Operation, error) { return to.Split(ctx, shard, key) })
}

func (s *stage) merge(shard kv.ShardID) {
	s.order("the merge", func(ctx context.Context, to admin) (kv.Operation, error) { return to.Merge(ctx, shard) })
}

func (s *stage) move(shard kv.ShardID, from, to *Node) {
	s.order("the move", func(ctx context.Context, a admin) (kv.Operation, error) {
		return a.Move(ctx, shard, from.ID(), to.ID())
	})
}

// fill writes to both groups, some of it under ids of the client's own.
func (s *stage) fill(n int) {
	cl := newClient(s.Cluster, s.h, 0)
	for i := range n {
		group := i % s.config.Groups
		r := cl.begin(s.nodes[0], 0, group, request{changes: []change{{kind: kvpb.OpKind_OP_PUT, cell: i / 2 % 2, value: fmt.Sprintf("f%d-%d", s.h.tick(), i)}}})
		written, err := cl.insist(r.request.txn(0, group))
		cl.end(&r)
		cl.wrote(r, written, err)
	}
}

// replicaAfterSplit: shards that were split, and whose logs nobody has cut, get
// replicas on a machine that has seen nothing of it.
func replicaAfterSplit(s *stage) {
	s.fill(20)
	s.split(onlyShard, half)
	s.fill(20)
	spare := s.nodes[len(s.nodes)-1]
	if err := spare.Join(); err != nil {
		s.watch.violation("join: %v", err)
		return
	}
	if err := s.AwaitWhole(settleWithin); err != nil {
		s.watch.violation("join: %v", err)
		return
	}
	for _, shard := range s.state().Shards() {
		for _, r := range shard.Current.Replicas {
			if from := s.byID(kv.NodeID(r.Node)); from != nil && from != spare {
				s.move(kv.ShardID(shard.Current.Shard), from, spare)
				break
			}
		}
	}
	s.fill(20)
}

func (s *stage) byID(id kv.NodeID) *Node {
	for _, n := range s.nodes {
		if n.ID() == id {
			return n
		}
	}
	return nil
}

// requestsOverShapes: requests are asked again after their shard was split, after it
// was merged again, and after a restart of everything.
func requestsOverShapes(s *stage) {
	s.fill(40)
	s.split(onlyShard, half)
	s.askAllAgain()
	s.fill(20)
	s.merge(onlyShard)
	s.askAllAgain()
	s.powerCut()
}

// powerCutAfterSplit: the power fails everywhere as soon as the child's replicas
// exist, and nothing survives that was not synced.
func powerCutAfterSplit(s *stage) {
	s.fill(20)
	s.split(onlyShard, half)
	s.powerCut()
	s.fill(20)
}

// powerCut takes the power of all machines and starts them again.
func (s *stage) powerCut() {
	for _, n := range s.nodes {
		n.Crash(simnet.Lost, 0, nil)
	}
	for _, n := range s.nodes {
		if err := n.Start(); err != nil {
			s.watch.violation("start: %v", err)
		}
	}
	if err := s.AwaitWhole(settleWithin); err != nil {
		s.watch.violation("after the power cut: %v", err)
	}
}

// mergeCutOff: a member is cut off when two shards are told to merge. The merge has
// to wait for it, or to be given up.
func mergeCutOff(s *stage) {
	s.fill(20)
	s.split(onlyShard, half)
	s.fill(20)
	leader, others := s.leader()
	// The meta leader stays with the majority.
	behind := others[0]
	if behind.server().Meta().Applied().Index == 0 || s.leadsMeta(behind) {
		behind = others[1]
	}
	var op kv.Operation
	err := eventually(func(ctx context.Context) (err error) {
		op, err = leader.server().Control().Merge(ctx, onlyShard)
		return err
	})
	if err != nil {
		s.watch.violation("the merge: %v", err)
		return
	}
	for s.state().Merge(onlyShard).GetStage() == metapb.MergeStage_MERGE_ALIGNING {
		time.Sleep(time.Millisecond)
	}
	s.net.Isolate(behind.ID(), true)
	s.note("%s is cut off, operation %d", behind.name, op.ID)
	time.Sleep(3 * time.Second)
	s.net.SetAll(s.calm())
	s.fill(20)
}

// mergesUnderLoad: a shard is split and merged again while clients read and write all
// the time, also in the moment in which the right part is frozen and not absorbed yet.
func mergesUnderLoad(s *stage) {
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for i := range s.config.Clients {
		clients.Go(func() { newClient(s.Cluster, s.h, i).run(stop) })
	}
	for range 3 {
		if len(s.watch.broken()) > 0 {
			break
		}
		s.split(onlyShard, half)
		s.merge(onlyShard)
	}
	close(stop)
	clients.Wait()
}

func (s *stage) leadsMeta(n *Node) bool {
	r, ok := n.server().Host().Replica(kv.MetaShard)
	return ok && r.Status().Role == kv.RoleLeader
}

// removedComesBack: a node is removed from the cluster, and its process is started
// again on its old disk. It must not become a member.
func removedComesBack(s *stage) {
	s.fill(10)
	gone := s.nodes[3]
	id := gone.ID()
	s.order("the removal", func(ctx context.Context, to admin) (kv.Operation, error) { return to.RemoveNode(ctx, id) })
	gone.Crash(simnet.Killed, 100, nil)
	if err := gone.Start(); err != nil {
		s.note("%s does not start: %v", gone.name, err)
	}
	time.Sleep(20 * time.Second)
	if !s.removed(id) {
		s.watch.violation("%s was removed, and is a member again", gone.name)
	}
	s.sweepRemoved()
	s.fill(10)
}
