package server

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate-db/quorate/store/engine"
)

// diskFresh is how old figures of the disk may be. The control plane asks every
// second, and asking the engines is not free.
const diskFresh = 5 * time.Second

// diskUsage tells what is on the disk of the data directory.
type diskUsage struct {
	fs   engine.FS
	dir  string
	now  func() time.Time
	dbs  func() int64 // bytes of the files that the engines account for
	rest []string     // directories with few files, which are listed

	last atomic.Pointer[diskFigures]

	mu   sync.Mutex // held while reading, which a bad disk may draw out
	read time.Time  // guarded by mu: when last was read
}

// diskOf makes the figures of a node whose storage is open.
func diskOf(n *Node) *diskUsage {
	fs, dir := n.world.FS, n.config.DataDir
	return &diskUsage{
		fs: fs, dir: dir, now: n.world.Now,
		dbs:  func() int64 { return n.db.Metrics().DiskBytes + n.raftLog.Stats().DiskBytes },
		rest: []string{fs.PathJoin(dir, "bolt"), fs.PathJoin(dir, "snapshots")},
	}
}

// diskFigures are bytes: used by the data directory, free and in all on the file
// system. What cannot be told is zero.
type diskFigures struct{ UsedBytes, FreeBytes, SizeBytes int64 }

// usage gives figures that are a little old. While one caller reads them anew the
// others get what there is, so that a disk that hangs holds up only one.
func (d *diskUsage) usage() diskFigures {
	if d.mu.TryLock() {
		now := d.now()
		if age := now.Sub(d.read); d.read.IsZero() || age < 0 || age >= diskFresh {
			d.last.Store(d.figures())
			d.read = now
		}
		d.mu.Unlock()
	}
	if last := d.last.Load(); last != nil {
		return *last
	}
	return diskFigures{}
}

func (d *diskUsage) figures() *diskFigures {
	f := &diskFigures{UsedBytes: d.dbs()}
	for _, dir := range d.rest {
		f.UsedBytes += d.sizeOf(dir)
	}
	// A file system in memory has no size.
	if u, err := d.fs.GetDiskUsage(d.dir); err == nil {
		f.FreeBytes, f.SizeBytes = int64(u.AvailBytes), int64(u.TotalBytes)
	}
	return f
}

// sizeOf adds up the files in a directory and in those below it. What is not
// there, or goes away meanwhile, takes no space.
func (d *diskUsage) sizeOf(dir string) int64 {
	names, err := d.fs.List(dir)
	if err != nil {
		return 0
	}
	var sum int64
	for _, name := range names {
		path := d.fs.PathJoin(dir, name)
		info, err := d.fs.Stat(path)
		switch {
		case err != nil:
		case info.IsDir():
			sum += d.sizeOf(path)
		default:
			sum += info.Size()
		}
	}
	return sum
}
