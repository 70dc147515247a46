package engine

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// FS is the file system that an engine lives on.
type FS = vfs.FS

// File is an open file of an FS.
type File = vfs.File

// MemFS is a file system in memory; its crashable form can be cloned as a crash
// would leave it.
type MemFS = vfs.MemFS

// CrashCloneCfg says how much of what was not synced a crash keeps.
type CrashCloneCfg = vfs.CrashCloneCfg

// DiskFS is the operating system's file system.
func DiskFS() FS { return vfs.Default }

// NewMemFS makes an empty file system in memory.
func NewMemFS() *MemFS { return vfs.NewMem() }

// NewCrashableMemFS makes an empty file system in memory that has CrashClone.
func NewCrashableMemFS() *MemFS { return vfs.NewCrashableMem() }

// WriteFileSynced replaces the file at path by data, whole or not at all, and
// returns when it is durable. The directory must exist.
func WriteFileSynced(fsys FS, path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := fsys.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := fsys.Rename(tmp, path); err != nil {
		return err
	}
	return SyncDir(fsys, fsys.PathDir(path))
}

// SyncDir makes the entries of a directory durable.
func SyncDir(fsys FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

// MkdirSynced makes a directory and what is missing above it, and returns when
// their entries are durable. The entry of dir itself is synced even if it was
// there: whoever made it may not have lived to do so.
func MkdirSynced(fsys FS, dir string) error {
	parents := []string{fsys.PathDir(dir)}
	for {
		last := parents[len(parents)-1]
		above := fsys.PathDir(last)
		if above == last {
			break
		}
		if _, err := fsys.Stat(last); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		parents = append(parents, above)
	}
	if err := fsys.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, parent := range parents {
		if err := SyncDir(fsys, parent); err != nil {
			return err
		}
	}
	return nil
}

// orderedFS makes the names in a directory durable before it creates a marker.
// Pebble creates a manifest and then the marker that points to it, and syncs the
// directory once for both: a disk that keeps the second name and loses the first
// leaves a database that cannot be opened. The crash tests find that.
type orderedFS struct{ FS }

const markerPrefix = "marker."

func (o orderedFS) Create(name string, category vfs.DiskWriteCategory) (File, error) {
	if strings.HasPrefix(o.PathBase(name), markerPrefix) {
		if err := SyncDir(o.FS, o.PathDir(name)); err != nil {
			return nil, err
		}
	}
	return o.FS.Create(name, category)
}

// Unwrap implements vfs.FS.
func (o orderedFS) Unwrap() FS { return o.FS }
