package router

import (
	"context"
	"sync"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// Batch applies independent transactions and answers each in its place. Those
// of one shard go there as one command; the shards are asked side by side. All
// of it together keeps the limits of one request (kv.OpsMax, kv.CommandBytesMax).
//
// The same id goes to every shard: their windows are separate. A batch that is
// sent again finds its parts remembered. If a shard was split in between, the
// parts are others, and the window, which both halves have, holds the id
// with the old part's fingerprint: such operations are not applied again, and
// answered with kv.CodeIdempotencyMismatch and an unknown outcome.
func (r *Router) Batch(ctx context.Context, txns []*kvpb.Txn, id *kvpb.RequestID) []kv.BatchResult {
	out := make([]kv.BatchResult, len(txns))
	pending := r.checkBatch(txns, out)
	if len(pending) == 0 {
		return out
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	b := &batch{r: r, txns: txns, out: out}
	b.id, b.minted = r.identify(id)
	for len(pending) > 0 {
		groups := b.groups(pending)
		b.scattered = nil
		r.parallel(len(groups), func(g int) { b.run(ctx, groups[g]) })
		pending = b.scattered
	}
	return out
}

// groups distributes transactions over shards, and answers those that do not
// fit into one.
func (b *batch) groups(pending []int) [][]int {
	shards := make(map[int]kv.ShardID, len(pending))
	fitting := pending[:0]
	for _, i := range pending {
		d, err := b.r.locateTxn(b.txns[i])
		if err == error(errScattered) {
			e := *errScattered
			b.out[i].Err = &e
			continue
		}
		shards[i] = kv.ShardID(d.GetShard())
		fitting = append(fitting, i)
	}
	return b.r.group(fitting, kv.OpsMax, func(i int) (kv.ShardID, bool) { return shards[i], true })
}

// checkBatch answers what cannot be sent and gives the indices of the rest.
func (r *Router) checkBatch(txns []*kvpb.Txn, out []kv.BatchResult) []int {
	pending := make([]int, 0, len(txns))
	ops, bytes := 0, 0
	for i, txn := range txns {
		size, err := checkTxn(txn)
		if err != nil {
			out[i].Err = err
			continue
		}
		ops += len(txn.Guards) + len(txn.Then) + len(txn.Otherwise)
		bytes += size
		pending = append(pending, i)
	}
	if ops <= kv.OpsMax && bytes <= kv.CommandBytesMax {
		return pending
	}
	err := kv.Errorf(kv.CodeTooLarge, kv.OutcomeNotApplied, "%d operations of %d bytes in one batch; the limits are %d and %d", ops, bytes, kv.OpsMax, kv.CommandBytesMax)
	for _, i := range pending {
		out[i].Err = err
	}
	return nil
}

// batch is a Batch on its way.
type batch struct {
	r    *Router
	txns []*kvpb.Txn
	out  []kv.BatchResult // each written by the one group that has its index

	id     requestID
	minted bool

	mu        sync.Mutex
	scattered []int // of groups that turned out to lie in several shards
}

// run applies the transactions at the given indices, which lay in one shard.
func (b *batch) run(ctx context.Context, indices []int) {
	txns := make([]*kvpb.Txn, len(indices))
	for i, at := range indices {
		txns[i] = b.txns[at]
	}
	c, err := newCommand(txns, b.id, b.minted, true)
	var result *kvpb.Result
	var served kv.Served
	if err == nil {
		a := attempts{r: b.r, op: OpWrite}
		result, served, err = b.r.apply(ctx, &a, c, func() (*kvpb.ShardDescriptor, error) { return b.locate(txns) })
	}
	// An attempt in doubt has made another error of it (invariant 4).
	if kv.CodeOf(err) == kv.CodeCrossShardTxn {
		b.mu.Lock()
		b.scattered = append(b.scattered, indices...)
		b.mu.Unlock()
		return
	}
	if kv.CodeOf(err) == kv.CodeIdempotencyMismatch {
		e := *kv.AsError(err)
		e.Outcome = kv.OutcomeUnknown
		e.Detail = "the id was used before, for another batch or before a shard was split"
		err = &e
	}
	for i, at := range indices {
		if err != nil {
			b.out[at].Err = err
			continue
		}
		b.out[at].Written, b.out[at].Err = b.r.written(result, i, served)
	}
}

// locate gives the shard of all of them. If the map knows that of some only, they
// part, so that the others' shard does not keep them waiting.
func (b *batch) locate(txns []*kvpb.Txn) (*kvpb.ShardDescriptor, error) {
	d, err := b.r.locateTxn(txns[0])
	for _, txn := range txns[1:] {
		// An unknown shard is nil, and its number zero.
		if other, _ := b.r.locateTxn(txn); other.GetShard() != d.GetShard() {
			return nil, errScattered
		}
	}
	return d, err
}
