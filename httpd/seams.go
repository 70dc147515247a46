package httpd

import (
	"context"
	"time"

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

// Hooks are called as things happen; a nil one is skipped. They must not block.
type Hooks struct {
	// Request is called once for each request, after its response was written.
	Request func(RequestInfo)
}
