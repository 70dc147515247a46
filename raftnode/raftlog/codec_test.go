package raftlog

import (
	"bytes"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/quorate-db/quorate/kv"
)

func TestEntryRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawLog(t, rapid.Uint64().Draw(t, "index"))
		key := replica{2, 1}.logKey(want.Index)
		stored := encodeEntry(nil, key, want)
		if len(stored) != encodedBytes(want) {
			t.Fatalf("%d bytes, encodedBytes says %d", len(stored), encodedBytes(want))
		}
		var got raft.Log
		must(t, decodeEntry(key, stored, want.Index, &got))
		if !sameLog(&got, want) {
			t.Fatalf("got %s, want %s", brief(&got), brief(want))
		}
		clear(stored)
		if !sameLog(&got, want) {
			t.Fatalf("the entry aliases what was stored")
		}
	})
}

// TestEntryNeverWrong flips every bit, cuts at every byte, and looks in every
// wrong place.
func TestEntryNeverWrong(t *testing.T) {
	log := &raft.Log{
		Index: 300, Term: 77, Type: raft.LogConfiguration, Data: []byte("some data"),
		Extensions: []byte("ext"), AppendedAt: time.Unix(1_700_000_000, 123),
	}
	home := replica{2, 1}
	stored := encodeEntry(nil, home.logKey(300), log)
	wrong := func(what string, key, stored []byte, index uint64) {
		var got raft.Log
		if err := decodeEntry(key, stored, index, &got); kv.CodeOf(err) != kv.CodeCorrupt {
			t.Errorf("%s: %s, %v", what, brief(&got), err)
		}
	}
	for bit := range len(stored) * 8 {
		flipped := bytes.Clone(stored)
		flipped[bit/8] ^= 1 << (bit % 8)
		wrong("bit flip", home.logKey(300), flipped, 300)
	}
	for n := range stored {
		wrong("cut", home.logKey(300), stored[:n], 300)
	}
	wrong("another index", home.logKey(301), stored, 301)
	wrong("another shard", replica{3, 1}.logKey(300), stored, 300)
	wrong("another incarnation", replica{2, 2}.logKey(300), stored, 300)
}

func TestEntryOfNewerFormat(t *testing.T) {
	key := replica{2, 1}.logKey(1)
	stored := encodeEntry(nil, key, &raft.Log{Index: 1})
	newer := append([]byte{entryFormat + 1}, stored[1:len(stored)-checksumBytes]...)
	newer = appendChecksum(newer, key)
	wantCode(t, decodeEntry(key, newer, 1, new(raft.Log)), kv.CodeInternal)
}

func TestValueNeverWrong(t *testing.T) {
	home := replica{2, 1}
	stored := sealValue(home.stableKey([]byte("CurrentTerm")), []byte{0, 0, 0, 0, 0, 0, 0, 9})
	for bit := range len(stored) * 8 {
		flipped := bytes.Clone(stored)
		flipped[bit/8] ^= 1 << (bit % 8)
		_, err := openValue(home.stableKey([]byte("CurrentTerm")), flipped)
		wantCode(t, err, kv.CodeCorrupt)
	}
	_, err := openValue(home.stableKey([]byte("LastVoteTerm")), stored)
	wantCode(t, err, kv.CodeCorrupt)
}

// FuzzDecodeEntry: bytes whose checksum holds decode or are refused, and what
// decodes is encoded to an entry that decodes the same.
func FuzzDecodeEntry(f *testing.F) {
	key := replica{2, 1}.logKey(5)
	for _, l := range entries(5, 3, 9) {
		stored := encodeEntry(nil, key, l)
		f.Add(stored[:len(stored)-checksumBytes])
	}
	f.Add([]byte{entryFormat, 0, flagAppendedAt | flagExtensions, 0x80})
	f.Fuzz(func(t *testing.T, body []byte) {
		var got, again raft.Log
		if decodeEntry(key, appendChecksum(bytes.Clone(body), key), 5, &got) != nil {
			return
		}
		must(t, decodeEntry(key, encodeEntry(nil, key, &got), 5, &again))
		if !sameLog(&got, &again) {
			t.Fatalf("%s became %s", brief(&got), brief(&again))
		}
	})
}

func TestKeysSortAndDescribe(t *testing.T) {
	r := replica{2, 1}
	if bytes.Compare(r.logKey(255), r.logKey(256)) >= 0 {
		t.Fatal("entries do not sort by index")
	}
	from, to := r.span(tagLog)
	for _, inside := range []uint64{0, 1, 1<<64 - 1} {
		if k := r.logKey(inside); bytes.Compare(k, from) < 0 || bytes.Compare(k, to) >= 0 {
			t.Fatalf("entry %d is outside of the replica's span", inside)
		}
	}
	for _, other := range []replica{{2, 0}, {2, 2}, {1, 1}, {3, 1}, {2, 1<<64 - 1}} {
		if k := other.logKey(7); bytes.Compare(k, from) >= 0 && bytes.Compare(k, to) < 0 {
			t.Fatalf("an entry of %s is inside of the span of %s", other, r)
		}
	}
	for want, key := range map[string][]byte{
		"entry 7 of replica 2/1":          r.logKey(7),
		`stable value "x" of replica 2/1`: r.stableKey([]byte("x")),
		"record of shard 2":               recordKey(2),
		"key 46":                          {tagFormat},
	} {
		if got := describeKey(key); got != want {
			t.Errorf("described as %q, want %q", got, want)
		}
	}
}
