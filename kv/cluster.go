package kv

import "github.com/quorate-db/quorate/kv/kvpb"

// NodeInfo is a node as the cluster knows it.
type NodeInfo struct {
	ID          NodeID
	Name        string // chosen by the operator, unique; defaults to the id
	Zone        string
	HTTPAddress string // host:port that clients reach
	PeerAddress string // host:port that other nodes reach
	Release     string // the version of its binary
	Alive       bool   // has reported to the meta leader lately
	LastSeenMs  int64  // when it last did, by the meta leader's clock; 0 = not since that leader was elected
	Draining    bool
	MetaRole    Role // its role in the meta shard
	Replicas    int  // data replicas placed on it
	Leaders     int  // of which leaders
	DiskBytes   int64
	DiskFree    int64     // bytes free where its data lies; 0 = not reported
	Bytes       int64     // of the data replicas on it, approximate
	Reads       float64   // that its replicas serve in a second
	Writes      float64   // that its leaders apply in a second
	State       NodeState // "" = active
}

// NodeState says what is to become of a node.
type NodeState string

const (
	NodeActive   NodeState = "active"
	NodeDraining NodeState = "draining" // leads nothing, keeps its replicas
	NodeRemoving NodeState = "removing" // its replicas move away, then it is forgotten
)

// ShardInfo is a shard as the cluster knows it.
type ShardInfo struct {
	Descriptor *kvpb.ShardDescriptor
	Leader     NodeID // zero: none known
	Term       uint64
	Replicas   []ReplicaInfo
	Bytes      int64   // approximate, of the leader's copy
	Keys       int64   // approximate
	Reads      float64 // that its replicas serve in a second
	Writes     float64 // that its leader applies in a second
	Change     ShardChange
}

// ShardChange is what is being done to a shard now.
type ShardChange struct {
	Kind      OperationKind // move, split or merge; "" = nothing
	From, To  NodeID        // of a move; 0 = none: a replica is only added, or only removed
	Operation uint64        // that it is a part of, 0 = none
	Detail    string        // how far it is, in words
}

// ReplicaInfo is one replica of a shard as last reported.
type ReplicaInfo struct {
	ID           ServerID
	Role         Role // "" = not reported
	AppliedIndex uint64
	Failure      string
}

// ClusterInfo sums a cluster up.
type ClusterInfo struct {
	ID                string
	Nodes             int
	NodesAlive        int
	Shards            int
	ShardsWithLeader  int
	ReplicationFactor int
	MetaLeader        NodeID
}

// Check is one line of a readiness report.
type Check struct {
	Name   string
	OK     bool
	Detail string // why not, in words
}
