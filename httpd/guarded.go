package httpd

import (
	"bytes"
	"context"

	"github.com/quorate-db/quorate/internal/access"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// guarded is the data plane as the caller of one request may use it. It is the only way
// to the data plane (invariant 7): each method asks about what it was given, and hands
// that on.
type guarded struct{ x *exchange }

func (x *exchange) data() guarded { return guarded{x} }

func (g guarded) next() Data { return g.x.s.opts.Data }

// open reports that nobody is asked for a token.
func (g guarded) open() bool { return g.x.s.opts.Access == nil }

// Get reads one key.
func (g guarded) Get(ctx context.Context, key []byte, opts kv.ReadOptions) (kv.Reading, error) {
	if err := g.x.may(access.Op{Act: access.Read, Key: key}); err != nil {
		return kv.Reading{}, err
	}
	known := g.x.s.large.size(key) // after the check: that one waits would tell
	if no := g.x.await(ctx, known-paceFree); no != nil {
		return kv.Reading{}, no
	}
	reading, err := g.next().Get(ctx, key, opts)
	if err != nil {
		g.x.settlePace(known, 0)
		return reading, err
	}
	g.x.settleValue(key, known, reading.Item)
	return reading, nil
}

// MultiGet reads all keys or none.
func (g guarded) MultiGet(ctx context.Context, keys [][]byte, opts kv.ReadOptions) ([]kv.Reading, error) {
	if !g.open() {
		ops := g.x.caller.ops[:0]
		for _, key := range keys {
			ops = append(ops, access.Op{Act: access.Read, Key: key})
		}
		if err := g.all(ops); err != nil {
			return nil, err
		}
	}
	return g.next().MultiGet(ctx, keys, opts)
}

// Scan reads one page of what is left of a range. A token that was revoked ends a
// stream.
func (g guarded) Scan(ctx context.Context, req kv.ScanRequest) (kv.Page, error) {
	if err := g.x.may(access.Op{Act: access.Read, Ranged: true, Key: req.Start, End: req.End}); err != nil {
		return kv.Page{}, err
	}
	if g.x.status != 0 { // the stream has begun
		if err := g.x.stillAllowed(); err != nil {
			return kv.Page{}, err
		}
	}
	if !g.open() && len(req.End) > 0 && bytes.Compare(req.Start, req.End) >= 0 {
		return kv.Page{}, nil // allowed, as it has no keys; who would serve it is not told
	}
	return g.next().Scan(ctx, req)
}

// Txn applies one transaction.
func (g guarded) Txn(ctx context.Context, txn *kvpb.Txn, id *kvpb.RequestID) (kv.Written, error) {
	if !g.open() {
		if err := g.all(access.AppendTxn(g.x.caller.ops[:0], txn)); err != nil {
			return kv.Written{}, err
		}
	}
	return g.next().Txn(ctx, txn, id)
}

// Batch applies independent transactions. If one of them is denied, so are all.
func (g guarded) Batch(ctx context.Context, txns []*kvpb.Txn, id *kvpb.RequestID) ([]kv.BatchResult, error) {
	if !g.open() {
		ops := g.x.caller.ops[:0]
		for _, txn := range txns {
			ops = access.AppendTxn(ops, txn)
		}
		if err := g.all(ops); err != nil {
			return nil, err
		}
	}
	return g.next().Batch(ctx, txns, id), nil
}

// DeleteRange deletes a range.
func (g guarded) DeleteRange(ctx context.Context, start, end []byte, id *kvpb.RequestID) (int, error) {
	if err := g.x.may(access.Op{Act: access.Write, Ranged: true, Key: start, End: end}); err != nil {
		return 0, err
	}
	return g.next().DeleteRange(ctx, start, end, id)
}

// opsKept bounds the operations whose memory goes back to the pool.
const opsKept = 64

// all asks about operations that were put together in the caller's scratch memory.
func (g guarded) all(ops []access.Op) error {
	err := g.x.may(ops...)
	clear(ops)
	if cap(ops) <= opsKept {
		g.x.caller.ops = ops[:0]
	}
	return err
}
