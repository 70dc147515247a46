package raftnode

import (
	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
)

// Logs keeps the Raft logs, votes and records of a node's replicas. Its methods
// may be called from any goroutine.
type Logs interface {
	// Records gives every record that was ever put, tombstones too, the newest
	// incarnation of each shard.
	Records() ([]StoredRecord, error)
	// PutRecord writes a record and returns when it is on disk. It refuses if a
	// record or a tombstone of the shard has the same or a higher incarnation.
	PutRecord(StoredRecord) error
	// Tombstone marks the shard's record as destroyed, returns when that is on
	// disk, and then removes the replica's log and votes.
	Tombstone(kv.ShardID) error
	// Open gives the log and the votes of a replica whose record was put. It is
	// called once per replica and process; Host closes what it opened.
	Open(kv.ServerID, LogKind) (LogStore, error)
}

// StoredRecord is a Record as Logs keeps it.
type StoredRecord struct {
	ID        kv.ServerID
	Tombstone bool
	Data      []byte // Record's own encoding; empty for a tombstone
}

// LogStore is a replica's log and votes. Each write is on disk when it returns,
// and no index is left out: IsMonotonic gives true.
type LogStore interface {
	raft.LogStore
	raft.StableStore
	raft.MonotonicLogStore
	Close() error
}
