package router

import (
	"context"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// Local is this node's own replicas. Its methods fail with kv.CodeNoReplica
// for a shard that this node holds no running replica of. All may be called from
// any goroutine.
type Local interface {
	// Propose has an encoded command applied and gives its encoded result. It
	// blocks until then or until ctx ends, and keeps command. Only a leader
	// proposes; others answer kv.CodeNotLeader with a hint. The error's outcome is
	// exact: OutcomeNotApplied only if the command certainly will not be applied.
	Propose(ctx context.Context, shard kv.ShardID, command []byte, versions uint32) ([]byte, error)
	// ReadIndex returns when the replica has applied everything that was
	// acknowledged before the call.
	ReadIndex(ctx context.Context, shard kv.ShardID) error
	// Read answers from what the replica has, without waiting.
	Read(shard kv.ShardID, req *kvpb.ReadRequest) (*kvpb.ReadResponse, error)
	// Leader tells who leads the shard as far as the replica knows, false if it
	// does not or if there is none. It is cheap.
	Leader(shard kv.ShardID) (kv.NodeID, bool)
	// LastContact tells how long ago the replica's state held everything that was
	// acknowledged by then, zero for the leader itself; false if that is not known,
	// or without a replica.
	LastContact(shard kv.ShardID) (time.Duration, bool)
}

// Map is this node's view of the shard map. Descriptors are shared and must not
// be changed. The view may be behind, and may have holes while it is.
type Map interface {
	// Lookup gives the shard that owns key, which may be empty.
	Lookup(key []byte) (*kvpb.ShardDescriptor, bool)
	// Overlapping gives the shards that own parts of [start, end) in ascending
	// order; an empty end has no bound.
	Overlapping(start, end []byte) []*kvpb.ShardDescriptor
	// Learn takes what a shard said about itself, if it is newer.
	Learn(*kvpb.ShardDescriptor)
}

// Peers carries requests to other nodes.
type Peers interface {
	// Call asks a node and blocks until the answer or the end of ctx, which has a
	// deadline. It owns req. Failures: kv.CodeUnavailable (not applied) if the
	// request certainly never left, kv.CodeOutcomeUnknown if it may have arrived and
	// there is no answer, otherwise the handler's own error.
	Call(ctx context.Context, node kv.NodeID, method uint16, req []byte) ([]byte, error)
	// Handle registers who serves a method. The handler must not block, owns req,
	// and calls reply exactly once, from any goroutine.
	Handle(method uint16, handler func(from kv.NodeID, req []byte, reply func(resp []byte, err error)))
}

// The methods of forwarded requests. The numbers are part of the wire format
// between nodes; raftnode/peer lists them among all others.
const (
	methodForwardRead    uint16 = 32
	methodForwardPropose uint16 = 33
)
