package router

import (
	"fmt"
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
		spread := rapid.Bool().Draw(t, "spread")
		if spread {
			txns[1].Then = append(txns[1].Then, put("o", "v").Then...)
		}
		var ordinals []uint32
		if rapid.Bool().Draw(t, "part") {
			ordinals = []uint32{3, 7}
		}
		c, err := newCommand(txns, id, false, ordinals)
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
			Request: &kvpb.RequestID{Hi: id.hi, Lo: id.lo, IssuedMs: id.issuedMs, Fingerprint: id.fingerprint}, Ordinals: ordinals}
		sent := map[uint64][]byte{}
		for _, generation := range []uint64{1, math.MaxUint64, 7, 7} {
			if want.Generation = 0; spread {
				want.Generation = generation
			}
			data := c.encode(generation)
			got := &kvpb.Command{}
			if err := proto.Unmarshal(data, got); err != nil || !proto.Equal(got, want) {
				t.Fatalf("%v\n got %v\nwant %v", err, got, want)
			}
			if len(data)-len(c.body) > suffixBytesMax || c.versions != 2 {
				t.Fatalf("%d bytes beside the body, %d versions", len(data)-len(c.body), c.versions)
			}
			sent[generation] = data
		}
		for generation, data := range sent {
			got := &kvpb.Command{}
			if err := proto.Unmarshal(data, got); err != nil || spread && got.Generation != generation {
				t.Fatalf("what was sent for generation %d is for %d now, %v", generation, got.Generation, err)
			}
		}
	})
}

func TestFingerprintsTellContentsApart(t *testing.T) {
	given := requestID{hi: 1, lo: 2, issuedMs: 3}
	print := func(txn *kvpb.Txn, id requestID) uint64 {
		c, err := newCommand([]*kvpb.Txn{txn}, id, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.id.fingerprint
	}
	first := print(put("k", "v"), given)
	if again := print(put("k", "v"), given); again != first {
		t.Error("the same content, two fingerprints")
	}
	for _, other := range []*kvpb.Txn{put("k", "w"), put("l", "v"), add("k", 1), {Guards: []*kvpb.Guard{{Key: []byte("k")}}, Then: put("k", "v").Then}} {
		if print(other, given) == first {
			t.Errorf("%v has the fingerprint of another content", other)
		}
	}
	own := given
	own.fingerprint = 99
	if got := print(put("k", "v"), own); got != 99 {
		t.Errorf("the caller's fingerprint became %d", got)
	}
	seen := map[uint64]int{}
	for i, batch := range [][]*kvpb.Txn{{}, {put("k", "v")}, {put("k", "v"), put("k", "v")}, {put("k", "v"), put("l", "v")}, {put("l", "v"), put("k", "v")}} {
		print := fingerprintOf(batch)
		if other, ok := seen[print]; ok || print == 0 || print != fingerprintOf(batch) {
			t.Errorf("batch %d has the fingerprint %d of batch %d", i, print, other)
		}
		seen[print] = i
	}
}

func TestRenewedCommandsLeaveTheSentOnesAlone(t *testing.T) {
	r := New(Options{Now: func() time.Time { return time.UnixMilli(1000) }})
	defer r.Close()
	id, minted := r.identify(nil)
	if !minted || id.issuedMs != 1000 {
		t.Fatalf("%+v, minted %v", id, minted)
	}
	c, err := newCommand([]*kvpb.Txn{put("k", "v")}, id, minted, nil)
	if err != nil {
		t.Fatal(err)
	}
	sent := c.encode(1)
	before := string(sent)
	r.observe(5000)
	r.observe(4000)
	c.renew(r)
	if string(sent) != before {
		t.Fatal("what was sent has changed")
	}
	var got kvpb.Command
	if err := proto.Unmarshal(c.encode(1), &got); err != nil {
		t.Fatal(err)
	}
	if got.Request.IssuedMs != 5000 || got.Request.Hi == id.hi || !proto.Equal(got.Txns[0], put("k", "v")) {
		t.Fatalf("renewed: %v", &got)
	}
}

func TestPagesHaveIdsOfTheirOwn(t *testing.T) {
	seen := map[[2]uint64]bool{}
	for _, id := range []requestID{{issuedMs: 7}, {hi: 1, issuedMs: 7}, {lo: 1, issuedMs: 7}} {
		for n := range 2000 {
			p := id.page(fmt.Append(nil, n))
			if p != id.page(fmt.Append(nil, n)) || p.issuedMs != 7 {
				t.Fatalf("page %d of %v is %v", n, id, p)
			}
			key := [2]uint64{p.hi, p.lo}
			if seen[key] {
				t.Fatalf("page %d of %v collides", n, id)
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
	c, err := newCommand([]*kvpb.Txn{txn}, requestID{}, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := kv.EncodeEntry(kv.Stamp{Term: math.MaxUint64, Version: math.MaxUint64, Ceiling: math.MaxUint64, NowMs: math.MaxInt64},
		[]kv.EntryCommand{{Data: c.encode(math.MaxUint64), Versions: math.MaxUint32}})
	if err != nil || len(entry) > kv.EntryBytesMax {
		t.Fatalf("an entry of %d bytes, the limit is %d; %v", len(entry), kv.EntryBytesMax, err)
	}
	// Many small parts add up to more than their keys and values.
	var ops []*kvpb.Op
	for range 500 {
		ops = append(ops, &kvpb.Op{Kind: kvpb.OpKind_OP_PUT, Key: []byte("k"), ContentType: string(make([]byte, 1<<15))})
	}
	_, err = newCommand([]*kvpb.Txn{{Then: ops}}, requestID{}, false, nil)
	wantError(t, err, kv.CodeTooLarge, kv.OutcomeNotApplied)
}
