package store

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

func countedID(n uint64) (id requestID) {
	binary.BigEndian.PutUint64(id[:8], n)
	return id
}

// TestIDFilter: it never excludes what it was given, excludes most others, and
// lets go of what is swept.
func TestIDFilter(t *testing.T) {
	const n = 50_000
	f := idFilter{attached: true, complete: true}
	for i := range uint64(n) {
		f.add(countedID(i), int64(i))
	}
	for i := range uint64(n) {
		if f.excludes(countedID(i)) {
			t.Fatalf("id %d is excluded", i)
		}
	}
	wrong := 0
	for i := range uint64(n) {
		if !f.excludes(countedID(n + i)) {
			wrong++
		}
	}
	if wrong > n*len(f.segments)*2/100 {
		t.Fatalf("%d of %d unknown ids are not excluded, %d segments", wrong, n, len(f.segments))
	}
	f.forget(n - 1)
	for _, s := range f.segments {
		if s.lastMs < n-1 {
			t.Fatalf("a segment up to %d was kept", s.lastMs)
		}
	}
	if f.excludes(countedID(n - 1)) {
		t.Fatal("the newest id is excluded")
	}
	f.forget(n)
	if len(f.segments) != 0 {
		t.Fatalf("%d segments are left", len(f.segments))
	}
}

// TestIDFilterPrefill: with more ids than are read at open, none is excluded until
// all of the unread ones are swept.
func TestIDFilterPrefill(t *testing.T) {
	db := mustOpen(t, engine.NewMemFS())
	defer mustClose(t, db)
	b := db.eng.NewBatch(false)
	for i := range uint64(filterPrefill + 2) {
		key := issuedKey(nil, 1, placeOfRequest(int64(i), countedID(i), 0))
		value := make([]byte, checksumBytes)
		seal(key, value)
		b.Set(key, value)
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	mustClose(t, b)
	var f idFilter
	if err := f.attach(db.eng, []home{{space: 1}}); err != nil {
		t.Fatal(err)
	}
	unknown := countedID(1 << 40)
	f.forget(filterPrefill + 1)
	if f.complete || f.excludes(unknown) || f.excludes(countedID(filterPrefill+1)) {
		t.Fatal("an id is excluded although one was not read")
	}
	f.forget(filterPrefill + 2)
	if !f.complete || !f.excludes(unknown) {
		t.Fatal("no id is excluded although all that was not read is swept")
	}
}

// TestHeadsBound: dropping the kept heads changes nothing.
func TestHeadsBound(t *testing.T) {
	db, r, l := filled(t, engine.NewMemFS())
	defer mustClose(t, db)
	for i := 0; i < headsKept+10; {
		cmd := write(then())
		for range 500 {
			cmd.Txns[0].Then = append(cmd.Txns[0].Then, put(fmt.Sprintf("k%d", i), "x"))
			i++
		}
		mustApply(t, r, l.entry(cmd))
		if len(r.applier.heads) > headsKept {
			t.Fatalf("%d heads are kept", len(r.applier.heads))
		}
	}
	res := decodeResult(t, mustApply(t, r, l.entry(write(then(put("c", "x"), put("k1", "x"), put("new", "x")))))[0].Results[0])
	for i, want := range []bool{true, true, false} {
		if res.Txns[0].Ops[i].Found != want || res.Status != kvpb.Status_STATUS_OK {
			t.Fatal(res)
		}
	}
}
