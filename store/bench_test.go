package store

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

func benchReplica(b *testing.B) (*DB, *Replica, *logWriter) {
	db, err := Open(Options{Dir: b.TempDir(), FS: engine.DiskFS(), Logger: quiet()})
	if err != nil {
		b.Fatal(err)
	}
	r, err := db.OpenReplica(testShard, &kvpb.ShardDescriptor{Shard: uint64(testShard), Generation: 1})
	if err != nil {
		b.Fatal(err)
	}
	l := newLog()
	mustApply(b, r, l.startTerm())
	l.last = r.Applied().LastVersion
	// Lift the ceiling out of the way.
	e := kv.Entry{Index: l.index + 1, Term: 1, Stamp: kv.Stamp{Term: 1, Ceiling: 1 << 63}}
	mustApply(b, r, e)
	l.index++
	l.last = r.Applied().LastVersion
	return db, r, l
}

// cpuTime is what the process has used, in nanoseconds. Flushes and compactions count,
// other processes do not.
func cpuTime(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func benchKey(n int) []byte { return fmt.Appendf(nil, "user%012d", n) }

// BenchmarkApply measures puts of 100 bytes with request ids, 32 commands in an
// entry; one iteration is one put.
func BenchmarkApply(b *testing.B) {
	for _, keys := range []int{1000, 1_000_000} {
		for _, ids := range []bool{false, true} {
			b.Run(fmt.Sprintf("keys=%d/ids=%v", keys, ids), func(b *testing.B) { benchApply(b, keys, ids) })
		}
	}
}

func benchApply(b *testing.B, keys int, ids bool) {
	db, r, l := benchReplica(b)
	defer mustClose(b, db)
	const group = 32
	value := make([]byte, 100)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range value {
		value[i] = byte(rng.Uint32())
	}
	b.ReportAllocs()
	b.ResetTimer()
	cpu := cpuTime(b)
	defer func() { b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N), "cpu-ns/op") }()
	for done := 0; done < b.N; done += group {
		b.StopTimer()
		cmds := make([]*kvpb.Command, group)
		for i := range cmds {
			op := &kvpb.Op{Kind: kvpb.OpKind_OP_PUT, Key: benchKey(rng.IntN(keys)), Value: value}
			cmds[i] = write(then(op))
			if ids {
				cmds[i].Request = &kvpb.RequestID{Hi: rng.Uint64(), Lo: rng.Uint64(), IssuedMs: epochMs + int64(done)/16}
			}
		}
		e := l.entry(cmds...)
		b.StartTimer()
		if _, err := r.Apply([]kv.Entry{e}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGet measures gets of single keys out of 200,000.
func BenchmarkGet(b *testing.B) {
	db, r, l := benchReplica(b)
	defer mustClose(b, db)
	const keys = 200_000
	for n := 0; n < keys; {
		cmd := write()
		for range 500 {
			cmd.Txns = append(cmd.Txns, then(&kvpb.Op{Kind: kvpb.OpKind_OP_PUT, Key: benchKey(n), Value: make([]byte, 100)}))
			n++
		}
		mustApply(b, r, l.entry(cmd))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	b.ReportAllocs()
	cpu := cpuTime(b)
	defer func() { b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N), "cpu-ns/op") }()
	for b.Loop() {
		resp := r.Read(&kvpb.ReadRequest{Gets: [][]byte{benchKey(rng.IntN(keys))}})
		if len(resp.Gets) != 1 || !resp.Gets[0].Found {
			b.Fatal(resp)
		}
	}
}

// BenchmarkDecode is the share of BenchmarkApply that decoding a command takes.
func BenchmarkDecode(b *testing.B) {
	data, err := proto.Marshal(write(then(&kvpb.Op{Kind: kvpb.OpKind_OP_PUT, Key: benchKey(1), Value: make([]byte, 100)})))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		var c kvpb.Command
		if err := proto.Unmarshal(data, &c); err != nil {
			b.Fatal(err)
		}
	}
}
