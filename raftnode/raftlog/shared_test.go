package raftlog

import (
	"fmt"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/internal/faultfs"
	"github.com/quorate-db/quorate/kv"
)

// TestShardsShareASync: while one sync is under way the commits of all other
// shards gather, and one more sync serves them all.
func TestShardsShareASync(t *testing.T) {
	const shards = 16
	synctest.Test(t, func(t *testing.T) {
		var told int
		d := newSlowDisk(t, walSyncs(), Options{OnSync: func(time.Duration) { told++ }})
		told = 0
		before := d.count.Count(faultfs.OpSync, faultfs.OpSyncData)
		d.gate.Close()
		var writers sync.WaitGroup
		for i := range kv.ShardID(shards) {
			s := d.store(t, 2+i)
			writers.Go(func() { must(t, s.StoreLogs(entries(1, 3, 1))) })
			if i == 0 {
				d.gate.Await(1)
			}
		}
		synctest.Wait() // all the others wait for the sync after this one
		d.gate.Open()
		writers.Wait()
		if n := d.count.Count(faultfs.OpSync, faultfs.OpSyncData) - before; n != 2 || told != 2 {
			t.Fatalf("%d commits took %d syncs (OnSync told of %d), want 2", shards, n, told)
		}
		must(t, d.db.Close())
	})
}

// TestEntriesShowOnlyWhenDurable is L4, although Pebble shows a batch before it
// is synced, also where an entry is written anew after it was cut.
func TestEntriesShowOnlyWhenDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newSlowDisk(t, walSyncs(), Options{})
		s := d.store(t, 2)
		must(t, s.StoreLogs(entries(1, 5, 1)))
		must(t, s.DeleteRange(4, 5))
		d.gate.Close()
		done := make(chan error)
		go func() { done <- s.StoreLogs(entries(4, 3, 2)) }()
		synctest.Wait()
		if d.gate.Held() != 1 {
			t.Fatal("the sync is not under way")
		}
		for index := uint64(4); index <= 6; index++ {
			if err := s.GetLog(index, new(raft.Log)); err != raft.ErrLogNotFound {
				t.Fatalf("entry %d before its sync: %v", index, err)
			}
		}
		if last, _ := s.LastIndex(); last != 3 {
			t.Fatalf("last index %d before the sync", last)
		}
		d.gate.Open()
		must(t, <-done)
		var got raft.Log
		must(t, s.GetLog(5, &got))
		if got.Term != 2 {
			t.Fatalf("entry 5 is %s", brief(&got))
		}
		must(t, d.db.Close())
	})
}

func TestRecords(t *testing.T) {
	n := newSharedNode(t, Options{})
	id := func(incarnation uint64) kv.ServerID { return kv.ServerID{Node: 7, Shard: 2, Incarnation: incarnation} }
	r := Record{ID: id(3), Kind: 5, Payload: []byte("how it began")}
	must(t, n.db.PutRecord(r))
	other := Record{ID: kv.ServerID{Node: 7, Shard: 1 << 40, Incarnation: 1}}
	must(t, n.db.PutRecord(other))
	for incarnation := range uint64(6) { // there is a live one
		wantCode(t, n.db.PutRecord(Record{ID: id(incarnation)}), kv.CodeConflict)
	}
	for _, bad := range []Record{
		{ID: kv.ServerID{Node: 7, Incarnation: 1}}, {ID: kv.ServerID{Shard: 4, Incarnation: 1}},
		{ID: kv.ServerID{Node: 7, Shard: 4}, Tombstone: true},
		{ID: kv.ServerID{Node: 7, Shard: 4}, Payload: make([]byte, RecordPayloadBytesMax+1)},
	} {
		wantCode(t, n.db.PutRecord(bad), kv.CodeInvalid)
	}
	n.reopen(t)
	if got := n.db.Records(); !reflect.DeepEqual(got, []Record{r, other}) {
		t.Fatalf("records %+v", got)
	}

	s, err := n.db.Store(2, 3)
	must(t, err)
	must(t, s.StoreLogs(entries(1, 9, 1)))
	must(t, s.SetUint64([]byte("CurrentTerm"), 4))
	_, err = n.db.Store(2, 2) // an older one must have been destroyed
	wantCode(t, err, kv.CodeConflict)

	wantCode(t, n.db.Tombstone(99), kv.CodeNotFound)
	must(t, n.db.Tombstone(2))
	must(t, n.db.Tombstone(2))
	destroyed(t, s)
	for range 2 { // also after it was opened again
		_, err = n.db.Store(2, 3)
		wantCode(t, err, kv.CodeConflict)
		wantCode(t, n.db.PutRecord(Record{ID: id(3)}), kv.CodeConflict)
		wantCode(t, n.db.PutRecord(Record{ID: id(2)}), kv.CodeConflict)
		if got := n.db.Records(); !reflect.DeepEqual(got, []Record{{ID: id(3), Tombstone: true}, other}) {
			t.Fatalf("records %+v", got)
		}
		if most, ok := n.db.MaxIncarnation(2); !ok || most != 3 {
			t.Fatalf("largest incarnation %d, %t", most, ok)
		}
		n.reopen(t)
	}
	if _, ok := n.db.MaxIncarnation(3); ok {
		t.Fatal("an incarnation of a shard that never was here")
	}
	must(t, n.db.PutRecord(Record{ID: id(4)}))
	again, err := n.db.Store(2, 4)
	must(t, err)
	newTwin().check(t, again)
	if _, err := again.Get([]byte("CurrentTerm")); err != ErrKeyNotFound {
		t.Fatalf("the new incarnation has the old one's term: %v", err)
	}
	n.close(t)
}

// destroyed: a store whose replica is gone must not look like a new one.
func destroyed(t *testing.T, s *Store) {
	t.Helper()
	_, firstErr := s.FirstIndex()
	_, lastErr := s.LastIndex()
	_, getErr := s.GetUint64([]byte("CurrentTerm"))
	for _, err := range []error{
		firstErr, lastErr, getErr, s.GetLog(1, new(raft.Log)), s.StoreLogs(entries(1, 1, 1)), s.DeleteRange(1, 1),
		s.Set([]byte("a"), nil), s.SetUint64([]byte("a"), 1),
	} {
		if s, ok := err.(*kv.Error); !ok || s.Code != kv.CodeConflict {
			t.Fatalf("use of a destroyed replica: %v", err)
		}
	}
}

// TestDestroyedDataLeavesTheDisk without being read or written again, but for the
// tables at its ends. The same holds for what is cut from a log.
func TestDestroyedDataLeavesTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, err := OpenShared(vfs.NewMem(), "logs", Options{MemTableBytes: 256 << 10})
		must(t, err)
		must(t, db.PutRecord(Record{ID: kv.ServerID{Node: 1, Shard: 2, Incarnation: 1}}))
		cut, err := db.Store(3, 1)
		must(t, err)
		gone, err := db.Store(2, 1)
		must(t, err)
		for i := range uint64(500) {
			logs := entries(i+1, 1, 1)
			logs[0].Data = make([]byte, 40<<10)
			must(t, cut.StoreLogs(logs))
			must(t, gone.StoreLogs(logs))
		}
		must(t, db.db.Flush()) // what is in memory yet is not on disk
		full := db.Stats().DiskBytes
		must(t, cut.DeleteRange(1, 498))
		must(t, db.Tombstone(2))
		time.Sleep(time.Minute) // of the bubble: flush, compact, clean up
		synctest.Wait()
		if left := db.Stats().DiskBytes; full < 40<<20 || left > full/3 {
			t.Fatalf("%d bytes on disk, %d after almost all was deleted", full, left)
		}
		must(t, db.Close())
	})
}

func TestSameStoreForTheSameReplica(t *testing.T) {
	n := newSharedNode(t, Options{})
	if n.store(t, 2) != n.store(t, 2) {
		t.Fatal("two stores of one replica would not know of each other's writes")
	}
	s := n.store(t, 2)
	n.close(t)
	wantCode(t, s.StoreLogs(entries(1, 1, 1)), kv.CodeUnavailable)
	_, err := n.db.Store(3, 1)
	wantCode(t, err, kv.CodeUnavailable)
	if got := n.db.Stats(); got != (Stats{}) {
		t.Fatalf("stats after close: %+v", got)
	}
}

func TestNewerLayoutIsRefused(t *testing.T) {
	n := newSharedNode(t, Options{})
	key := []byte{tagFormat}
	b := n.db.db.NewBatch()
	must(t, b.Set(key, sealValue(key, []byte{layoutFormat + 1}), nil))
	must(t, n.db.commit(b))
	n.close(t)
	_, err := OpenShared(n.fs, "logs", Options{})
	wantCode(t, err, kv.CodeInternal)
}

// TestEntryCacheKeepsItsBound over all shards, serves the tails, and forgets what
// was cut.
func TestEntryCacheKeepsItsBound(t *testing.T) {
	const bound = 64 << 10
	db, err := OpenShared(vfs.NewMem(), "logs", Options{EntryCacheBytes: bound, MemTableBytes: 16 << 10})
	must(t, err)
	for i := range uint64(300) {
		for shard := range kv.ShardID(4) {
			s, err := db.Store(2+shard, 1)
			must(t, err)
			logs := entries(i+1, 1, 1)
			if i%50 == 7 {
				logs[0].Data = make([]byte, bound/cachedShare) // too large: passes by
			}
			must(t, s.StoreLogs(logs))
			if got := db.Stats().EntryCacheBytes; got > bound {
				t.Fatalf("%d bytes in the cache", got)
			}
		}
	}
	held := map[kv.ShardID]int{}
	for key := range db.cache.entries {
		held[kv.ShardID(key.store)]++
	}
	if len(held) != 4 || len(db.cache.entries) < 200 {
		t.Fatalf("cached per store: %v", held)
	}
	for shard := range kv.ShardID(4) {
		s, _ := db.Store(2+shard, 1)
		// What is cached is changed, to tell it from what the disk holds. (To count the
		// reads of the disk would not do: it is read in the background as well.)
		for key, e := range db.cache.entries {
			if key.store == s.cacheID {
				e.log.Term = 77
			}
		}
		for index := uint64(270); index <= 300; index++ {
			var got raft.Log
			must(t, s.GetLog(index, &got))
			if got.Term != 77 {
				t.Fatalf("entry %d of the tail of shard %d came from the disk", index, 2+shard)
			}
		}
		must(t, s.DeleteRange(200, 300))
		must(t, s.DeleteRange(1, 190))
		for index := uint64(191); index < 200; index++ {
			must(t, s.GetLog(index, new(raft.Log)))
		}
	}
	for key := range db.cache.entries {
		if key.index < 191 || key.index > 199 {
			t.Fatalf("%+v is cached and was cut", key)
		}
	}
	for shard := range kv.ShardID(4) {
		s, _ := db.Store(2+shard, 1)
		must(t, s.DeleteRange(0, 1000))
	}
	if c := db.cache; len(c.entries) != 0 || len(c.tails) != 0 || c.bytes != 0 || c.byAge != (chain{}) {
		t.Fatalf("the cache is not empty: %d entries, %d tails, %d bytes", len(c.entries), len(c.tails), c.bytes)
	}
	must(t, db.Close())
}

// TestIdleMemory: a store that does little holds little.
func TestIdleMemory(t *testing.T) {
	n := newSharedNode(t, Options{})
	for shard := range kv.ShardID(16) {
		must(t, n.store(t, 2+shard).StoreLogs(entries(1, 10, 1)))
	}
	if s := n.db.Stats(); s.MemTableBytes > 1<<20 || s.EntryCacheBytes > 1<<20 {
		t.Fatalf("idle with %+v", s)
	}
	n.close(t)
}

func ExampleShared() {
	db, err := OpenShared(vfs.NewMem(), "logs", Options{})
	if err != nil {
		panic(err)
	}
	defer db.Close()
	s, err := db.Store(2, 1)
	if err != nil {
		panic(err)
	}
	if err := s.StoreLog(&raft.Log{Index: 1, Term: 1, Data: []byte("hello")}); err != nil {
		panic(err)
	}
	var log raft.Log
	fmt.Println(s.GetLog(1, &log), string(log.Data))
	// Output: <nil> hello
}
