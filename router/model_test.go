package router

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// TestClientsDoNotNoticeShapes runs clients over shards that split, merge, move and
// change leaders at random, on a network that loses, delays and repeats. Each client
// has keys of its own, over several shards, and a map of what they must hold.
func TestClientsDoNotNoticeShapes(t *testing.T) {
	seeds := uint64(30)
	if testing.Short() {
		seeds = 5
	}
	var all tally
	t.Cleanup(func() { // when all runs have ended
		if all.splits.Load() == 0 || all.merges.Load() == 0 || all.moves.Load() == 0 || all.thawed.Load() == 0 {
			t.Errorf("%d splits, %d merges, %d moves, %d thawed", all.splits.Load(), all.merges.Load(), all.moves.Load(), all.thawed.Load())
		}
	})
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { runModel(t, seed, &all) })
		})
	}
}

// tally counts what happened in all runs together: a single one may by chance do
// without a split.
type tally struct{ splits, merges, moves, thawed atomic.Int64 }

// model is one run.
type model struct {
	c       *cluster
	started time.Time
	stop    chan struct{}

	splits, merges, moves, thawed int
}

func runModel(t *testing.T, seed uint64, all *tally) {
	m := &model{c: newCluster(t, 4, "c", "f"), started: time.Now(), stop: make(chan struct{})}
	network := rand.New(rand.NewPCG(seed, 1)) // consulted under the cluster's lock
	m.c.fault = func(call) fault {
		switch network.IntN(40) {
		case 0:
			return refuse
		case 1:
			return loseAsk
		case 2:
			return loseAnswer
		case 3:
			return late
		}
		return deliver
	}
	lates := rand.New(rand.NewPCG(seed, 2))
	var lateMu sync.Mutex
	m.c.lateBy = func() time.Duration {
		lateMu.Lock()
		defer lateMu.Unlock()
		return time.Duration(lates.IntN(3000)) * time.Millisecond
	}
	var clients, others sync.WaitGroup
	others.Go(func() { m.shapes(rand.New(rand.NewPCG(seed, 3))) })
	others.Go(func() { m.maps(rand.New(rand.NewPCG(seed, 4))) })
	for n := range 3 {
		cl := &modelClient{t: t, m: m, rng: rand.New(rand.NewPCG(seed, uint64(10+n))), holds: map[string]int64{}, name: n}
		clients.Go(func() {
			for range 60 {
				if !t.Failed() {
					cl.step()
				}
			}
			cl.check()
		})
	}
	clients.Wait()
	close(m.stop)
	others.Wait()
	m.c.underWay.Wait()
	all.splits.Add(int64(m.splits))
	all.merges.Add(int64(m.merges))
	all.moves.Add(int64(m.moves))
	all.thawed.Add(int64(m.thawed))
}

// pause waits on virtual time, and tells whether the run goes on.
func (m *model) pause(d time.Duration) bool {
	select {
	case <-m.stop:
		return false
	case <-time.After(d):
		return true
	}
}

// maps has the meta shard's news reach the nodes now and then.
func (m *model) maps(rng *rand.Rand) {
	for m.pause(time.Duration(rng.IntN(200)) * time.Millisecond) {
		m.c.nodes[kv.NodeID(1+rng.IntN(4))].view.refresh()
	}
}

// shapes changes shards.
func (m *model) shapes(rng *rand.Rand) {
	next := kv.ShardID(100)
	for m.pause(time.Duration(rng.IntN(40)) * time.Millisecond) {
		ids := m.ids()
		at := rng.IntN(len(ids))
		switch kind := rng.IntN(10); {
		case kind < 4 && len(ids) < 9:
			m.c.locked(func() {
				d, key := m.c.shards[ids[at]].desc, modelKey(rng.IntN(3), rng.IntN(modelKeys))
				if owns(d, []byte(key)) && key != string(d.Start) {
					m.c.splitLocked(ids[at], key, next)
					next++
					m.splits++
				}
			})
		case kind < 8 && at > 0:
			m.merge(rng, ids[at-1], ids[at])
		case kind < 9:
			m.c.locked(func() {
				nodes := rng.Perm(4)[:3]
				m.c.moveLocked(ids[at], kv.NodeID(1+nodes[0]), kv.NodeID(1+nodes[1]), kv.NodeID(1+nodes[2]))
				m.moves++
			})
		default:
			var s *shard
			m.c.locked(func() { s = m.c.shards[ids[at]]; s.leader = 0 })
			m.pause(time.Duration(rng.IntN(100)) * time.Millisecond)
			m.c.locked(func() { s.leader = kv.NodeID(s.desc.Replicas[rng.IntN(3)].Node) })
		}
	}
}

func (m *model) ids() (ids []kv.ShardID) {
	m.c.locked(func() {
		for id := range m.c.shards {
			ids = append(ids, id)
		}
		slices.SortFunc(ids, func(a, b kv.ShardID) int { return bytes.Compare(m.c.shards[a].desc.Start, m.c.shards[b].desc.Start) })
	})
	return ids
}

// merge freezes the right shard, and after a while has it absorbed, or gives up.
func (m *model) merge(rng *rand.Rand, left, right kv.ShardID) {
	m.c.freeze(right)
	m.pause(time.Duration(rng.IntN(300)) * time.Millisecond)
	m.c.locked(func() {
		if rng.IntN(4) == 0 {
			m.c.shards[right].frozen = false
			m.thawed++
			return
		}
		m.c.absorbLocked(left, right)
		m.merges++
	})
}

// modelKeys is how many keys a client has.
const modelKeys = 30

// modelKey gives a client's n-th key. The clients' keys alternate.
func modelKey(client, n int) string {
	return fmt.Sprintf("%c%d%d/%d", 'a'+n%10, client, n/10%3, n/10)
}

// modelClient does one thing after the other, and knows what must come of it.
type modelClient struct {
	t     *testing.T
	m     *model
	rng   *rand.Rand
	name  int
	holds map[string]int64
}

func (cl *modelClient) key() string { return modelKey(cl.name, cl.rng.IntN(modelKeys)) }

func (cl *modelClient) router() *Router { return cl.m.c.router(kv.NodeID(1 + cl.rng.IntN(4))) }

// try calls fn at one node after another until it is certain what became of it,
// with an id that is dated anew each time, as an Idempotency-Key is.
func (cl *modelClient) try(what string, fn func(context.Context, *Router, *kvpb.RequestID) error) error {
	id := &kvpb.RequestID{Hi: cl.rng.Uint64(), Lo: cl.rng.Uint64(), Fingerprint: 1}
	for range 20 {
		id.IssuedMs = time.Now().UnixMilli()
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(20+cl.rng.IntN(1500))*time.Millisecond)
		err := fn(ctx, cl.router(), id)
		cancel()
		switch {
		case err == nil, kv.CodeOf(err) == kv.CodeCrossShardTxn, kv.CodeOf(err) == kv.CodeConditionFailed:
			return err
		case kv.CodeOf(err) == kv.CodeIdempotencyMismatch, kv.CodeOf(err) == kv.CodeInternal:
			cl.t.Errorf("%s: %v", what, describe(err))
			return err
		}
	}
	cl.t.Errorf("%s: no end", what)
	return context.DeadlineExceeded
}

func (cl *modelClient) step() {
	switch cl.rng.IntN(6) {
	case 0, 1:
		cl.txn(cl.key())
	case 2:
		a, b := cl.key(), cl.key()
		cl.txn(a, b)
	case 3:
		cl.batch()
	case 4:
		cl.deleteRange()
	default:
		cl.check()
	}
}

func (cl *modelClient) added(what string, res *kvpb.TxnResult, keys []string) {
	for i, key := range keys {
		cl.holds[key]++
		if i < len(res.GetOps()) && res.Ops[i].Number != cl.holds[key] {
			cl.t.Errorf("%s: %s counts %d, want %d", what, key, res.Ops[i].Number, cl.holds[key])
		}
	}
}

func (cl *modelClient) txn(keys ...string) {
	what := fmt.Sprintf("client %d at %s: add to %v", cl.name, time.Since(cl.m.started), keys)
	var w kv.Written
	err := cl.try(what, func(ctx context.Context, r *Router, id *kvpb.RequestID) (err error) {
		w, err = r.Txn(ctx, both(keys...), id)
		return err
	})
	if err == nil {
		cl.added(what, w.Result, keys)
	} else if len(keys) == 1 {
		cl.t.Errorf("%s: %v", what, err)
	}
}

// batch adds to many keys, to some twice, which keeps its order, and to two at once,
// of which one may be another shard's: then there is no order to other operations.
func (cl *modelClient) batch() {
	var txns []*kvpb.Txn
	var keys [][]string
	used := map[string]int{} // by operations of one key, of two
	for range 1 + cl.rng.IntN(20) {
		ks := []string{cl.key()}
		if cl.rng.IntN(8) == 0 {
			ks = append(ks, cl.key())
		}
		if slices.ContainsFunc(ks, func(key string) bool { return used[key] == 2 || used[key] == 1 && len(ks) == 2 }) {
			continue
		}
		for _, key := range ks {
			used[key] = len(ks)
		}
		keys = append(keys, ks)
		txns = append(txns, both(ks...))
	}
	what := fmt.Sprintf("client %d at %s: batch over %v", cl.name, time.Since(cl.m.started), keys)
	final := make([]*kv.BatchResult, len(txns))
	_ = cl.try(what, func(ctx context.Context, r *Router, id *kvpb.RequestID) error {
		var open error
		for i, o := range r.Batch(ctx, txns, id) {
			switch {
			case o.Err == nil || kv.CodeOf(o.Err) == kv.CodeCrossShardTxn:
				if old := final[i]; old != nil && old.Err == nil && (o.Err != nil || o.Written.Result.Version != old.Written.Result.Version) {
					cl.t.Errorf("%s: operation %d was %+v, and now %+v", what, i, old, o)
				}
				final[i] = &o
			case final[i] == nil:
				open = o.Err
			}
		}
		return open
	})
	for i, o := range final {
		if o != nil && o.Err == nil {
			cl.added(fmt.Sprintf("%s, operation %d", what, i), o.Written.Result, keys[i])
		}
	}
}

// deleteRange deletes what the client has below one letter.
func (cl *modelClient) deleteRange() {
	start := fmt.Sprintf("%c%d", 'a'+cl.rng.IntN(10), cl.name)
	end := string(prefixEnd([]byte(start)))
	want := 0
	for key := range cl.holds {
		if key >= start && key < end {
			want++
		}
	}
	what := fmt.Sprintf("client %d at %s: delete %s to %s", cl.name, time.Since(cl.m.started), start, end)
	n := 0
	err := cl.try(what, func(ctx context.Context, r *Router, id *kvpb.RequestID) (err error) {
		n, err = r.DeleteRange(ctx, []byte(start), []byte(end), id)
		return err
	})
	if err != nil || n != want {
		cl.t.Errorf("%s: deleted %d, %v; want %d", what, n, err, want)
	}
	for key := range cl.holds {
		if key >= start && key < end {
			delete(cl.holds, key)
		}
	}
}

// check reads all of the client's keys by one of the ways there are.
func (cl *modelClient) check() {
	what := fmt.Sprintf("client %d at %s", cl.name, time.Since(cl.m.started))
	got := map[string]int64{}
	take := func(item *kvpb.Item) {
		key := string(item.Key)
		if _, twice := got[key]; twice {
			cl.t.Errorf("%s: read %s twice", what, key)
		}
		got[key], _ = strconv.ParseInt(string(item.Value), 10, 64)
	}
	if cl.rng.IntN(2) == 0 {
		what += ": get"
		var keys [][]byte
		for n := range modelKeys {
			keys = append(keys, []byte(modelKey(cl.name, n)))
		}
		var all []kv.Reading
		_ = cl.try(what, func(ctx context.Context, r *Router, _ *kvpb.RequestID) (err error) {
			all, err = r.MultiGet(ctx, keys, kv.ReadOptions{})
			return err
		})
		for _, r := range all {
			if r.Item != nil {
				take(r.Item)
			}
		}
	} else {
		what += ": scan"
		cl.scan(what, take)
	}
	for key, n := range cl.holds {
		if got[key] != n {
			cl.t.Errorf("%s: %s holds %d, want %d", what, key, got[key], n)
		}
	}
	for key, n := range got {
		if _, ok := cl.holds[key]; !ok {
			cl.t.Errorf("%s: %s holds %d, want nothing", what, key, n)
		}
	}
}

// scan goes over all keys by pages, each from another node, and takes its own.
func (cl *modelClient) scan(what string, take func(*kvpb.Item)) {
	req := kv.ScanRequest{Limit: 1 + cl.rng.IntN(40), Reverse: cl.rng.IntN(2) == 0}
	last := ""
	for range 500 {
		var page kv.Page
		if err := cl.try(what, func(ctx context.Context, r *Router, _ *kvpb.RequestID) (err error) {
			page, err = r.Scan(ctx, req)
			return err
		}); err != nil {
			return
		}
		for _, item := range page.Items {
			key := string(item.Key)
			if last != "" && (key > last) == req.Reverse {
				cl.t.Errorf("%s: %s comes after %s", what, key, last)
			}
			if last = key; key[1] == byte('0'+cl.name) {
				take(item)
			}
		}
		if !page.More {
			return
		}
		if req.Reverse {
			req.End = page.Resume
		} else {
			req.Start = page.Resume
		}
	}
	cl.t.Errorf("%s: no end", what)
}
