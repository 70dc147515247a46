package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
)

// rot is a disk with entries of two shards, values and a record in it, some
// already in tables.
type rot struct {
	disk  *vfs.MemFS
	twins map[kv.ShardID]*twin
}

func newRot(t *testing.T) *rot {
	mem := vfs.NewCrashableMem()
	db, err := OpenShared(mem, "logs", Options{FlushDelay: -1})
	must(t, err)
	must(t, db.PutRecord(Record{ID: kv.ServerID{Node: 1, Shard: 2, Incarnation: 1}, Payload: []byte("payload")}))
	r := &rot{twins: map[kv.ShardID]*twin{2: newTwin(), 3: newTwin()}}
	for half := range uint64(2) {
		for _, shard := range []kv.ShardID{2, 3} {
			w := r.twins[shard]
			s, err := db.Store(shard, 1)
			must(t, err)
			for i := range uint64(20) {
				logs := entries(half*100+i*5+1, 5, uint64(shard))
				must(t, s.StoreLogs(logs))
				w.store(logs)
			}
			must(t, s.SetUint64([]byte("CurrentTerm"), 5+half))
			w.values["CurrentTerm"], err = s.Get([]byte("CurrentTerm"))
			must(t, err)
		}
		if half == 0 {
			must(t, db.db.Flush())
		}
	}
	r.disk = mem.CrashClone(vfs.CrashCloneCfg{})
	must(t, db.Close())
	return r
}

// damaged gives a copy of the disk with one file changed.
func (r *rot) damaged(t *testing.T, name string, change func([]byte) []byte) *vfs.MemFS {
	out := vfs.NewMem()
	must(t, out.MkdirAll("logs", 0o755))
	names, err := r.disk.List("logs")
	must(t, err)
	for _, n := range names {
		data := readFile(t, r.disk, "logs/"+n)
		if n == name {
			data = change(data)
		}
		f, err := out.Create("logs/"+n, vfs.WriteCategoryUnspecified)
		must(t, err)
		_, err = f.Write(data)
		must(t, errors.Join(err, f.Close()))
	}
	return out
}

func readFile(t *testing.T, fs vfs.FS, name string) []byte {
	f, err := fs.Open(name)
	must(t, err)
	data, err := io.ReadAll(f)
	must(t, errors.Join(err, f.Close()))
	return data
}

// file gives the name of a file that holds something.
func (r *rot) file(t *testing.T, suffix string) string {
	names, err := r.disk.List("logs")
	must(t, err)
	found, most := "", 0
	for _, n := range names {
		if size := len(readFile(t, r.disk, "logs/"+n)); strings.HasSuffix(n, suffix) && size > most {
			found, most = n, size
		}
	}
	if found == "" {
		t.Fatalf("no %s file in %v", suffix, names)
	}
	return found
}

// read opens a disk and reads everything. It fails the test if anything is
// read that was not written. What it returns is the error, or how many of the
// last entries of shard 2 are not there.
func (r *rot) read(disk vfs.FS) (missing uint64, wrong, err error) {
	db, err := OpenShared(disk, "logs", Options{FlushDelay: -1})
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if got := db.Records(); len(got) != 1 || string(got[0].Payload) != "payload" {
		wrong = fmt.Errorf("records %+v", got)
	}
	for shard, w := range r.twins {
		s, openErr := db.Store(shard, 1)
		if openErr != nil {
			err = errors.Join(err, openErr)
			continue
		}
		_, want := w.bounds()
		last, _ := s.LastIndex()
		if first, _ := s.FirstIndex(); first != 1 || last > want {
			wrong = fmt.Errorf("shard %d holds %d to %d", shard, first, last)
		}
		if shard == 2 {
			missing = want - last
		}
		for index := uint64(1); index <= last; index++ {
			var got raft.Log
			if readErr := s.GetLog(index, &got); readErr != nil {
				err = errors.Join(err, readErr)
			} else if want := w.logs[index]; !sameLog(&got, &want) {
				wrong = fmt.Errorf("shard %d entry %d is %s, want %s", shard, index, brief(&got), brief(&want))
			}
		}
		term, readErr := s.GetUint64([]byte("CurrentTerm"))
		if readErr != nil {
			err = errors.Join(err, readErr)
		} else if term != 5 && term != 6 {
			wrong = fmt.Errorf("shard %d is in term %d", shard, term)
		}
	}
	return missing, wrong, err
}

// flips gives how many bits to flip.
func flips(t *testing.T, n int) int {
	if raceDetector {
		n /= 5
	}
	return n * soak(t)
}

// TestFlippedBitsInTables: every bit of every so many bytes; each is found, or
// it is in bytes that mean nothing.
func TestFlippedBitsInTables(t *testing.T) {
	r := newRot(t)
	name := r.file(t, ".sst")
	rng := rand.New(rand.NewPCG(3, 3))
	found, total := 0, flips(t, 150)
	size := len(readFile(t, r.disk, "logs/"+name))
	for range total {
		bit := rng.IntN(size * 8)
		missing, wrong, err := r.read(r.damaged(t, name, func(data []byte) []byte {
			data[bit/8] ^= 1 << (bit % 8)
			return data
		}))
		if wrong != nil {
			t.Fatalf("bit %d of %s: %v", bit, name, wrong)
		}
		if missing > 0 && err == nil {
			t.Fatalf("bit %d of %s: %d entries vanished", bit, name, missing)
		}
		if err != nil {
			found++
		}
	}
	t.Logf("%d of %d flips were noticed", found, total)
	if found < total*9/10 {
		t.Fatalf("only %d of %d flips were noticed", found, total)
	}
}

// TestFlippedBitsInWAL: a flip in the synced part of the write-ahead log is an
// error. Only in what comes after the last but one batch of each shard it cannot
// be told from a write that a crash cut off.
func TestFlippedBitsInWAL(t *testing.T) {
	r := newRot(t)
	name := r.file(t, ".log")
	rng := rand.New(rand.NewPCG(4, 4))
	_, end := leftovers(readFile(t, r.disk, "logs/"+name), walNumber(t, name))
	refused, total := 0, flips(t, 400)
	for range total {
		bit := rng.IntN(end * 8)
		missing, wrong, err := r.read(r.damaged(t, name, func(data []byte) []byte {
			data[bit/8] ^= 1 << (bit % 8)
			return data
		}))
		switch {
		case wrong != nil:
			t.Fatalf("bit %d of %s (%d bytes): %v", bit, name, end, wrong)
		case err != nil:
			refused++
			wantCode(t, err, kv.CodeCorrupt)
		case missing > 0 || bit/8 < end-120:
			t.Fatalf("bit %d of %d: opened, %d entries of shard 2 are missing", bit, end*8, missing)
		}
	}
	t.Logf("%d of %d flips were refused", refused, total)
}

func walNumber(t *testing.T, name string) uint32 {
	n, err := strconv.Atoi(strings.TrimSuffix(name, ".log"))
	must(t, err)
	return uint32(n)
}

// TestFlippedBitsInBolt: bolt has no checksums of its own in its pages, so flips
// in what is stored in them would be read back. (Flips in its structure are found
// when it opens, by a panic, which may be on a goroutine of its own.)
func TestFlippedBitsInBolt(t *testing.T) {
	dir := t.TempDir()
	b, err := OpenBolt(dir, 1, 1)
	must(t, err)
	must(t, b.StoreLogs(entries(1, 50, 1)))
	must(t, b.SetUint64([]byte("CurrentTerm"), 6))
	must(t, b.Close())
	path := filepath.Join(dir, boltFile)
	good, err := os.ReadFile(path)
	must(t, err)
	damage := func(change func(data []byte)) *Bolt {
		bad := bytes.Clone(good)
		change(bad)
		must(t, os.WriteFile(path, bad, 0o600))
		b, err := OpenBolt(dir, 1, 1)
		must(t, err)
		return b
	}
	for _, part := range []string{"entry 17 of term 1", "CurrentTerm\x01\x00\x00\x00\x00\x00\x00\x00\x06"} {
		if !bytes.Contains(good, []byte(part)) {
			t.Fatalf("%q is not in the file", part)
		}
		b := damage(func(data []byte) {
			for rest := data; ; {
				at := bytes.Index(rest, []byte(part))
				if at < 0 {
					return
				}
				rest[at+len(part)-1] ^= 1
				rest = rest[at:]
			}
		})
		_, termErr := b.GetUint64([]byte("CurrentTerm"))
		wantCode(t, errors.Join(b.GetLog(17, new(raft.Log)), termErr), kv.CodeCorrupt)
		must(t, b.Close())
	}
	must(t, os.WriteFile(path, good, 0o600))
	// Another replica's file is not taken for one's own.
	b, err = OpenBolt(dir, 1, 2)
	must(t, err)
	wantCode(t, b.GetLog(1, new(raft.Log)), kv.CodeCorrupt)
	must(t, b.Close())
	must(t, RemoveBolt(dir))
	must(t, RemoveBolt(dir))
	if _, err := os.Stat(dir); err == nil {
		t.Fatal("the directory is still there")
	}
}
