package router

import (
	"bytes"
	"context"
	"fmt"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// DeleteRange deletes the keys in [start, end), an empty end having no bound, and
// tells how many there were, also beside an error. It goes forward in pages of up to
// kv.OpsMax keys, so it is not atomic: a failure after the first page has an unknown
// outcome.
//
// A page is remembered by the request's id and the key that it begins at, and its
// answer says where the next one does. So the same id again follows the same pages,
// however shards were split or merged in between, deletes nothing that was written
// since, and goes on where the request had ended.
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
	if !w.minted && w.id.fingerprint == 0 {
		w.id.fingerprint = fingerprintOf([]*kvpb.Txn{rangeTxn(start, end)})
	}
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
	steps   int // that were applied
	deleted int
	done    bool
}

// step deletes the page that begins at pos.
func (w *rangeDelete) step(ctx context.Context) error {
	a := attempts{r: w.r, op: OpWrite}
	id := w.id.page(w.pos)
	for {
		until, err := w.bound()
		if err == nil {
			if err = w.apply(ctx, &a, &id, until); err != error(errScattered) {
				return err
			}
			continue // the shard's end has moved
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

// apply deletes in [pos, until), which lay in one shard, and moves on. An attempt
// with another bound may have been applied under the same id: the answer tells how far
// the page went.
func (w *rangeDelete) apply(ctx context.Context, a *attempts, id *requestID, until []byte) error {
	txn := rangeTxn(w.pos, until)
	c, err := newCommand([]*kvpb.Txn{txn}, *id, w.minted, nil)
	if err != nil {
		return err
	}
	c.spread = false // no answer depends on which shard does it
	result, served, err := w.r.apply(ctx, a, c, func() (*kvpb.ShardDescriptor, error) {
		d, err := w.r.locate(w.pos, kv.OutcomeNotApplied)
		if err == nil && !ownsRange(d, w.pos, until) {
			return nil, errScattered
		}
		return d, err
	})
	*id = c.id
	if err != nil {
		return err
	}
	written, err := w.r.written(result, 0, served)
	if err != nil {
		return err
	}
	w.steps++
	if len(written.Result.Ops) != 1 {
		return kv.Errorf(kv.CodeInternal, kv.OutcomeUnknown, "shard %s answered one range delete with %d results", served.Shard, len(written.Result.Ops))
	}
	op := written.Result.Ops[0]
	w.deleted += int(op.Deleted)
	return w.advance(op.Resume, served.Shard)
}

// advance goes on at resume.
func (w *rangeDelete) advance(resume []byte, shard kv.ShardID) error {
	end := w.end
	if len(end) == 0 {
		end = allKeysEnd
	}
	if len(resume) == 0 || bytes.Compare(resume, end) >= 0 {
		w.done = true
		return nil
	}
	if bytes.Compare(resume, w.pos) <= 0 {
		return kv.Errorf(kv.CodeInternal, kv.OutcomeUnknown, "shard %s answered a range delete without going on", shard)
	}
	w.pos = resume
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
	if w.steps > 0 && e.Outcome == kv.OutcomeNotApplied {
		e.Code, e.Outcome = kv.CodeOutcomeUnknown, kv.OutcomeUnknown
		e.Detail = fmt.Sprintf("%d keys were deleted, then: %s", w.deleted, kv.AsError(err).Error())
	}
	return &e
}
