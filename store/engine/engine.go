// Package engine is the ordered key-value store under the state machines: a
// small interface, and its implementation on Pebble with the write-ahead log
// off. It is the only place outside the Raft log that knows Pebble.
//
// What the layers above may rely on, and the crash tests of package store check:
//
//	E1  A batch becomes visible, and survives a crash, whole or not at all.
//	E2  After a crash the store holds the effects of a prefix of the batches in
//	    the order of their commits (DESIGN §9 rule 3).
//	E3  When Flush returns, that prefix includes every batch committed before the
//	    call.
//	E4  An ingestion becomes visible whole or not at all. It may be durable before
//	    batches that were committed earlier, so it may only write where nothing
//	    refers to yet.
package engine

import (
	"errors"
	"io"
)

var (
	// ErrNotFound is returned by Get for a key that is not there.
	ErrNotFound = errors.New("engine: not found")
	// ErrCorrupt marks reads that met damaged files. The store must not be
	// trusted any further.
	ErrCorrupt = errors.New("engine: corrupt")
)

// Reader reads one consistent state: the newest for an Engine, a fixed one for a
// Snapshot. Any goroutine may call it.
type Reader interface {
	// Get gives a key's value, valid until the closer is closed, or ErrNotFound.
	Get(key []byte) ([]byte, io.Closer, error)
	// NewIter opens an iterator over [lower, upper) as of now. It must be closed.
	NewIter(lower, upper []byte) (Iterator, error)
}

// Iterator walks keys in order. It is used by one goroutine at a time. Key and
// value belong to the iterator and are valid until it moves.
type Iterator interface {
	First() bool
	Last() bool
	// SeekGE goes to the first key at or above key.
	SeekGE(key []byte) bool
	// SeekPrefixGE is SeekGE for callers who only want keys that share the prefix
	// of key (Options.Split); it may use filters and must not be moved out of that
	// prefix.
	SeekPrefixGE(key []byte) bool
	// SeekLT goes to the last key below key.
	SeekLT(key []byte) bool
	Next() bool
	Prev() bool
	Key() []byte
	// Value gives the value at the position, or an error if it cannot be read.
	Value() ([]byte, error)
	// SetBounds changes the bounds; the position is lost.
	SetBounds(lower, upper []byte)
	// Error tells why a move returned false, nil if there was nothing more.
	Error() error
	// Clone opens another iterator over the same state and bounds, not positioned.
	Clone() (Iterator, error)
	Close() error
}

// Snapshot is a fixed state.
type Snapshot interface {
	Reader
	Close() error
}

// Batch collects changes and commits them at once. It copies what it is given.
// An indexed batch is also a Reader of the engine's state with its own changes
// on top; iterators see the changes made before they were opened.
type Batch interface {
	Reader
	Set(key, value []byte)
	Delete(key []byte)
	// DeleteRange removes [start, end).
	DeleteRange(start, end []byte)
	// Bytes tells how large the batch has become.
	Bytes() int
	// Commit makes the changes visible. They are durable after the next Flush.
	Commit() error
	// Close releases the batch, committed or not.
	Close() error
}

// Ingestion writes sorted tables beside the store and takes them over at once.
type Ingestion interface {
	// Add appends a key above all earlier ones.
	Add(key, value []byte) error
	// Commit makes all of it visible (E4). Only after Commit is Close a no-op.
	Commit() error
	// Close abandons what was not committed and removes its files.
	Close() error
}

// Engine is an open store.
type Engine interface {
	Reader
	// NewBatch opens a batch; indexed ones cost more.
	NewBatch(indexed bool) Batch
	NewSnapshot() Snapshot
	NewIngestion() (Ingestion, error)
	// Flush returns when everything committed before the call is durable. An error
	// says that it is not yet; the engine goes on trying.
	Flush() error
	// RangeBytes estimates the bytes on disk of [start, end).
	RangeBytes(start, end []byte) (int64, error)
	Metrics() Metrics
	// Close stops background work and waits for it. Everything else that was
	// opened from the engine must have been closed.
	Close() error
}

// Metrics are figures of the whole engine.
type Metrics struct {
	DiskBytes        int64 // of all files
	MemtableBytes    int64
	Tables           int64
	CompactionDebt   int64 // bytes that compactions still have to move
	Flushes          int64
	Compactions      int64
	CacheHits        int64
	CacheMisses      int64
	ReadAmp          int
	BackgroundErrors int64 // failed flushes and compactions, each tried again
}
