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
	// Remove takes another server out of the configuration, on the leader. It is no
	// error if it is not there.
	Remove(ctx context.Context, server kv.ServerID) error
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
	FrozenIndex uint64                // of the entry that froze it; 0 = it is not frozen
	FrozenInto  kv.ShardID            // which shard is to absorb it
	// Reads and Writes count what this replica has served since the process began.
	Reads, Writes uint64
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

// Actions changes a shard, through the replica of it on this node, which has to
// lead it; otherwise kv.CodeNotLeader says who does. Each refuses with
// kv.CodeConflict if the shard is not as expected, and may be repeated. See
// docs/decisions/0011.
type Actions interface {
	// AddNonvoter, Promote and Remove change the configuration by one server.
	// Promote refuses (kv.CodeUnavailable) while the server has not caught up. A
	// leader that removes itself hands over first and answers kv.CodeNotLeader.
	AddNonvoter(ctx context.Context, shard kv.ShardID, server kv.ServerID) error
	Promote(ctx context.Context, shard kv.ShardID, server kv.ServerID) error
	Remove(ctx context.Context, shard kv.ShardID, server kv.ServerID) error
	// Members gives the configuration, confirmed by a quorum after the call began,
	// and the index of it.
	Members(ctx context.Context, shard kv.ShardID) ([]kv.Member, uint64, error)
	// Split gives the part of the shard from a key on to a child with a fresh id.
	Split(ctx context.Context, s SplitOrder) error
	// Freeze readies a shard to be absorbed and gives the index of the entry. A
	// shard that is frozen for the same neighbour already gives the same index.
	Freeze(ctx context.Context, shard, into kv.ShardID, generation uint64) (index uint64, err error)
	// Absorb has shard take over its frozen right neighbour.
	Absorb(ctx context.Context, shard kv.ShardID, generation uint64, right *kvpb.ShardDescriptor, frozenIndex uint64) error
	// RefuseAbsorb raises the shard's generation, so that no Absorb that names the
	// old one counts any more.
	RefuseAbsorb(ctx context.Context, shard kv.ShardID, generation uint64) error
	// Unfreeze lets a shard go on. Only after RefuseAbsorb.
	Unfreeze(ctx context.Context, shard kv.ShardID, frozenIndex uint64) error

	// Destroy ends this node's replica, whoever leads, and removes what it holds:
	// the caller knows that the shard's configuration does not have it any more. No
	// replica, or a later incarnation, is no error.
	Destroy(ctx context.Context, id kv.ServerID) error
	// SnapshotRate bounds the bytes a second that this node sends in snapshots.
	// Zero: no bound.
	SnapshotRate(bytesPerSecond int64)
}

// SplitOrder tells a shard's leader to split.
type SplitOrder struct {
	Shard      kv.ShardID
	Generation uint64     // as expected
	Child      kv.ShardID // never used before
	// Key is where the child begins. Empty: the leader chooses, by load if ByLoad,
	// else the middle by bytes.
	Key    []byte
	ByLoad bool
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

	// The same, and new leaders of shards, for the log of events; both are called
	// while the tracker is locked.
	onLiveness func(node kv.NodeID, was, now Liveness)
	onLead     func(shard kv.ShardID, node kv.NodeID, term uint64)
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
	Actions  Actions
	Peers    Peers

	// ReplicationFactor and SplitPoints count when this node founds the cluster.
	ReplicationFactor int // 0 = 3
	SplitPoints       [][]byte
	// Config has the other settings to found with (foundingConfig): zero takes the
	// default, a negative number means zero. Its ReplicationFactor does not count.
	Config kv.ClusterConfig

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
