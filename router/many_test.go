package router

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// ---- Txn ----

func TestTxnRefusals(t *testing.T) {
	c := newCluster(t, 1, "m")
	op := func(kind kvpb.OpKind, key, end string) *kvpb.Op {
		return &kvpb.Op{Kind: kind, Key: []byte(key), EndKey: []byte(end)}
	}
	then := func(ops ...*kvpb.Op) *kvpb.Txn { return &kvpb.Txn{Then: ops} }
	long := strings.Repeat("k", kv.KeyBytesMax+1)
	big := &kvpb.Op{Kind: kvpb.OpKind_OP_PUT, Key: []byte("k"), Value: make([]byte, kv.ValueBytesMax)}
	for name, x := range map[string]struct {
		txn  *kvpb.Txn
		code kv.Code
	}{
		"nil":                      {nil, kv.CodeInvalid},
		"nothing":                  {&kvpb.Txn{}, kv.CodeInvalid},
		"an empty key":             {put("", "v"), kv.CodeInvalid},
		"an empty key in a guard":  {&kvpb.Txn{Guards: []*kvpb.Guard{{Kind: kvpb.GuardKind_GUARD_EXISTS}}}, kv.CodeInvalid},
		"a long key":               {put(long, "v"), kv.CodeKeyTooLong},
		"a long value":             {put("k", string(make([]byte, kv.ValueBytesMax+1))), kv.CodeTooLarge},
		"too many bytes":           {then(big, big, big), kv.CodeTooLarge},
		"too many operations":      {then(slices.Repeat([]*kvpb.Op{op(kvpb.OpKind_OP_GET, "k", "")}, kv.OpsMax+1)...), kv.CodeTooLarge},
		"a range without an end":   {then(op(kvpb.OpKind_OP_DELETE_RANGE, "a", "")), kv.CodeInvalid},
		"a range with a long end":  {then(op(kvpb.OpKind_OP_DELETE_RANGE, "a", long)), kv.CodeKeyTooLong},
		"two shards":               {then(op(kvpb.OpKind_OP_GET, "a", ""), op(kvpb.OpKind_OP_GET, "z", "")), kv.CodeCrossShardTxn},
		"a range over two shards":  {then(op(kvpb.OpKind_OP_DELETE_RANGE, "a", "z")), kv.CodeCrossShardTxn},
		"a guard in another shard": {&kvpb.Txn{Guards: []*kvpb.Guard{{Kind: kvpb.GuardKind_GUARD_EXISTS, Key: []byte("z")}}, Then: put("a", "v").Then}, kv.CodeCrossShardTxn},
		"an else in another shard": {&kvpb.Txn{Then: put("a", "v").Then, Otherwise: put("z", "v").Then}, kv.CodeCrossShardTxn},
	} {
		_, err := c.router(1).Txn(context.Background(), x.txn, nil)
		if kv.CodeOf(err) != x.code || kv.OutcomeOf(err) != kv.OutcomeNotApplied {
			t.Errorf("%s: %s, want %s", name, describe(err), x.code)
		}
	}
	if n := c.shards[2].machine.applied + c.shards[3].machine.applied; n != 0 {
		t.Errorf("%d refused transactions were applied", n)
	}
	// A range up to the shard's end is within it.
	if _, err := c.router(1).Txn(context.Background(), then(op(kvpb.OpKind_OP_DELETE_RANGE, "a", "m")), nil); err != nil {
		t.Error(err)
	}
}

func TestAFalseGuardIsAnAnswer(t *testing.T) {
	c := newCluster(t, 2)
	c.mustPut("k")
	txn := put("k", "other")
	txn.Guards = []*kvpb.Guard{{Kind: kvpb.GuardKind_GUARD_ABSENT, Key: []byte("k")}}
	w, err := c.router(2).Txn(context.Background(), txn, nil)
	if err != nil {
		t.Fatal(err)
	}
	if w.Result.Status != kvpb.Status_STATUS_CONDITION_FAILED || w.Result.CurrentVersion == 0 {
		t.Fatalf("result %v", w.Result)
	}
	if got, _ := c.mustGet(1, "k", kv.ReadOptions{}); got != "v:k" {
		t.Fatalf("the key holds %q", got)
	}
}

func TestACallersIdIsRemembered(t *testing.T) {
	c := newCluster(t, 2)
	id := &kvpb.RequestID{Hi: 7, Lo: 8, IssuedMs: time.Now().UnixMilli()}
	for i := range 3 {
		w, err := c.router(kv.NodeID(1+i%2)).Txn(context.Background(), add("n", 5), id)
		if err != nil || w.Replayed != (i > 0) || w.Result.Ops[0].Number != 5 {
			t.Fatalf("call %d: %+v, %v", i, w, err)
		}
	}
	_, err := c.router(1).Txn(context.Background(), add("n", 6), id)
	wantError(t, err, kv.CodeIdempotencyMismatch, kv.OutcomeNotApplied)
	if id.Fingerprint != 0 {
		t.Fatal("the caller's id was changed")
	}
}

func TestATxnFollowsASplit(t *testing.T) {
	c := newCluster(t, 2)
	c.mustPut("a")
	id := &kvpb.RequestID{Hi: 1, Lo: 1, IssuedMs: time.Now().UnixMilli()}
	if _, err := c.router(1).Txn(context.Background(), add("z", 1), id); err != nil {
		t.Fatal(err)
	}
	c.split(2, "m", 9)
	w, err := c.router(2).Txn(context.Background(), add("z", 1), id)
	if err != nil || !w.Replayed {
		t.Fatalf("again after the split: %+v, %v", w, err)
	}
	w, err = c.router(1).Txn(context.Background(), add("z", 1), nil)
	if err != nil || w.Served.Shard != 9 || w.Result.Ops[0].Number != 2 {
		t.Fatalf("a new one: %+v, %v", w, err)
	}
}

// ---- Batch ----

func TestBatchKeepsOrderAndOutcomes(t *testing.T) {
	c := newCluster(t, 3, "g", "n", "t")
	c.mustPut("text")
	txns := []*kvpb.Txn{
		put("z", "1"), add("a", 1), put("", "x"), add("text", 1), {Then: slices.Concat(put("a", "x").Then, put("z", "x").Then)},
		add("a", 2), put("h", "2"), nil, put("o", "3"), {Then: slices.Concat(put("h", "x").Then, put("t", "x").Then)},
	}
	codes := []kv.Code{"", "", kv.CodeInvalid, kv.CodeConflict, kv.CodeCrossShardTxn, "", "", kv.CodeInvalid, "", kv.CodeCrossShardTxn}
	out := c.router(1).Batch(context.Background(), txns, nil)
	if len(out) != len(txns) {
		t.Fatalf("%d answers to %d operations", len(out), len(txns))
	}
	for i, o := range out {
		if kv.CodeOf(o.Err) != codes[i] {
			t.Errorf("operation %d: %s, want %q", i, describe(o.Err), codes[i])
		}
	}
	if a, b := out[1].Written.Result.Ops[0].Number, out[5].Written.Result.Ops[0].Number; a != 1 || b != 3 {
		t.Errorf("the additions answered %d and %d", a, b)
	}
	for i, want := range map[int]kv.ShardID{0: 5, 1: 2, 6: 3, 8: 4} {
		if got := out[i].Written.Served.Shard; got != want {
			t.Errorf("operation %d was served by shard %s, want %s", i, got, want)
		}
	}
	applied := 0
	for _, s := range c.shards {
		applied += s.machine.applied
	}
	if applied != 1+4 {
		t.Errorf("%d commands for a put and a batch over four shards", applied)
	}
}

func TestBatchLimits(t *testing.T) {
	c := newCluster(t, 1)
	many := slices.Repeat([]*kvpb.Txn{put("k", "v")}, kv.OpsMax+1)
	for _, o := range c.router(1).Batch(context.Background(), many, nil) {
		wantError(t, o.Err, kv.CodeTooLarge, kv.OutcomeNotApplied)
	}
	for _, o := range c.router(1).Batch(context.Background(), many[1:], nil) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
	}
	if out := c.router(1).Batch(context.Background(), nil, nil); len(out) != 0 {
		t.Fatal(out)
	}
}

// counters gives a batch that adds one to each key.
func counters(keys ...string) []*kvpb.Txn {
	var txns []*kvpb.Txn
	for _, key := range keys {
		txns = append(txns, add(key, 1))
	}
	return txns
}

func TestABatchAgainIsReplayed(t *testing.T) {
	c := newCluster(t, 2, "m")
	id := &kvpb.RequestID{Hi: 1, Lo: 2, IssuedMs: time.Now().UnixMilli(), Fingerprint: 3}
	txns := counters("a", "z", "b", "y")
	for i := range 2 {
		for at, o := range c.router(kv.NodeID(1+i)).Batch(context.Background(), txns, id) {
			if o.Err != nil || o.Written.Replayed != (i == 1) || o.Written.Result.Ops[0].Number != 1 {
				t.Fatalf("time %d, operation %d: %+v", i, at, o)
			}
		}
	}
	// After a split the parts are others, and after a merge again.
	for i, change := range []func(){func() { c.split(3, "z", 9) }, func() { c.absorb(2, 3) }, func() { c.absorb(2, 9) }} {
		change()
		for _, fresh := range []bool{false, true} {
			if fresh {
				c.nodes[2].view.refresh()
			}
			for at, o := range c.router(2).Batch(context.Background(), txns, id) {
				if o.Err != nil || !o.Written.Replayed || o.Written.Result.Ops[0].Number != 1 {
					t.Fatalf("change %d, operation %d with a fresh map %v: %+v", i, at, fresh, o)
				}
			}
		}
	}
	for at, o := range c.router(1).Batch(context.Background(), counters("a", "z", "b", "x"), &kvpb.RequestID{Hi: 1, Lo: 2, IssuedMs: id.IssuedMs, Fingerprint: 4}) {
		if kv.CodeOf(o.Err) != kv.CodeIdempotencyMismatch {
			t.Errorf("operation %d of another batch under the same id: %+v", at, o)
		}
	}
	for _, key := range []string{"a", "b", "y", "z"} {
		if got, _ := c.mustGet(1, key, kv.ReadOptions{}); got != "1" {
			t.Errorf("%s counts %s", key, got)
		}
	}
}

func TestABatchIsRegroupedAfterASplit(t *testing.T) {
	c := newCluster(t, 2, "m")
	c.split(3, "t", 9)
	c.split(2, "c", 10)
	for i, o := range c.router(2).Batch(context.Background(), counters("a", "z", "d", "n", "b"), nil) {
		if o.Err != nil || o.Written.Result.Ops[0].Number != 1 {
			t.Fatalf("operation %d: %+v", i, o)
		}
	}
}

// TestADoubtfulPartIsRegrouped splits a shard just after it has applied a part whose
// answer is lost (invariant 4).
func TestADoubtfulPartIsRegrouped(t *testing.T) {
	for _, lost := range []bool{false, true} { // one half is not heard of again
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 1, "m")
			once := true
			c.proposed = func(_ kv.NodeID, id kv.ShardID, answer []byte) ([]byte, error) {
				if id != 3 || !once {
					return answer, nil
				}
				once = false
				c.split(3, "t", 9)
				if lost {
					c.locked(func() { c.shards[9].leader = 0 })
				}
				c.nodes[1].view.refresh()
				return nil, kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown, "lost")
			}
			out := c.router(1).Batch(context.Background(), counters("a", "n", "z"), nil)
			if lost {
				wantError(t, out[2].Err, kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
				c.locked(func() { c.shards[9].leader = 1 })
			} else if out[2].Err != nil || !out[2].Written.Replayed {
				t.Errorf("%+v", out[2])
			}
			if out[0].Err != nil || out[1].Err != nil || out[0].Written.Replayed || !out[1].Written.Replayed {
				t.Errorf("%+v", out)
			}
			for _, key := range []string{"a", "n", "z"} {
				if got, _ := c.mustGet(1, key, kv.ReadOptions{}); got != "1" {
					t.Errorf("%s counts %s", key, got)
				}
			}
		})
	}
}

// TestOneShardsTroubleIsNotTheOthers has one shard of a batch without a leader.
func TestOneShardsTroubleIsNotTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2, "m")
		c.locked(func() { c.shards[3].leader = 0 })
		out := c.router(1).Batch(context.Background(), counters("a", "z", "b"), nil)
		wantError(t, out[1].Err, kv.CodeUnavailable, kv.OutcomeNotApplied)
		if out[0].Err != nil || out[2].Err != nil {
			t.Fatalf("%v, %v", out[0].Err, out[2].Err)
		}
	})
}

// TestABatchDoesNotWaitForTheLastHole has two keys whose shards the map does not
// know at first, and one of which it gets to know.
func TestABatchDoesNotWaitForTheLastHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, "g", "m", "t")
		v := c.nodes[1].view
		all := v.descs
		v.follows, v.descs = false, all[:1]
		known := time.AfterFunc(500*time.Millisecond, func() { v.Learn(all[2]) })
		defer known.Stop()
		for _, keys := range [][]string{{"a", "h", "n"}, {"n", "h", "a"}} {
			v.descs = all[:1:1]
			known.Reset(500 * time.Millisecond)
			for i, o := range c.router(1).Batch(context.Background(), counters(keys...), nil) {
				if keys[i] == "h" {
					wantError(t, o.Err, kv.CodeUnavailable, kv.OutcomeNotApplied)
				} else if o.Err != nil {
					t.Errorf("%s: %v", keys[i], o.Err)
				}
			}
		}
	})
}

// ---- MultiGet ----

func TestMultiGet(t *testing.T) {
	c := newCluster(t, 3, "g", "n", "t")
	c.mustPut("a", "h", "o", "u", "b")
	c.split(2, "b", 9) // which the map does not know
	var keys [][]byte
	for _, k := range strings.Split("u,missing,a,o,b,h,a", ",") {
		keys = append(keys, []byte(k))
	}
	got, err := c.router(2).MultiGet(context.Background(), keys, kv.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range got {
		want := "v:" + string(keys[i])
		switch {
		case string(keys[i]) == "missing" && g.Item != nil, string(keys[i]) != "missing" && string(g.Item.GetValue()) != want, g.Served.Shard == 0:
			t.Errorf("key %q: %+v", keys[i], g)
		}
	}
	if got, err := c.router(2).MultiGet(context.Background(), nil, kv.ReadOptions{}); err != nil || len(got) != 0 {
		t.Errorf("of nothing: %v, %v", got, err)
	}
	_, err = c.router(2).MultiGet(context.Background(), [][]byte{[]byte("a"), {}}, kv.ReadOptions{})
	wantError(t, err, kv.CodeInvalid, kv.OutcomeNone)
	_, err = c.router(2).MultiGet(context.Background(), make([][]byte, kv.OpsMax+1), kv.ReadOptions{})
	wantError(t, err, kv.CodeTooLarge, kv.OutcomeNone)
}

func TestMultiGetAsksForSoManyAtATime(t *testing.T) {
	c := newCluster(t, 2)
	c.mustPut("k00300")
	var keys [][]byte
	for i := range 2*getsPerReadMax + 100 {
		keys = append(keys, fmt.Appendf(nil, "k%05d", i))
	}
	got, err := c.router(2).MultiGet(context.Background(), keys, kv.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range got {
		if (g.Item != nil) != (i == 300) {
			t.Errorf("key %d: %v", i, g.Item)
		}
	}
	if calls := c.take(); len(calls) != 3 {
		t.Errorf("%d calls, want 3", len(calls))
	}
}

func TestMultiGetAsksForFewerLargeValues(t *testing.T) {
	c := newCluster(t, 2)
	value := string(make([]byte, kv.ValueBytesMax))
	var keys [][]byte
	for i := range 17 {
		key := fmt.Sprintf("k%02d", i)
		keys = append(keys, []byte(key))
		if _, err := c.router(1).Txn(context.Background(), put(key, value), nil); err != nil {
			t.Fatal(err)
		}
	}
	// Twelve of 4 MiB do not fit one answer from another node.
	got, err := c.router(2).MultiGet(context.Background(), keys[:12], kv.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range got {
		if !bytes.Equal(g.Item.GetKey(), keys[i]) || len(g.Item.Value) != len(value) {
			t.Fatalf("key %d is %q with %d bytes", i, g.Item.GetKey(), len(g.Item.GetValue()))
		}
	}
	if calls := c.take(); len(calls) != 3 {
		t.Errorf("%d calls, want the whole and two halves", len(calls))
	}
	_, err = c.router(2).MultiGet(context.Background(), keys, kv.ReadOptions{})
	wantError(t, err, kv.CodeTooLarge, kv.OutcomeNone)
}

func TestParallelIsBoundedAndComplete(t *testing.T) {
	c := newCluster(t, 1)
	r := New(Options{Self: 1, Local: c.nodes[1], Map: c.nodes[1].view, Peers: c.nodes[1], Limits: Limits{ParallelMax: 3}})
	defer r.Close()
	var running, peak atomic.Int64
	done := make([]atomic.Int64, 100)
	r.parallel(len(done), func(i int) {
		now := running.Add(1)
		for {
			p := peak.Load()
			if now <= p || peak.CompareAndSwap(p, now) {
				break
			}
		}
		done[i].Add(1)
		running.Add(-1)
	})
	for i := range done {
		if done[i].Load() != 1 {
			t.Fatalf("part %d ran %d times", i, done[i].Load())
		}
	}
	if peak.Load() > 3 {
		t.Fatalf("%d at once", peak.Load())
	}
	r.parallel(0, func(int) { t.Fatal("ran") })
}
