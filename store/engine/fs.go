package engine

import "github.com/cockroachdb/pebble/v2/vfs"

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
func WriteFileSynced(fs FS, path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := fs.Create(tmp, vfs.WriteCategoryUnspecified)
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
	if err := fs.Rename(tmp, path); err != nil {
		return err
	}
	return SyncDir(fs, fs.PathDir(path))
}

// SyncDir makes the entries of a directory durable.
func SyncDir(fs FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
