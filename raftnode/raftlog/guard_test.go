package raftlog

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/internal/faultfs"
	"github.com/quorate-db/quorate/kv"
)

// journal collects what hooks were told.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) want(t *testing.T, lines ...string) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	if !slices.Equal(j.lines, lines) {
		t.Fatalf("hooks told %q, want %q", j.lines, lines)
	}
}

// slowDisk is a Shared whose write-ahead log can be held up and failed, inside a
// synctest bubble.
type slowDisk struct {
	gate  *faultfs.Gate
	fail  *faultfs.Switch
	count *faultfs.Counter
	mem   *vfs.MemFS
	db    *Shared
}

func newSlowDisk(t *testing.T, match faultfs.Match, opts Options) *slowDisk {
	d := &slowDisk{
		gate: faultfs.NewGate(match), fail: faultfs.NewSwitch(match),
		count: faultfs.NewCounter(), mem: vfs.NewCrashableMem(),
	}
	db, err := OpenShared(faultfs.Wrap(d.mem, faultfs.Chain(d.gate, d.fail, d.count)), "logs", opts)
	must(t, err)
	d.db = db
	return d
}

func (d *slowDisk) store(t *testing.T, shard kv.ShardID) *Store {
	s, err := d.db.Store(shard, 1)
	must(t, err)
	return s
}

func walSyncs() faultfs.Match { return faultfs.Syncs().And(faultfs.PathSuffix(".log")) }

func TestGuardReportsAStallOnceWhileItLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told journal
		d := newSlowDisk(t, walSyncs(), Options{})
		g := Guard(d.store(t, 2), GuardOptions{
			Deadline: 2 * time.Second,
			OnStall:  func(op Op) { told.add("stall " + string(op)) },
			OnResume: func(op Op, took time.Duration) { told.add("resume " + string(op) + " " + took.String()) },
			OnError:  func(err error) { told.add("error " + err.Error()) },
		})
		must(t, g.StoreLogs(entries(1, 1, 1)))
		d.gate.Close()
		done := make(chan error)
		go func() { done <- g.StoreLogs(entries(2, 1, 1)) }()
		time.Sleep(1999 * time.Millisecond)
		synctest.Wait()
		told.want(t)
		if g.Stalled() {
			t.Fatal("stalled before the deadline")
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		told.want(t, "stall store_logs")
		if !g.Stalled() {
			t.Fatal("not stalled after the deadline")
		}
		d.gate.Open()
		must(t, <-done)
		g.Wait()
		told.want(t, "stall store_logs", "resume store_logs 6.999s")
		if g.Stalled() {
			t.Fatal("still stalled")
		}
		must(t, g.StoreLogs(entries(3, 1, 1))) // a stall is no error
		must(t, d.db.Close())
	})
}

func TestGuardEndsAtTheFirstError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told journal
		var writes []Write
		d := newSlowDisk(t, walSyncs(), Options{})
		g := Guard(d.store(t, 2), GuardOptions{
			OnStall: func(op Op) { told.add("stall") },
			OnError: func(err error) { told.add("error " + string(kv.CodeOf(err))) },
			OnWrite: func(w Write) { writes = append(writes, w) },
		})
		must(t, g.StoreLogs(entries(1, 2, 1)))
		must(t, g.SetUint64([]byte("CurrentTerm"), 3))
		wantCode(t, g.StoreLogs(entries(9, 1, 1)), kv.CodeInternal) // a gap
		told.want(t, "error internal")
		before := d.count.Count(faultfs.OpSync, faultfs.OpSyncData)
		for _, err := range []error{
			g.StoreLogs(entries(3, 1, 1)), g.StoreLog(entries(3, 1, 1)[0]), g.DeleteRange(1, 1),
			g.Set([]byte("a"), nil), g.SetUint64([]byte("a"), 1),
		} {
			wantCode(t, err, kv.CodeInternal)
			if kv.OutcomeOf(err) != kv.OutcomeNotApplied {
				t.Fatalf("outcome of %v", err)
			}
		}
		told.want(t, "error internal")
		if now := d.count.Count(faultfs.OpSync, faultfs.OpSyncData); now != before {
			t.Fatalf("%d syncs after the error", now-before)
		}
		if g.Failed() == nil || len(writes) != 3 || writes[0].Entries != 2 || writes[0].Bytes == 0 || writes[2].Err == nil {
			t.Fatalf("failed %v, writes %+v", g.Failed(), writes)
		}
		// Reads go on, and errors that the library compares come through bare.
		if err := g.GetLog(3, new(raft.Log)); err != raft.ErrLogNotFound {
			t.Fatal(err)
		}
		if _, err := g.Get([]byte("a")); err != ErrKeyNotFound {
			t.Fatal(err)
		}
		if term, err := g.GetUint64([]byte("CurrentTerm")); err != nil || term != 3 {
			t.Fatal(term, err)
		}
		last, _ := g.LastIndex()
		first, _ := g.FirstIndex()
		if first != 1 || last != 2 || !g.IsMonotonic() {
			t.Fatal(first, last)
		}
		g.Wait()
		must(t, d.db.Close())
	})
}

// TestStallsPassAHundredTimes is the stall of a follower's disk over and over.
func TestStallsPassAHundredTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newSlowDisk(t, walSyncs(), Options{})
		stalls := 0
		g := Guard(d.store(t, 2), GuardOptions{Deadline: time.Second, OnStall: func(Op) { stalls++ }})
		for i := range uint64(100) {
			d.gate.Close()
			time.AfterFunc(3*time.Second, d.gate.Open)
			must(t, g.StoreLogs(entries(i+1, 1, 1)))
		}
		g.Wait()
		if stalls != 100 {
			t.Fatalf("%d stalls", stalls)
		}
		must(t, d.db.Close())
	})
}
