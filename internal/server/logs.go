package server

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode"
	"github.com/quorate-db/quorate/raftnode/raftlog"
)

// nodeLogs gives replicas their logs: the node's shared store, which also keeps
// the records of all replicas, or a bolt file of their own.
type nodeLogs struct {
	shared *raftlog.Shared
	// boltDir holds a folder per bolt file; "" puts every log into the shared
	// store, for file systems that bolt cannot use (the simulator's).
	boltDir string
}

var _ raftnode.Logs = (*nodeLogs)(nil)

// Records implements raftnode.Logs.
func (l *nodeLogs) Records() ([]raftnode.StoredRecord, error) {
	var out []raftnode.StoredRecord
	for _, r := range l.shared.Records() {
		out = append(out, raftnode.StoredRecord{ID: r.ID, Tombstone: r.Tombstone, Data: r.Payload})
	}
	return out, nil
}

// PutRecord implements raftnode.Logs.
func (l *nodeLogs) PutRecord(r raftnode.StoredRecord) error {
	return l.shared.PutRecord(raftlog.Record{ID: r.ID, Payload: r.Data})
}

// Tombstone implements raftnode.Logs. A bolt file goes after the tombstone is on
// disk.
func (l *nodeLogs) Tombstone(shard kv.ShardID) error {
	incarnation, known := l.shared.MaxIncarnation(shard)
	if err := l.shared.Tombstone(shard); err != nil {
		return err
	}
	if l.boltDir == "" || !known {
		return nil
	}
	dir := l.boltPath(shard, incarnation)
	if _, err := os.Stat(dir); os.IsNotExist(err) {
		return nil
	}
	return raftlog.RemoveBolt(dir)
}

func (l *nodeLogs) boltPath(shard kv.ShardID, incarnation uint64) string {
	return filepath.Join(l.boltDir, fmt.Sprintf("%s-%d", shard, incarnation))
}

// Open implements raftnode.Logs.
func (l *nodeLogs) Open(id kv.ServerID, kind raftnode.LogKind) (raftnode.LogStore, error) {
	if kind == raftnode.BoltLog && l.boltDir != "" {
		return raftlog.OpenBolt(l.boltPath(id.Shard, id.Incarnation), id.Shard, id.Incarnation)
	}
	store, err := l.shared.Store(id.Shard, id.Incarnation)
	if err != nil {
		return nil, err
	}
	return sharedLog{store}, nil
}

// sharedLog lets a replica close its part of the shared store, which stays open
// for the others.
type sharedLog struct{ *raftlog.Store }

// Close implements raftnode.LogStore.
func (sharedLog) Close() error { return nil }
