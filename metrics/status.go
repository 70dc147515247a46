package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quorate-db/quorate/kv"
)

// status is the collector of what is a state, not an event.
type status struct {
	m *Metrics

	node     []reading[Snapshot]
	replica  []reading[Replica]
	class    []reading[PeerClass]
	info     *prometheus.Desc
	ready    *prometheus.Desc
	inFlight *prometheus.Desc
	nodes    *prometheus.Desc
	secrets  *prometheus.Desc
	begins   *prometheus.Desc
	ends     *prometheus.Desc

	placement []reading[Placement]
	changes   *prometheus.Desc
	problems  *prometheus.Desc
}

// reading is one metric that is read from a T.
type reading[T any] struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*T) float64
}

func gaugeOf[T any](name, help string, value func(*T) float64, labels ...string) reading[T] {
	return reading[T]{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue, value}
}

func counterOf[T any](name, help string, value func(*T) float64, labels ...string) reading[T] {
	return reading[T]{prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue, value}
}

func newStatus(m *Metrics) *status {
	return &status{
		m:        m,
		node:     slices.Concat(clusterReadings(), connectionReadings(), storageReadings()),
		replica:  replicaReadings(),
		class:    classReadings(),
		info:     prometheus.NewDesc("quorate_node_info", "Always 1; the labels say which node this is.", []string{"node", "name", "zone"}, nil),
		ready:    prometheus.NewDesc("quorate_ready", "Whether a check of readiness passes.", []string{"check"}, nil),
		inFlight: prometheus.NewDesc("quorate_http_in_flight", "HTTP requests that are being served.", []string{"kind"}, nil),
		nodes:    prometheus.NewDesc("quorate_cluster_nodes", "Nodes of the cluster as this node knows them.", []string{"state"}, nil),
		secrets:  prometheus.NewDesc("quorate_cluster_secret", "Always 1; the cluster secrets that this node counts, by their ids: one is used, the others are accepted.", []string{"secret", "use"}, nil),
		begins:   prometheus.NewDesc("quorate_certificate_not_before_timestamp_seconds", "Unix time from which the certificate counts whose end quorate_certificate_not_after_timestamp_seconds tells.", []string{"certificate"}, nil),
		ends:     prometheus.NewDesc("quorate_certificate_not_after_timestamp_seconds", "Unix time at which a file of certificates that this node was given ends: that of the certificate in it which ends first.", []string{"certificate"}, nil),

		placement: placementReadings(),
		changes:   prometheus.NewDesc("quorate_placement_changes_under_way", "Moves, splits and merges of shards that are under way.", []string{"kind"}, nil),
		problems:  prometheus.NewDesc("quorate_placement_problems", "Problems that quorate problems lists, by severity.", []string{"severity"}, nil),
	}
}

func clusterReadings() []reading[Snapshot] {
	return []reading[Snapshot]{
		gaugeOf("quorate_insecure", "Whether this node was allowed to listen beyond loopback for clients without tokens, or for other nodes without a cluster secret or certificates, and does.",
			func(s *Snapshot) float64 { return asNumber(s.Insecure) }),
		gaugeOf("quorate_cluster_shards", "Data shards of the cluster as this node knows them.",
			func(s *Snapshot) float64 { return float64(s.Cluster.Shards) }),
		gaugeOf("quorate_cluster_shards_with_leader", "Data shards that have a leader as far as this node knows.",
			func(s *Snapshot) float64 { return float64(s.Cluster.ShardsWithLeader) }),
		gaugeOf("quorate_cluster_meta_leader_known", "Whether this node knows the leader of the meta shard.",
			func(s *Snapshot) float64 { return asNumber(s.Cluster.MetaLeader != 0) }),
		gaugeOf("quorate_replicas", "Replicas on this node, the meta shard's too.",
			func(s *Snapshot) float64 { return float64(len(s.Replicas)) }),
		gaugeOf("quorate_replicas_unlabelled", "Replicas on this node that have no series of their own, because there are too many.",
			func(s *Snapshot) float64 { return float64(max(0, len(s.Replicas)-shardsMax)) }),
	}
}

func connectionReadings() []reading[Snapshot] {
	return []reading[Snapshot]{
		gaugeOf("quorate_http_connections", "Connections of clients, within the limit.",
			func(s *Snapshot) float64 { return float64(s.Clients.Inside) }),
		gaugeOf("quorate_http_connections_reserve", "Connections of clients beyond the limit, which serve the control plane and probes alone.",
			func(s *Snapshot) float64 { return float64(s.Clients.Reserve) }),
		counterOf("quorate_http_connections_refused_total", "Connections of clients that were refused because there are too many.",
			func(s *Snapshot) float64 { return float64(s.Clients.Refused) }),
	}
}

func storageReadings() []reading[Snapshot] {
	return []reading[Snapshot]{
		gaugeOf("quorate_disk_used_bytes", "Bytes that the data directory uses.",
			func(s *Snapshot) float64 { return float64(s.Disk.UsedBytes) }),
		gaugeOf("quorate_disk_free_bytes", "Bytes that are free on the file system of the data directory.",
			func(s *Snapshot) float64 { return float64(s.Disk.FreeBytes) }),
		gaugeOf("quorate_disk_size_bytes", "Size of the file system of the data directory.",
			func(s *Snapshot) float64 { return float64(s.Disk.SizeBytes) }),

		gaugeOf("quorate_store_disk_bytes", "Bytes of the store's files.",
			func(s *Snapshot) float64 { return float64(s.Store.DiskBytes) }),
		gaugeOf("quorate_store_memtable_bytes", "Bytes of the store that are only in memory yet.",
			func(s *Snapshot) float64 { return float64(s.Store.MemtableBytes) }),
		gaugeOf("quorate_store_tables", "Sorted tables of the store.",
			func(s *Snapshot) float64 { return float64(s.Store.Tables) }),
		gaugeOf("quorate_store_compaction_debt_bytes", "Bytes that compactions of the store still have to move.",
			func(s *Snapshot) float64 { return float64(s.Store.CompactionDebt) }),
		gaugeOf("quorate_store_read_amplification", "Tables of the store that one read may have to look into.",
			func(s *Snapshot) float64 { return float64(s.Store.ReadAmplification) }),
		counterOf("quorate_store_flushes_total", "Flushes of the store.",
			func(s *Snapshot) float64 { return float64(s.Store.Flushes) }),
		counterOf("quorate_store_compactions_total", "Compactions of the store.",
			func(s *Snapshot) float64 { return float64(s.Store.Compactions) }),
		counterOf("quorate_store_cache_hits_total", "Blocks of the store that were read from memory.",
			func(s *Snapshot) float64 { return float64(s.Store.CacheHits) }),
		counterOf("quorate_store_cache_misses_total", "Blocks of the store that were read from disk.",
			func(s *Snapshot) float64 { return float64(s.Store.CacheMisses) }),
		counterOf("quorate_store_background_errors_total", "Flushes and compactions of the store that failed; each is tried again.",
			func(s *Snapshot) float64 { return float64(s.Store.BackgroundErrors) }),

		gaugeOf("quorate_log_disk_bytes", "Bytes of the shared Raft log's files.",
			func(s *Snapshot) float64 { return float64(s.Log.DiskBytes) }),
		gaugeOf("quorate_log_memtable_bytes", "Bytes of the shared Raft log's memtables.",
			func(s *Snapshot) float64 { return float64(s.Log.MemtableBytes) }),
		gaugeOf("quorate_log_entry_cache_bytes", "Bytes of the newest log entries that are kept in memory.",
			func(s *Snapshot) float64 { return float64(s.Log.EntryCacheBytes) }),
		gaugeOf("quorate_log_read_amplification", "Tables of the shared Raft log that one read may have to look into.",
			func(s *Snapshot) float64 { return float64(s.Log.ReadAmplification) }),
	}
}

// placementReadings are served by the node that leads the meta shard alone.
func placementReadings() []reading[Placement] {
	return []reading[Placement]{
		gaugeOf("quorate_placement_operations", "Operations that operators began and that run.",
			func(p *Placement) float64 { return float64(p.Operations) }),
		gaugeOf("quorate_placement_shards_under_replicated", "Data shards with fewer living replicas than the replication factor.",
			func(p *Placement) float64 { return float64(p.UnderReplicated) }),
		gaugeOf("quorate_placement_shards_without_leader", "Data shards that nobody has reported to lead.",
			func(p *Placement) float64 { return float64(p.Leaderless) }),
		gaugeOf("quorate_placement_oldest_change_seconds", "Age of the oldest move, split or merge under way, 0 without one.",
			func(p *Placement) float64 { return p.OldestChange.Seconds() }),
		gaugeOf("quorate_placement_oldest_operation_seconds", "Age of the oldest operation that runs, 0 without one.",
			func(p *Placement) float64 { return p.OldestOperation.Seconds() }),
		gaugeOf("quorate_placement_split_bytes", "The setting split_bytes: a larger shard splits; 0 is never by size.",
			func(p *Placement) float64 { return float64(p.SplitBytes) }),
	}
}

func replicaReadings() []reading[Replica] {
	gauge := func(name, help string, value func(*Replica) float64) reading[Replica] {
		return gaugeOf(name, help, value, "shard")
	}
	return []reading[Replica]{
		gauge("quorate_shard_leader", "Whether the replica here leads the shard and has applied the first entry of its term.",
			func(r *Replica) float64 { return asNumber(r.Status.LeaderReady) }),
		gauge("quorate_shard_leader_known", "Whether the replica here knows who leads the shard.",
			func(r *Replica) float64 { return asNumber(r.Status.Leader != 0) }),
		gauge("quorate_shard_failed", "Whether the replica here has stopped because of a failure.",
			func(r *Replica) float64 { return asNumber(r.Status.Failure != "") }),
		gauge("quorate_shard_voters", "Replicas of the shard that vote, as the replica here knows.",
			func(r *Replica) float64 { return float64(voters(r.Status.Members)) }),
		gauge("quorate_shard_learners", "Replicas of the shard that follow without a vote, as the replica here knows.",
			func(r *Replica) float64 { return float64(len(r.Status.Members) - voters(r.Status.Members)) }),
		gauge("quorate_shard_term", "Raft term of the replica here.",
			func(r *Replica) float64 { return float64(r.Status.Term) }),
		gauge("quorate_shard_last_index", "Newest entry in the log here.",
			func(r *Replica) float64 { return float64(r.Status.LastIndex) }),
		gauge("quorate_shard_commit_index", "Newest entry that the replica here knows to be committed.",
			func(r *Replica) float64 { return float64(r.Status.CommitIndex) }),
		gauge("quorate_shard_applied_index", "Newest entry that the state machine here has applied.",
			func(r *Replica) float64 { return float64(r.Status.AppliedIndex) }),
		gauge("quorate_shard_lag_entries", "Entries that are known here to be committed and are not applied yet.",
			func(r *Replica) float64 {
				if r.Status.CommitIndex < r.Status.AppliedIndex {
					return 0 // read one after the other
				}
				return float64(r.Status.CommitIndex - r.Status.AppliedIndex)
			}),
		gauge("quorate_shard_keys", "Keys in the shard as of what is applied here.",
			func(r *Replica) float64 { return float64(r.Keys) }),
		gauge("quorate_shard_bytes", "Bytes of keys and values of all versions kept, as of what is applied here.",
			func(r *Replica) float64 { return float64(r.Bytes) }),
		gauge("quorate_shard_disk_bytes", "Estimate of what the replica here takes on disk, after compression.",
			func(r *Replica) float64 { return float64(r.DiskBytes) }),
		gauge("quorate_shard_request_ids", "Request ids that the shard remembers.",
			func(r *Replica) float64 { return float64(r.RequestIDs) }),
		gauge("quorate_shard_frozen", "Whether the replica here is frozen, to be merged, and serves nothing.",
			func(r *Replica) float64 { return asNumber(r.Frozen) }),
		counterOf("quorate_shard_served_reads_total", "Keys and scans that the replica here answered, stale reads too.",
			func(r *Replica) float64 { return float64(r.Reads) }, "shard"),
		counterOf("quorate_shard_served_writes_total", "Transactions that the leader here applied.",
			func(r *Replica) float64 { return float64(r.Writes) }, "shard"),
	}
}

func voters(members []kv.Member) int {
	n := 0
	for _, m := range members {
		if m.Voter {
			n++
		}
	}
	return n
}

func classReadings() []reading[PeerClass] {
	gauge := func(name, help string, value func(*PeerClass) float64) reading[PeerClass] {
		return gaugeOf(name, help, value, "class")
	}
	return []reading[PeerClass]{
		gauge("quorate_peer_outgoing_connections", "Connections to other nodes that this node dialled or is dialling.",
			func(c *PeerClass) float64 { return float64(c.Outgoing) }),
		gauge("quorate_peer_incoming_connections", "Connections that other nodes dialled.",
			func(c *PeerClass) float64 { return float64(c.Incoming) }),
		gauge("quorate_peer_queue_bytes", "Bytes that wait to be written to other nodes.",
			func(c *PeerClass) float64 { return float64(c.QueueBytes) }),
		gauge("quorate_peer_calls", "Requests to other nodes without an answer yet.",
			func(c *PeerClass) float64 { return float64(c.Calls) }),
		gauge("quorate_peer_handling", "Requests of other nodes that this node has not answered yet.",
			func(c *PeerClass) float64 { return float64(c.InFlight) }),
	}
}

// Describe implements prometheus.Collector.
func (s *status) Describe(out chan<- *prometheus.Desc) {
	for _, r := range s.node {
		out <- r.desc
	}
	for _, r := range s.replica {
		out <- r.desc
	}
	for _, r := range s.class {
		out <- r.desc
	}
	out <- s.info
	out <- s.ready
	out <- s.inFlight
	out <- s.nodes
	out <- s.secrets
	out <- s.begins
	out <- s.ends
	for _, r := range s.placement {
		out <- r.desc
	}
	out <- s.changes
	out <- s.problems
}

// Collect implements prometheus.Collector.
func (s *status) Collect(out chan<- prometheus.Metric) {
	source := s.m.source.Load()
	if source == nil {
		return
	}
	snap := (*source)()
	s.m.forget(&snap)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	collect(out, s.node, &snap)
	for i := range snap.Replicas {
		if id := snap.Replicas[i].Status.ID.Shard; s.m.shards.table.has(id) {
			collect(out, s.replica, &snap.Replicas[i], decimal(id))
		}
	}
	for i := range snap.Peers {
		collect(out, s.class, &snap.Peers[i], snap.Peers[i].Class)
	}
	gauge(s.info, 1, snap.Node.ID.String(), snap.Node.Name, snap.Node.Zone)
	for _, c := range snap.Checks {
		gauge(s.ready, asNumber(c.OK), c.Name)
	}
	gauge(s.inFlight, float64(snap.InFlight.Data), "data")
	gauge(s.inFlight, float64(snap.InFlight.Control), "control")
	gauge(s.inFlight, float64(snap.InFlight.Streams), "streams")
	for i, id := range snap.Secrets {
		use := "used"
		if i > 0 {
			use = "accepted"
		}
		gauge(s.secrets, 1, id, use)
	}
	for _, c := range snap.Certificates {
		gauge(s.begins, float64(c.Begin.Unix()), c.Use)
		gauge(s.ends, float64(c.End.Unix()), c.Use)
	}
	gauge(s.inFlight, float64(snap.InFlight.Probes), "probes")
	alive, draining := 0, 0
	for _, n := range snap.Members {
		if n.Alive {
			alive++
		}
		if n.Draining {
			draining++
		}
	}
	gauge(s.nodes, float64(alive), "alive")
	gauge(s.nodes, float64(len(snap.Members)-alive), "not-alive")
	gauge(s.nodes, float64(draining), "draining")
	if p := snap.Placement; p != nil {
		collect(out, s.placement, p)
		gauge(s.changes, float64(p.Moves), string(kv.OperationMove))
		gauge(s.changes, float64(p.Splits), string(kv.OperationSplit))
		gauge(s.changes, float64(p.Merges), string(kv.OperationMerge))
		for _, severity := range []kv.Severity{kv.SeverityCritical, kv.SeverityWarning, kv.SeverityInfo} {
			gauge(s.problems, float64(p.Problems[severity]), string(severity))
		}
	}
}

func collect[T any](out chan<- prometheus.Metric, readings []reading[T], from *T, labels ...string) {
	for _, r := range readings {
		out <- prometheus.MustNewConstMetric(r.desc, r.kind, r.value(from), labels...)
	}
}

// forget lets go of the series of shards that have left this node and of nodes
// that have left the cluster (M4). That nothing is known of other nodes says
// nothing about them.
func (m *Metrics) forget(s *Snapshot) {
	held := make(map[kv.ShardID]bool, len(s.Replicas))
	for i := range s.Replicas {
		held[s.Replicas[i].Status.ID.Shard] = true
	}
	m.shards.table.keep(func(id kv.ShardID) bool { return held[id] })
	if len(s.Members) == 0 {
		return
	}
	members := make(map[kv.NodeID]bool, len(s.Members))
	for _, n := range s.Members {
		members[n.ID] = true
	}
	m.mesh.peers.keep(func(id kv.NodeID) bool { return members[id] })
}
