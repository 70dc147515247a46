package raftlog

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Options of a Shared. The zero value is good.
type Options struct {
	// MemTableBytes bounds one memtable; up to memTablesMax of them may wait for
	// the disk. They start small and grow with use. 0 = 8 MiB.
	MemTableBytes int64
	// BlockCacheBytes bounds the cache of blocks read from tables; memtables
	// count against it. 0 = 16 MiB.
	BlockCacheBytes int64
	// EntryCacheBytes bounds the newest entries of all shards together that are
	// kept in memory for replication and apply. 0 = 32 MiB.
	EntryCacheBytes int64
	// FlushDelay is how long deleted entries may go on taking space on disk
	// before a memtable is flushed for their sake. 0 = 10 s, negative = for ever.
	FlushDelay time.Duration

	Logger *slog.Logger // nil = none

	// OnFatal is told, once, why nothing can be written any more: a write or sync
	// of the write-ahead log, or a sync of any file, has failed. The store refuses
	// everything from then on and leaves the disk as it is, so the hook should
	// end the process or at least stop every replica. It runs on a goroutine of
	// the store, which Close waits for: it must not call Close and wait for it.
	OnFatal func(error)
	// BeforeCommit is called before each write, on the goroutine that writes: a
	// simulated disk takes its time there. Inside Pebble it could not, because
	// Pebble waits for a sync with mutexes held when it changes write-ahead logs.
	BeforeCommit func()
	// OnSync is told how long each sync of the write-ahead log took. It must not
	// block.
	OnSync func(took time.Duration)
}

const (
	memTablesMax           = 4
	entryCacheBytesDefault = 32 << 20
	blockCacheBytesDefault = 16 << 20
	memTableBytesDefault   = 8 << 20
	flushDelayDefault      = 10 * time.Second
)

func (o Options) withDefaults() Options {
	if o.MemTableBytes == 0 {
		o.MemTableBytes = memTableBytesDefault
	}
	if o.BlockCacheBytes == 0 {
		o.BlockCacheBytes = blockCacheBytesDefault
	}
	if o.EntryCacheBytes == 0 {
		o.EntryCacheBytes = entryCacheBytesDefault
	}
	if o.FlushDelay == 0 {
		o.FlushDelay = flushDelayDefault
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// pebbleOptions tunes Pebble for logs: entries are written once, read back
// rarely (the entry cache has the tail), and deleted by range from the front, so
// tables are left alone for as long as reads stay cheap and are then dropped
// whole.
func (o Options) pebbleOptions(fs vfs.FS, f *fence) *pebble.Options {
	p := &pebble.Options{
		FS:     fencedFS{FS: fs, fence: f},
		Logger: &bridge{logger: o.Logger, fence: f},
		// With FormatWALSyncChunks a bit flip inside the synced part of the
		// write-ahead log is told from its end; with table format 6 the footers of
		// tables have checksums too.
		FormatMajorVersion:          pebble.FormatTableFormatV6,
		MemTableSize:                uint64(o.MemTableBytes),
		MemTableStopWritesThreshold: memTablesMax,
		CacheSize:                   o.BlockCacheBytes,
		L0CompactionThreshold:       8,
		L0StopWritesThreshold:       64,
		LBaseMaxBytes:               256 << 20,
		MaxOpenFiles:                256,
	}
	// The default scheduler wakes up ten times a second to see whether more
	// compactions are allowed at once, and leaks its goroutine when Open fails. Here
	// one is allowed, always, so that there is nothing to see; this is the same
	// scheduler without that goroutine.
	p.Experimental.CompactionScheduler = pebble.NewConcurrencyLimitSchedulerWithNoPeriodicGrantingForTest()
	if o.FlushDelay > 0 {
		p.FlushDelayDeleteRange = o.FlushDelay
	}
	p.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	logger := o.Logger
	p.EventListener = &pebble.EventListener{
		BackgroundError: func(err error) { logger.Error("raft log: background work failed", "error", err) },
		// The default is Fatalf; here the reader of the bad block is told, and the
		// shards whose blocks are good go on.
		DataCorruption: func(info pebble.DataCorruptionInfo) { logger.Error("raft log: corruption", "info", info.String()) },
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			logger.Warn("raft log: writes wait for the disk", "reason", info.Reason)
		},
		WriteStallEnd: func() { logger.Warn("raft log: writes go on") },
	}
	return p
}

// bridge carries Pebble's log to slog and its fatal errors to the fence.
type bridge struct {
	logger *slog.Logger
	fence  *fence
}

// Infof implements pebble.Logger.
func (b *bridge) Infof(format string, args ...any) {
	if b.logger.Enabled(context.Background(), slog.LevelDebug) {
		b.logger.Debug("raft log: pebble", "message", fmt.Sprintf(format, args...))
	}
}

// Errorf implements pebble.Logger.
func (b *bridge) Errorf(format string, args ...any) {
	b.logger.Warn("raft log: pebble", "message", fmt.Sprintf(format, args...))
}

// Fatalf implements pebble.Logger. Unlike what Pebble expects it returns; the
// fence says why that is safe.
func (b *bridge) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	b.logger.Error("raft log: fatal", "error", err)
	b.fence.trip(err)
}
