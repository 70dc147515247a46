package router

import (
	"cmp"
	"context"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// Batch applies independent transactions and answers each in its place, each
// exactly once within the window of request ids. Those of one shard go there as one
// command; the shards are asked side by side. All of it together keeps the limits of
// one request (kv.OpsMax, kv.CommandBytesMax).
//
// The same id goes to every shard, and with each transaction its number in the
// batch: the shards remember them by both, so a batch that is sent again finds what
// was applied, however shards were split or merged in between (invariant 4).
func (r *Router) Batch(ctx context.Context, txns []*kvpb.Txn, id *kvpb.RequestID) []kv.BatchResult {
	out := make([]kv.BatchResult, len(txns))
	pending := r.checkBatch(txns, out)
	if len(pending) == 0 {
		return out
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	b := &batch{r: r, out: out}
	own, minted := r.identify(id)
	if !minted && own.fingerprint == 0 {
		own.fingerprint = fingerprintOf(txns)
	}
	b.minted = minted
	for n, i := range pending {
		b.todo = append(b.todo, operation{txn: txns[i], at: i, ordinal: uint32(n), id: own})
	}
	for len(b.todo) > 0 {
		groups := b.groups()
		b.todo = nil
		r.parallel(len(groups), func(g int) { b.run(ctx, groups[g]) })
		// In a shard the operations keep their order.
		slices.SortFunc(b.todo, func(x, y operation) int { return cmp.Compare(x.ordinal, y.ordinal) })
	}
	return out
}

// fingerprintOf hashes all of a batch.
func fingerprintOf(txns []*kvpb.Txn) uint64 {
	var d xxhash.Digest
	d.Reset()
	opts := proto.MarshalOptions{Deterministic: true}
	for _, txn := range txns {
		var size [8]byte
		encoded, err := opts.Marshal(txn)
		if err != nil {
			continue // it is refused when it is sent
		}
		binary.BigEndian.PutUint64(size[:], uint64(len(encoded)))
		d.Write(size[:])
		d.Write(encoded)
	}
	return notZero(d.Sum64())
}

// operation is a transaction of a batch that has no answer yet.
type operation struct {
	txn     *kvpb.Txn
	at      int    // its place in the batch
	ordinal uint32 // its number among those that can be sent
	// What earlier attempts have left behind: under which id, whether one may have
	// been applied, and for which generations.
	id       requestID
	doubt    bool
	doubtful uint64
}

// groups distributes operations over shards. One whose keys lie in several goes by
// itself to the first key's, which knows whether it was applied.
func (b *batch) groups() [][]operation {
	type place struct {
		n  int
		id requestID
	}
	var alone [][]operation
	fitting := b.todo[:0:0]
	p := places{r: b.r}
	var where []place
	for _, o := range b.todo {
		n, d := p.of(firstKey(o.txn))
		if d != nil && !ownsTxn(d, o.txn) {
			alone = append(alone, []operation{o})
			continue
		}
		fitting = append(fitting, o)
		where = append(where, place{n, o.id})
	}
	for _, indices := range group(len(fitting), kv.OpsMax, func(i int) place { return where[i] }) {
		ops := make([]operation, len(indices))
		for n, i := range indices {
			ops[n] = fitting[i]
		}
		alone = append(alone, ops)
	}
	return alone
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
	r      *Router
	out    []kv.BatchResult // each written by the one group that has its operation
	minted bool

	mu   sync.Mutex
	todo []operation // of groups that turned out to lie in several shards
}

// run applies operations with one id that lay in one shard.
func (b *batch) run(ctx context.Context, ops []operation) {
	txns, ordinals := make([]*kvpb.Txn, len(ops)), make([]uint32, len(ops))
	a := attempts{r: b.r, op: OpWrite}
	for i, o := range ops {
		txns[i], ordinals[i] = o.txn, o.ordinal
		a.doubt, a.doubtful = a.doubt || o.doubt, max(a.doubtful, o.doubtful)
	}
	c, err := newCommand(txns, ops[0].id, b.minted, ordinals)
	var result *kvpb.Result
	var served kv.Served
	if err == nil {
		result, served, err = b.r.apply(ctx, &a, c, func() (*kvpb.ShardDescriptor, error) { return b.locate(txns) })
	}
	if err == error(errScattered) {
		for i := range ops {
			ops[i].id, ops[i].doubt, ops[i].doubtful = c.id, a.doubt, a.doubtful
		}
		b.mu.Lock()
		b.todo = append(b.todo, ops...)
		b.mu.Unlock()
		return
	}
	for i, o := range ops {
		if err != nil {
			b.out[o.at].Err = err
			continue
		}
		b.out[o.at].Written, b.out[o.at].Err = b.r.written(result, i, served)
	}
}

// locate gives the shard of all of them. If the map knows that of some only, they
// part, so that the others' shard does not keep them waiting.
func (b *batch) locate(txns []*kvpb.Txn) (*kvpb.ShardDescriptor, error) {
	d, err := b.r.locate(firstKey(txns[0]), kv.OutcomeNotApplied)
	if len(txns) == 1 {
		return d, err
	}
	for _, txn := range txns {
		apart := false
		if err != nil {
			_, apart = b.r.shards.Lookup(firstKey(txn))
		} else {
			apart = !ownsTxn(d, txn)
		}
		if apart {
			return nil, errScattered
		}
	}
	return d, err
}
