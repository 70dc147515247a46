package engine

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// fullFS has no room for tables while full is set.
type fullFS struct {
	FS
	full     atomic.Bool
	attempts atomic.Int64
}

func (f *fullFS) Create(name string, category vfs.DiskWriteCategory) (File, error) {
	if strings.HasSuffix(name, ".sst") {
		f.attempts.Add(1)
		if f.full.Load() {
			return nil, syscall.ENOSPC
		}
	}
	return f.FS.Create(name, category)
}

// TestFullDisk: found by a node whose data directory was gone. It retried its flush
// without pause, filled the disk with its log, and could not be stopped.
func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &fullFS{FS: NewMemFS()}
		e, err := OpenPebble(Options{
			FS: disk, Dir: "db", StagingDir: "staging", Split: cut,
			Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		b := e.NewBatch(false)
		b.Set([]byte("k|"), []byte("v"))
		if err := b.Commit(); err != nil {
			t.Fatal(err)
		}
		mustClose(t, b)

		disk.full.Store(true)
		if err := e.Flush(); !errors.Is(err, errFlushFailed) {
			t.Fatalf("flush to a full disk: %v", err)
		}
		if err := e.Flush(); !errors.Is(err, errFlushFailed) {
			t.Fatalf("another one: %v", err)
		}
		time.Sleep(time.Minute) // of virtual time
		if n := disk.attempts.Load(); n < 10 || n > 70 {
			t.Fatalf("%d attempts in a minute, want about one a second", n)
		}

		disk.full.Store(false)
		time.Sleep(2 * paceMax)
		if err := e.Flush(); err != nil {
			t.Fatalf("flush when there is room again: %v", err)
		}
		disk.full.Store(true)
		b = e.NewBatch(false)
		b.Set([]byte("l|"), []byte("v"))
		if err := b.Commit(); err != nil {
			t.Fatal(err)
		}
		mustClose(t, b)
		if err := e.Flush(); !errors.Is(err, errFlushFailed) {
			t.Fatalf("flush to a full disk: %v", err)
		}
		mustClose(t, e) // does not wait for a flush that cannot end
	})
}
