package router

import (
	"context"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// Txn applies one transaction, whose keys must lie in one shard, exactly once
// within the window of request ids. It is for the shard of its first key to say that
// the keys lie in several: only there is it known whether it was applied before they
// did. With a nil id it makes one, so that its own
// attempts are safe. A false guard is no error: the result says
// STATUS_CONDITION_FAILED. It blocks until the answer or ctx's deadline.
//
// The error's outcome is exact (invariant 3). Codes: kv.CodeCrossShardTxn,
// kv.CodeInvalid, kv.CodeKeyTooLong, kv.CodeTooLarge, kv.CodeConflict,
// kv.CodeIdempotencyMismatch, kv.CodeUnavailable, kv.CodeOverloaded,
// kv.CodeTimeout and kv.CodeStorageFull, all not applied; kv.CodeOutcomeUnknown,
// kv.CodeCorrupt and kv.CodeInternal, unknown.
func (r *Router) Txn(ctx context.Context, txn *kvpb.Txn, id *kvpb.RequestID) (kv.Written, error) {
	if _, err := checkTxn(txn); err != nil {
		return kv.Written{}, err
	}
	own, minted := r.identify(id)
	c, err := newCommand([]*kvpb.Txn{txn}, own, minted, nil)
	if err != nil {
		return kv.Written{}, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	a := attempts{r: r, op: OpWrite}
	result, served, err := r.apply(ctx, &a, c, func() (*kvpb.ShardDescriptor, error) { return r.locate(firstKey(txn), kv.OutcomeNotApplied) })
	if err != nil {
		return kv.Written{}, err
	}
	return r.written(result, 0, served)
}

// checkTxn refuses what no shard would take, and gives the bytes of its keys and
// values.
func checkTxn(txn *kvpb.Txn) (int, error) {
	n := len(txn.GetGuards()) + len(txn.GetThen()) + len(txn.GetOtherwise())
	if n == 0 {
		return 0, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "a transaction of nothing")
	}
	if n > kv.OpsMax {
		return 0, kv.Errorf(kv.CodeTooLarge, kv.OutcomeNotApplied, "%d guards and operations; the limit is %d", n, kv.OpsMax)
	}
	size := 0
	for _, g := range txn.Guards {
		if err := checkKey(g.GetKey(), kv.OutcomeNotApplied); err != nil {
			return 0, err
		}
		size += len(g.Key) + len(g.Value) + 8*len(g.Versions)
	}
	for _, ops := range [2][]*kvpb.Op{txn.Then, txn.Otherwise} {
		for _, op := range ops {
			if err := checkOp(op); err != nil {
				return 0, err
			}
			size += len(op.Key) + len(op.Value) + len(op.EndKey)
		}
	}
	if size > kv.CommandBytesMax {
		return 0, kv.Errorf(kv.CodeTooLarge, kv.OutcomeNotApplied, "%d bytes of keys and values; the limit is %d", size, kv.CommandBytesMax)
	}
	return size, nil
}

func checkOp(op *kvpb.Op) error {
	if err := checkKey(op.GetKey(), kv.OutcomeNotApplied); err != nil {
		return err
	}
	if len(op.Value) > kv.ValueBytesMax {
		return kv.Errorf(kv.CodeTooLarge, kv.OutcomeNotApplied, "a value of %d bytes; the limit is %d", len(op.Value), kv.ValueBytesMax)
	}
	// In a shard, no end means the shard's end, which moves; here it would have
	// to mean the last key there can be.
	if op.Kind == kvpb.OpKind_OP_DELETE_RANGE {
		if len(op.EndKey) == 0 {
			return kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "a range in a transaction needs an end")
		}
		if len(op.EndKey) > kv.KeyBytesMax {
			return kv.Errorf(kv.CodeKeyTooLong, kv.OutcomeNotApplied, "an end of %d bytes; the limit is %d", len(op.EndKey), kv.KeyBytesMax)
		}
	}
	return nil
}

// eachRange calls fn with what a transaction names, until it returns false: a key,
// or with an end the keys from it on.
func eachRange(txn *kvpb.Txn, fn func(key, end []byte) bool) {
	for _, g := range txn.Guards {
		if !fn(g.Key, nil) {
			return
		}
	}
	for _, ops := range [2][]*kvpb.Op{txn.Then, txn.Otherwise} {
		for _, op := range ops {
			var end []byte
			if op.Kind == kvpb.OpKind_OP_DELETE_RANGE {
				end = op.EndKey
			}
			if !fn(op.Key, end) {
				return
			}
		}
	}
}

// firstKey gives the key by which a transaction is routed. All attempts name it.
func firstKey(txn *kvpb.Txn) (first []byte) {
	eachRange(txn, func(key, _ []byte) bool {
		first = key
		return false
	})
	return first
}

// spreads reports whether a transaction names more keys than one.
func spreads(txn *kvpb.Txn) (more bool) {
	first := firstKey(txn)
	eachRange(txn, func(key, end []byte) bool {
		more = end != nil || string(key) != string(first)
		return !more
	})
	return more
}

// ownsTxn reports whether all that a transaction names lies in the descriptor's
// range.
func ownsTxn(d *kvpb.ShardDescriptor, txn *kvpb.Txn) (all bool) {
	eachRange(txn, func(key, end []byte) bool {
		all = end == nil && owns(d, key) || end != nil && ownsRange(d, key, end)
		return all
	})
	return all
}
