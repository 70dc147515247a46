package sim

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quorate-db/quorate/internal/faultfs"
)

// errDisk is what a disk answers that was made to fail.
var errDisk = errors.New("sim: the disk fails")

// disk is one node's file system: in memory, with syncs that take time, and with
// what was not synced lost in a crash.
type disk struct {
	mem    *vfs.MemFS
	stall  *faultfs.Gate   // holds writes of the Raft log up
	errors *faultfs.Switch // fails what is written to the Raft log
	freeze freezer
	lag    syncLag
	full   atomic.Bool // it says that hardly anything is free
}

func newDisk(mem *vfs.MemFS, rng *rand.Rand, lagMax time.Duration) *disk {
	return &disk{
		mem:    mem,
		stall:  faultfs.NewGate(func(faultfs.Op) bool { return true }),
		errors: faultfs.NewSwitch(raftLogFiles.And(faultfs.Kinds(faultfs.OpWrite, faultfs.OpSync, faultfs.OpSyncData))),
		lag:    syncLag{rng: rng, max: lagMax},
	}
}

// raftLogFiles chooses the write-ahead log of the Raft log store. Errors are
// confined to it because the database of the state machines answers some of its
// own with a panic, which is right in a process and would end the simulator.
var raftLogFiles faultfs.Match = func(op faultfs.Op) bool {
	return strings.Contains(op.Path, "raftlog") && strings.HasSuffix(op.Path, ".log")
}

// fs gives the file system for a process. The freezer is innermost: an operation
// that is held up by the others has not begun.
func (d *disk) fs() vfs.FS {
	return sized{faultfs.Wrap(d.mem, faultfs.Chain(&d.lag, d.errors, &d.freeze)), d}
}

// sized is a file system in memory that says how large it is.
type sized struct {
	vfs.FS
	d *disk
}

const diskBytes = 100 << 30

// GetDiskUsage implements vfs.FS.
func (s sized) GetDiskUsage(string) (vfs.DiskUsage, error) {
	free := uint64(diskBytes / 2)
	if s.d.full.Load() {
		free = diskBytes / 100
	}
	return vfs.DiskUsage{AvailBytes: free, TotalBytes: diskBytes, UsedBytes: diskBytes - free}, nil
}

// logWrite takes the time of a write to the Raft log.
func (d *disk) logWrite() {
	d.lag.pass()
	_ = d.stall.Before(faultfs.Op{}) // never fails
}

// crash gives what is on disk if the machine loses power now: of what was not
// synced, each block survives with a probability in percent. during runs while
// nothing can be written.
func (d *disk) crash(percent int, rng *rand.Rand, during func()) *vfs.MemFS {
	d.freeze.operating.Lock()
	defer d.freeze.operating.Unlock()
	return d.crashLocked(percent, rng, during)
}

func (d *disk) crashLocked(percent int, rng *rand.Rand, during func()) *vfs.MemFS {
	during()
	return d.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
}

// syncLag makes syncs take time, so that what happens meanwhile does happen: those
// of the Raft log, and of the store's tables. Others happen with a mutex of Pebble's
// held that more goroutines want, and who waits for a mutex does not let virtual
// time pass.
type syncLag struct {
	max time.Duration
	on  atomic.Bool // off while the process starts: Pebble opens under its mutex

	mu  sync.Mutex
	rng *rand.Rand
}

// Before implements faultfs.Injector.
func (l *syncLag) Before(op faultfs.Op) error {
	if strings.HasSuffix(op.Path, ".sst") && !strings.Contains(op.Path, "raftlog") && op.Kind == faultfs.OpSync {
		l.pass()
	}
	return nil
}

// pass lets the time of one sync pass. Most are quick; one in 32 takes its time.
func (l *syncLag) pass() {
	if l.max <= 0 || !l.on.Load() {
		return
	}
	l.mu.Lock()
	limit := l.max / 8
	if l.rng.IntN(32) == 0 {
		limit = l.max
	}
	d := time.Duration(l.rng.Int64N(int64(limit) + 1))
	l.mu.Unlock()
	time.Sleep(d)
}

// freezer lets a crash happen between operations: the file system in memory
// cannot be cloned during some of them. It can be armed to call a function before
// the n-th operation from now that changes the disk.
type freezer struct {
	operating sync.RWMutex // held for reading by what changes the disk

	mu    sync.Mutex
	armed func() // called with operating held for writing
	left  int
}

// arm has f called before the n-th operation that changes the disk, nil disarms.
// It reports whether an earlier function was still armed.
func (f *freezer) arm(n int, call func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.armed != nil
	f.armed, f.left = call, n
	return was
}

func (f *freezer) due() func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.armed == nil {
		return nil
	}
	if f.left--; f.left > 0 {
		return nil
	}
	call := f.armed
	f.armed = nil
	return call
}

// Before implements faultfs.Injector.
func (f *freezer) Before(op faultfs.Op) error {
	if !op.Kind.Mutates() {
		return nil
	}
	if call := f.due(); call != nil {
		f.operating.Lock()
		call()
		f.operating.Unlock()
	}
	f.operating.RLock()
	return nil
}

// After implements faultfs.Finisher.
func (f *freezer) After(op faultfs.Op) {
	if op.Kind.Mutates() {
		f.operating.RUnlock()
	}
}
