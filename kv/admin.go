package kv

import "time"

// Operation is a change that takes longer than a request: it is recorded in the
// meta shard and goes on whoever leads it.
type Operation struct {
	ID        uint64
	Kind      OperationKind
	State     OperationState
	Target    string // in words: "node n4", "shard 7"
	Node      NodeID // that it is about, 0 = none
	Shard     ShardID
	StartedMs int64 // milliseconds since the Unix epoch
	UpdatedMs int64
	// Done of Total steps are done; what a step is depends on the kind. Total 0 = not
	// known yet.
	Done, Total int64
	Detail      string // what it is doing or waiting for, in words
	Error       string // why it failed or was cancelled
	Cancellable bool
}

// OperationKind says what an operation does.
type OperationKind string

const (
	OperationRemoveNode OperationKind = "remove-node" // moves replicas off, then forgets the node
	OperationMove       OperationKind = "move"        // one replica to another node
	OperationSplit      OperationKind = "split"
	OperationMerge      OperationKind = "merge"
	OperationRebalance  OperationKind = "rebalance"
)

// OperationState says how far an operation has come. The last three are final.
type OperationState string

const (
	OperationRunning   OperationState = "running"
	OperationDone      OperationState = "done"
	OperationFailed    OperationState = "failed"
	OperationCancelled OperationState = "cancelled"
)

// Problem is something that is wrong now, in words, with what helps.
type Problem struct {
	Code     string // stable, kebab-case: "node-dead", "shard-under-replicated"
	Severity Severity
	Summary  string // one sentence
	Help     string // what to do: a command or "nothing: …"
	Node     NodeID // 0 = about none
	Shard    ShardID
	SinceMs  int64 // 0 = not known
}

// Severity of a problem.
type Severity string

const (
	SeverityCritical Severity = "critical" // requests fail or data may be lost
	SeverityWarning  Severity = "warning"  // less redundancy or balance than asked for
	SeverityInfo     Severity = "info"     // being worked on
)

// Event is something that happened in the cluster. Seq grows by one with each.
type Event struct {
	Seq    uint64
	TimeMs int64
	Kind   string // stable, kebab-case: "shard-split", "node-joined", "leader-elected"
	Node   NodeID
	Shard  ShardID
	Detail string // in words
}

// PlannedStep is one step that a rebalance would take.
type PlannedStep struct {
	Kind   string // "move-replica", "move-leader", "split", "merge", "add-replica", "remove-replica"
	Shard  ShardID
	From   NodeID // 0 = none
	To     NodeID // 0 = none
	Bytes  int64  // to be copied
	Reason string // in words
}

// ClusterConfig holds the settings that apply to the whole cluster and may be
// changed while it runs. Revision grows with each change and is its ETag.
type ClusterConfig struct {
	Revision          uint64
	ReplicationFactor int           // of data shards; 1 to 7
	DeadGrace         time.Duration // a node that is silent for so long is replaced
	SplitBytes        int64         // a shard larger than this splits; 0 = never by size
	SplitLoad         float64       // a shard with more operations a second may split; 0 = never by load
	MergeBytes        int64         // neighbours that are smaller than this together, and cold, merge; 0 = never
	AutoBalance       bool          // replicas and leaders move to even out load
	LeaderZone        string        // where leaders are preferred; "" = anywhere
	SnapshotRate      int64         // bytes a second that a node sends in snapshots; 0 = unlimited
	MovesPerNode      int           // at once, in or out
	MovesPerCluster   int           // at once
}
