package store

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/quorate-db/quorate/internal/faultfs"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

// script is a run of one replica whose every applied index has a known digest.
type script struct {
	entries []kv.Entry
	digests map[uint64]string // by applied index, 0 = empty
	images  map[uint64][]byte // at some of them
}

// newScript makes n entries of writes of all kinds, sweeps and terms, and applies
// them once without any fault.
func newScript(t *testing.T, n int, imagesAt ...uint64) *script {
	t.Helper()
	s := &script{digests: map[uint64]string{}, images: map[uint64][]byte{}}
	rng := rand.New(rand.NewPCG(11, 12))
	l := newLog()
	s.entries = append(s.entries, l.startTerm())
	l.last = kv.VersionAt(epochMs + 1001*3600*1000)
	for i := range n {
		if i == 0 {
			s.entries = append(s.entries, l.startTerm()) // ceiling above l.last
			s.entries[1].Stamp.Ceiling = l.last + kv.VersionAt(1<<40)
			continue
		}
		l.nowMs += 100
		s.entries = append(s.entries, l.entry(scriptCommand(rng, l, i), scriptCommand(rng, l, i)))
	}
	db := mustOpen(t, engine.NewMemFS())
	defer mustClose(t, db)
	r := mustReplica(t, db)
	s.digests[0] = mustDigest(t, r)
	for _, e := range s.entries {
		for _, b := range mustApply(t, r, e)[0].Results {
			if st := decodeResult(t, b).Status; st != kvpb.Status_STATUS_OK {
				t.Fatalf("entry %d: %v", e.Index, st)
			}
		}
		s.digests[e.Index] = mustDigest(t, r)
		if slices.Contains(imagesAt, e.Index) {
			s.images[e.Index] = mustImage(t, r)
		}
	}
	if r.Stats().Keys == 0 || r.Stats().Horizon == 0 || r.Stats().Requests == 0 {
		t.Fatalf("the script does too little: %+v", r.Stats())
	}
	return s
}

func scriptCommand(rng *rand.Rand, l *logWriter, i int) *kvpb.Command {
	if i%10 == 9 {
		return &kvpb.Command{Kind: kvpb.CommandKind_COMMAND_SWEEP, Sweep: &kvpb.SweepArgs{
			ExpireBeforeMs: l.nowMs, RequestFloorMs: l.nowMs - 2000, RetainFromVersion: uint64(l.last) - 40, MaxItems: 50,
		}}
	}
	key := func() string { return fmt.Sprintf("k%03d", rng.IntN(60)) }
	value := make([]byte, rng.IntN(2000))
	for j := range value {
		value[j] = byte(rng.Uint32())
	}
	p := put(key(), string(value))
	p.TtlMs = int64(rng.IntN(2)) * 1500
	cmd := write(then(p, del(key())), then(put(key(), "x")))
	if i%7 == 0 {
		cmd = write(then(&kvpb.Op{Kind: kvpb.OpKind_OP_DELETE_RANGE, Key: []byte("k03"), EndKey: []byte("k04")}))
	}
	cmd.Request = &kvpb.RequestID{Hi: rng.Uint64(), Lo: uint64(i), IssuedMs: l.nowMs}
	return cmd
}

func mustImage(t fatalTB, r *Replica) []byte {
	t.Helper()
	im, err := r.Image()
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	n, err := im.WriteTo(&buf)
	if err != nil || n != int64(buf.Len()) {
		t.Fatalf("%d of %d bytes: %v", n, buf.Len(), err)
	}
	mustClose(t, im)
	return buf.Bytes()
}

// rest gives the entries above an index.
func (s *script) rest(index uint64) []kv.Entry {
	i := slices.IndexFunc(s.entries, func(e kv.Entry) bool { return e.Index > index })
	if i < 0 {
		return nil
	}
	return s.entries[i:]
}

// crashed is the disk after a crash, and what had been promised by then.
type crashed struct {
	fs      *engine.MemFS
	op      string
	durable uint64 // applied index that a flush or restore has acknowledged
	gone    bool   // the other replica's removal was acknowledged
}

// crashRun runs a program on a crashable file system, takes the disk at every
// operation that changes it, and checks what comes back.
type crashRun struct {
	t      *testing.T
	script *script
	fs     engine.FS
	mem    *engine.MemFS
	seen   int

	mu    sync.Mutex
	found []crashed // guarded by mu
	now   crashed   // guarded by mu; promises so far

	allOf map[uint64]int // how often a crash left which applied index
	one   func(crashed)  // checks one disk; checkOne if nil
}

func newCrashRun(t *testing.T, s *script) *crashRun {
	mem := engine.NewCrashableMemFS()
	c := &crashRun{t: t, script: s, mem: mem, allOf: map[uint64]int{}}
	rng := rand.New(rand.NewPCG(5, 6))
	c.fs = faultfs.Wrap(mem, faultfs.NewCrash(mem,
		func(int, faultfs.Op) bool { return true },
		func(n int, op faultfs.Op, image faultfs.Image) {
			c.mu.Lock()
			defer c.mu.Unlock()
			at := c.now
			at.op = fmt.Sprintf("%d (%v %s)", n, op.Kind, op.Path)
			at.fs = image(0, nil)
			c.found = append(c.found, at)
			at.fs = image(50, rng)
			c.found = append(c.found, at)
		}))
	return c
}

// promise notes what from now on must survive.
func (c *crashRun) promise(change func(*crashed)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.now)
}

// check opens every disk that has been taken, and the one as it is now.
func (c *crashRun) check() {
	c.t.Helper()
	c.mu.Lock()
	at := c.now
	at.op = "rest"
	at.fs = c.mem.CrashClone(engine.CrashCloneCfg{})
	c.found = append(c.found, at)
	found := c.found
	c.found = nil
	c.mu.Unlock()
	for _, at := range found {
		c.seen++
		if c.one != nil {
			c.one(at)
		} else {
			c.checkOne(at)
		}
	}
}

// replayEvery thins out the dearest part of the check.
const replayEvery = 4

func (c *crashRun) checkOne(at crashed) {
	c.t.Helper()
	db, err := Open(Options{Dir: "store", FS: at.fs, Logger: quiet(), MemtableBytes: 64 << 10})
	if err != nil {
		c.t.Fatalf("crash at %s: open: %v", at.op, err)
	}
	defer mustClose(c.t, db)
	if at.gone {
		if all, err := db.Replicas(); err != nil || slices.Contains(all, otherShard) {
			c.t.Fatalf("crash at %s: replicas %v, %v: the dropped one is back", at.op, all, err)
		}
	}
	r := mustReplica(c.t, db)
	index := r.Applied().Index
	if index < at.durable {
		c.t.Fatalf("crash at %s: applied %d, but %d was durable", at.op, index, at.durable)
	}
	if got := mustDigest(c.t, r); got != c.script.digests[index] {
		c.t.Fatalf("crash at %s: the state at %d is not that of a prefix of the log", at.op, index)
	}
	c.allOf[index]++
	if c.seen%replayEvery != 0 {
		return
	}
	mustApply(c.t, r, c.script.rest(index)...)
	last := c.script.entries[len(c.script.entries)-1].Index
	if mustDigest(c.t, r) != c.script.digests[last] {
		c.t.Fatalf("crash at %s: replay from %d ends in another state", at.op, index)
	}
	if present, err := listSpaces(db.eng); err != nil || len(present) > 4 {
		c.t.Fatalf("crash at %s: spaces %v, %v: something is left over", at.op, present, err)
	}
}

const otherShard = kv.ShardID(8)

func openOther(t *testing.T, db *DB) *Replica {
	t.Helper()
	d := testDescriptor()
	d.Shard = uint64(otherShard)
	r, err := db.OpenReplica(otherShard, d)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestCrashApply: a crash at any file operation leaves a prefix of the log, and at
// least what a flush acknowledged (E2, E3, S1).
func TestCrashApply(t *testing.T) {
	s := newScript(t, 110)
	c := newCrashRun(t, s)
	db := mustOpen(t, c.fs)
	r := mustReplica(t, db)
	other := openOther(t, db)
	for i, e := range s.entries {
		mustApply(t, r, e)
		switch {
		case i == 80:
			if err := db.DropReplica(otherShard); err != nil {
				t.Fatal(err)
			}
			c.promise(func(p *crashed) { p.gone, p.durable = true, e.Index })
		case i < 80:
			mustApply(t, other, e)
		}
		if i%20 == 19 {
			if err := r.Flush(); err != nil {
				t.Fatal(err)
			}
			c.promise(func(p *crashed) { p.durable = e.Index })
		}
		if i == 60 { // a new process makes a new manifest
			mustClose(t, db)
			c.promise(func(p *crashed) { p.durable = e.Index })
			db = mustOpen(t, c.fs)
			r, other = mustReplica(t, db), openOther(t, db)
		}
		if i%10 == 0 {
			c.check()
		}
	}
	mustClose(t, db)
	c.promise(func(p *crashed) { p.durable = s.entries[len(s.entries)-1].Index })
	c.check()
	t.Logf("%d crashes, %d different applied indexes", c.seen, len(c.allOf))
	if c.seen < 200 || len(c.allOf) < 5 {
		t.Fatalf("%d crashes that left %v prove little", c.seen, c.allOf)
	}
}

// TestCrashRestore: a crash at any file operation of a restore leaves the old
// state or the new one, and the new one once the restore has returned (S5).
func TestCrashRestore(t *testing.T) {
	const old, restored = 30, 100
	s := newScript(t, 120, restored)
	c := newCrashRun(t, s)
	db := mustOpen(t, c.fs)
	r := mustReplica(t, db)
	mustApply(t, r, s.entries[:old]...)
	if err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	c.promise(func(p *crashed) { p.durable = old })
	mustApply(t, r, s.entries[old:old+20]...)
	c.check()
	c.allOf = map[uint64]int{}
	if err := restore(r, bytes.NewReader(s.images[restored])); err != nil {
		t.Fatal(err)
	}
	c.promise(func(p *crashed) { p.durable = restored })
	c.check()
	if c.allOf[restored] == 0 || c.allOf[old]+c.allOf[old+20] == 0 {
		t.Fatalf("crashes left only %v", c.allOf)
	}
	mustApply(t, r, s.rest(restored)...)
	mustClose(t, db)
	c.check()
	t.Logf("%d crashes: %v", c.seen, c.allOf)
}

// TestRestoreDamaged: no damaged image is taken, and the replica goes on as it was.
func TestRestoreDamaged(t *testing.T) {
	const restored = 60
	s := newScript(t, 100, restored)
	image := s.images[restored]
	db := mustOpen(t, engine.NewMemFS())
	r := mustReplica(t, db)
	mustApply(t, r, s.entries[:20]...)
	before := mustDigest(t, r)
	try := func(what string, src io.Reader) {
		t.Helper()
		if err := restore(r, src); err == nil {
			t.Fatalf("%s was taken", what)
		}
		if r.Applied().Index != s.entries[19].Index {
			t.Fatalf("%s moved the replica to %d", what, r.Applied().Index)
		}
	}
	step := max(1, len(image)/1500)
	for i := 0; i < len(image); i += 1 + step {
		try(fmt.Sprintf("an image cut at %d", i), bytes.NewReader(image[:i]))
		bad := slices.Clone(image)
		bad[i] ^= 1 << (i % 8)
		try(fmt.Sprintf("an image with a flip at %d", i), bytes.NewReader(bad))
	}
	for i := range min(400, len(image)) { // the header, byte by byte
		bad := slices.Clone(image)
		bad[i] ^= 0x10
		try(fmt.Sprintf("an image with a flip at %d", i), bytes.NewReader(bad))
	}
	try("an image with a tail", strings.NewReader(string(image)+"x"))
	try("an image twice", strings.NewReader(string(image)+string(image)))
	if mustDigest(t, r) != before {
		t.Fatal("the old state is not intact")
	}
	if present, err := listSpaces(db.eng); err != nil || len(present) != 2 {
		t.Fatalf("spaces %v, %v", present, err)
	}
	if err := restore(r, bytes.NewReader(image)); err != nil {
		t.Fatal(err)
	}
	if mustDigest(t, r) != s.digests[restored] {
		t.Fatal("the good image was not restored")
	}
	try2 := restore(r, bytes.NewReader(image))
	if try2 == nil {
		t.Fatal("an image at the applied index was taken (DESIGN 9 rule 4)")
	}
	mustClose(t, db)
}
