package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
)

// formatVersion is pinned so that a newer library does not silently write what
// an older release of ours cannot read.
const formatVersion = pebble.FormatTableFormatV6

const (
	cacheBytesDefault    = 64 << 20
	memtableBytesDefault = 16 << 20
	memtablesMax         = 4
	// l0Max is how many layers of fresh tables a read may meet before writes wait for
	// compactions. Splits and installs flush what little there is, so the layers are small
	// and come fast while a cluster grows: with the library's 12, a node's writes waited
	// for seconds.
	l0Max           = 64
	openFilesMax    = 512
	bloomBitsPerKey = 10
)

// Options of a Pebble engine. Zero fields take defaults.
type Options struct {
	FS            FS
	Dir           string // of the database itself
	StagingDir    string // for tables that are being built; emptied at open
	CacheBytes    int64  // block cache, 64 MiB; it grows as it is used
	MemtableBytes uint64 // one memtable; up to four may exist, 16 MiB
	// Split gives the length of a key's prefix, what filters work on; what remains
	// is the suffix, here of 8 bytes. See newComparer for what it must keep. nil = no
	// suffixes.
	Split  func(key []byte) int
	Logger *slog.Logger
	// OnFatal is called when the engine cannot go on, such as after a failed sync of
	// its manifest. It should end the process; if it returns, the engine panics.
	OnFatal func(error)
}

// pebbleEngine implements Engine.
type pebbleEngine struct {
	db         *pebble.DB
	opts       *pebble.Options // as given to pebble.Open; read-only
	stagingDir string
	nextTable  atomic.Uint64 // numbers the staged tables of this process
	failures   atomic.Int64
	pace       *pace
}

// OpenPebble opens the engine in o.Dir, creating it if it is not there, and
// removes tables that an earlier process staged and did not ingest.
func OpenPebble(o Options) (Engine, error) {
	if o.FS == nil || o.Dir == "" || o.StagingDir == "" || o.Logger == nil {
		return nil, errors.New("engine: FS, Dir, StagingDir and Logger must be set")
	}
	if err := emptyDir(o.FS, o.StagingDir); err != nil {
		return nil, fmt.Errorf("engine: staging directory: %w", err)
	}
	e := &pebbleEngine{stagingDir: o.StagingDir, pace: newPace()}
	cache := pebble.NewCache(orDefault(o.CacheBytes, cacheBytesDefault))
	defer cache.Unref() // the database holds its own reference
	e.opts = e.pebbleOptions(o, cache)
	db, err := pebble.Open(o.Dir, e.opts)
	if err != nil {
		return nil, fmt.Errorf("engine: open %s: %w", o.Dir, mark(err))
	}
	e.db = db
	return e, nil
}

func orDefault[T int64 | uint64](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// pebbleOptions translates our options.
func (e *pebbleEngine) pebbleOptions(o Options, cache *pebble.Cache) *pebble.Options {
	log := &logBridge{log: o.Logger.With("part", "engine"), onFatal: o.OnFatal}
	opts := &pebble.Options{
		FS:                          pacedFS{orderedFS{o.FS}, e.pace},
		Cache:                       cache,
		DisableWAL:                  true, // the Raft log is the write-ahead log
		FormatMajorVersion:          formatVersion,
		MemTableSize:                orDefault(o.MemtableBytes, memtableBytesDefault),
		MemTableStopWritesThreshold: memtablesMax,
		L0StopWritesThreshold:       l0Max,
		MaxOpenFiles:                openFilesMax,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		Logger:                      log,
	}
	if o.Split != nil {
		opts.Comparer = newComparer(o.Split)
	} else {
		opts.Comparer = newComparer(func(k []byte) int { return len(k) })
	}
	// An ingestion over a memtable then flushes it first, instead of becoming a
	// flushable that lives only in memory (DESIGN §9 rule 3).
	opts.Experimental.DisableIngestAsFlushable = func() bool { return true }
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(bloomBitsPerKey)
		opts.Levels[i].FilterType = pebble.TableFilter
	}
	opts.EventListener = &pebble.EventListener{
		BackgroundError: func(err error) {
			e.failures.Add(1)
			e.pace.fail()
			log.log.Error("background work failed, will be tried again", "error", err)
		},
		FlushEnd: func(info pebble.FlushInfo) {
			if info.Err == nil {
				e.pace.succeed()
			}
		},
		// Pebble's own default ends the process; a read that meets corruption
		// returns an error, and the replica that gets it stops.
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			log.log.Error("corruption found", "file", info.Path, "error", info.Details)
		},
		DiskSlow: func(info pebble.DiskSlowInfo) {
			log.log.Warn("disk is slow", "file", info.Path, "duration", info.Duration)
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			log.log.Warn("writes stall", "reason", info.Reason)
		},
		WriteStallEnd: func() { log.log.Info("writes go on") },
	}
	opts.EnsureDefaults()
	return opts
}

// mark gives errors that mean damaged data the mark ErrCorrupt.
func mark(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pebble.ErrNotFound):
		return ErrNotFound
	case pebble.IsCorruptionError(err):
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	default:
		return err
	}
}

func emptyDir(fs FS, dir string) error {
	if err := MkdirSynced(fs, dir); err != nil {
		return err
	}
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := fs.Remove(fs.PathJoin(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func (e *pebbleEngine) Get(key []byte) ([]byte, io.Closer, error) {
	v, c, err := e.db.Get(key)
	return v, c, mark(err)
}

func (e *pebbleEngine) NewIter(lower, upper []byte) (Iterator, error) {
	return newIter(e.db, lower, upper)
}

func (e *pebbleEngine) NewBatch(indexed bool) Batch {
	if indexed {
		return &pebbleBatch{b: e.db.NewIndexedBatch()}
	}
	return &pebbleBatch{b: e.db.NewBatch()}
}

func (e *pebbleEngine) NewSnapshot() Snapshot { return pebbleSnapshot{e.db.NewSnapshot()} }

func (e *pebbleEngine) Flush() error {
	if e.pace.delay() > 0 {
		return errFlushFailed // or it could wait for room that failing flushes do not make
	}
	failure := e.pace.nextFailure()
	done, err := e.db.AsyncFlush()
	if err != nil {
		return mark(err)
	}
	select {
	case <-done:
		return nil
	case <-failure:
		return errFlushFailed
	}
}

func (e *pebbleEngine) RangeBytes(start, end []byte) (int64, error) {
	n, err := e.db.EstimateDiskUsage(start, end)
	return int64(n), mark(err)
}

func (e *pebbleEngine) Close() error { return mark(e.db.Close()) }

func (e *pebbleEngine) Metrics() Metrics {
	m := e.db.Metrics()
	var tables int64
	for i := range m.Levels {
		tables += m.Levels[i].TablesCount
	}
	return Metrics{
		DiskBytes:        int64(m.DiskSpaceUsage()),
		MemtableBytes:    int64(m.MemTable.Size),
		Tables:           tables,
		CompactionDebt:   int64(m.Compact.EstimatedDebt),
		Flushes:          m.Flush.Count,
		Compactions:      m.Compact.Count,
		CacheHits:        m.BlockCache.Hits,
		CacheMisses:      m.BlockCache.Misses,
		ReadAmp:          m.ReadAmp(),
		BackgroundErrors: e.failures.Load(),
	}
}

type pebbleSnapshot struct{ s *pebble.Snapshot }

func (s pebbleSnapshot) Get(key []byte) ([]byte, io.Closer, error) {
	v, c, err := s.s.Get(key)
	return v, c, mark(err)
}

func (s pebbleSnapshot) NewIter(lower, upper []byte) (Iterator, error) {
	return newIter(s.s, lower, upper)
}

func (s pebbleSnapshot) Close() error { return mark(s.s.Close()) }

// pebbleBatch implements Batch. Pebble's setters only fail on a closed or
// read-only database; the first failure is kept for Commit.
type pebbleBatch struct {
	b   *pebble.Batch
	err error
}

func (b *pebbleBatch) keep(err error) {
	if err != nil && b.err == nil {
		b.err = mark(err)
	}
}

func (b *pebbleBatch) Get(key []byte) ([]byte, io.Closer, error) {
	v, c, err := b.b.Get(key)
	return v, c, mark(err)
}

func (b *pebbleBatch) NewIter(lower, upper []byte) (Iterator, error) {
	return newIter(b.b, lower, upper)
}

func (b *pebbleBatch) Set(key, value []byte)         { b.keep(b.b.Set(key, value, nil)) }
func (b *pebbleBatch) Delete(key []byte)             { b.keep(b.b.Delete(key, nil)) }
func (b *pebbleBatch) DeleteRange(start, end []byte) { b.keep(b.b.DeleteRange(start, end, nil)) }
func (b *pebbleBatch) Bytes() int                    { return b.b.Len() }

func (b *pebbleBatch) Commit() error {
	if b.err != nil {
		return b.err
	}
	return mark(b.b.Commit(pebble.NoSync))
}

func (b *pebbleBatch) Close() error { return mark(b.b.Close()) }

// iterOpener is what *pebble.DB, *pebble.Snapshot and *pebble.Batch share.
type iterOpener interface {
	NewIterWithContext(ctx context.Context, o *pebble.IterOptions) (*pebble.Iterator, error)
}

// pebbleIter implements Iterator; most methods are Pebble's own.
type pebbleIter struct{ *pebble.Iterator }

func newIter(from iterOpener, lower, upper []byte) (Iterator, error) {
	it, err := from.NewIterWithContext(context.Background(), &pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, mark(err)
	}
	return pebbleIter{it}, nil
}

func (it pebbleIter) Value() ([]byte, error) {
	v, err := it.Iterator.ValueAndErr()
	return v, mark(err)
}

func (it pebbleIter) Clone() (Iterator, error) {
	c, err := it.Iterator.Clone(pebble.CloneOptions{})
	if err != nil {
		return nil, mark(err)
	}
	return pebbleIter{c}, nil
}

func (it pebbleIter) Error() error { return mark(it.Iterator.Error()) }
func (it pebbleIter) Close() error { return mark(it.Iterator.Close()) }

// logBridge gives Pebble's messages to slog.
type logBridge struct {
	log     *slog.Logger
	onFatal func(error)
}

func (l *logBridge) Infof(format string, args ...any)  { l.log.Debug(fmt.Sprintf(format, args...)) }
func (l *logBridge) Errorf(format string, args ...any) { l.log.Error(fmt.Sprintf(format, args...)) }

// Fatalf must not return: Pebble has lost track of what is on disk.
func (l *logBridge) Fatalf(format string, args ...any) {
	err := fmt.Errorf("engine: "+format, args...)
	l.log.Error("fatal", "error", err)
	if l.onFatal != nil {
		l.onFatal(err)
	}
	panic(err)
}
