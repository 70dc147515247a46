package raftlog

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// fencedFS is the file system that the database is given: one that follows its
// fence.
type fencedFS struct {
	vfs.FS
	fence *fence
}

// Unwrap gives the file system below.
func (fs fencedFS) Unwrap() vfs.FS { return fs.FS }

// file opens a file for writing.
func (fs fencedFS) file(what, name string, open func() (vfs.File, error)) (vfs.File, error) {
	role := roleOf(fs.PathBase(name))
	file := vfs.NewMemFile(nil) // if it is not made; nothing is ever written to it
	err := fs.fence.change(what+" "+fs.PathBase(name), role.vital, func() error {
		opened, err := open()
		if err == nil {
			file = opened
		}
		return err
	})
	if err != nil {
		fs.fence.pause()
		return nil, err
	}
	return &fencedFile{File: file, name: fs.PathBase(name), role: role, fence: fs.fence}, nil
}

// Create makes a file. Pebble makes a marker, which names the current MANIFEST,
// right after that MANIFEST and syncs their directory once for both: a file
// system that does not keep the order of names could lose the MANIFEST and keep
// the marker, and nothing could be opened any more. So what a marker may name is
// made durable first.
func (fs fencedFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return fs.file("create", name, func() (vfs.File, error) {
		if strings.HasPrefix(fs.PathBase(name), markerPrefix) {
			if err := fs.syncDir(fs.PathDir(name)); err != nil {
				return nil, err
			}
		}
		return fs.FS.Create(name, c)
	})
}

func (fs fencedFS) syncDir(name string) error {
	dir, err := fs.FS.OpenDir(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// OpenReadWrite opens a file for writing.
func (fs fencedFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return fs.file("open", name, func() (vfs.File, error) { return fs.FS.OpenReadWrite(name, c, opts...) })
}

// ReuseForWrite renames a file and opens it for writing.
func (fs fencedFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return fs.file("reuse", newname, func() (vfs.File, error) { return fs.FS.ReuseForWrite(oldname, newname, c) })
}

// OpenDir opens a directory to be synced.
func (fs fencedFS) OpenDir(name string) (vfs.File, error) {
	file, err := fs.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &fencedFile{File: file, name: "directory", fence: fs.fence}, nil
}

// Open opens a file to be read. One that the fence kept from the disk is not
// there.
func (fs fencedFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	file, err := fs.FS.Open(name, opts...)
	if err != nil && fs.fence.err() != nil {
		fs.fence.pause()
	}
	return file, err
}

func (fs fencedFS) name(what, path string, do func() error) error {
	base := fs.PathBase(path)
	return fs.fence.change(what+" "+base, roleOf(base).vital, do)
}

// Link makes another name for a file.
func (fs fencedFS) Link(oldname, newname string) error {
	return fs.name("link", newname, func() error { return fs.FS.Link(oldname, newname) })
}

// Rename renames a file.
func (fs fencedFS) Rename(oldname, newname string) error {
	return fs.name("rename", newname, func() error { return fs.FS.Rename(oldname, newname) })
}

// Remove removes a file. That it stays is never fatal.
func (fs fencedFS) Remove(name string) error {
	return fs.fence.change("remove", false, func() error { return fs.FS.Remove(name) })
}

// RemoveAll removes a tree.
func (fs fencedFS) RemoveAll(name string) error {
	return fs.fence.change("remove", false, func() error { return fs.FS.RemoveAll(name) })
}

// MkdirAll makes directories.
func (fs fencedFS) MkdirAll(dir string, perm os.FileMode) error {
	return fs.fence.change("make directory", false, func() error { return fs.FS.MkdirAll(dir, perm) })
}

// fencedFile is a file that may be written or synced, or a directory.
type fencedFile struct {
	vfs.File
	name  string // without its directory
	role  role
	fence *fence
}

func (f *fencedFile) write(p []byte, do func() (int, error)) (int, error) {
	n := len(p)
	err := f.fence.change("write to "+f.name, f.role.vital, func() (err error) {
		if n, err = do(); err != nil && f.role.vital {
			n = len(p) // as change reports it
		}
		return err
	})
	return n, err
}

// Write writes at the end.
func (f *fencedFile) Write(p []byte) (int, error) {
	return f.write(p, func() (int, error) { return f.File.Write(p) })
}

// WriteAt writes somewhere.
func (f *fencedFile) WriteAt(p []byte, offset int64) (int, error) {
	return f.write(p, func() (int, error) { return f.File.WriteAt(p, offset) })
}

// Preallocate reserves space. A disk that is full may say so here first.
func (f *fencedFile) Preallocate(offset, length int64) error {
	return f.fence.change("extend "+f.name, f.role.vital, func() error { return f.File.Preallocate(offset, length) })
}

// sync runs a sync of any kind. One that fails is fatal, of whatever file: when
// it is tried again it can succeed although the data was dropped (L5).
func (f *fencedFile) sync(do func() error) error {
	return f.fence.change("sync "+f.name, true, func() error {
		start := time.Now()
		err := do()
		if err == nil && f.role.wal && f.fence.onSync != nil {
			f.fence.onSync(time.Since(start))
		}
		return err
	})
}

// Sync makes the file durable.
func (f *fencedFile) Sync() error { return f.sync(f.File.Sync) }

// SyncData makes the file's data durable.
func (f *fencedFile) SyncData() error { return f.sync(f.File.SyncData) }

// SyncTo begins to make a prefix durable.
func (f *fencedFile) SyncTo(length int64) (full bool, err error) {
	err = f.fence.change("sync "+f.name, true, func() (err error) {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}

// Close closes the file, also after the fence has tripped.
func (f *fencedFile) Close() error {
	err := f.File.Close()
	if err != nil && f.role.vital {
		f.fence.trip(fmt.Errorf("close %s: %w", f.name, err))
		return nil
	}
	return err
}
