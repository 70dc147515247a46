package server

import (
	"context"
	"time"

	"github.com/quorate-db/quorate/httpd"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/metrics"
	"github.com/quorate-db/quorate/placement"
	"github.com/quorate-db/quorate/raftnode"
	"github.com/quorate-db/quorate/raftnode/peer"
	"github.com/quorate-db/quorate/router"
)

// newMetrics makes the metrics that hooksOf fills.
func (p *process) newMetrics() *metrics.Metrics {
	classes := []peer.Class{peer.ClassRaft, peer.ClassData, peer.ClassControl, peer.ClassBulk}
	names := make([]string, len(classes))
	for _, c := range classes {
		names[c] = c.String()
	}
	return metrics.New(metrics.Options{Release: p.config.Release, PeerClasses: names, Logger: p.log})
}

// hooksOf has every room tell m what it does.
func hooksOf(m *metrics.Metrics) Hooks {
	return Hooks{
		HTTP: httpd.Hooks{Request: func(r httpd.RequestInfo) { m.Request(metrics.Request(r)) }},
		Router: router.Hooks{
			Forwarded: func(op router.Op, took time.Duration, err error) { m.Forwarded(string(op), took, err) },
			Handled:   func(op router.Op, took time.Duration, err error) { m.Handled(string(op), took, err) },
			Shed:      func(op router.Op) { m.Shed(string(op)) },
			Retried:   func(op router.Op, code kv.Code) { m.Retried(string(op), code) },
		},
		Raft: raftnode.Hooks{
			LeaderChanged:    m.LeaderChanged,
			Proposed:         m.Proposed,
			Refused:          m.ProposalRefused,
			Applied:          m.Applied,
			Synced:           m.LogWritten,
			ReadRound:        m.ReadRound,
			SnapshotTaken:    m.SnapshotTaken,
			SnapshotSent:     m.SnapshotSent,
			SnapshotReceived: m.SnapshotReceived,
			Stalled:          m.LogStalled,
			Failed:           func(id kv.ServerID, err error, _ bool) { m.ReplicaFailed(id, err) },
		},
		Peer:      peerHooksOf(m),
		Placement: placementHooksOf(m),
		LogSync:   m.LogSync,
	}
}

func peerHooksOf(m *metrics.Metrics) peer.Hooks {
	return peer.Hooks{
		Sent:     func(c peer.Class, frames, bytes int) { m.PeerSent(uint8(c), frames, bytes) },
		Received: func(c peer.Class, frames, bytes int) { m.PeerReceived(uint8(c), frames, bytes) },
		Dialled: func(_ kv.NodeID, c peer.Class, took time.Duration, err error) {
			m.PeerDialled(uint8(c), took, err)
		},
		Refused:    m.PeerRefused,
		Closed:     func(c peer.Class, incoming bool, _ error) { m.PeerClosed(uint8(c), incoming) },
		RoundTrip:  func(to kv.NodeID, c peer.Class, took time.Duration) { m.PeerRoundTrip(to, uint8(c), took) },
		Overloaded: func(_ kv.NodeID, c peer.Class) { m.PeerOverloaded(uint8(c)) },
	}
}

func placementHooksOf(m *metrics.Metrics) placement.Hooks {
	return placement.Hooks{
		OnStep: func(s placement.Step, took time.Duration, err error) { m.Step(string(s.Kind), took, err) },
		OnLiveness: func(_ kv.NodeID, now placement.Liveness) {
			switch now {
			case placement.Alive:
				m.Liveness("alive")
			case placement.Dead:
				m.Liveness("dead")
			default:
				m.Liveness("unheard")
			}
		},
	}
}

// snapshotTimeout bounds what a scrape waits for the meta leader's view of the
// cluster.
const snapshotTimeout = time.Second

// snapshot tells how a node with its edge stands.
func snapshot(n *Node, edge *httpd.Server) metrics.Snapshot {
	ctx, cancel := context.WithTimeout(context.Background(), snapshotTimeout)
	defer cancel()
	s := metrics.Snapshot{
		Node:    metrics.NodeNames{ID: n.identity.Node(), Name: n.name(), Zone: n.config.Zone},
		Store:   storeFigures(n),
		Log:     logFigures(n),
		Disk:    metrics.Disk(n.disk.usage()),
		Peers:   peerFigures(n.mesh),
		Checks:  health{n}.Ready(ctx),
		Cluster: n.control.Cluster(ctx),
		Members: n.control.Nodes(ctx),
	}
	if f, ok := n.control.Figures(); ok {
		p := metrics.Placement(f)
		s.Placement = &p
	}
	for _, r := range n.host.Replicas() {
		out := metrics.Replica{Status: r.Status()}
		if m, ok := r.Machine().(dataMachine); ok {
			stats := m.Stats()
			out.Keys, out.Bytes, out.DiskBytes, out.RequestIDs = stats.Keys, stats.Bytes, m.DiskBytes(), stats.Requests
			out.Reads, out.Writes = n.loads.served(out.Status.ID.Shard)
			frozen, _ := m.Frozen()
			out.Frozen = frozen > 0
		}
		s.Replicas = append(s.Replicas, out)
	}
	s.Insecure = n.config.exposure().open()
	s.InFlight.Data, s.InFlight.Control, s.InFlight.Streams = edge.InFlight()
	s.InFlight.Probes = edge.Probes()
	s.Clients.Inside, s.Clients.Reserve, s.Clients.Refused = edge.Connections()
	return s
}

func storeFigures(n *Node) metrics.Store {
	e := n.db.Metrics()
	return metrics.Store{
		DiskBytes: e.DiskBytes, MemtableBytes: e.MemtableBytes, CompactionDebt: e.CompactionDebt,
		Tables: e.Tables, ReadAmplification: int64(e.ReadAmp),
		Flushes: e.Flushes, Compactions: e.Compactions,
		CacheHits: e.CacheHits, CacheMisses: e.CacheMisses,
		BackgroundErrors: e.BackgroundErrors,
	}
}

func logFigures(n *Node) metrics.Log {
	l := n.raftLog.Stats()
	return metrics.Log{
		DiskBytes: l.DiskBytes, MemtableBytes: l.MemTableBytes, EntryCacheBytes: l.EntryCacheBytes,
		ReadAmplification: int64(l.ReadAmp),
	}
}

// peerFigures reads a mesh that keeps figures, as the one over TCP does. All
// classes are there, also those without a connection.
func peerFigures(m Mesh) []metrics.PeerClass {
	mesh, ok := m.(interface {
		Stats() map[peer.Class]peer.Stats
	})
	if !ok {
		return nil
	}
	stats := mesh.Stats()
	var out []metrics.PeerClass
	for _, c := range []peer.Class{peer.ClassRaft, peer.ClassData, peer.ClassControl, peer.ClassBulk} {
		s := stats[c]
		out = append(out, metrics.PeerClass{
			Class: c.String(), Outgoing: s.Outgoing, Incoming: s.Incoming, QueueBytes: s.QueueBytes,
			Calls: s.Calls, InFlight: s.InFlight,
		})
	}
	return out
}
