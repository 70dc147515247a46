package router

import (
	"math"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// TestCommandsAreWhatTheSchemaSays decodes what is appended by hand.
func TestCommandsAreWhatTheSchemaSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := requestID{
			hi: rapid.Uint64().Draw(t, "hi"), lo: rapid.Uint64().Draw(t, "lo"),
			issuedMs: rapid.Int64Range(math.MinInt64, math.MaxInt64).Draw(t, "issued"), fingerprint: rapid.Uint64().Draw(t, "fingerprint"),
		}
		txns := []*kvpb.Txn{put("k", rapid.String().Draw(t, "value")), add("n", 3)}
		c, err := newCommand(txns, id, false, false)
		if err != nil {
			t.Fatal(err)
		}
		if id.fingerprint == 0 {
			id.fingerprint = c.id.fingerprint
			if id.fingerprint == 0 {
				t.Fatal("no fingerprint")
			}
		}
		want := &kvpb.Command{Kind: kvpb.CommandKind_COMMAND_WRITE, Txns: txns,
			Request: &kvpb.RequestID{Hi: id.hi, Lo: id.lo, IssuedMs: id.issuedMs, Fingerprint: id.fingerprint}}
		got := &kvpb.Command{}
		if err := proto.Unmarshal(c.data, got); err != nil || !proto.Equal(got, want) {
			t.Fatalf("%v\n got %v\nwant %v", err, got, want)
		}
		if len(c.data)-len(c.body) > requestFieldBytesMax || c.versions != 2 {
			t.Fatalf("%d bytes of request id, %d versions", len(c.data)-len(c.body), c.versions)
		}
	})
}

func TestFingerprintsTellContentsApart(t *testing.T) {
	given := requestID{hi: 1, lo: 2, issuedMs: 3}
	print := func(txn *kvpb.Txn, id requestID, part bool) uint64 {
		c, err := newCommand([]*kvpb.Txn{txn}, id, false, part)
		if err != nil {
			t.Fatal(err)
		}
		return c.id.fingerprint
	}
	first := print(put("k", "v"), given, false)
	if again := print(put("k", "v"), given, false); again != first {
		t.Error("the same content, two fingerprints")
	}
	for _, other := range []*kvpb.Txn{put("k", "w"), put("l", "v"), add("k", 1), {Guards: []*kvpb.Guard{{Key: []byte("k")}}, Then: put("k", "v").Then}} {
		if print(other, given, false) == first {
			t.Errorf("%v has the fingerprint of another content", other)
		}
	}
	// The caller's own is kept, and is part of that of a part.
	own := given
	own.fingerprint = 99
	if got := print(put("k", "v"), own, false); got != 99 {
		t.Errorf("the caller's fingerprint became %d", got)
	}
	if print(put("k", "v"), own, true) == print(put("k", "v"), given, true) {
		t.Error("two requests with the same part have one fingerprint")
	}
}

func TestRenewedCommandsLeaveTheSentOnesAlone(t *testing.T) {
	r := New(Options{Now: func() time.Time { return time.UnixMilli(1000) }})
	defer r.Close()
	id, minted := r.identify(nil)
	if !minted || id.issuedMs != 1000 {
		t.Fatalf("%+v, minted %v", id, minted)
	}
	c, err := newCommand([]*kvpb.Txn{put("k", "v")}, id, minted, false)
	if err != nil {
		t.Fatal(err)
	}
	sent, before := c.data, string(c.data)
	r.observe(5000)
	r.observe(4000)
	c.renew(r)
	if string(sent) != before {
		t.Fatal("what was sent has changed")
	}
	var got kvpb.Command
	if err := proto.Unmarshal(c.data, &got); err != nil {
		t.Fatal(err)
	}
	if got.Request.IssuedMs != 5000 || got.Request.Hi == id.hi || !proto.Equal(got.Txns[0], put("k", "v")) {
		t.Fatalf("renewed: %v", &got)
	}
}

func TestStepsHaveIdsOfTheirOwn(t *testing.T) {
	seen := map[[2]uint64]bool{}
	for _, id := range []requestID{{}, {hi: 1}, {lo: 1}, {hi: math.MaxUint64, lo: 5}} {
		for n := range 2000 {
			s := id.step(n)
			if s != id.step(n) || n == 0 && s != id {
				t.Fatalf("step %d of %v is %v", n, id, s)
			}
			key := [2]uint64{s.hi, s.lo}
			if seen[key] {
				t.Fatalf("step %d of %v collides", n, id)
			}
			seen[key] = true
		}
	}
}

func TestACommandFitsAnEntry(t *testing.T) {
	long := &kvpb.Op{Kind: kvpb.OpKind_OP_PUT, Key: []byte("k"), Value: make([]byte, kv.ValueBytesMax-1)}
	txn := &kvpb.Txn{Then: []*kvpb.Op{long, long}}
	if _, err := checkTxn(txn); err != nil {
		t.Fatal(err)
	}
	c, err := newCommand([]*kvpb.Txn{txn}, requestID{}, false, false)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := kv.EncodeEntry(kv.Stamp{Term: math.MaxUint64, Version: math.MaxUint64, Ceiling: math.MaxUint64, NowMs: math.MaxInt64},
		[]kv.EntryCommand{{Data: c.data, Versions: math.MaxUint32}})
	if err != nil || len(entry) > kv.EntryBytesMax {
		t.Fatalf("an entry of %d bytes, the limit is %d; %v", len(entry), kv.EntryBytesMax, err)
	}
	// Many small parts add up to more than their keys and values.
	var ops []*kvpb.Op
	for range 500 {
		ops = append(ops, &kvpb.Op{Kind: kvpb.OpKind_OP_PUT, Key: []byte("k"), ContentType: string(make([]byte, 1<<15))})
	}
	_, err = newCommand([]*kvpb.Txn{{Then: ops}}, requestID{}, false, false)
	wantError(t, err, kv.CodeTooLarge, kv.OutcomeNotApplied)
}
