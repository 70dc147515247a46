package server

import (
	"context"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement"
	"github.com/quorate-db/quorate/raftnode"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// The adapters below do nothing but fit one room's door to another's.

// metaMachine is the meta shard's.
type metaMachine struct{ *placement.Machine }

func (m metaMachine) Image() (raftnode.Image, error) { return m.Machine.Image() }

func (m metaMachine) Stage(r io.Reader) (raftnode.Staged, error) { return m.Machine.Stage(r) }

func noReplica(shard kv.ShardID) error {
	return &kv.Error{Code: kv.CodeNoReplica, Outcome: kv.OutcomeNotApplied, Shard: shard, Detail: "this node holds no replica of shard " + shard.String()}
}

// localShards is what the router sees of this node's replicas.
type localShards struct {
	host  *raftnode.Host
	loads *loads
}

func (l localShards) Propose(ctx context.Context, shard kv.ShardID, command []byte, versions uint32) ([]byte, error) {
	r, ok := l.host.Replica(shard)
	if !ok {
		return nil, noReplica(shard)
	}
	answer, err := r.Propose(ctx, command, versions)
	if err == nil {
		l.loads.of(shard).wrote(command, versions)
	}
	return answer, err
}

func (l localShards) ReadIndex(ctx context.Context, shard kv.ShardID) error {
	r, ok := l.host.Replica(shard)
	if !ok {
		return noReplica(shard)
	}
	return r.ReadIndex(ctx)
}

func (l localShards) Read(shard kv.ShardID, req *kvpb.ReadRequest) (*kvpb.ReadResponse, error) {
	r, ok := l.host.Replica(shard)
	if !ok {
		return nil, noReplica(shard)
	}
	m, ok := r.Machine().(dataMachine)
	if !ok {
		return nil, noReplica(shard) // the meta shard holds no keys
	}
	l.loads.of(shard).read(req)
	return m.Read(req), nil
}

func (l localShards) Leader(shard kv.ShardID) (kv.NodeID, bool) {
	r, ok := l.host.Replica(shard)
	if !ok {
		return 0, false
	}
	return r.Leader()
}

func (l localShards) LastContact(shard kv.ShardID) (time.Duration, bool) {
	r, ok := l.host.Replica(shard)
	if !ok {
		return 0, false
	}
	return r.LastContact()
}

// routerPeers and controlPeers are the mesh with methods as plain numbers.
type routerPeers struct{ mesh peer.Mesh }

func (p routerPeers) Call(ctx context.Context, node kv.NodeID, method uint16, req []byte) ([]byte, error) {
	return peer.Call(ctx, p.mesh, node, peer.Method(method), req)
}

func (p routerPeers) Handle(method uint16, h func(from kv.NodeID, req []byte, reply func(resp []byte, err error))) {
	p.mesh.Handle(peer.Method(method), h)
}

type controlPeers struct{ routerPeers }

func (p controlPeers) Dial(ctx context.Context, address string, method uint16, req []byte) (kv.NodeID, []byte, error) {
	return p.mesh.Dial(ctx, address, peer.Method(method), req)
}

// controlReplicas is what the control plane sees of this node's replicas.
type controlReplicas struct {
	host  *raftnode.Host
	logs  *raftnode.NodeLogs
	log   raftnode.LogKind // of data shards
	loads *loads
}

func (c controlReplicas) Known(id kv.ServerID) bool { return c.logs.Hosted(id) }

func (c controlReplicas) Create(ctx context.Context, spec placement.ReplicaSpec) error {
	record := raftnode.Record{ID: spec.ID, Kind: raftnode.Durable, Log: c.log, Members: spec.Members}
	if spec.ID.Shard == kv.MetaShard {
		record.Kind, record.Log = raftnode.InMemory, raftnode.BoltLog
	} else {
		payload, err := proto.Marshal(spec.Descriptor)
		if err != nil {
			return err
		}
		record.Payload = payload
	}
	return c.host.Create(ctx, record)
}

func (c controlReplicas) States() []placement.ReplicaState {
	var out []placement.ReplicaState
	for _, r := range c.host.Replicas() {
		s := placement.ReplicaState{Status: r.Status(), ConfigIndex: r.Machine().Applied().ConfigIndex}
		if m, ok := r.Machine().(dataMachine); ok {
			stats := m.Stats()
			s.Descriptor, s.Bytes, s.Keys = m.Descriptor(), stats.Bytes, stats.Keys
			s.Reads, s.Writes = c.loads.served(m.Shard())
			s.FrozenIndex, s.FrozenInto = m.Frozen()
		}
		out = append(out, s)
	}
	return out
}

func (c controlReplicas) Transfer(ctx context.Context, shard kv.ShardID, to kv.NodeID) error {
	r, ok := c.host.Replica(shard)
	if !ok {
		return noReplica(shard)
	}
	for _, m := range r.Status().Members {
		if m.ID.Node == to {
			return r.Transfer(ctx, m.ID)
		}
	}
	return kv.Errorf(kv.CodeNotFound, kv.OutcomeNotApplied, "shard %s has no replica on node %s", shard, to)
}

// metaReplica is this node's replica of the meta shard, if it has one yet.
type metaReplica struct{ host *raftnode.Host }

func (m metaReplica) Status() (kv.ReplicaStatus, bool) {
	r, ok := m.host.Replica(kv.MetaShard)
	if !ok {
		return kv.ReplicaStatus{}, false
	}
	return r.Status(), true
}

func (m metaReplica) IsLeader() bool {
	status, ok := m.Status()
	return ok && status.LeaderReady
}

func (m metaReplica) Leader() kv.NodeID {
	r, ok := m.host.Replica(kv.MetaShard)
	if !ok {
		return 0
	}
	leader, _ := r.Leader()
	return leader
}

func (m metaReplica) with(do func(*raftnode.Replica) error) error {
	r, ok := m.host.Replica(kv.MetaShard)
	if !ok {
		return noReplica(kv.MetaShard)
	}
	return do(r)
}

func (m metaReplica) Propose(ctx context.Context, data []byte) (answer []byte, err error) {
	err = m.with(func(r *raftnode.Replica) error {
		answer, err = r.Propose(ctx, data, 1)
		return err
	})
	return answer, err
}

func (m metaReplica) ReadIndex(ctx context.Context) error {
	return m.with(func(r *raftnode.Replica) error { return r.ReadIndex(ctx) })
}

func (m metaReplica) AddNonvoter(ctx context.Context, server kv.ServerID) error {
	return m.with(func(r *raftnode.Replica) error { return r.AddNonvoter(ctx, server) })
}

func (m metaReplica) Promote(ctx context.Context, server kv.ServerID) error {
	return m.with(func(r *raftnode.Replica) error { return r.Promote(ctx, server) })
}

func (m metaReplica) Remove(ctx context.Context, server kv.ServerID) error {
	return m.with(func(r *raftnode.Replica) error { return r.Remove(ctx, server) })
}
