package placement

import (
	"context"
	"log/slog"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// The methods on the peer port that placement handles. The numbers are those of
// raftnode/peer, which this package may not import.
const (
	MethodProbe  uint16 = 64
	MethodJoin   uint16 = 65
	MethodReport uint16 = 66
	MethodAdmin  uint16 = 67
)

// Meta is this node's replica of the meta shard. Every method may be called
// while there is none yet, and then fails with CodeNoReplica or says so.
type Meta interface {
	// Status tells how the replica stands, false while there is none. Cheap.
	Status() (kv.ReplicaStatus, bool)
	// IsLeader reports whether it leads and has applied its first entry. Cheap.
	IsLeader() bool
	// Leader gives who leads as far as is known here, zero = not known. Cheap.
	Leader() kv.NodeID
	// Propose waits until the command is applied and gives the machine's answer.
	Propose(ctx context.Context, data []byte) ([]byte, error)
	// ReadIndex returns when everything that was acknowledged before the call is
	// applied here.
	ReadIndex(ctx context.Context) error
	// AddNonvoter and Promote change the configuration by one server, on the
	// leader. Both are no error if the server already stands so.
	AddNonvoter(ctx context.Context, server kv.ServerID) error
	Promote(ctx context.Context, server kv.ServerID) error
}

// ReplicaSpec is a replica to be made on this node.
type ReplicaSpec struct {
	ID kv.ServerID
	// Members is the initial configuration, the same on every initial member.
	// Empty: it waits to be added by the shard's leader.
	Members []kv.Member
	// Descriptor is what a data shard starts with; nil for the meta shard.
	Descriptor *kvpb.ShardDescriptor
}

// ReplicaState is a local replica's status with what only its machine knows.
type ReplicaState struct {
	Status      kv.ReplicaStatus
	Descriptor  *kvpb.ShardDescriptor // range and generation; nil for the meta shard or if not known
	ConfigIndex uint64                // log index of the applied Raft configuration
	Bytes, Keys int64                 // approximate
}

// Replicas is what this node hosts.
type Replicas interface {
	// Known reports whether a record or a tombstone of this replica, or of a later
	// incarnation of it, exists. Such a replica must not be created (P4). Cheap.
	Known(id kv.ServerID) bool
	// Create makes a replica; when it returns without error, the record is durable
	// and the replica runs.
	Create(ctx context.Context, spec ReplicaSpec) error
	// States gives all local replicas, the meta shard's too.
	States() []ReplicaState
	// Transfer hands the leadership of a shard that a local replica leads to
	// another node.
	Transfer(ctx context.Context, shard kv.ShardID, to kv.NodeID) error
}

// Peers carries requests between nodes.
type Peers interface {
	// Call asks a node of this cluster.
	Call(ctx context.Context, to kv.NodeID, method uint16, req []byte) ([]byte, error)
	// Dial asks whoever listens at an address, and tells who that was.
	Dial(ctx context.Context, address string, method uint16, req []byte) (kv.NodeID, []byte, error)
	// Handle registers a handler. It must not block and replies exactly once.
	Handle(method uint16, handler func(from kv.NodeID, req []byte, reply func(resp []byte, err error)))
}

// Identity is who this data directory is.
type Identity interface {
	Node() kv.NodeID
	// ClusterID is empty before the node belongs to a cluster.
	ClusterID() string
	// SetClusterID makes the node belong to a cluster, durably. It fails if it
	// belongs to another one.
	SetClusterID(id string) error
}

// Self is how this node presents itself.
type Self struct {
	Name        string // "" = the node id
	Zone        string
	HTTPAddress string
	PeerAddress string
	Release     string
}

// Hooks let the node count what the control plane does. Any may be nil; none may
// block.
type Hooks struct {
	// OnStep is told each step that was carried out, with how it ended.
	OnStep func(step Step, took time.Duration, err error)
	// OnLiveness is told when the meta leader changes its mind about a node.
	OnLiveness func(node kv.NodeID, now Liveness)
}

// Options is all that a Control needs. Every field without a remark is required.
type Options struct {
	Self     Self
	Join     []string // peer addresses; none = this node by itself
	Expect   int      // nodes that found a cluster together; 0 or 1 with no other join address = alone
	Machine  *Machine
	Identity Identity
	Meta     Meta
	Replicas Replicas
	Peers    Peers

	// ReplicationFactor and SplitPoints count when this node founds the cluster.
	ReplicationFactor int // 0 = 3
	SplitPoints       [][]byte

	// LearnAddresses is told where nodes listen for peers. It must not block for
	// long.
	LearnAddresses func(map[kv.NodeID]string)
	// Disk tells the bytes that the data directory uses and that are free; optional.
	Disk   func() (used, free int64)
	Now    func() time.Time // optional, time.Now
	Logger *slog.Logger
	Tuning Tuning // optional
	Hooks  Hooks  // optional
}
