package store

import (
	"bytes"
	"strings"
	"testing"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

// TestLimits: each limit is kept exactly.
func TestLimits(t *testing.T) {
	long := func(n int) string { return "c" + strings.Repeat("x", n-1) }
	many := func(n int) *kvpb.Command {
		txn := then()
		for range n {
			txn.Then = append(txn.Then, del("c"))
		}
		return write(txn)
	}
	op := func(change func(*kvpb.Op)) *kvpb.Command {
		p := put("c", "1")
		change(p)
		return write(then(p))
	}
	request := func(ms int64) *kvpb.Command {
		c := many(1)
		c.Request = &kvpb.RequestID{IssuedMs: ms}
		return c
	}
	sweepOf := func(s *kvpb.SweepArgs) *kvpb.Command {
		return &kvpb.Command{Kind: kvpb.CommandKind_COMMAND_SWEEP, Sweep: s}
	}
	big := strings.Repeat("v", kv.ValueBytesMax)
	for name, c := range map[string]struct {
		cmd *kvpb.Command
		ok  bool
	}{
		"no kind":         {&kvpb.Command{}, false},
		"unknown kind":    {&kvpb.Command{Kind: 9}, false},
		"no txn":          {write(), false},
		"empty txn":       {write(&kvpb.Txn{}), true},
		"key max":         {write(then(put(long(kv.KeyBytesMax), ""))), true},
		"key over":        {write(then(put(long(kv.KeyBytesMax+1), ""))), false},
		"key empty":       {write(then(put("", ""))), false},
		"guard key empty": {write(&kvpb.Txn{Guards: []*kvpb.Guard{{Kind: 1}}}), false},
		"guard unknown":   {write(&kvpb.Txn{Guards: []*kvpb.Guard{{Kind: 6, Key: []byte("c")}}}), false},
		"value max":       {write(then(put("c", big))), true},
		"value over":      {write(then(put("c", big+"x"))), false},
		"bytes over":      {write(then(put("c", big), put("d", big))), false},
		"ops max":         {many(kv.OpsMax), true},
		"ops over":        {many(kv.OpsMax + 1), false},
		"op unknown":      {op(func(o *kvpb.Op) { o.Kind = 6 }), false},
		"type max":        {op(func(o *kvpb.Op) { o.ContentType = long(kv.ContentTypeBytesMax) }), true},
		"type over":       {op(func(o *kvpb.Op) { o.ContentType = long(kv.ContentTypeBytesMax + 1) }), false},
		"ttl max":         {op(func(o *kvpb.Op) { o.TtlMs = kv.TTLMax.Milliseconds() }), true},
		"ttl over":        {op(func(o *kvpb.Op) { o.TtlMs = kv.TTLMax.Milliseconds() + 1 }), false},
		"ttl negative":    {op(func(o *kvpb.Op) { o.TtlMs = -1 }), false},
		"issued":          {request(0), true},
		"issued negative": {request(-1), false},
		"sweep":           {sweepOf(&kvpb.SweepArgs{}), true},
		"sweep of none":   {sweepOf(nil), false},
		"sweep negative":  {sweepOf(&kvpb.SweepArgs{ExpireBeforeMs: -1}), false},
	} {
		t.Run(name, func(t *testing.T) {
			db := mustOpen(t, engine.NewMemFS())
			defer mustClose(t, db)
			r := mustReplica(t, db)
			l := newLog()
			mustApply(t, r, l.startTerm())
			res := decodeResult(t, mustApply(t, r, l.entry(c.cmd))[0].Results[0])
			if ok := res.Status == kvpb.Status_STATUS_OK; ok != c.ok {
				t.Fatalf("%v: %s", res.Status, res.Detail)
			}
			if !c.ok && (res.Status != kvpb.Status_STATUS_BAD_COMMAND || r.Stats().Keys != 0) {
				t.Fatalf("%v, %+v", res, r.Stats())
			}
		})
	}
}

// TestAnswerBudget: a command may not ask for more bytes than it could write.
func TestAnswerBudget(t *testing.T) {
	db, r, l := filled(t, engine.NewMemFS())
	defer mustClose(t, db)
	value := strings.Repeat("v", 3<<20)
	mustApply(t, r, l.entry(write(then(put("c", value)))))
	mustApply(t, r, l.entry(write(then(put("d", value)))))
	read := func(n int) *kvpb.Txn {
		txn := then()
		for range n {
			txn.Then = append(txn.Then, &kvpb.Op{Kind: kvpb.OpKind_OP_GET, Key: []byte("c")})
		}
		return txn
	}
	res := decodeResult(t, mustApply(t, r, l.entry(write(read(1), read(3), read(1), read(1))))[0].Results[0])
	var got []kvpb.Status
	for _, txn := range res.Txns {
		got = append(got, txn.Status)
	}
	// What is refused uses nothing up; two of 3 MiB fit into 8.
	ok, bad := kvpb.Status_STATUS_OK, kvpb.Status_STATUS_BAD_COMMAND
	if want := []kvpb.Status{ok, bad, ok, bad}; len(got) != 4 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] || got[3] != want[3] {
		t.Fatal(got)
	}
	if resp := get(r, "c", "d"); resp.Status != ok || len(resp.Gets[1].Item.Value) != len(value) {
		t.Fatal(resp.Status)
	}
	if resp := get(r, "c", "d", "c"); resp.Status != bad || resp.Gets != nil {
		t.Fatal(resp.Status)
	}
	if resp := get(r, "c", "z"); resp.Status != kvpb.Status_STATUS_WRONG_SHARD || resp.Descriptor_.GetShard() == 0 {
		t.Fatal(resp.Status)
	}
	if resp := get(r, ""); resp.Status != bad {
		t.Fatal(resp.Status)
	}
}

// TestRangeBudget: all range deletes of a command share one bound.
func TestRangeBudget(t *testing.T) {
	db, r, l := filled(t, engine.NewMemFS())
	defer mustClose(t, db)
	n := 0
	for n < rangeDeletesMax+kv.OpsMax {
		txn := then()
		for range kv.OpsMax {
			txn.Then = append(txn.Then, put("k"+string([]byte{byte(n >> 16), byte(n >> 8), byte(n)}), ""))
			n++
		}
		mustApply(t, r, l.entry(write(txn)))
	}
	cmd := write()
	for range rangeDeletesMax/kv.OpsMax + 1 {
		cmd.Txns = append(cmd.Txns, then(&kvpb.Op{Kind: kvpb.OpKind_OP_DELETE_RANGE, Key: []byte("k"), EndKey: []byte("l")}))
	}
	res := decodeResult(t, mustApply(t, r, l.entry(cmd))[0].Results[0])
	total := uint32(0)
	for i, txn := range res.Txns {
		total += txn.Ops[0].Deleted
		if !txn.Ops[0].More {
			t.Errorf("transaction %d says that it is done", i)
		}
	}
	if total != rangeDeletesMax {
		t.Fatal(total)
	}
}

func TestEscape(t *testing.T) {
	keys := []string{"", "\x00", "\x00\x00", "\x00\x01", "\x00\xff", "\x01", "a", "a\x00", "a\x00b", "a\x01", "ab", "\xff", "\xff\xff"}
	for i, a := range keys {
		ea := escape(nil, []byte(a))
		if back, ok := unescape(nil, ea); !ok || string(back) != a {
			t.Errorf("%q → %q", a, back)
		}
		full := dataKey(nil, 1, []byte(a), 5)
		if key, v, ok := parseDataKey(nil, full); !ok || string(key) != a || v != 5 {
			t.Errorf("%q → %q %d %v", a, key, v, ok)
		}
		for _, b := range keys[i+1:] {
			eb := escape(nil, []byte(b))
			if bytes.Compare(ea, eb) >= 0 || bytes.HasPrefix(eb, ea) {
				t.Errorf("%q does not stay below %q", a, b)
			}
			if o := escapeOpen(nil, []byte(b)); bytes.Compare(ea, o) >= 0 || bytes.Compare(o, eb) > 0 {
				t.Errorf("the bound of %q is not between it and %q", b, a)
			}
		}
	}
	for _, bad := range []string{"", "a", "a\x00", "a\x00\x02", "a\x00\x01b", "\xff"} {
		if _, ok := unescape(nil, []byte(bad)); ok {
			t.Errorf("%q was taken", bad)
		}
	}
}
