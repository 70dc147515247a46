package httpd

import (
	"bytes"
	"context"
	"errors"
	"math"
	"slices"
	"sort"
	"strconv"
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

const (
	testNode  kv.NodeID  = 0xa1
	testShard kv.ShardID = 2
)

// fakeData is a map that honours guards, versions and request ids as a shard
// would. fail, if set, is asked before each call.
type fakeData struct {
	mu      sync.Mutex
	items   map[string]*kvpb.Item
	version uint64
	seen    map[[2]uint64]*remembered
	fail    func(ctx context.Context, method string) error
	// seenIDs and lastRead record what arrived.
	ids      []*kvpb.RequestID
	lastRead kv.ReadOptions
	upgrade  bool  // serve linearizable reads whatever is asked for
	gets     []int // sizes of MultiGet calls
}

type remembered struct {
	fingerprint uint64
	result      *kvpb.TxnResult
}

func newFakeData() *fakeData {
	return &fakeData{items: map[string]*kvpb.Item{}, seen: map[[2]uint64]*remembered{}, version: 1 << 60}
}

func (d *fakeData) check(ctx context.Context, method string) error {
	if d.fail == nil {
		return nil
	}
	return d.fail(ctx, method)
}

func (d *fakeData) served(o kv.ReadOptions) kv.Served {
	d.lastRead = o
	if d.upgrade {
		o.Consistency = kv.Linearizable
	}
	return kv.Served{Shard: testShard, Node: testNode, Consistency: o.Consistency, LastVersion: kv.Version(d.version)}
}

func (d *fakeData) Get(ctx context.Context, key []byte, o kv.ReadOptions) (kv.Reading, error) {
	if err := d.check(ctx, "Get"); err != nil {
		return kv.Reading{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return kv.Reading{Item: d.items[string(key)], Served: d.served(o)}, nil
}

func (d *fakeData) MultiGet(ctx context.Context, keys [][]byte, o kv.ReadOptions) ([]kv.Reading, error) {
	var out []kv.Reading
	for _, k := range keys {
		r, err := d.Get(ctx, k, o)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	d.gets = append(d.gets, len(keys))
	return out, nil
}

func (d *fakeData) Scan(ctx context.Context, req kv.ScanRequest) (kv.Page, error) {
	if err := d.check(ctx, "Scan"); err != nil {
		return kv.Page{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var keys []string
	for k := range d.items {
		if k >= string(req.Start) && (len(req.End) == 0 || k < string(req.End)) {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	if req.Reverse {
		slices.Reverse(keys)
	}
	limit := req.Limit
	if limit == 0 {
		limit = kv.ScanItemsDefault
	}
	page := kv.Page{Served: []kv.Served{d.served(req.Read)}}
	last := ""
	for _, k := range keys {
		if n := len(page.Items) + len(page.CommonPrefixes); n == limit {
			page.More = true
			page.Resume = []byte(k)
			if req.Reverse {
				page.Resume = []byte(k + "\x00")
			}
			return page, nil
		}
		if len(req.Delimiter) > 0 {
			if i := bytes.Index([]byte(k)[req.PrefixLen:], req.Delimiter); i >= 0 {
				if p := k[:req.PrefixLen+i+len(req.Delimiter)]; p != last || len(page.CommonPrefixes) == 0 {
					last = p
					page.CommonPrefixes = append(page.CommonPrefixes, []byte(p))
				}
				continue
			}
		}
		page.Items = append(page.Items, d.items[k])
	}
	return page, nil
}

func (d *fakeData) holds(g *kvpb.Guard) bool {
	it := d.items[string(g.Key)]
	switch g.Kind {
	case kvpb.GuardKind_GUARD_EXISTS:
		return it != nil
	case kvpb.GuardKind_GUARD_ABSENT:
		return it == nil
	case kvpb.GuardKind_GUARD_VERSION_EQ:
		return it != nil && slices.Contains(g.Versions, it.Version)
	case kvpb.GuardKind_GUARD_VERSION_NE:
		return it == nil || !slices.Contains(g.Versions, it.Version)
	case kvpb.GuardKind_GUARD_VALUE_EQ:
		return it != nil && bytes.Equal(it.Value, g.Value)
	}
	return false
}

func (d *fakeData) Txn(ctx context.Context, txn *kvpb.Txn, id *kvpb.RequestID) (kv.Written, error) {
	if err := d.check(ctx, "Txn"); err != nil {
		return kv.Written{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.txnLocked(txn, id)
}

func (d *fakeData) txnLocked(txn *kvpb.Txn, id *kvpb.RequestID) (kv.Written, error) {
	out := kv.Written{Served: kv.Served{Shard: testShard, Node: testNode}}
	if id != nil {
		d.ids = append(d.ids, id)
		if r := d.seen[[2]uint64{id.Hi, id.Lo}]; r != nil {
			if r.fingerprint != id.Fingerprint {
				return out, kv.Errorf(kv.CodeIdempotencyMismatch, kv.OutcomeNotApplied, "another request")
			}
			out.Result, out.Replayed = r.result, true
			return out, nil
		}
	}
	res, err := d.runLocked(txn)
	if err != nil {
		return out, err
	}
	if id != nil {
		d.seen[[2]uint64{id.Hi, id.Lo}] = &remembered{id.Fingerprint, res}
	}
	out.Result = res
	return out, nil
}

func (d *fakeData) runLocked(txn *kvpb.Txn) (*kvpb.TxnResult, error) {
	res := &kvpb.TxnResult{Status: kvpb.Status_STATUS_OK, Succeeded: true}
	ops := txn.Then
	for i, g := range txn.Guards {
		if d.holds(g) {
			continue
		}
		if len(txn.Otherwise) == 0 {
			res.Status, res.Succeeded, res.FailedGuard = kvpb.Status_STATUS_CONDITION_FAILED, false, uint32(i)
			res.CurrentVersion = d.items[string(g.Key)].GetVersion()
			return res, nil
		}
		ops, res.Succeeded = txn.Otherwise, false
		break
	}
	d.version++
	for _, op := range ops {
		r, err := d.opLocked(op)
		if err != nil {
			return nil, err
		}
		if op.Kind != kvpb.OpKind_OP_GET {
			res.Version = d.version
		}
		res.Ops = append(res.Ops, r)
	}
	return res, nil
}

func (d *fakeData) opLocked(op *kvpb.Op) (*kvpb.OpResult, error) {
	old := d.items[string(op.Key)]
	r := &kvpb.OpResult{Found: old != nil, PreviousVersion: old.GetVersion()}
	if op.TtlMs > 0 {
		r.ExpiresMs = time.Date(2030, 1, 2, 3, 4, 5, 6e6, time.UTC).UnixMilli() + op.TtlMs
	}
	put := func(v []byte) {
		d.items[string(op.Key)] = &kvpb.Item{Key: op.Key, Value: v, Version: d.version, ContentType: op.ContentType, ExpiresMs: r.ExpiresMs}
	}
	switch op.Kind {
	case kvpb.OpKind_OP_PUT:
		put(op.Value)
	case kvpb.OpKind_OP_DELETE:
		if old != nil {
			r.Deleted = 1
		}
		delete(d.items, string(op.Key))
	case kvpb.OpKind_OP_ADD:
		text := "0"
		if old != nil {
			text = string(old.Value)
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "not a number")
		}
		r.Number = n + op.Delta
		put(strconv.AppendInt(nil, r.Number, 10))
	case kvpb.OpKind_OP_GET:
		r.Item = old
	default:
		return nil, errors.New("fake: unknown operation")
	}
	return r, nil
}

func (d *fakeData) Batch(ctx context.Context, txns []*kvpb.Txn, id *kvpb.RequestID) []kv.BatchResult {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ids = append(d.ids, id)
	out := make([]kv.BatchResult, len(txns))
	for i, t := range txns {
		if out[i].Err = d.check(ctx, "Batch"); out[i].Err == nil {
			out[i].Written, out[i].Err = d.txnLocked(t, nil)
		}
	}
	return out
}

func (d *fakeData) DeleteRange(ctx context.Context, start, end []byte, id *kvpb.RequestID) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ids = append(d.ids, id)
	n := 0
	for k := range d.items {
		if k >= string(start) && (len(end) == 0 || k < string(end)) {
			delete(d.items, k)
			n++
		}
	}
	return n, d.check(ctx, "DeleteRange")
}

// fakeCluster answers with fixed facts.
type fakeCluster struct{ err error }

func (c *fakeCluster) Nodes(context.Context) ([]kv.NodeInfo, error) {
	return []kv.NodeInfo{
		{ID: testNode, Name: "one", Zone: "a", HTTPAddress: "127.0.0.1:7001", PeerAddress: "127.0.0.1:7101", Release: "test", Alive: true,
			LastSeenMs: 1700000000123, MetaRole: kv.RoleLeader, Replicas: 2, Leaders: 1, DiskBytes: 7, DiskFree: 9, Bytes: 5, Reads: 1.26, Writes: math.NaN()},
		{ID: 0xa2, Name: "two", State: kv.NodeRemoving, Draining: true},
	}, c.err
}

func (c *fakeCluster) Shards(context.Context) ([]kv.ShardInfo, error) {
	replica := &kvpb.ReplicaDescriptor{Node: uint64(testNode), Incarnation: 1, Role: kvpb.ReplicaRole_ROLE_VOTER}
	return []kv.ShardInfo{
		{Descriptor: &kvpb.ShardDescriptor{Shard: 2, Generation: 1, End: []byte("m"), Replicas: []*kvpb.ReplicaDescriptor{replica}},
			Leader: testNode, Term: 3, Replicas: []kv.ReplicaInfo{{ID: kv.ServerID{Node: testNode, Shard: 2, Incarnation: 1}, Role: kv.RoleLeader, AppliedIndex: 9}}},
		{Descriptor: &kvpb.ShardDescriptor{Shard: 3, Generation: 2, Start: []byte("m"), End: []byte{0xff, 0xfe}},
			Change: kv.ShardChange{Kind: kv.OperationMove, From: testNode, To: 0xa2, Operation: 4, Detail: "catching up"}},
		{Descriptor: &kvpb.ShardDescriptor{Shard: 4, Generation: 2, Start: []byte{0xff, 0xfe}}},
	}, c.err
}

func (c *fakeCluster) Cluster(context.Context) (kv.ClusterInfo, error) {
	return kv.ClusterInfo{ID: "c1", Nodes: 2, NodesAlive: 1, Shards: 3, ShardsWithLeader: 1, ReplicationFactor: 3, MetaLeader: testNode}, c.err
}

// fakeHealth can be made sick.
type fakeHealth struct {
	live   error
	checks []kv.Check
}

func (h *fakeHealth) Live() error                      { return h.live }
func (h *fakeHealth) Ready(context.Context) []kv.Check { return h.checks }

func itemOf(key string) *kvpb.Item {
	return &kvpb.Item{Key: []byte(key), Value: []byte("v"), Version: 7}
}
