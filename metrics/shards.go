package metrics

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quorate-db/quorate/kv"
)

// shards counts what the replicas of this node do. The methods of Metrics below
// have the signatures of raftnode's hooks.
type shards struct {
	table *table[kv.ShardID, *shard]

	leaderships, proposals, proposalBytes, refused         *prometheus.CounterVec
	entries, logEntries, logBytes, stalls, failures        *prometheus.CounterVec
	readRounds, reads, snapshots, snapshotBytes            *prometheus.CounterVec
	commands, propose, apply, logWrite, readRound, persist *prometheus.HistogramVec
}

// shard holds the children of one shard.
type shard struct {
	lastTerm atomic.Uint64 // the newest term that this node led

	leaderships prometheus.Counter
	proposals   pair
	propose     struct {
		bytes, refused    prometheus.Counter
		commands, seconds prometheus.Observer
	}
	applied struct {
		entries prometheus.Counter
		seconds prometheus.Observer
	}
	log struct {
		entries, bytes, stalls prometheus.Counter
		seconds                prometheus.Observer
	}
	read struct {
		rounds  pair
		reads   prometheus.Counter
		seconds prometheus.Observer
	}
	taken, sent, received    pair
	sentBytes, receivedBytes prometheus.Counter
	persist                  prometheus.Observer
	failures                 prometheus.Counter
}

// pair is a counter for what worked and one for what did not.
type pair struct{ ok, failed prometheus.Counter }

func (p pair) of(ok bool) prometheus.Counter {
	if ok {
		return p.ok
	}
	return p.failed
}

func newShards(r maker) *shards {
	s := &shards{
		leaderships:   r.counter("quorate_shard_leaderships_total", "Times that this node became the shard's leader.", "shard"),
		proposals:     r.counter("quorate_shard_proposals_total", "Commands that the leader here proposed, by whether their entry was applied.", "shard", "result"),
		proposalBytes: r.counter("quorate_shard_proposal_bytes_total", "Bytes of the commands that the leader here proposed.", "shard"),
		refused:       r.counter("quorate_shard_proposals_refused_total", "Commands refused because the queue of proposals was full.", "shard"),
		entries:       r.counter("quorate_shard_applied_entries_total", "Log entries that the state machine here applied.", "shard"),
		logEntries:    r.counter("quorate_shard_log_entries_total", "Entries written to the replica's Raft log.", "shard"),
		logBytes:      r.counter("quorate_shard_log_bytes_total", "Bytes of the entries written to the replica's Raft log.", "shard"),
		stalls:        r.counter("quorate_shard_log_stalls_total", "Writes to the Raft log that passed their deadline and cost the replica its leadership.", "shard"),
		failures:      r.counter("quorate_shard_failures_total", "Replicas that stopped because storage or state machine failed.", "shard"),
		readRounds:    r.counter("quorate_shard_read_rounds_total", "Rounds of the read index, by whether a majority confirmed.", "shard", "result"),
		reads:         r.counter("quorate_shard_reads_total", "Linearizable reads that rounds of the read index answered.", "shard"),
		snapshots:     r.counter("quorate_shard_snapshots_total", "Snapshots taken, sent to a follower or received from the leader.", "shard", "action", "result"),
		snapshotBytes: r.counter("quorate_shard_snapshot_bytes_total", "Bytes of snapshots sent and received.", "shard", "direction"),
		commands:      r.histogram("quorate_shard_batch_commands", "Commands that share one log entry.", prometheus.ExponentialBuckets(1, 2, 10), "shard"),
		propose:       r.histogram("quorate_shard_propose_seconds", "Time from proposing an entry until it was applied here or failed.", shardBuckets(), "shard"),
		apply:         r.histogram("quorate_shard_apply_seconds", "Time that the state machine took for one batch of entries.", shardBuckets(), "shard"),
		logWrite:      r.histogram("quorate_shard_log_write_seconds", "Time that one synced write to the replica's Raft log took.", shardBuckets(), "shard"),
		readRound:     r.histogram("quorate_shard_read_round_seconds", "Time of one round of the read index.", shardBuckets(), "shard"),
		persist:       r.histogram("quorate_shard_snapshot_seconds", "Time that taking a snapshot, which is flushing the state, took.", shardBuckets(), "shard"),
	}
	s.table = newTable(shardsMax,
		func(id kv.ShardID) *shard { return s.resolve(decimal(id)) },
		func() *shard { return s.resolve(labelOther) },
		func(id kv.ShardID) { s.drop(decimal(id)) })
	return s
}

func (s *shards) resolve(label string) *shard {
	twin := func(v *prometheus.CounterVec, labels ...string) pair {
		return pair{v.WithLabelValues(append(labels, result(true))...), v.WithLabelValues(append(labels, result(false))...)}
	}
	c := &shard{
		leaderships:   s.leaderships.WithLabelValues(label),
		proposals:     twin(s.proposals, label),
		taken:         twin(s.snapshots, label, "taken"),
		sent:          twin(s.snapshots, label, "sent"),
		received:      twin(s.snapshots, label, "received"),
		sentBytes:     s.snapshotBytes.WithLabelValues(label, "sent"),
		receivedBytes: s.snapshotBytes.WithLabelValues(label, "received"),
		persist:       s.persist.WithLabelValues(label),
		failures:      s.failures.WithLabelValues(label),
	}
	c.propose.bytes, c.propose.refused = s.proposalBytes.WithLabelValues(label), s.refused.WithLabelValues(label)
	c.propose.commands, c.propose.seconds = s.commands.WithLabelValues(label), s.propose.WithLabelValues(label)
	c.applied.entries, c.applied.seconds = s.entries.WithLabelValues(label), s.apply.WithLabelValues(label)
	c.log.entries, c.log.bytes = s.logEntries.WithLabelValues(label), s.logBytes.WithLabelValues(label)
	c.log.stalls, c.log.seconds = s.stalls.WithLabelValues(label), s.logWrite.WithLabelValues(label)
	c.read.rounds, c.read.reads = twin(s.readRounds, label), s.reads.WithLabelValues(label)
	c.read.seconds = s.readRound.WithLabelValues(label)
	return c
}

// drop removes the series of a shard that has left the node (M4).
func (s *shards) drop(label string) {
	labels := prometheus.Labels{"shard": label}
	for _, v := range []*prometheus.CounterVec{
		s.leaderships, s.proposals, s.proposalBytes, s.refused, s.entries, s.logEntries, s.logBytes, s.stalls, s.failures,
		s.readRounds, s.reads, s.snapshots, s.snapshotBytes,
	} {
		v.DeletePartialMatch(labels)
	}
	for _, v := range []*prometheus.HistogramVec{s.commands, s.propose, s.apply, s.logWrite, s.readRound, s.persist} {
		v.DeletePartialMatch(labels)
	}
}

func (m *Metrics) shard(id kv.ServerID) *shard { return m.shards.table.get(id.Shard) }

// LeaderChanged counts when this node becomes leader, once per term.
func (m *Metrics) LeaderChanged(id kv.ServerID, term uint64, leader kv.NodeID) {
	if leader != id.Node {
		return
	}
	if s := m.shard(id); s.lastTerm.Swap(term) != term {
		s.leaderships.Inc()
	}
}

// Proposed counts an entry of so many commands and bytes that was answered.
func (m *Metrics) Proposed(id kv.ServerID, commands, bytes int, took time.Duration, ok bool) {
	s := m.shard(id)
	s.proposals.of(ok).Add(float64(commands))
	s.propose.bytes.Add(float64(bytes))
	s.propose.commands.Observe(float64(commands))
	s.propose.seconds.Observe(took.Seconds())
}

// ProposalRefused counts a command for which the queue had no room.
func (m *Metrics) ProposalRefused(id kv.ServerID) { m.shard(id).propose.refused.Inc() }

// Applied counts entries that the state machine applied.
func (m *Metrics) Applied(id kv.ServerID, entries int, took time.Duration) {
	s := m.shard(id)
	s.applied.entries.Add(float64(entries))
	s.applied.seconds.Observe(took.Seconds())
}

// LogWritten counts a synced write to a replica's log.
func (m *Metrics) LogWritten(id kv.ServerID, entries, bytes int, took time.Duration) {
	s := m.shard(id)
	s.log.entries.Add(float64(entries))
	s.log.bytes.Add(float64(bytes))
	s.log.seconds.Observe(took.Seconds())
}

// LogStalled counts when a write to the log passes its deadline.
func (m *Metrics) LogStalled(id kv.ServerID, stalled bool) {
	if stalled {
		m.shard(id).log.stalls.Inc()
	}
}

// ReadRound counts a round of the read index for so many reads.
func (m *Metrics) ReadRound(id kv.ServerID, reads int, took time.Duration, ok bool) {
	s := m.shard(id)
	s.read.rounds.of(ok).Inc()
	s.read.seconds.Observe(took.Seconds())
	if ok {
		s.read.reads.Add(float64(reads))
	}
}

// SnapshotTaken counts a snapshot that was taken here.
func (m *Metrics) SnapshotTaken(id kv.ServerID, took time.Duration, err error) {
	s := m.shard(id)
	s.taken.of(err == nil).Inc()
	s.persist.Observe(took.Seconds())
}

// SnapshotSent counts a snapshot that went to a follower, or did not get there.
func (m *Metrics) SnapshotSent(id kv.ServerID, _ kv.NodeID, bytes int64, _ time.Duration, err error) {
	s := m.shard(id)
	s.sent.of(err == nil).Inc()
	s.sentBytes.Add(float64(bytes))
}

// SnapshotReceived counts a snapshot that came from the leader, or broke off.
func (m *Metrics) SnapshotReceived(id kv.ServerID, bytes int64, _ time.Duration, err error) {
	s := m.shard(id)
	s.received.of(err == nil).Inc()
	s.receivedBytes.Add(float64(bytes))
}

// ReplicaFailed counts a replica that stopped for good.
func (m *Metrics) ReplicaFailed(id kv.ServerID, _ error) { m.shard(id).failures.Inc() }
