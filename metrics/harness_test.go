package metrics

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
)

const self = kv.NodeID(0xa1)

var classNames = []string{"raft", "data", "control", "bulk"}

func server(shard kv.ShardID) kv.ServerID {
	return kv.ServerID{Node: self, Shard: shard, Incarnation: 1}
}

// everything calls every method for a shard, so that all metrics have a value.
func everything(m *Metrics, shard kv.ShardID) {
	id, took, failure := server(shard), time.Millisecond, errors.New("no")
	m.LogSync(took)
	m.LeaderChanged(id, 3, self)
	m.Proposed(id, 4, 400, took, true)
	m.ProposalRefused(id)
	m.Applied(id, 5, took)
	m.LogWritten(id, 6, 600, took)
	m.LogStalled(id, true)
	m.ReadRound(id, 7, took, true)
	m.SnapshotTaken(id, took, nil)
	m.SnapshotSent(id, 0xb2, 800, took, failure)
	m.SnapshotReceived(id, 900, took, nil)
	m.ReplicaFailed(id, failure)
	m.Request(Request{Route: "/v1/kv/{key}", Method: "PUT", Status: 201, Duration: took, BytesIn: 10, BytesOut: 20})
	m.Forwarded("read", took, nil)
	m.Handled("write", took, failure)
	m.Shed("write")
	m.Retried("write", kv.CodeNotLeader)
	m.PeerSent(0, 2, 200)
	m.PeerReceived(1, 3, 300)
	m.PeerDialled(2, took, failure)
	m.PeerRefused("other_cluster")
	m.PeerClosed(3, true)
	m.PeerRoundTrip(0xb2, 0, took)
	m.PeerOverloaded(1)
	m.Step("promote", took, nil)
	for n, step := range []string{"begin-move", "split", "absorb"} {
		for i := range 3 * (n + 1) {
			var err error
			if i <= n {
				err = failure
			}
			m.Step(step, took, err)
		}
	}
	m.Liveness("dead")
}

// standing is a snapshot in which no figure is zero.
func standing(shards ...kv.ShardID) func() Snapshot {
	return func() Snapshot {
		s := Snapshot{
			Node:  NodeNames{ID: self, Name: "node1", Zone: "z1"},
			Store: Store{11, 12, 13, 14, 15, 16, 17, 18, 19, 20},
			Log:   Log{21, 22, 23, 24},
			Disk:  Disk{31, 32, 33}, InFlight: InFlight{41, 42, 43, 44}, Clients: Connections{45, 46, 47},
			Checks: []kv.Check{{Name: "meta", OK: true}, {Name: "leaders"}}, Insecure: true, Secrets: []string{"55512ca44b32", "314eddd75606"},
			Certificates: []Certificate{{"peer-cert", time.Unix(111, 0), time.Unix(112, 0)}, {"tls-ca", time.Unix(113, 0), time.Unix(114, 0)}},
			Cluster:      kv.ClusterInfo{Shards: 51, ShardsWithLeader: 52, MetaLeader: self},
			Members:      []kv.NodeInfo{{ID: self, Alive: true}, {ID: 0xb2, Alive: true, Draining: true}, {ID: 0xc3}},
			Placement: &Placement{Moves: 91, Splits: 92, Merges: 93, Operations: 94, UnderReplicated: 95, Leaderless: 96,
				Problems:     map[kv.Severity]int{kv.SeverityCritical: 97, kv.SeverityWarning: 98, kv.SeverityInfo: 99},
				OldestChange: 100 * time.Second, OldestOperation: 101 * time.Second, SplitBytes: 102},
		}
		for i, name := range classNames {
			s.Peers = append(s.Peers, PeerClass{name, 61 + i, 62, 63, 64, 65})
		}
		for _, shard := range shards {
			s.Replicas = append(s.Replicas, Replica{
				Status: kv.ReplicaStatus{
					ID: server(shard), Term: 71, Leader: self, LeaderReady: true, LastIndex: 79, CommitIndex: 78, AppliedIndex: 75,
					Members: []kv.Member{{ID: server(shard), Voter: true}, {Voter: true}, {}}, Failure: "disk on fire",
				},
				Keys: 81, Bytes: 82, DiskBytes: 83, RequestIDs: 84, Reads: 85, Writes: 86, Frozen: true,
			})
		}
		return s
	}
}

// series gathers all of ours as name{label=value,...} → value; of histograms the
// count and the sum.
func series(t testing.TB, m *Metrics) map[string]float64 {
	t.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "quorate_") {
			continue
		}
		for _, metric := range f.GetMetric() {
			var labels []string
			for _, l := range metric.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			tag := "{" + strings.Join(labels, ",") + "}"
			switch {
			case metric.Histogram != nil:
				out[f.GetName()+"_count"+tag] = float64(metric.Histogram.GetSampleCount())
				out[f.GetName()+"_sum"+tag] = metric.Histogram.GetSampleSum()
			case metric.Counter != nil:
				out[f.GetName()+tag] = metric.Counter.GetValue()
			default:
				out[f.GetName()+tag] = metric.Gauge.GetValue()
			}
		}
	}
	return out
}

// nonzero lists the series that are not zero, sorted, as lines. The build is left
// out: it says with what the test was compiled.
func nonzero(all map[string]float64) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name] != 0 && !strings.HasPrefix(name, "quorate_build_info") {
			fmt.Fprintf(&b, "%s %g\n", name, all[name])
		}
	}
	return b.String()
}
