package faultfs

import (
	"path/filepath"
	"slices"
	"strings"
)

// Kind is what an operation does.
type Kind uint8

// The kinds of operations: first those of the file system, then those of a file.
const (
	OpCreate Kind = iota
	OpLink
	OpOpen
	OpOpenReadWrite
	OpOpenDir
	OpRemove
	OpRemoveAll
	OpRename
	OpReuseForWrite
	OpMkdirAll
	OpLock
	OpList
	OpStat
	OpDiskUsage

	OpRead
	OpReadAt
	OpWrite
	OpWriteAt
	OpPreallocate
	OpSync
	OpSyncData
	OpSyncTo
	OpFileStat
	OpClose
	kindCount
)

// String gives the name of the method behind the kind.
func (k Kind) String() string {
	names := [kindCount]string{
		"Create", "Link", "Open", "OpenReadWrite", "OpenDir", "Remove", "RemoveAll", "Rename",
		"ReuseForWrite", "MkdirAll", "Lock", "List", "Stat", "DiskUsage",
		"Read", "ReadAt", "Write", "WriteAt", "Preallocate", "Sync", "SyncData", "SyncTo", "FileStat", "Close",
	}
	if k < kindCount {
		return names[k]
	}
	return "Kind?"
}

// Mutates reports whether the operation changes what a crash would leave behind.
func (k Kind) Mutates() bool {
	switch k {
	case OpCreate, OpLink, OpOpenReadWrite, OpRemove, OpRemoveAll, OpRename, OpReuseForWrite, OpMkdirAll,
		OpWrite, OpWriteAt, OpPreallocate, OpSync, OpSyncData, OpSyncTo:
		return true
	default:
		return false
	}
}

// Op is one operation that is about to happen.
type Op struct {
	Kind   Kind
	Path   string // of the file; the old name for OpLink, OpRename and OpReuseForWrite
	To     string // the new name for those
	Offset int64  // OpReadAt, OpWriteAt, OpPreallocate
	Bytes  int64  // length of the buffer, the range or the prefix
}

// Match chooses operations.
type Match func(Op) bool

// And chooses what both choose.
func (m Match) And(other Match) Match { return func(op Op) bool { return m(op) && other(op) } }

// Kinds chooses by kind.
func Kinds(kinds ...Kind) Match { return func(op Op) bool { return slices.Contains(kinds, op.Kind) } }

// Syncs chooses every sync that makes something durable.
func Syncs() Match { return Kinds(OpSync, OpSyncData) }

// Mutations chooses what changes the disk.
func Mutations() Match { return func(op Op) bool { return op.Kind.Mutates() } }

// PathSuffix chooses by the end of the path, or of the new name.
func PathSuffix(suffix string) Match {
	return func(op Op) bool { return strings.HasSuffix(op.Path, suffix) || strings.HasSuffix(op.To, suffix) }
}

// PathGlob chooses by a pattern of path/filepath.Match over the last element.
func PathGlob(pattern string) Match {
	return func(op Op) bool {
		for _, path := range []string{op.Path, op.To} {
			if ok, err := filepath.Match(pattern, filepath.Base(path)); ok && err == nil {
				return true
			}
		}
		return false
	}
}
