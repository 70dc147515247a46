package httpd

import (
	"context"
	"time"

	"github.com/quorate-db/quorate/internal/access"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// Data is the data plane. Its methods may block until the context's deadline,
// may be called from any goroutine, and own the keys and values they are given.
// Errors are *kv.Error; anything else counts as a bug. The caller owns what is
// returned and does not change it.
type Data interface {
	// Get reads one key; a missing one is a Reading without an Item.
	Get(ctx context.Context, key []byte, opts kv.ReadOptions) (kv.Reading, error)
	// MultiGet reads keys, each as Get would, and answers in their order.
	MultiGet(ctx context.Context, keys [][]byte, opts kv.ReadOptions) ([]kv.Reading, error)
	// Scan reads one page of a range.
	Scan(ctx context.Context, req kv.ScanRequest) (kv.Page, error)
	// Txn applies one transaction. A nil id means that the caller will not ask
	// again. A false guard without an else branch is not an error but
	// STATUS_CONDITION_FAILED in the result.
	Txn(ctx context.Context, txn *kvpb.Txn, id *kvpb.RequestID) (kv.Written, error)
	// Batch applies independent transactions and answers in their order.
	Batch(ctx context.Context, txns []*kvpb.Txn, id *kvpb.RequestID) []kv.BatchResult
	// DeleteRange deletes the keys in [start, end), an empty end having no bound,
	// and tells how many there were, also beside an error. It is not atomic.
	DeleteRange(ctx context.Context, start, end []byte, id *kvpb.RequestID) (int, error)
}

// Cluster tells what this node knows of its cluster. Its methods answer from
// memory and do not depend on the data plane.
type Cluster interface {
	Nodes(ctx context.Context) ([]kv.NodeInfo, error)
	Shards(ctx context.Context) ([]kv.ShardInfo, error)
	Cluster(ctx context.Context) (kv.ClusterInfo, error)
}

// Admin changes the cluster. Any node serves it: what the meta leader has to do is
// passed on. What takes long is an operation, which goes on after the answer.
type Admin interface {
	// Drain takes the leaders away from a node, or lets it have some again (on =
	// false). It keeps its replicas.
	Drain(ctx context.Context, node kv.NodeID, on bool) error
	// RemoveNode moves all replicas off a node and then forgets it for ever. It
	// refuses (kv.CodeConflict) where too few nodes would be left.
	RemoveNode(ctx context.Context, node kv.NodeID) (kv.Operation, error)
	// Split splits a shard at key, or where its leader likes if key is empty.
	Split(ctx context.Context, shard kv.ShardID, key []byte) (kv.Operation, error)
	// Merge merges a shard with its right neighbour.
	Merge(ctx context.Context, shard kv.ShardID) (kv.Operation, error)
	// Move moves a shard's replica from one node to another.
	Move(ctx context.Context, shard kv.ShardID, from, to kv.NodeID) (kv.Operation, error)
	// TransferLeader hands a shard's leadership to the replica on a node.
	TransferLeader(ctx context.Context, shard kv.ShardID, to kv.NodeID) error
	// Rebalance gives the steps that even out replicas and load. Unless dryRun it
	// begins with them: the operation's ID is then not zero.
	Rebalance(ctx context.Context, dryRun bool) ([]kv.PlannedStep, kv.Operation, error)
	// Problems tells what is wrong, the worst first.
	Problems(ctx context.Context) ([]kv.Problem, error)
	// Events gives up to limit events after a sequence number, the oldest first.
	Events(ctx context.Context, after uint64, limit int) ([]kv.Event, error)
	// Operations gives those under way and the last that ended, the newest first.
	Operations(ctx context.Context) ([]kv.Operation, error)
	// Operation gives one; kv.CodeNotFound if it is unknown or long over.
	Operation(ctx context.Context, id uint64) (kv.Operation, error)
	// Cancel ends an operation before its end, where it can be (kv.CodeConflict).
	Cancel(ctx context.Context, id uint64) (kv.Operation, error)
	// Config gives the settings of the cluster.
	Config(ctx context.Context) (kv.ClusterConfig, error)
	// SetConfig replaces the settings, if their revision is still the one in c
	// (kv.CodeConditionFailed otherwise), and gives them as they are then.
	SetConfig(ctx context.Context, c kv.ClusterConfig) (kv.ClusterConfig, error)
}

// Access tells which tokens count. Its method is called for every request.
type Access interface {
	// Table gives the tokens as this node knows them. kv.CodeUnavailable: it has not
	// heard from the cluster for so long that they may have changed.
	Table() (*access.Table, error)
}

// Tokens makes and revokes tokens. Any node serves it.
type Tokens interface {
	// CreateToken adds a token. Its order is checked by kv.TokenOrder.Validate.
	CreateToken(ctx context.Context, order kv.TokenOrder) (kv.Token, error)
	// RevokeToken takes one away; kv.CodeNotFound if there is none, kv.CodeConflict if
	// it is the last that may administer.
	RevokeToken(ctx context.Context, id string) (kv.Token, error)
	// Tokens gives all, by id.
	Tokens(ctx context.Context) ([]kv.Token, error)
}

// Audit reads what the nodes have written down of requests.
type Audit interface {
	// Audit gives the newest entries. A node that does not answer is no error but a gap
	// in the page, unless it is the only one that is asked (kv.CodeUnavailable).
	Audit(ctx context.Context, q kv.AuditQuery) (kv.AuditPage, error)
}

// Health answers the probes. Both methods must be quick.
type Health interface {
	// Live is nil unless the process can only be helped by a restart.
	Live() error
	// Ready lists what has to be true for this node to serve.
	Ready(ctx context.Context) []kv.Check
}

// RequestInfo describes one request that was answered.
type RequestInfo struct {
	Route    string // the pattern, "" where none matched
	Method   string
	Status   int
	Code     kv.Code    // of the problem, "" for a success
	Outcome  kv.Outcome // of the problem
	Duration time.Duration
	BytesIn  int64 // of the body, as read
	BytesOut int64 // of the body, as written
}

// AuditInfo is a request that was denied, or changed the cluster or tried to. There
// are no keys, values or tokens in it.
type AuditInfo struct {
	Token   string // id of the caller's, "" if it is not known
	Name    string // of that token
	Method  string
	Route   string // the pattern
	Target  string // the id in the path, or of the token that was made
	From    string // the address of the other end of the connection
	Status  int
	Code    kv.Code // of the problem, "" for a success
	Outcome kv.Outcome
}

// Hooks are called as things happen; a nil one is skipped. They must not block.
type Hooks struct {
	// Request is called once for each request, after its response was written.
	Request func(RequestInfo)
	// Audit is called for each request that was denied or that administers.
	Audit func(AuditInfo)
}
