package store

import (
	"bytes"
	"testing"

	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

func TestPutGetReopenRestore(t *testing.T) {
	fs := engine.NewMemFS()
	db := mustOpen(t, fs)
	r := mustReplica(t, db)
	l := newLog()
	mustApply(t, r, l.startTerm())
	l.last = r.Applied().LastVersion
	res := mustApply(t, r, l.entry(write(then(put("c", "1"), put("d", "2")))))
	if got := decodeResult(t, res[0].Results[0]); got.Status != kvpb.Status_STATUS_OK {
		t.Fatal(got)
	}
	before := mustDigest(t, r)
	im, err := r.Image()
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if _, err := im.WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	mustClose(t, im)
	mustClose(t, db)

	db = mustOpen(t, fs)
	r = mustReplica(t, db)
	if mustDigest(t, r) != before {
		t.Fatal("reopening changed the state")
	}
	mustClose(t, db)

	db = mustOpen(t, engine.NewMemFS())
	r = mustReplica(t, db)
	if err := r.Restore(&buf); err != nil {
		t.Fatal(err)
	}
	if mustDigest(t, r) != before {
		t.Fatal("restoring changed the state")
	}
	got := r.Read(&kvpb.ReadRequest{Gets: [][]byte{[]byte("c")}, Scan: &kvpb.Scan{Reverse: true}})
	if string(got.Gets[0].Item.Value) != "1" || len(got.Items) != 2 || string(got.Items[0].Key) != "d" {
		t.Fatal(got)
	}
	mustClose(t, db)
}
