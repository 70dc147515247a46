package store

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

// benchImageBytes is the size of the user data that images are made of.
const benchImageBytes = 64 << 20

// BenchmarkImage measures what a follower that needs a snapshot costs: the leader's
// disk to the stream, and the stream to the follower's disk.
func BenchmarkImage(b *testing.B) {
	for _, size := range []int{100, 16 << 10} {
		b.Run(fmt.Sprintf("write/value=%d", size), func(b *testing.B) { benchImageWrite(b, size) })
		b.Run(fmt.Sprintf("restore/value=%d", size), func(b *testing.B) { benchImageRestore(b, size) })
	}
}

// benchLoad fills a replica with values that do not compress.
func benchLoad(b *testing.B, r *Replica, l *logWriter, size int) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := 0; n < benchImageBytes/size; {
		cmd := write()
		for range min(500, 1<<20/size) {
			value := make([]byte, size)
			for i := range value {
				value[i] = byte(rng.Uint32())
			}
			cmd.Txns = append(cmd.Txns, then(&kvpb.Op{Kind: kvpb.OpKind_OP_PUT, Key: benchKey(n), Value: value}))
			n++
		}
		mustApply(b, r, l.entry(cmd))
	}
}

func benchImage(b *testing.B, r *Replica, w io.Writer) int64 {
	im, err := r.Image()
	if err != nil {
		b.Fatal(err)
	}
	n, err := im.WriteTo(w)
	if err := closeWith(im, err); err != nil {
		b.Fatal(err)
	}
	return n
}

func benchImageWrite(b *testing.B, size int) {
	db, r, l := benchReplica(b)
	defer mustClose(b, db)
	benchLoad(b, r, l, size)
	if err := r.Flush(); err != nil {
		b.Fatal(err)
	}
	cpu := cpuTime(b)
	defer func() { b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N), "cpu-ns/op") }()
	for b.Loop() {
		b.SetBytes(benchImage(b, r, io.Discard))
	}
}

func benchImageRestore(b *testing.B, size int) {
	from, r, l := benchReplica(b)
	defer mustClose(b, from)
	benchLoad(b, r, l, size)
	path := filepath.Join(b.TempDir(), "image")
	file, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	n := benchImage(b, r, file)
	if err := file.Close(); err != nil {
		b.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(n)
	b.ResetTimer()
	cpu := cpuTime(b)
	defer func() { b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N), "cpu-ns/op") }()
	for range b.N {
		db, err := Open(Options{Dir: b.TempDir(), FS: engine.DiskFS(), Logger: quiet()})
		if err != nil {
			b.Fatal(err)
		}
		to, err := db.OpenReplica(testShard, &kvpb.ShardDescriptor{Shard: uint64(testShard), Generation: 1})
		if err != nil {
			b.Fatal(err)
		}
		if err := restore(to, bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
		mustClose(b, db)
	}
}
