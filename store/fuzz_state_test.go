package store

import (
	"bytes"
	"testing"

	"github.com/quorate-db/quorate/store/engine"
)

// FuzzState: no bytes panic the reader of state records, which are on disk and in
// snapshots, and what it takes is written as one that reads the same.
func FuzzState(f *testing.F) {
	db, r, _ := filled(f, engine.NewMemFS())
	for _, whole := range []bool{false, true} {
		f.Add(appendState(nil, r.current.Load(), whole), whole)
	}
	mustClose(f, db)
	f.Fuzz(func(t *testing.T, data []byte, whole bool) {
		s, err := decodeState(data, whole)
		if err != nil {
			return
		}
		once := appendState(nil, s, whole)
		again, err := decodeState(once, whole)
		if err != nil {
			t.Fatalf("%x was taken, but not as %x: %v", data, once, err)
		}
		if twice := appendState(nil, again, whole); !bytes.Equal(once, twice) {
			t.Fatalf("%x became %x", once, twice)
		}
	})
}

// FuzzRecords: the same of the values of data keys and of the change index.
func FuzzRecords(f *testing.F) {
	f.Add(appendRecord(nil, 5, "text/plain", []byte("value")))
	f.Add(appendChange(nil, changeEntry{deleted: true, prevVersion: 1 << 63, prevBytes: 9}))
	f.Add([]byte{recordPut, 0x80})
	f.Fuzz(func(t *testing.T, data []byte) {
		if rec, err := decodeRecord(data); err == nil && !rec.tombstone {
			again, err := decodeRecord(appendRecord(nil, rec.expiresMs, string(rec.contentType), rec.value))
			if err != nil || again.expiresMs != rec.expiresMs || !bytes.Equal(again.value, rec.value) || !bytes.Equal(again.contentType, rec.contentType) {
				t.Fatalf("%x: %v, %v", data, again, err)
			}
		}
		if c, err := decodeChange(data); err == nil {
			if again, err := decodeChange(appendChange(nil, c)); err != nil || again != c {
				t.Fatalf("%x: %v, %v", data, again, err)
			}
		}
	})
}
