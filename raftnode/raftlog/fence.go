package raftlog

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// fence stops a database whose disk has failed from going on. Pebble reports
// such a failure through Logger.Fatalf and counts on it not to return: a commit
// whose sync failed is answered with success if it does, and a flush is tried
// again. The fence makes "does not return" true of everything that matters:
// once it has tripped, nothing more reaches the disk, and commit tells every
// writer so. What was on disk at that moment is what a restart finds.
type fence struct {
	onSync func(time.Duration)

	tripped  chan struct{} // closed by trip
	released chan struct{} // closed by release

	mu    sync.Mutex
	cause error
	open  bool // released is closed
}

func newFence(onSync func(time.Duration)) *fence {
	return &fence{onSync: onSync, tripped: make(chan struct{}), released: make(chan struct{})}
}

// trip records the first cause; later ones follow from it.
func (f *fence) trip(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cause == nil {
		f.cause = cause
		close(f.tripped)
	}
}

// err gives the cause, nil if the fence has not tripped.
func (f *fence) err() error {
	select {
	case <-f.tripped:
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.cause
	default:
		return nil
	}
}

// release lets go of what admit and pause hold up.
func (f *fence) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.open {
		f.open = true
		close(f.released)
	}
}

const markerPrefix = "marker."

// isWAL tells Pebble's write-ahead log files by their name.
func isWAL(name string) bool { return strings.HasSuffix(name, ".log") }

// admit is asked before anything is changed on disk. After the fence has
// tripped it refuses; Pebble's background work is held up until release as
// well, because it would try again at once and for ever.
func (f *fence) admit(name string) error {
	cause := f.err()
	if cause != nil && !isWAL(name) {
		<-f.released
	}
	return cause
}

// createFailed slows down Pebble's background work where a file could not be
// made (the disk is full): it has no pause of its own. A write-ahead log that
// cannot be made ends in a panic inside Pebble, so that is final.
func (f *fence) createFailed(name string, err error) {
	if isWAL(name) {
		f.trip(fmt.Errorf("create write-ahead log: %w", err))
		return
	}
	timer := time.NewTimer(100 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-f.released:
	}
}

// fencedFS is the file system that the database is given.
type fencedFS struct {
	vfs.FS
	fence *fence
}

// Unwrap gives the file system below.
func (fs fencedFS) Unwrap() vfs.FS { return fs.FS }

func (fs fencedFS) file(name string, open func() (vfs.File, error)) (vfs.File, error) {
	if err := fs.fence.admit(name); err != nil {
		return nil, err
	}
	file, err := open()
	if err != nil {
		fs.fence.createFailed(name, err)
		return nil, err
	}
	return &fencedFile{File: file, name: name, fence: fs.fence}, nil
}

// Create makes a file. Pebble makes a marker, which names the current MANIFEST,
// right after that MANIFEST and syncs their directory once for both: a file
// system that does not keep the order of names could lose the MANIFEST and keep
// the marker, and nothing could be opened any more. So what a marker may name is
// made durable first.
func (fs fencedFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return fs.file(name, func() (vfs.File, error) {
		if strings.HasPrefix(fs.PathBase(name), markerPrefix) {
			if err := fs.syncDir(fs.PathDir(name)); err != nil {
				return nil, err
			}
		}
		return fs.FS.Create(name, c)
	})
}

func (fs fencedFS) syncDir(name string) error {
	dir, err := fs.OpenDir(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (fs fencedFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return fs.file(name, func() (vfs.File, error) { return fs.FS.OpenReadWrite(name, c, opts...) })
}

func (fs fencedFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return fs.file(newname, func() (vfs.File, error) { return fs.FS.ReuseForWrite(oldname, newname, c) })
}

func (fs fencedFS) OpenDir(name string) (vfs.File, error) {
	file, err := fs.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &fencedFile{File: file, name: name, fence: fs.fence}, nil
}

func (fs fencedFS) Link(oldname, newname string) error {
	if err := fs.fence.admit(newname); err != nil {
		return err
	}
	return fs.FS.Link(oldname, newname)
}

func (fs fencedFS) Rename(oldname, newname string) error {
	if err := fs.fence.admit(newname); err != nil {
		return err
	}
	return fs.FS.Rename(oldname, newname)
}

func (fs fencedFS) Remove(name string) error {
	if err := fs.fence.admit(name); err != nil {
		return err
	}
	return fs.FS.Remove(name)
}

func (fs fencedFS) RemoveAll(name string) error {
	if err := fs.fence.admit(name); err != nil {
		return err
	}
	return fs.FS.RemoveAll(name)
}

func (fs fencedFS) MkdirAll(dir string, perm os.FileMode) error {
	if err := fs.fence.admit(dir); err != nil {
		return err
	}
	return fs.FS.MkdirAll(dir, perm)
}

// fencedFile is a file that may be written or synced.
type fencedFile struct {
	vfs.File
	name  string
	fence *fence
}

func (f *fencedFile) wrote(n int, err error) (int, error) {
	if err != nil && isWAL(f.name) {
		f.fence.trip(fmt.Errorf("write to write-ahead log: %w", err))
	}
	return n, err
}

func (f *fencedFile) Write(p []byte) (int, error) {
	if err := f.fence.admit(f.name); err != nil {
		return 0, err
	}
	return f.wrote(f.File.Write(p))
}

func (f *fencedFile) WriteAt(p []byte, offset int64) (int, error) {
	if err := f.fence.admit(f.name); err != nil {
		return 0, err
	}
	return f.wrote(f.File.WriteAt(p, offset))
}

func (f *fencedFile) Preallocate(offset, length int64) error {
	if err := f.fence.admit(f.name); err != nil {
		return err
	}
	return f.File.Preallocate(offset, length)
}

// sync runs a sync of any kind. One that fails is final, of whatever file (L5).
func (f *fencedFile) sync(do func() error) error {
	if err := f.fence.admit(f.name); err != nil {
		return err
	}
	start := time.Now()
	err := do()
	if err != nil {
		f.fence.trip(fmt.Errorf("sync: %w", err))
		return err
	}
	if f.fence.onSync != nil && isWAL(f.name) {
		f.fence.onSync(time.Since(start))
	}
	return nil
}

func (f *fencedFile) Sync() error     { return f.sync(f.File.Sync) }
func (f *fencedFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *fencedFile) SyncTo(length int64) (full bool, err error) {
	err = f.sync(func() error {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}
