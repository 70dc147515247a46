package store

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

// adds gives the part of a request that adds one to the keys at some places of a list.
func adds(keys []string, ordinals ...uint32) *kvpb.Command {
	cmd := write()
	cmd.Request = &kvpb.RequestID{Hi: 1, Lo: 2, IssuedMs: epochMs, Fingerprint: 3}
	for _, o := range ordinals {
		cmd.Txns = append(cmd.Txns, then(&kvpb.Op{Kind: kvpb.OpKind_OP_ADD, Key: []byte(keys[o]), Delta: 1}))
	}
	cmd.Ordinals = ordinals
	return cmd
}

// TestPartsAreCutAnew sends a request in parts that overlap, some of them within
// one entry: everything is applied once (S10).
func TestPartsAreCutAnew(t *testing.T) {
	fs := engine.NewMemFS()
	db, r, l := filled(t, fs)
	keys := []string{"n0", "n1", "n2", "n3", "z", "n5"} // z is another shard's
	do := func(cmds ...*kvpb.Command) (out []*kvpb.Result) {
		for _, b := range mustApply(t, r, l.entry(cmds...))[0].Results {
			out = append(out, decodeResult(t, b))
		}
		return out
	}
	check := func(res *kvpb.Result, whole bool, replayed ...bool) {
		t.Helper()
		if res.Status != kvpb.Status_STATUS_OK || res.Replayed != whole || len(res.Txns) != len(replayed) || len(res.Ordinals) != 0 {
			t.Fatalf("%v", res)
		}
		for i, txn := range res.Txns {
			if txn.Replayed != replayed[i] || txn.Ops[0].Number != 1 {
				t.Fatalf("transaction %d: %v", i, txn)
			}
		}
	}
	check(do(adds(keys, 1, 2))[0], false, false, false)
	both := do(adds(keys, 2), adds(keys, 0, 1, 2, 3))
	check(both[0], true, true)
	check(both[1], false, false, true, true, false)
	// What is not the shard's: nothing is applied, unless all is remembered.
	if res := do(adds(keys, 3, 4, 5))[0]; res.Status != kvpb.Status_STATUS_WRONG_SHARD || res.Descriptor_ == nil {
		t.Fatalf("%v", res)
	}
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
	mustClose(t, db)

	// A new start with the ids read from disk.
	db = mustOpen(t, fs)
	defer mustClose(t, db)
	r = mustReplica(t, db)
	check(do(adds(keys, 0, 1, 2, 3))[0], true, true, true, true, true)
	check(do(adds(keys, 5))[0], false, false)
	other := adds(keys, 5)
	other.Request.Fingerprint++
	if res := do(other)[0]; res.Status != kvpb.Status_STATUS_REQUEST_MISMATCH {
		t.Fatalf("%v", res)
	}
	// The whole request's id is none of its parts'.
	alone := write(then(put("c", "1")))
	alone.Request = adds(keys, 0).Request
	if res := do(alone)[0]; res.Status != kvpb.Status_STATUS_OK || res.Replayed {
		t.Fatalf("%v", res)
	}
}

// TestGeneration: a command for a generation is refused in any other.
func TestGeneration(t *testing.T) {
	db, r, l := filled(t, engine.NewMemFS())
	defer mustClose(t, db)
	for d, want := range map[uint64]kvpb.Status{0: kvpb.Status_STATUS_OK, 1: kvpb.Status_STATUS_WRONG_SHARD, 9: kvpb.Status_STATUS_WRONG_SHARD} {
		cmd := write(then(put("c", "1")))
		cmd.Generation = testDescriptor().Generation + d
		if res := decodeResult(t, mustApply(t, r, l.entry(cmd))[0].Results[0]); res.Status != want {
			t.Errorf("%+d: %v", d, res)
		}
	}
}

// TestPartIDs: the ids of a request's parts share what the filter asks for, and
// differ from one another, from the request's own and from those of its neighbours.
func TestPartIDs(t *testing.T) {
	seen := map[requestID]bool{}
	for hi := range uint64(20) {
		for lo := range uint64(20) {
			whole := &kvpb.RequestID{Hi: hi, Lo: lo}
			seen[idOf(whole)] = true
			for o := range uint32(kv.OpsMax) {
				id := idOf(partOf(whole, o))
				if seen[id] {
					t.Fatalf("%d %d %d: %x was seen before", hi, lo, o, id)
				}
				seen[id] = true
				a, b := hashID(id)
				if c, d := hashID(idOf(partOf(whole, 0))); a != c || b != d {
					t.Fatalf("%d %d: the filter tells part %d from part 0", hi, lo, o)
				}
			}
		}
	}
}

// TestOrdinalsAreChecked: a part that does not say what it is changes nothing.
func TestOrdinalsAreChecked(t *testing.T) {
	id := &kvpb.RequestID{Hi: 1, IssuedMs: 1}
	for name, c := range map[string]struct {
		id       *kvpb.RequestID
		ordinals []uint32
		ok       bool
	}{
		"good":       {id, []uint32{3, kv.OpsMax - 1}, true},
		"without id": {nil, []uint32{0, 1}, false},
		"too few":    {id, []uint32{0}, false},
		"too many":   {id, []uint32{0, 1, 2}, false},
		"twice":      {id, []uint32{1, 1}, false},
		"descending": {id, []uint32{1, 0}, false},
		"too large":  {id, []uint32{3, kv.OpsMax}, false},
	} {
		cmd := write(then(put("c", "1")), then(put("d", "1")))
		cmd.Request, cmd.Ordinals = c.id, c.ordinals
		if bad, _ := checkCommand(cmd, 2); (bad == "") != c.ok {
			t.Errorf("%s: %q", name, bad)
		}
	}
}

// part applies each transaction of a part that no record of its request holds.
func (w *twin) part(c *kvpb.Command, v kv.Version) *kvpb.Result {
	q := c.Request
	res := &kvpb.Result{Status: kvpb.Status_STATUS_OK, Txns: make([]*kvpb.TxnResult, len(c.Txns)), Replayed: true}
	for i, o := range c.Ordinals {
		for _, r := range w.requests {
			if at := slices.Index(r.result.Ordinals, o); at >= 0 && w.same(r, r.whole, q) {
				res.Txns[i] = proto.CloneOf(r.result.Txns[at])
				res.Txns[i].Replayed = true
			}
		}
		res.Replayed = res.Replayed && res.Txns[i] != nil
	}
	for o := range c.Ordinals[len(c.Ordinals)-1] + 1 { // a record with greater numbers only does not count
		if known, used := w.known(partOf(q, o)); used && known == nil {
			return &kvpb.Result{Status: kvpb.Status_STATUS_REQUEST_MISMATCH}
		}
	}
	switch {
	case res.Replayed:
		return res
	case q.IssuedMs < w.requestFloor:
		return &kvpb.Result{Status: kvpb.Status_STATUS_REQUEST_TOO_OLD}
	case !w.ownsAll(c):
		return &kvpb.Result{Status: kvpb.Status_STATUS_WRONG_SHARD, Descriptor_: w.desc, Sibling: w.shape.sibling}
	}
	record := &kvpb.Result{}
	for i, t := range c.Txns {
		if res.Txns[i] == nil {
			res.Txns[i] = w.transaction(t, v+kv.Version(i))
			record.Txns = append(record.Txns, res.Txns[i])
			record.Ordinals = append(record.Ordinals, c.Ordinals[i])
		}
	}
	w.requests = append(w.requests, &twinRequest{id: partOf(q, record.Ordinals[0]), result: record, whole: q})
	return res
}

// same reports whether what is remembered under an id is the request q.
func (w *twin) same(r *twinRequest, id, q *kvpb.RequestID) bool {
	return id != nil && id.Hi == q.Hi && id.Lo == q.Lo && id.Fingerprint == q.Fingerprint &&
		(q.Fingerprint != 0 || id.IssuedMs == q.IssuedMs) && r.id.IssuedMs >= w.requestFloor
}

// TestPartsOverSplitAndMerge cuts a request by the shards there are: one, two, and
// one again that has absorbed the other.
func TestPartsOverSplitAndMerge(t *testing.T) {
	for _, print := range []uint64{0, 3} { // ids of the cluster's own, and of clients
		s := newShaped(t)
		keys := []string{"n1", "b1", "n2", "b2", "n3", "b3"}
		do := func(r *Replica, l *logWriter, replayed []bool, ordinals ...uint32) {
			t.Helper()
			cmd := adds(keys, ordinals...)
			cmd.Request.Fingerprint = print
			res := decodeResult(t, mustApply(t, r, l.entry(cmd))[0].Results[0])
			if res.Status != kvpb.Status_STATUS_OK {
				t.Fatal(res)
			}
			for i, txn := range res.Txns {
				if txn.Replayed != replayed[i] || txn.Ops[0].Number != 1 {
					t.Fatalf("fingerprint %d, number %d: %v", print, ordinals[i], txn)
				}
			}
		}
		again, anew := true, false
		do(s.left, s.l, []bool{anew, anew}, 0, 1)
		s.split()
		do(s.left, s.l, []bool{again, anew}, 1, 3)
		do(s.right, s.rl, []bool{again, anew}, 0, 2)
		do(s.right, s.rl, []bool{again, again, again}, 0, 1, 2) // 1 was applied before the split
		s.ok(s.left, s.l, absorbKind, s.freeze())
		do(s.left, s.l, []bool{again, again, again, again, anew, anew}, 0, 1, 2, 3, 4, 5)
		do(s.left, s.l, []bool{again, again, again}, 2, 4, 5)
		mustClose(t, s.db)
	}
}
