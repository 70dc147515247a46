package store

import (
	"bytes"
	"errors"
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

// FuzzRestore: no bytes panic Restore; what it refuses leaves the replica alone, and
// what it takes can be read whole.
func FuzzRestore(f *testing.F) {
	db, r, _ := filled(f, engine.NewMemFS())
	f.Add(mustImage(f, r))
	mustClose(f, db)
	f.Add([]byte(imageMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		db := mustOpen(t, engine.NewMemFS())
		defer mustClose(t, db)
		r := mustReplica(t, db)
		before := mustDigest(t, r)
		err := restore(r, bytes.NewReader(data))
		after := mustDigest(t, r)
		if err == nil {
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
