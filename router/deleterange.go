package router

import (
	"bytes"
	"context"
	"fmt"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// DeleteRange deletes the keys in [start, end), an empty end having no bound, and
// tells how many there were, also beside an error. It goes from shard to shard in
// commands of up to kv.OpsMax keys, so it is not atomic: a failure after the first
// command has an unknown outcome. The same id again deletes nothing that was written
// since, as long as the shards are the same; if one was split in between, the
// answer is kv.CodeIdempotencyMismatch with an unknown outcome.
func (r *Router) DeleteRange(ctx context.Context, start, end []byte, id *kvpb.RequestID) (int, error) {
	if len(start) > kv.KeyBytesMax || len(end) > kv.KeyBytesMax {
		return 0, kv.Errorf(kv.CodeKeyTooLong, kv.OutcomeNotApplied, "a bound of %d bytes; the limit is %d", max(len(start), len(end)), kv.KeyBytesMax)
	}
	if len(start) == 0 {
		start = []byte{0} // the least key
	}
	if len(end) > 0 && bytes.Compare(start, end) >= 0 {
		return 0, nil
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	w := &rangeDelete{r: r, pos: start, end: end}
	w.id, w.minted = r.identify(id)
	for !w.done {
		if err := w.step(ctx); err != nil {
			return w.deleted, w.failure(err)
		}
	}
	return w.deleted, nil
}

// rangeDelete is a DeleteRange on its way.
type rangeDelete struct {
	r       *Router
	pos     []byte // everything in [start, pos) is done
	end     []byte // empty = no bound
	id      requestID
	minted  bool
	steps   int // that were applied; numbers the ids over all shards
	deleted int
	done    bool
}

// step deletes up to kv.OpsMax keys at pos.
func (w *rangeDelete) step(ctx context.Context) error {
	a := attempts{r: w.r, op: OpWrite}
	for {
		until, err := w.bound()
		if err == nil {
			err = w.apply(ctx, &a, until)
			if kv.CodeOf(err) == kv.CodeCrossShardTxn {
				continue // not applied; the shard's end has moved
			}
			return err
		}
		if err := a.again(ctx, err); err != nil {
			return err
		}
	}
}

// bound gives the end of what the shard at pos has to delete.
func (w *rangeDelete) bound() ([]byte, error) {
	d, err := w.r.locate(w.pos, kv.OutcomeNotApplied)
	if err != nil {
		return nil, err
	}
	if len(d.End) > 0 && (len(w.end) == 0 || bytes.Compare(d.End, w.end) < 0) {
		return d.End, nil
	}
	return w.end, nil
}

// apply deletes in [pos, until), which lay in one shard, and moves on.
func (w *rangeDelete) apply(ctx context.Context, a *attempts, until []byte) error {
	txn := rangeTxn(w.pos, until)
	c, err := newCommand([]*kvpb.Txn{txn}, w.id.step(w.steps), w.minted, true)
	if err != nil {
		return err
	}
	pos := w.pos
	result, served, err := w.r.apply(ctx, a, c, func() (*kvpb.ShardDescriptor, error) {
		d, err := w.r.locate(pos, kv.OutcomeNotApplied)
		if err == nil && !ownsRange(d, pos, until) {
			return nil, errScattered
		}
		return d, err
	})
	if err != nil {
		return err
	}
	written, err := w.r.written(result, 0, served)
	if err != nil {
		return err
	}
	w.steps++
	more := false
	for _, op := range written.Result.Ops {
		w.deleted += int(op.Deleted)
		more = more || op.More
	}
	if more {
		return nil
	}
	w.pos = until
	w.done = len(until) == 0 || bytes.Equal(until, w.end)
	return nil
}

// allKeysEnd lies just above the greatest key there can be.
var allKeysEnd = append(bytes.Repeat([]byte{0xff}, kv.KeyBytesMax), 0)

// rangeTxn deletes [start, end). A missing end is spelt out: a shard would take
// it for its own end, which may have moved by then, and answer for less than it was
// asked.
func rangeTxn(start, end []byte) *kvpb.Txn {
	if len(end) == 0 {
		end = allKeysEnd
	}
	return &kvpb.Txn{Then: []*kvpb.Op{{Kind: kvpb.OpKind_OP_DELETE_RANGE, Key: start, EndKey: end, Limit: kv.OpsMax}}}
}

// failure says that a part was done, if it was.
func (w *rangeDelete) failure(err error) error {
	e := *kv.AsError(err)
	if e.Code == kv.CodeIdempotencyMismatch {
		e.Outcome = kv.OutcomeUnknown
		e.Detail = "the id was used before, for another range or before a shard was split"
	}
	if w.steps > 0 && e.Outcome == kv.OutcomeNotApplied {
		e.Code, e.Outcome = kv.CodeOutcomeUnknown, kv.OutcomeUnknown
		e.Detail = fmt.Sprintf("%d keys were deleted, then: %s", w.deleted, kv.AsError(err).Error())
	}
	return &e
}
