package raftlog

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
)

// appender stores what is handed to it as a Raft leader does: one StoreLogs at a
// time, and what arrives meanwhile goes into the next, up to 64 entries.
type appender struct {
	store ReplicaStore
	queue chan chan<- struct{}
	next  uint64
}

func (a *appender) run(b *testing.B, commits *atomic.Int64, data []byte) {
	for first := range a.queue {
		waiting := []chan<- struct{}{first}
	gather:
		for len(waiting) < 64 {
			select {
			case w, ok := <-a.queue:
				if !ok {
					break gather
				}
				waiting = append(waiting, w)
			default:
				break gather
			}
		}
		logs := make([]*raft.Log, len(waiting))
		for i := range logs {
			a.next++
			logs[i] = &raft.Log{Index: a.next, Term: 1, Data: data, AppendedAt: time.Now()}
		}
		if err := a.store.StoreLogs(logs); err != nil {
			b.Error(err)
		}
		commits.Add(1)
		for _, w := range waiting {
			w <- struct{}{}
		}
	}
}

// BenchmarkStoreLogs: 64 writers spread over shards, on a real disk.
func BenchmarkStoreLogs(b *testing.B) {
	for _, shards := range []int{1, 16} {
		b.Run(fmt.Sprintf("shared/shards=%d", shards), func(b *testing.B) {
			var syncs atomic.Int64
			db, err := OpenShared(vfs.Default, filepath.Join(b.TempDir(), "logs"), Options{
				OnSync: func(time.Duration) { syncs.Add(1) },
			})
			if err != nil {
				b.Fatal(err)
			}
			commits := benchStores(b, shards, func(shard kv.ShardID) ReplicaStore {
				s, err := db.Store(shard, 1)
				if err != nil {
					b.Fatal(err)
				}
				return s
			})
			b.ReportMetric(float64(syncs.Load())/float64(commits), "syncs/commit")
			if err := db.Close(); err != nil {
				b.Fatal(err)
			}
		})
		b.Run(fmt.Sprintf("bolt/shards=%d", shards), func(b *testing.B) {
			n := newBoltNode(b.TempDir())
			benchStores(b, shards, func(shard kv.ShardID) ReplicaStore { return n.store(b, shard) })
			n.close(b)
		})
	}
}

// benchStores gives the number of commits.
func benchStores(b *testing.B, shards int, open func(kv.ShardID) ReplicaStore) int64 {
	const writers = 64
	var commits, left atomic.Int64
	var loops, running sync.WaitGroup
	appenders := make([]*appender, shards)
	data := make([]byte, 128)
	for i := range appenders {
		a := &appender{store: open(kv.ShardID(i + 2)), queue: make(chan chan<- struct{}, writers)}
		appenders[i] = a
		loops.Go(func() { a.run(b, &commits, data) })
	}
	left.Store(int64(b.N))
	b.ResetTimer()
	for w := range writers {
		running.Go(func() {
			done := make(chan struct{}, 1)
			for left.Add(-1) >= 0 {
				appenders[w%shards].queue <- done
				<-done
			}
		})
	}
	running.Wait()
	b.StopTimer()
	for _, a := range appenders {
		close(a.queue)
	}
	loops.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(float64(b.N)/float64(commits.Load()), "entries/commit")
	return commits.Load()
}

// BenchmarkGetLog reads the tail from the cache, and older entries from tables.
func BenchmarkGetLog(b *testing.B) {
	for _, cached := range []bool{true, false} {
		b.Run(fmt.Sprintf("cached=%t", cached), func(b *testing.B) {
			opts := Options{}
			if !cached {
				opts.EntryCacheBytes = 1
			}
			db, err := OpenShared(vfs.NewMem(), "logs", opts)
			if err != nil {
				b.Fatal(err)
			}
			s, err := db.Store(2, 1)
			if err != nil {
				b.Fatal(err)
			}
			for i := range uint64(1000) {
				if err := s.StoreLogs(entries(i*10+1, 10, 1)); err != nil {
					b.Fatal(err)
				}
			}
			if err := db.db.Flush(); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			var log raft.Log
			for i := 0; b.Loop(); i++ {
				if err := s.GetLog(uint64(i%10000)+1, &log); err != nil {
					b.Fatal(err)
				}
			}
			if err := db.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
