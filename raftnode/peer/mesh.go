// Package peer carries messages between nodes: one port per node for the Raft
// messages of all shards, forwarded requests and snapshots. It knows frames,
// connections and deadlines, and nothing of Raft.
package peer

import (
	"context"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// Method names what a request asks for. The numbers are part of the wire format.
type Method uint16

// The methods, by who handles them.
const (
	// raftnode
	MethodAppendEntries Method = 1
	MethodRequestVote   Method = 2
	MethodPreVote       Method = 3
	MethodTimeoutNow    Method = 4
	MethodSnapshotChunk Method = 5
	MethodTerms         Method = 6 // read index, step 3: what is your term of these shards?
	MethodReadIndex     Method = 7 // a follower asks its leader for an index
	MethodClock         Method = 8 // what does your clock say?

	// router
	MethodForwardRead    Method = 32
	MethodForwardPropose Method = 33

	// placement
	MethodProbe  Method = 64 // who are you, which cluster, blank?
	MethodJoin   Method = 65
	MethodReport Method = 66
	MethodAdmin  Method = 67

	// internal/server
	MethodAudit Method = 96 // what is the newest in your audit log?
)

// frameOverheadMax is what a frame adds to its payload, with room to grow.
const frameOverheadMax = 64

// PayloadBytesMax bounds a request and an answer. Send refuses a larger request
// with kv.CodeTooLarge; a larger answer becomes that error with an unknown outcome.
const PayloadBytesMax = kv.FrameBytesMax - frameOverheadMax

// Class says which connection to a peer carries a method, so that large
// transfers do not delay heartbeats.
type Class uint8

const (
	ClassRaft Class = iota
	ClassData
	ClassControl
	ClassBulk
	classCount
)

// String gives the name that logs and metrics use.
func (c Class) String() string {
	switch c {
	case ClassRaft:
		return "raft"
	case ClassData:
		return "data"
	case ClassControl:
		return "control"
	case ClassBulk:
		return "bulk"
	default:
		return "unknown"
	}
}

// ClassOf gives the class of a method.
func ClassOf(m Method) Class {
	switch {
	case m == MethodSnapshotChunk:
		return ClassBulk
	case m < 32:
		return ClassRaft
	case m < 64:
		return ClassData
	default:
		return ClassControl
	}
}

// OpenTo reports whether a method may be called by a node that is not (yet) a
// member of this cluster.
func OpenTo(m Method) bool { return m == MethodProbe || m == MethodJoin }

// Handler serves one request. It runs on the goroutine that reads the
// connection, in the order of arrival within a class, and must not block:
// whatever may wait goes to a queue or goroutine that the handler's owner
// bounds. It must call reply exactly once, from any goroutine; err travels as a
// kv.Error. The handler owns req.
type Handler func(from kv.NodeID, req []byte, reply func(resp []byte, err error))

// Mesh carries requests and their answers between nodes. It promises little: a
// request may be lost, late or overtaken, and then done gets an error although the
// peer may have acted. But it arrives once at most: what may have been written to a
// connection is never sent again. A forwarded write that is answered to be not
// applied relies on that; of two copies one may be refused and the other applied.
// (What is Raft's own bears copies, and in the simulator gets them.)
type Mesh interface {
	// Self is this node.
	Self() kv.NodeID

	// Handle registers the handler of a method; all of it before Start.
	Handle(m Method, h Handler)

	// Send asks a peer and never blocks. The mesh owns req until done is called;
	// done is called exactly once, on a goroutine of the mesh or of the caller, and
	// must not block. Failures: kv.CodeUnavailable (outcome not-applied) if the
	// request certainly never left; kv.CodeOutcomeUnknown if it may have arrived
	// and no answer came by the deadline or the connection broke; otherwise the
	// handler's own error.
	Send(to kv.NodeID, m Method, req []byte, deadline time.Time, done func(resp []byte, err error))

	// Dial asks whoever listens at an address, for methods that are OpenTo
	// strangers. It tells which node answered.
	Dial(ctx context.Context, address string, m Method, req []byte) (kv.NodeID, []byte, error)

	// OnUnreachable registers a callback for the moment when a peer's host
	// actively refuses connections or resets one: its process is gone, though it
	// may be back at once. Called without blocking, at most once per event.
	OnUnreachable(func(kv.NodeID))
}

// Call is Send for callers that wait. The context must have a deadline; without
// one, kv.RequestTimeoutMax applies.
func Call(ctx context.Context, m Mesh, to kv.NodeID, method Method, req []byte) ([]byte, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(kv.RequestTimeoutMax)
	}
	type answer struct {
		resp []byte
		err  error
	}
	ch := make(chan answer, 1)
	m.Send(to, method, req, deadline, func(resp []byte, err error) { ch <- answer{resp, err} })
	select {
	case a := <-ch:
		return a.resp, a.err
	case <-ctx.Done():
		return nil, kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown, "call to node %s: %w", to, ctx.Err())
	}
}
