package raftlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/internal/faultfs"
	"github.com/quorate-db/quorate/kv"
)

// TestFailedSyncIsFinal: whatever fails under the write-ahead log, the writer
// learns of it, OnFatal is told once, nothing is written to any shard or to the
// disk any more, and a restart finds what had been acknowledged.
func TestFailedSyncIsFinal(t *testing.T) {
	wal := faultfs.PathSuffix(".log")
	for name, c := range map[string]struct {
		match faultfs.Match
		err   error
		code  kv.Code
	}{
		"sync":     {faultfs.Syncs().And(wal), syscall.EIO, kv.CodeInternal},
		"write":    {faultfs.Kinds(faultfs.OpWrite).And(wal), syscall.ENOSPC, kv.CodeStorageFull},
		"rotation": {faultfs.Kinds(faultfs.OpCreate, faultfs.OpReuseForWrite).And(wal), syscall.ENOSPC, kv.CodeStorageFull},
		"manifest": {faultfs.Syncs().And(faultfs.PathGlob("MANIFEST*")), syscall.EIO, kv.CodeInternal},
		"table":    {faultfs.Syncs().And(faultfs.PathSuffix(".sst")), syscall.EIO, kv.CodeInternal},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var fatal atomic.Int32
				d := newSlowDisk(t, c.match, Options{MemTableBytes: 16 << 10, OnFatal: func(err error) {
					fatal.Add(1)
					wantCode(t, err, c.code)
				}})
				failOn(t, d, c.err, c.code, &fatal)
			})
		})
	}
}

func failOn(t *testing.T, d *slowDisk, cause error, code kv.Code, fatal *atomic.Int32) {
	s, other, w := d.store(t, 2), d.store(t, 3), newTwin()
	must(t, other.StoreLogs(entries(1, 1, 1)))
	d.fail.Fail(cause, 3, 1) // once: what is tried again would succeed
	var failed error
	for next := uint64(1); failed == nil && next < 5000; next += 4 {
		logs := entries(next, 4, 1)
		if failed = s.StoreLogs(logs); failed == nil {
			w.store(logs)
		}
	}
	wantCode(t, failed, code)
	if !errors.Is(failed, cause) {
		t.Fatalf("%v does not tell the cause", failed)
	}
	synctest.Wait()
	if n := fatal.Load(); n != 1 {
		t.Fatalf("OnFatal was called %d times", n)
	}
	before := d.count.Count(faultfs.OpWrite, faultfs.OpSync, faultfs.OpSyncData, faultfs.OpCreate, faultfs.OpRemove)
	for _, err := range []error{
		s.StoreLogs(entries(1, 1, 1)), s.Set([]byte("a"), nil), other.StoreLogs(entries(2, 1, 1)),
		other.Set([]byte("a"), nil), other.DeleteRange(1, 1), d.db.PutRecord(Record{ID: kv.ServerID{Node: 1, Shard: 9}}),
	} {
		if err == nil {
			t.Fatal("a write succeeded after a failed one")
		}
	}
	_, last := w.bounds()
	if err := s.GetLog(last+1, new(raft.Log)); err != raft.ErrLogNotFound {
		t.Fatalf("entry that was not stored: %v", err)
	}
	synctest.Wait()
	if now := d.count.Count(faultfs.OpWrite, faultfs.OpSync, faultfs.OpSyncData, faultfs.OpCreate, faultfs.OpRemove); now != before {
		t.Fatalf("%d operations changed the disk after the failure", now-before)
	}
	wantCode(t, d.db.Close(), code)
	must(t, d.db.Close()) // again does nothing

	// The machine loses what was not synced, then part of it.
	for _, survive := range []int{0, 50} {
		disk := d.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: survive, RNG: rand.New(rand.NewPCG(1, 1))})
		must(t, holdsAtLeast(disk, w))
	}
}

// holdsAtLeast says whether a disk has the twin's entries for shard 2, and
// perhaps those of one more write.
func holdsAtLeast(disk vfs.FS, w *twin) error {
	db, err := OpenShared(disk, "logs", Options{})
	if err != nil {
		return err
	}
	s, err := db.Store(2, 1)
	if err != nil {
		return errors.Join(err, db.Close())
	}
	_, acknowledged := w.bounds()
	last, err := s.LastIndex()
	if err == nil && last != acknowledged && last != acknowledged+4 {
		err = fmt.Errorf("%d entries were acknowledged, %d are there", acknowledged, last)
	}
	for index := uint64(1); index <= last && err == nil; index++ {
		var got raft.Log
		if err = s.GetLog(index, &got); err == nil && !sameLog(&got, entries(index, 1, 1)[0]) {
			err = fmt.Errorf("entry %d is %s", index, brief(&got))
		}
	}
	return errors.Join(err, db.Close())
}

// TestFailureToOpen: an open that fails leaves nothing running and can be tried
// again.
func TestFailureToOpen(t *testing.T) {
	for n := range 300 {
		mem := vfs.NewMem()
		fail := faultfs.NewSwitch(faultfs.Mutations())
		fs := faultfs.Wrap(mem, fail)
		fail.Fail(syscall.EIO, n, 1)
		db, err := OpenShared(fs, "logs", Options{})
		if err == nil {
			if err := db.Close(); err == nil && fail.Fired() == 0 {
				return // beyond the last operation
			}
			continue
		}
		wantCode(t, err, kv.CodeInternal)
		fail.Heal()
		db, err = OpenShared(mem, "logs", Options{})
		if err != nil {
			t.Fatalf("open again after operation %d failed: %v", n, err)
		}
		must(t, db.Close())
	}
	t.Fatal("opening takes more operations than were tried")
}
