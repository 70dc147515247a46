package metrics

import (
	"time"

	"github.com/quorate-db/quorate/kv"
)

// Snapshot is how a node stands when it is scraped.
type Snapshot struct {
	Node     NodeNames
	Replicas []Replica // that this node holds, the meta shard's too
	Store    Store
	Log      Log
	Disk     Disk
	Peers    []PeerClass
	InFlight InFlight
	Clients  Connections
	Checks   []kv.Check // of readiness
	Secrets  []string   // ids of the cluster secrets that count, that in use first
	Insecure bool       // a port beyond loopback asks for nothing, as was allowed
	// Certificates are those that this node was given, in files, one of each use.
	Certificates []Certificate

	// Cluster and Members are what this node knows of all. Members tells which
	// series of other nodes are still wanted (M4).
	Cluster kv.ClusterInfo
	Members []kv.NodeInfo
	// Placement is what the control plane has to do; nil on a node that does not lead
	// the meta shard.
	Placement *Placement
}

// Placement is what the control plane has to do.
type Placement struct {
	Moves, Splits, Merges int // under way
	Operations            int // running
	UnderReplicated       int // shards with fewer living replicas than asked for
	Leaderless            int // shards
	Problems              map[kv.Severity]int
	OldestChange          time.Duration // age of the oldest move, split or merge under way
	OldestOperation       time.Duration // age of the oldest operation that runs
	SplitBytes            int64         // a shard larger than this splits; 0 = never by size
}

// Certificate is from when to when a file of certificates counts.
type Certificate struct {
	Use        string
	Begin, End time.Time
}

// NodeNames says which node this is.
type NodeNames struct {
	ID         kv.NodeID
	Name, Zone string
}

// Replica is one replica of this node.
type Replica struct {
	Status kv.ReplicaStatus
	// Of a data shard's state machine; zero for the meta shard. Bytes counts keys
	// and values of all versions, DiskBytes is an estimate after compression.
	Keys, Bytes, DiskBytes, RequestIDs int64
	// Reads and Writes count the keys that it has read and the transactions that it has
	// proposed since the process began.
	Reads, Writes uint64
	Frozen        bool // to be merged: it serves nothing
}

// Store is the database under the state machines.
type Store struct {
	DiskBytes, MemtableBytes, CompactionDebt int64
	Tables, ReadAmplification                int64
	Flushes, Compactions                     int64 // since start
	CacheHits, CacheMisses                   int64 // since start
	BackgroundErrors                         int64 // since start
}

// Log is the shared Raft log.
type Log struct {
	DiskBytes, MemtableBytes, EntryCacheBytes int64
	ReadAmplification                         int64
}

// Disk is the file system under the data directory.
type Disk struct{ UsedBytes, FreeBytes, SizeBytes int64 } // used by the data directory; of the file system

// PeerClass is what the mesh holds for one class of connections.
type PeerClass struct {
	Class              string
	Outgoing, Incoming int // connections
	QueueBytes         int
	Calls, InFlight    int // requests of ours, and of others, without an answer
}

// InFlight counts the HTTP requests that are being served.
type InFlight struct{ Data, Control, Streams, Probes int }

// Connections counts those of clients: within the limit, and of the reserve beyond it.
// Refused counts since the start.
type Connections struct {
	Inside, Reserve int
	Refused         int64
}
