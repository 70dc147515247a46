package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

// FuzzApply: no bytes make Apply fail, and two replicas answer and become the same.
func FuzzApply(f *testing.F) {
	seeds := []*kvpb.Command{
		write(then(put("c", "1"), del("d"), &kvpb.Op{Kind: kvpb.OpKind_OP_ADD, Key: []byte("c"), Delta: 1})),
		write(&kvpb.Txn{Guards: []*kvpb.Guard{{Kind: kvpb.GuardKind_GUARD_VERSION_EQ, Key: []byte("c"), Versions: []uint64{1}}}}),
		write(then(&kvpb.Op{Kind: kvpb.OpKind_OP_DELETE_RANGE, Key: []byte("b"), Limit: 2})),
		{Kind: kvpb.CommandKind_COMMAND_SWEEP, Sweep: &kvpb.SweepArgs{ExpireBeforeMs: 1 << 62, RequestFloorMs: 1 << 62, RetainFromVersion: 1 << 63}},
	}
	for _, s := range seeds {
		data, err := proto.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, uint64(1), uint32(1), int64(1))
	}
	f.Add([]byte("\xff"), uint64(1<<64-1), uint32(1<<32-1), int64(-1<<63))
	f.Fuzz(func(t *testing.T, data []byte, step uint64, versions uint32, nowMs int64) {
		var results [2][]kv.EntryResult
		var digests [2]string
		for i := range results {
			db, r, l := filled(t, engine.NewMemFS())
			first := l.entry()
			first.Commands = []kv.EntryCommand{{Data: data, Versions: versions}, {Data: data, Versions: versions}}
			first.Stamp.Version += kv.Version(step) - 1
			first.Stamp.NowMs = nowMs
			second := l.entry(write(then(put("f", "6"))))
			second.Stamp.Version = max(l.last, first.Stamp.Version) + 2*kv.Version(versions) + 1
			if i == 0 {
				results[i] = mustApply(t, r, first, second)
			} else {
				results[i] = append(mustApply(t, r, first), mustApply(t, r, second)...)
			}
			digests[i] = mustDigest(t, r)
			mustClose(t, db)
		}
		if digests[0] != digests[1] {
			t.Fatal("the digests differ")
		}
		for i := range results[0] {
			for j, b := range results[0][i].Results {
				if !bytes.Equal(b, results[1][i].Results[j]) {
					t.Fatal("the answers differ")
				}
				decodeResult(t, b)
			}
		}
	})
}

// FuzzRestore: no bytes panic Restore, be their checksums right or not; what it refuses
// leaves the replica alone, and what it takes can be read whole and is written as an
// image that reads the same.
func FuzzRestore(f *testing.F) {
	source, r, _ := filled(f, engine.NewMemFS())
	whole := mustImage(f, r)
	mustClose(f, source)
	if !bytes.Equal(mended(f, whole), whole) {
		f.Fatal("a good image was mended")
	}
	for _, mend := range []bool{false, true} {
		f.Add(whole, mend)
		f.Add(append(bytes.Clone(whole), 0), mend)
		f.Add([]byte(imageMagic), mend)
	}
	// One database for all inputs: to open one takes longer than everything else.
	db := mustOpen(f, engine.NewMemFS())
	f.Cleanup(func() { mustClose(f, db) })
	f.Fuzz(func(t *testing.T, data []byte, mend bool) {
		if mend {
			data = mended(t, data)
		}
		r := mustReplica(t, db) // that of the input before, if it was refused
		before := mustDigest(t, r)
		err := restore(r, bytes.NewReader(data))
		after := mustDigest(t, r)
		if err == nil {
			checkAgain(t, db, mustImage(t, r), after)
			return
		}
		if !errors.Is(err, ErrImageCorrupt) && !errors.Is(err, ErrImageOld) {
			t.Fatal(err)
		}
		if before != after {
			t.Fatal("a refused image changed the state")
		}
	})
}

// checkAgain restores an image into a new replica, which has to become as that which it
// is of, and drops both.
func checkAgain(t *testing.T, db *DB, image []byte, want string) {
	t.Helper()
	drop := func() {
		if err := db.DropReplica(testShard); err != nil {
			t.Fatal(err)
		}
	}
	drop()
	r := mustReplica(t, db)
	if err := restore(r, bytes.NewReader(image)); err != nil {
		t.Fatalf("an image was taken, but not the one that is written of it: %v", err)
	}
	if mustDigest(t, r) != want {
		t.Fatal("the image of an image reads otherwise")
	}
	drop()
}

// mended makes lengths, checksums and the end of an image right, so that what is in it
// is looked at: bytes that were changed anywhere would all fail a checksum.
func mended(t testing.TB, data []byte) []byte {
	t.Helper()
	rest, ok := bytes.CutPrefix(data, []byte(imageMagic))
	if !ok {
		return data
	}
	var out bytes.Buffer
	w := newFrameWriter(&out)
	err := w.write([]byte(imageMagic))
	records := uint64(0)
	for len(rest) > frameOverhead {
		kind, size := rest[0], binary.BigEndian.Uint32(rest[1:])
		rest = rest[frameOverhead:]
		content := bytes.Clone(rest[:min(uint64(size), uint64(len(rest)))])
		rest = rest[min(len(content)+crc32.Size, len(rest)):]
		switch kind {
		case frameBlock:
			records += resealed(content)
		case frameEnd:
			content = w.sum.Sum(binary.BigEndian.AppendUint64(nil, records))
		}
		err = errors.Join(err, w.frame(kind, content))
	}
	if err := errors.Join(err, w.w.Flush()); err != nil {
		t.Fatal(err)
	}
	return append(out.Bytes(), rest...)
}

// resealed seals the records of a block anew, in place, and counts them.
func resealed(block []byte) (records uint64) {
	for {
		local, rest, ok := cutBlob(block)
		if !ok {
			return records
		}
		value, rest, ok := cutBlob(rest)
		if !ok {
			return records
		}
		if len(value) >= checksumBytes {
			seal(append(spacePrefix(nil, 0), local...), value)
		}
		records++
		block = rest
	}
}
