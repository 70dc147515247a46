package server

import (
	"testing"
	"time"

	"github.com/quorate-db/quorate/store/engine"
)

func TestDiskUsage(t *testing.T) {
	fs := engine.NewMemFS()
	write := func(path string, bytes int) {
		t.Helper()
		if err := fs.MkdirAll(fs.PathDir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := engine.WriteFileSynced(fs, path, make([]byte, bytes)); err != nil {
			t.Fatal(err)
		}
	}
	write("data/bolt/1-1/raft.db", 1000)
	write("data/snapshots/1", 200)
	now, asked := time.Unix(1000, 0), 0
	var again func()
	d := &diskUsage{
		fs: fs, dir: "data", now: func() time.Time { return now },
		dbs: func() int64 {
			asked++
			if again != nil {
				again()
			}
			return 30_000
		},
		rest: []string{"data/bolt", "data/snapshots", "data/absent"},
	}
	if got := d.usage().UsedBytes; got != 31_200 {
		t.Errorf("%d bytes used, want 31200", got)
	}
	write("data/snapshots/2", 50)
	now = now.Add(diskFresh - 1)
	if got := d.usage().UsedBytes; got != 31_200 || asked != 1 {
		t.Errorf("%d bytes used, read %d times: figures that are fresh are read anew", got, asked)
	}
	now = now.Add(1)
	// Who asks while another one reads is not held up.
	again = func() {
		if got := d.usage().UsedBytes; got != 31_200 {
			t.Errorf("%d bytes used while they are read, want the old 31200", got)
		}
	}
	if got := d.usage().UsedBytes; got != 31_250 || asked != 2 {
		t.Errorf("%d bytes used, read %d times, want 31250 and 2", got, asked)
	}
	again = nil
	now = now.Add(-time.Hour)
	if d.usage(); asked != 3 {
		t.Error("a clock that jumped back keeps the figures as they are")
	}
}

func TestDiskUsageOfTheOperatingSystem(t *testing.T) {
	d := &diskUsage{fs: engine.DiskFS(), dir: t.TempDir(), now: time.Now, dbs: func() int64 { return 0 }}
	if f := d.usage(); f.SizeBytes <= 0 || f.FreeBytes < 0 || f.FreeBytes > f.SizeBytes {
		t.Errorf("%+v: want the size of the file system and what is free of it", f)
	}
}
