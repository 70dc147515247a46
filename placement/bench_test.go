package placement

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

const (
	benchNodes  = 1000
	benchShards = 100_000
)

// largeCluster gives a cluster of 1,000 nodes with 100,000 shards and all of its
// reports, all of it well.
func largeCluster() Input {
	s := emptyState()
	s.clusterID, s.nextShard = "c", benchShards+2
	for i := range uint64(benchNodes) {
		n := testNode(i + 1)
		n.Ordinal, n.State = i+1, metapb.NodeState_NODE_ACTIVE
		s.nodes = append(s.nodes, n)
	}
	s.nextOrdinal = benchNodes + 1
	in := Input{Now: time.UnixMilli(1e12), Health: map[kv.NodeID]Health{}, Leads: map[kv.ShardID]Lead{}}
	reports := map[uint64]*metapb.NodeReport{}
	for i := range uint64(benchNodes) {
		reports[i+1] = &metapb.NodeReport{Node: i + 1, DiskBytes: 30 << 30, DiskFreeBytes: 70 << 30}
	}
	for i := range uint64(benchShards) {
		d := &kvpb.ShardDescriptor{Shard: i + 2, Generation: 1, Start: fmt.Appendf(nil, "%08d", i), End: fmt.Appendf(nil, "%08d", i+1)}
		if i == 0 {
			d.Start = nil
		}
		if i == benchShards-1 {
			d.End = nil
		}
		s.segments = append(s.segments, segment{start: d.Start, shard: kv.ShardID(d.Shard), generation: 1})
		for r := range uint64(3) {
			// The second and third are where no simple pattern has them.
			node := (i+r*(331+i/benchNodes))%benchNodes + 1
			d.Replicas = append(d.Replicas, &kvpb.ReplicaDescriptor{Node: node, Incarnation: 1, Role: kvpb.ReplicaRole_ROLE_VOTER})
			report := &metapb.ReplicaReport{Shard: d.Shard, Incarnation: 1, Role: string(kv.RoleFollower), Term: 1, CommitIndex: 1e6, AppliedIndex: 1e6,
				Bytes: 100 << 20, Keys: 1e5, Generation: 1}
			if r == 0 {
				report.Role, report.LeaderReady = string(kv.RoleLeader), true
				report.Leads = &metapb.DescriptorReport{Shard: d, ConfigIndex: 1}
			}
			reports[node].Replicas = append(reports[node].Replicas, report)
		}
		s.shards = append(s.shards, &metapb.Shard{Current: d, ConfigIndex: 1, State: metapb.ShardState_SHARD_ACTIVE, NextIncarnation: 2})
		in.Leads[kv.ShardID(d.Shard)] = Lead{Node: kv.NodeID(d.Replicas[0].Node), Term: 1}
	}
	for node, report := range reports {
		sortReplicas(report)
		in.Health[kv.NodeID(node)] = Health{Liveness: Alive, Report: report, Steady: true}
		in.Members = append(in.Members, kv.Member{ID: metaServer(s.Node(kv.NodeID(node))), Voter: node <= 5})
	}
	in.State = s
	return in
}

// BenchmarkPlan plans a round for a large cluster: one that is well, one that has
// just lost a node for good, and one that has just got a new one.
func BenchmarkPlan(b *testing.B) {
	well := largeCluster()
	dead := well
	dead.Health = map[kv.NodeID]Health{}
	for node, h := range well.Health {
		dead.Health[node] = h
	}
	dead.Health[7] = Health{Liveness: Dead, SilentFor: time.Hour}
	grown := well
	state := *well.State
	grown.State = state.withNode(&metapb.Node{Id: benchNodes + 1, Name: "new", PeerAddress: "new", Ordinal: benchNodes + 1, State: metapb.NodeState_NODE_ACTIVE})
	grown.Health = map[kv.NodeID]Health{benchNodes + 1: {Liveness: Alive, Steady: true, Report: &metapb.NodeReport{}}}
	for node, h := range well.Health {
		grown.Health[node] = h
	}
	for _, c := range []struct {
		name string
		in   Input
	}{{"well", well}, {"dead", dead}, {"grown", grown}} {
		b.Run(c.name, func(b *testing.B) {
			steps := 0
			for b.Loop() {
				steps = len(Plan(c.in))
			}
			b.ReportMetric(float64(steps), "steps")
			if (steps == 0) != (c.name == "well") {
				b.Fatalf("%d steps", steps)
			}
		})
	}
}

// BenchmarkReport takes one node's report of a large cluster, and tells its size and
// that of the meta state.
func BenchmarkReport(b *testing.B) {
	in := largeCluster()
	data, err := proto.Marshal(in.Health[1].Report)
	if err != nil {
		b.Fatal(err)
	}
	tr := newTracker(Tuning{}.withDefaults(), Hooks{})
	tr.setLeading(true, in.Now)
	for b.Loop() {
		report := &metapb.NodeReport{}
		if err := proto.Unmarshal(data, report); err != nil {
			b.Fatal(err)
		}
		tr.take(report, in.Now)
	}
	state, err := proto.Marshal(in.State.toProto())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(len(data)), "report-bytes")
	b.ReportMetric(float64(len(state)), "state-bytes")
}
