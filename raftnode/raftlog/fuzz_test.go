package raftlog

import (
	"bytes"
	"testing"
)

// FuzzDecodeRecord: bytes whose checksum holds decode or are refused, and what decodes is
// encoded to a record that decodes the same.
func FuzzDecodeRecord(f *testing.F) {
	key := []byte{1, 0, 0, 0, 0, 0, 0, 0, 2}
	f.Add(key, encodeRecord(Record{Kind: 3, Payload: []byte("payload")}))
	f.Add(key, encodeRecord(Record{Tombstone: true}))
	f.Add([]byte{}, []byte{valueFormat})
	f.Fuzz(func(t *testing.T, key, payload []byte) {
		got, err := decodeRecord(key, sealValue(key, payload))
		if err != nil {
			return
		}
		again, err := decodeRecord(key, sealValue(key, encodeRecord(got)))
		if err != nil || again.ID != got.ID || again.Tombstone != got.Tombstone || again.Kind != got.Kind || !bytes.Equal(again.Payload, got.Payload) {
			t.Fatalf("%+v became %+v, %v", got, again, err)
		}
	})
}
