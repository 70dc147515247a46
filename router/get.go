package router

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

const (
	// getsPerReadMax bounds the keys that one read of a shard asks for.
	getsPerReadMax = 128
	// multiGetBytesMax bounds what one MultiGet answers with.
	multiGetBytesMax = 64 << 20
)

// Get reads one key; a missing one is a Reading without an Item. It blocks until
// the answer or ctx's deadline (kv.RequestTimeoutDefault if it has none). Errors:
// kv.CodeUnavailable if nobody was found to serve it, kv.CodeTimeout if somebody
// was asked and did not answer, kv.CodeVersionTooOld, kv.CodeCorrupt,
// kv.CodeInvalid, kv.CodeKeyTooLong.
func (r *Router) Get(ctx context.Context, key []byte, opts kv.ReadOptions) (kv.Reading, error) {
	if err := checkKey(key, kv.OutcomeNone); err != nil {
		return kv.Reading{}, err
	}
	if err := checkRead(opts); err != nil {
		return kv.Reading{}, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	req := &kvpb.ReadRequest{Gets: [][]byte{key}}
	a := attempts{r: r, op: OpRead}
	for {
		resp, served, err := r.getOnce(ctx, &a, req, opts)
		if err == nil {
			return kv.Reading{Item: itemOf(resp.Gets[0]), Served: served}, nil
		}
		if err := a.again(ctx, err); err != nil {
			return kv.Reading{}, err
		}
	}
}

// getOnce makes one attempt to get keys of one shard.
func (r *Router) getOnce(ctx context.Context, a *attempts, req *kvpb.ReadRequest, opts kv.ReadOptions) (*kvpb.ReadResponse, kv.Served, error) {
	d, err := r.locateKeys(req.Gets)
	if err != nil {
		return nil, kv.Served{}, err
	}
	resp, served, err := r.readOnce(ctx, a, d, req, opts)
	if err == nil && len(resp.Gets) != len(req.Gets) {
		err = kv.Errorf(kv.CodeInternal, kv.OutcomeNone, "shard %s answered %d gets with %d", served.Shard, len(req.Gets), len(resp.Gets))
	}
	return resp, served, err
}

// locateKeys gives the one shard that owns all keys.
func (r *Router) locateKeys(keys [][]byte) (*kvpb.ShardDescriptor, error) {
	d, err := r.locate(keys[0], kv.OutcomeNone)
	if err != nil {
		return nil, err
	}
	for _, key := range keys[1:] {
		if !owns(d, key) {
			return nil, errScattered
		}
	}
	return d, nil
}

// errScattered says that what was to be asked of one shard lies in several. It
// stays inside the package.
var errScattered = &kv.Error{Code: kv.CodeCrossShardTxn, Outcome: kv.OutcomeNotApplied, Detail: "the keys lie in several shards"}

// locate gives the shard that owns key.
func (r *Router) locate(key []byte, outcome kv.Outcome) (*kvpb.ShardDescriptor, error) {
	d, ok := r.shards.Lookup(key)
	if !ok {
		return nil, kv.Errorf(kv.CodeUnavailable, outcome, "this node does not know yet which shard owns the key")
	}
	return d, nil
}

func itemOf(g *kvpb.GetResult) *kvpb.Item {
	if !g.GetFound() {
		return nil
	}
	return g.Item
}

// MultiGet reads up to kv.OpsMax keys, each as Get would, and answers in their
// order; one that fails makes all fail. Keys of one shard are read in one
// view, up to getsPerReadMax at a time; the shards are read side by side.
func (r *Router) MultiGet(ctx context.Context, keys [][]byte, opts kv.ReadOptions) ([]kv.Reading, error) {
	if len(keys) > kv.OpsMax {
		return nil, kv.Errorf(kv.CodeTooLarge, kv.OutcomeNone, "%d keys in one request; the limit is %d", len(keys), kv.OpsMax)
	}
	if err := checkRead(opts); err != nil {
		return nil, err
	}
	for _, key := range keys {
		if err := checkKey(key, kv.OutcomeNone); err != nil {
			return nil, err
		}
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	m := &multiGet{r: r, keys: keys, opts: opts, out: make([]kv.Reading, len(keys))}
	pending := make([]int, len(keys))
	for i := range pending {
		pending[i] = i
	}
	for len(pending) > 0 {
		// Those of unknown places are together; they are located again
		// when their turn comes.
		p := places{r: r}
		groups := group(len(pending), getsPerReadMax, func(i int) int {
			place, _ := p.of(keys[pending[i]])
			return place
		})
		for _, g := range groups {
			for n, i := range g {
				g[n] = pending[i]
			}
		}
		m.scattered = nil
		r.parallel(len(groups), func(g int) { m.run(ctx, groups[g]) })
		if m.err != nil {
			return nil, m.err
		}
		pending = m.scattered
	}
	return m.out, nil
}

// multiGet is a MultiGet on its way.
type multiGet struct {
	r    *Router
	keys [][]byte
	opts kv.ReadOptions
	out  []kv.Reading // each written by the one group that has its index

	bytes atomic.Int64

	mu        sync.Mutex
	err       error // the first
	scattered []int // keys of groups that turned out to lie in several shards
}

// run reads the keys at the given indices, which lay in one shard.
func (m *multiGet) run(ctx context.Context, indices []int) {
	req := &kvpb.ReadRequest{Gets: make([][]byte, len(indices))}
	for i, at := range indices {
		req.Gets[i] = m.keys[at]
	}
	a := attempts{r: m.r, op: OpRead}
	for !m.failed() {
		resp, served, err := m.r.getOnce(ctx, &a, req, m.opts)
		if err == nil {
			m.take(indices, resp, served)
			return
		}
		switch code := kv.CodeOf(err); {
		case err == error(errScattered) && ctx.Err() != nil:
			m.fail(a.failure(ctx, kv.Errorf(kv.CodeTimeout, kv.OutcomeNone, "the shards changed until there was no time left")))
			return
		case err == error(errScattered):
			m.mu.Lock()
			m.scattered = append(m.scattered, indices...)
			m.mu.Unlock()
			return
		case code == kv.CodeTooLarge && len(indices) > 1:
			half := len(indices) / 2
			m.run(ctx, indices[:half])
			m.run(ctx, indices[half:])
			return
		}
		if err := a.again(ctx, err); err != nil {
			m.fail(err)
			return
		}
	}
}

func (m *multiGet) take(indices []int, resp *kvpb.ReadResponse, served kv.Served) {
	size := 0
	for i, at := range indices {
		item := itemOf(resp.Gets[i])
		size += len(item.GetKey()) + len(item.GetValue())
		m.out[at] = kv.Reading{Item: item, Served: served}
	}
	if total := m.bytes.Add(int64(size)); total > multiGetBytesMax {
		m.fail(kv.Errorf(kv.CodeTooLarge, kv.OutcomeNone, "the values take more than %d bytes; ask for fewer keys", multiGetBytesMax))
	}
}

// failed reports that the whole has failed, so that no part need go on.
func (m *multiGet) failed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err != nil
}

func (m *multiGet) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = err
	}
}
