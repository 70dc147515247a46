package kv

import (
	"time"

	"github.com/quorate-db/quorate/kv/kvpb"
)

// Consistency is what a read asks for.
type Consistency string

const (
	// Linearizable sees every write that was acknowledged before the read began.
	Linearizable Consistency = "linearizable"
	// Stale is answered by whichever replica is nearest, from what it has.
	Stale Consistency = "stale"
)

// ReadOptions qualify a read. The zero value is a linearizable read of the
// current version.
type ReadOptions struct {
	Consistency  Consistency   // "" = Linearizable
	MaxStaleness time.Duration // with Stale: refuse replicas that heard from their leader longer ago; 0 = any
	At           Version       // read the state as of this version; 0 = current
	MinVersion   Version       // wait until the replica has applied this version
}

// Served tells who answered a request and how.
type Served struct {
	Shard       ShardID
	Node        NodeID
	Consistency Consistency // what was served; "" for writes
	LastVersion Version     // the shard's last version in the view that was read
	NowMs       int64       // and its time
}

// Reading is the answer to a read of one key. A nil Item means there is no such key.
type Reading struct {
	Item   *kvpb.Item
	Served Served
}

// ScanRequest asks for one page of a range, in order, over all shards.
type ScanRequest struct {
	Start, End []byte // [Start, End); an empty End has no bound
	Reverse    bool   // from End down to Start
	Limit      int    // items and common prefixes; 0 = ScanItemsDefault
	LimitBytes int    // keys and values; 0 = ScanBytesMax
	KeysOnly   bool
	Delimiter  []byte // fold keys that contain it after the first PrefixLen bytes
	PrefixLen  int
	Read       ReadOptions
}

// Page answers a ScanRequest. If More, the next page is the same request with
// Start (reverse: End) replaced by Resume.
type Page struct {
	Items          []*kvpb.Item
	CommonPrefixes [][]byte
	More           bool
	Resume         []byte
	Served         []Served // one per shard that was read
}

// Written is the answer to one transaction that ran. Its status is STATUS_OK or
// STATUS_CONDITION_FAILED; everything else is an error.
type Written struct {
	Result *kvpb.TxnResult
	// Replayed: the shard remembered this request id and answered again.
	Replayed bool
	Served   Served
}

// BatchResult is the answer to one operation of a batch. The operations are
// independent: each has its own outcome. Written counts only if Err is nil.
type BatchResult struct {
	Written Written
	Err     error
}
