package raftnode

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/raftlog"
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
	raftlog.ReplicaStore
	Close() error
}

// NodeLogs keeps the logs, votes and records of a node on disk: records and
// shared logs in a raftlog.Shared, bolt files in a directory of the operating
// system. Without such a directory every log is a shared one, for file systems that
// bolt cannot use.
type NodeLogs struct {
	shared  *raftlog.Shared
	boltDir string
}

var _ Logs = (*NodeLogs)(nil)

// NewNodeLogs makes NodeLogs; boltDir may be "". The caller keeps shared and closes
// it after the host.
func NewNodeLogs(shared *raftlog.Shared, boltDir string) *NodeLogs {
	return &NodeLogs{shared: shared, boltDir: boltDir}
}

func (l *NodeLogs) boltOf(id kv.ServerID) string {
	return filepath.Join(l.boltDir, fmt.Sprintf("%s-%d", id.Shard, id.Incarnation))
}

// Records gives all records, and removes the bolt files of tombstoned ones that a
// crash has left.
func (l *NodeLogs) Records() ([]StoredRecord, error) {
	var all []StoredRecord
	for _, r := range l.shared.Records() {
		all = append(all, StoredRecord{ID: r.ID, Tombstone: r.Tombstone, Data: r.Payload})
		if r.Tombstone {
			if err := l.removeBolt(r.ID); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

func (l *NodeLogs) removeBolt(id kv.ServerID) error {
	if l.boltDir == "" {
		return nil
	}
	return raftlog.RemoveBolt(l.boltOf(id))
}

// MaxIncarnation gives the highest incarnation of a shard that there is or was a
// replica of on this node, false if there never was one. It is cheap.
func (l *NodeLogs) MaxIncarnation(shard kv.ShardID) (uint64, bool) {
	return l.shared.MaxIncarnation(shard)
}

// Hosted reports whether a replica, or a later incarnation of it, is or was on this
// node.
func (l *NodeLogs) Hosted(id kv.ServerID) bool {
	incarnation, known := l.MaxIncarnation(id.Shard)
	return known && incarnation >= id.Incarnation
}

// PutRecord writes a record.
func (l *NodeLogs) PutRecord(r StoredRecord) error {
	return l.shared.PutRecord(raftlog.Record{ID: r.ID, Payload: r.Data})
}

// Tombstone ends a replica for ever.
func (l *NodeLogs) Tombstone(shard kv.ShardID) error {
	if err := l.shared.Tombstone(shard); err != nil {
		return err
	}
	var err error
	for _, r := range l.shared.Records() {
		if r.ID.Shard == shard {
			err = errors.Join(err, l.removeBolt(r.ID))
		}
	}
	return err
}

// Open gives the log of a replica.
func (l *NodeLogs) Open(id kv.ServerID, kind LogKind) (LogStore, error) {
	if kind == BoltLog && l.boltDir != "" {
		return raftlog.OpenBolt(l.boltOf(id), id.Shard, id.Incarnation)
	}
	store, err := l.shared.Store(id.Shard, id.Incarnation)
	if err != nil {
		return nil, err
	}
	return sharedLog{store}, nil
}

// sharedLog is one replica's part of the shared log, which outlives it.
type sharedLog struct{ *raftlog.Store }

func (sharedLog) Close() error { return nil }
