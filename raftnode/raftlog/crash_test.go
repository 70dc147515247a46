package raftlog

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quorate-db/quorate/internal/faultfs"
	"github.com/quorate-db/quorate/kv"
)

// shardState is what a node must hold of one shard.
type shardState struct {
	record Record // zero: none
	twin   *twin  // of the record's incarnation
}

// diff says how what is on disk differs from the state.
func (st *shardState) diff(db *Shared, shard kv.ShardID) error {
	var got Record
	for _, r := range db.Records() {
		if r.ID.Shard == shard {
			got = r
		}
	}
	if !reflect.DeepEqual(got, st.record) {
		return fmt.Errorf("record is %+v, want %+v", got, st.record)
	}
	if st.record.ID.Shard == 0 {
		return nil
	}
	s, err := db.Store(shard, st.record.ID.Incarnation)
	if st.record.Tombstone {
		if kv.CodeOf(err) != kv.CodeConflict {
			return fmt.Errorf("store of a destroyed replica: %w", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	for n := range valueNames {
		name := valueName(n)
		if _, known := st.twin.values[name]; known {
			continue
		}
		if v, err := s.Get([]byte(name)); err != ErrKeyNotFound {
			return fmt.Errorf("value %q is %x (%w), want none", name, v, err)
		}
	}
	return st.twin.diff(s)
}

// valueNames is how many stable values the histories use.
const valueNames = 3

func valueName(n int) string { return "v" + strconv.Itoa(n) }

// history is a shard's state before the write that is under way, and after it.
// One goroutine writes a shard.
type history struct {
	shard kv.ShardID

	mu     sync.Mutex
	before *shardState
	after  *shardState // nil: no write is under way
}

// do runs one write that leads to the state after.
func (h *history) do(after *shardState, write func() error) error {
	h.mu.Lock()
	h.after = after
	h.mu.Unlock()
	err := write()
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.before = after
	}
	h.after = nil
	return err
}

// step makes one random write.
func (h *history) step(db *Shared, rng *rand.Rand, step int) error {
	now := h.before
	if now.record.ID.Shard == 0 || now.record.Tombstone {
		r := Record{
			ID:   kv.ServerID{Node: 7, Shard: h.shard, Incarnation: now.record.ID.Incarnation + 1},
			Kind: uint8(step), Payload: []byte(strconv.Itoa(step)),
		}
		return h.do(&shardState{record: r, twin: newTwin()}, func() error { return db.PutRecord(r) })
	}
	s, err := db.Store(h.shard, now.record.ID.Incarnation)
	if err != nil {
		return err
	}
	next := &shardState{record: now.record, twin: now.twin.clone()}
	first, last := now.twin.bounds()
	switch choice := rng.IntN(100); {
	case choice < 1:
		dead := Record{ID: now.record.ID, Tombstone: true}
		return h.do(&shardState{record: dead}, func() error { return db.Tombstone(h.shard) })
	case choice < 15:
		name, value := valueName(rng.IntN(valueNames)), []byte(strconv.Itoa(step))
		next.twin.values[name] = value
		return h.do(next, func() error { return s.Set([]byte(name), value) })
	case choice < 25 && last > first:
		to := first + rng.Uint64N(last-first)
		next.twin.delete(first, to)
		return h.do(next, func() error { return s.DeleteRange(first, to) })
	case choice < 30 && last > first:
		from := last - rng.Uint64N(min(3, last-first))
		next.twin.delete(from, last)
		return h.do(next, func() error { return s.DeleteRange(from, last) })
	case choice < 32 && last > 0 || last > first+100:
		next.twin.delete(first, last)
		return h.do(next, func() error { return s.DeleteRange(first, last) })
	default:
		if last == 0 {
			last = rng.Uint64N(1000)
		}
		logs := entries(last+1, 1+rng.IntN(4), uint64(step))
		if rng.IntN(8) == 0 { // so that memtables fill up, and some batches pass them by
			logs[0].Data = make([]byte, 1<<(8+rng.IntN(6)))
			for i := range logs[0].Data {
				logs[0].Data[i] = byte(rng.Uint32())
			}
		}
		next.twin.store(logs)
		return h.do(next, func() error { return s.StoreLogs(logs) })
	}
}

// wreck is a disk after a crash and what may be on it.
type wreck struct {
	n    int
	op   faultfs.Op
	disk *vfs.MemFS
	may  [][2]*shardState // per history
}

// crashOptions make tables, rotations and compactions frequent.
func crashOptions() Options {
	return Options{MemTableBytes: 16 << 10, EntryCacheBytes: 8 << 10, FlushDelay: time.Millisecond}
}

// check opens the disk and compares. The state that was found is returned.
func (w wreck) check(fs vfs.FS, histories []*history) (found []*shardState, err error) {
	db, err := OpenShared(fs, "logs", crashOptions())
	if err != nil {
		return nil, fmt.Errorf("crash before operation %d, %s %s: open: %w", w.n, w.op.Kind, w.op.Path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for i, h := range histories {
		before, after := w.may[i][0], w.may[i][1]
		beforeErr := before.diff(db, h.shard)
		if beforeErr == nil {
			found = append(found, before)
			continue
		}
		if after == nil || after.diff(db, h.shard) != nil {
			return nil, fmt.Errorf("crash before operation %d, %s %s: shard %d: %w (nor is it as after the write under way)",
				w.n, w.op.Kind, w.op.Path, h.shard, beforeErr)
		}
		found = append(found, after)
	}
	return found, nil
}

// crasher captures wrecks of a disk that histories are written to.
func crasher(mem *vfs.MemFS, histories []*history, at func(n int) bool, percent func(n int) int, seed uint64,
	got func(wreck)) *faultfs.Crash {
	rng := rand.New(rand.NewPCG(seed, 1))
	return faultfs.NewCrash(mem,
		func(n int, _ faultfs.Op) bool { return at(n) },
		func(n int, op faultfs.Op, image faultfs.Image) {
			w := wreck{n: n, op: op}
			for _, h := range histories {
				h.mu.Lock()
			}
			w.disk = image(percent(n), rng)
			for _, h := range histories {
				w.may = append(w.may, [2]*shardState{h.before, h.after})
				h.mu.Unlock()
			}
			got(w)
		})
}

func newHistories(n int) []*history {
	histories := make([]*history, n)
	for i := range histories {
		histories[i] = &history{shard: kv.ShardID(i + 2), before: &shardState{}}
	}
	return histories
}

// seen remembers what was found on disks, by their content: many operations
// leave what a crash would find as it was.
type seen struct {
	mu    sync.Mutex
	found map[[sha256.Size]byte][]*shardState
}

// check is wreck.check, but opens no disk twice.
func (s *seen) check(t *testing.T, w wreck, histories []*history) (found []*shardState, err error) {
	print := fingerprint(t, w.disk)
	s.mu.Lock()
	found = s.found[print]
	s.mu.Unlock()
	if found == nil {
		if found, err = w.check(w.disk, histories); err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.found[print] = found
		s.mu.Unlock()
	}
	for i := range found {
		if found[i] != w.may[i][0] && found[i] != w.may[i][1] {
			return nil, fmt.Errorf("crash before operation %d, %s %s: shard %d is as it was at an earlier time",
				w.n, w.op.Kind, w.op.Path, histories[i].shard)
		}
	}
	return found, nil
}

func fingerprint(t *testing.T, disk *vfs.MemFS) (sum [sha256.Size]byte) {
	h := sha256.New()
	names, err := disk.List("logs")
	if err != nil {
		names = nil // not made yet
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(h, "%q", name)
		f, err := disk.Open(disk.PathJoin("logs", name))
		if err == nil {
			_, err = io.Copy(h, f)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Errorf("read %s: %v", name, err)
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// TestCrashAtEveryOperation runs a script and crashes before every operation
// that changes the disk: all that was acknowledged is there, and of the write
// under way all or nothing. Of what was not synced nothing survives, before some
// operations (QUORATE_SOAK: every other) a random part.
func TestCrashAtEveryOperation(t *testing.T) {
	const reopenEvery = 200
	writes := 2000
	if raceDetector {
		writes = 200
	}
	tearEvery := 8
	if soak(t) > 1 {
		tearEvery = 2
	}
	mem := vfs.NewCrashableMem()
	histories := newHistories(4)
	wrecks := make(chan wreck, 4)
	percent := func(n int) int {
		if n%tearEvery != 1 {
			return 0
		}
		return 10 + n%91
	}
	crash := crasher(mem, histories, func(int) bool { return true }, percent, 1, func(w wreck) { wrecks <- w })

	var checkers sync.WaitGroup
	var checked, appended atomic.Int64
	known := &seen{found: map[[sha256.Size]byte][]*shardState{}}
	for range 2 {
		checkers.Go(func() {
			for w := range wrecks {
				found, err := known.check(t, w, histories)
				if err != nil {
					t.Error(err)
					continue
				}
				checked.Add(1)
				for i := range found {
					if found[i] == w.may[i][1] {
						appended.Add(1)
					}
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < writes; {
		db, err := OpenShared(faultfs.Wrap(mem, crash), "logs", crashOptions())
		must(t, err)
		for end := i + reopenEvery; i < end; i++ {
			if err := histories[rng.IntN(len(histories))].step(db, rng, i); err != nil {
				t.Fatalf("write %d: %v", i, err)
			}
		}
		must(t, db.Close())
	}
	close(wrecks)
	checkers.Wait()
	t.Logf("%d crashes checked (%d different disks) in %d writes; after %d the write under way was there",
		checked.Load(), len(known.found), writes, appended.Load())
	if checked.Load() < int64(2*writes) || appended.Load() == 0 {
		t.Fatalf("%d crashes, %d with the write under way: the script does not do what it should", checked.Load(), appended.Load())
	}
}

// TestRandomCrashes runs several shards at once, crashes at random, also while
// it recovers, and goes on from what it finds. QUORATE_SOAK multiplies its time.
func TestRandomCrashes(t *testing.T) {
	deadline := time.Now().Add(4 * time.Second * time.Duration(soak(t)))
	seed := uint64(time.Now().UnixNano())
	crashes := 0
	mem, histories := vfs.NewCrashableMem(), newHistories(3)
	for round := uint64(0); time.Now().Before(deadline); round++ {
		rng := rand.New(rand.NewPCG(seed, round))
		w, err := crashOnce(mem, histories, rng)
		if err != nil {
			t.Fatalf("seed %d round %d: %v", seed, round, err)
		}
		// Once more while it recovers, which changes nothing of what may be there.
		for again := rng.IntN(3); ; again-- {
			at, survive := rng.IntN(30), rng.IntN(101)
			second := w
			crash := crasher(w.disk, nil, func(n int) bool { return n == at }, func(int) int { return survive }, rng.Uint64(),
				func(w2 wreck) { second.disk, second.n, second.op = w2.disk, w2.n, w2.op })
			found, err := w.check(faultfs.Wrap(w.disk, crash), histories)
			if err != nil {
				t.Fatalf("seed %d round %d: %v", seed, round, err)
			}
			crashes++
			if again <= 0 {
				for i, st := range found {
					histories[i] = &history{shard: histories[i].shard, before: st}
				}
				break
			}
			w = second
		}
		mem = w.disk
	}
	t.Logf("%d crashes", crashes)
	if crashes < 20 {
		t.Fatalf("only %d crashes", crashes)
	}
}

// crashOnce writes to all shards at once and gives the wreck of one moment.
func crashOnce(mem *vfs.MemFS, histories []*history, rng *rand.Rand) (wreck, error) {
	at, survive := rng.IntN(600), rng.IntN(101)*rng.IntN(2)
	var last wreck
	var crashed atomic.Bool
	crash := crasher(mem, histories, func(n int) bool { return n == at }, func(int) int { return survive }, rng.Uint64(),
		func(w wreck) { last = w; crashed.Store(true) })
	db, err := OpenShared(faultfs.Wrap(mem, crash), "logs", crashOptions())
	if err != nil {
		return wreck{}, err
	}
	errs := make([]error, len(histories))
	var writers sync.WaitGroup
	for i, h := range histories {
		rng := rand.New(rand.NewPCG(rng.Uint64(), uint64(i)))
		writers.Go(func() {
			for step := 0; step < 5000 && errs[i] == nil && !crashed.Load(); step++ {
				errs[i] = h.step(db, rng, step)
			}
		})
	}
	writers.Wait()
	err = errors.Join(append(slices.Clone(errs), db.Close())...)
	if err == nil && !crashed.Load() {
		err = fmt.Errorf("no crash before operation %d", at)
	}
	return last, err
}

// soak gives the factor that QUORATE_SOAK asks for, 1 if it does not.
func soak(t *testing.T) int {
	text := os.Getenv("QUORATE_SOAK")
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("QUORATE_SOAK=%q: want a positive number", text)
	}
	return n
}
