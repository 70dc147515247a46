package raftnode

import (
	"sync"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
)

// testLogs keeps logs and records in memory; they survive their host.
type testLogs struct {
	mu      sync.Mutex
	records map[kv.ShardID]StoredRecord
	stores  map[kv.ServerID]*testLog
}

func newTestLogs() *testLogs {
	return &testLogs{records: map[kv.ShardID]StoredRecord{}, stores: map[kv.ServerID]*testLog{}}
}

func (l *testLogs) Records() ([]StoredRecord, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []StoredRecord
	for _, r := range l.records {
		all = append(all, r)
	}
	return all, nil
}

func (l *testLogs) PutRecord(r StoredRecord) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records[r.ID.Shard] = r
	return nil
}

func (l *testLogs) Tombstone(shard kv.ShardID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.records[shard]
	delete(l.stores, r.ID)
	l.records[shard] = StoredRecord{ID: r.ID, Tombstone: true}
	return nil
}

func (l *testLogs) Open(id kv.ServerID, _ LogKind) (LogStore, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stores[id] == nil {
		l.stores[id] = &testLog{InmemStore: raft.NewInmemStore()}
	}
	return l.stores[id], nil
}

func (l *testLogs) store(id kv.ServerID) *testLog {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stores[id]
}

// testLog can be made to hang or fail.
type testLog struct {
	*raft.InmemStore

	mu    sync.Mutex
	stall chan struct{} // writes wait until it is closed
	err   error         // what writes answer
}

func (l *testLog) IsMonotonic() bool { return true }
func (l *testLog) Close() error      { return nil }

func (l *testLog) before() error {
	l.mu.Lock()
	stall := l.stall
	l.mu.Unlock()
	if stall != nil {
		<-stall
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// hang makes writes wait until the function it gives is called.
func (l *testLog) hang() func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	ch := make(chan struct{})
	l.stall = ch
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.stall = nil
		close(ch)
	}
}

func (l *testLog) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *testLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

func (l *testLog) StoreLogs(logs []*raft.Log) error {
	if err := l.before(); err != nil {
		return err
	}
	if last, _ := l.LastIndex(); last != 0 && logs[0].Index != last+1 {
		panic("a gap in the log")
	}
	return l.InmemStore.StoreLogs(logs)
}

func (l *testLog) Set(key, value []byte) error {
	if err := l.before(); err != nil {
		return err
	}
	return l.InmemStore.Set(key, value)
}

func (l *testLog) SetUint64(key []byte, value uint64) error {
	if err := l.before(); err != nil {
		return err
	}
	return l.InmemStore.SetUint64(key, value)
}
