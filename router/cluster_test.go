package router

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// cluster is a handful of nodes in memory, each with a router, over shards that
// exist once and are the same for all replicas (unless one lags).
type cluster struct {
	tb testing.TB

	mu     sync.Mutex
	shards map[kv.ShardID]*shard
	nodes  map[kv.NodeID]*node
	fault  func(call) fault // consulted for every call between nodes
	// propose and readIndex, if set, are consulted before a replica acts; a nil
	// error lets it. Afterwards proposed may spoil the answer.
	propose   func(kv.NodeID, kv.ShardID) error
	proposed  func(kv.NodeID, kv.ShardID, []byte) ([]byte, error)
	readIndex func(context.Context, kv.NodeID, kv.ShardID) error
	calls     []call
	lateBy    func() time.Duration // of fault late
	underWay  sync.WaitGroup       // late calls
}

type shard struct {
	desc    *kvpb.ShardDescriptor
	leader  kv.NodeID
	machine *machine
	sibling *kvpb.ShardDescriptor // whom it last gave keys to
	frozen  bool
	lagging map[kv.NodeID]*machine      // what these replicas have
	contact map[kv.NodeID]time.Duration // ages of their last contact
}

type node struct {
	c    *cluster
	id   kv.NodeID
	down bool
	view *view
	r    *Router
	// believes overrides who this node thinks leads.
	believes map[kv.ShardID]kv.NodeID
	handlers map[uint16]func(kv.NodeID, []byte, func([]byte, error))
}

// call is one message between nodes.
type call struct {
	from, to kv.NodeID
	method   uint16
}

// fault is what happens to a call.
type fault int

const (
	deliver    fault = iota
	refuse           // never leaves: kv.CodeUnavailable
	loseAsk          // lost on the way there, at once
	loseAnswer       // carried out, lost on the way back
	hang             // lost; nothing happens until the deadline
	late             // lost for the caller at once, carried out some time later
)

// silent is the fault of a node that never answers.
func silent(node kv.NodeID) func(call) fault {
	return func(k call) fault {
		if k.to == node {
			return hang
		}
		return deliver
	}
}

// newCluster has nodes 1 to n, and shards 2, 3, … that part at the given keys,
// with all nodes as voters. Shard i is led by one node after the other.
func newCluster(tb testing.TB, n int, splits ...string) *cluster {
	c := &cluster{tb: tb, shards: map[kv.ShardID]*shard{}, nodes: map[kv.NodeID]*node{}}
	bounds := append(append([]string{""}, splits...), "")
	for i := range len(bounds) - 1 {
		d := &kvpb.ShardDescriptor{Shard: uint64(i + 2), Generation: 1, Start: []byte(bounds[i]), End: []byte(bounds[i+1])}
		for node := 1; node <= n; node++ {
			d.Replicas = append(d.Replicas, &kvpb.ReplicaDescriptor{Node: uint64(node), Role: kvpb.ReplicaRole_ROLE_VOTER})
		}
		c.shards[kv.ShardID(d.Shard)] = &shard{desc: d, leader: kv.NodeID(i%n + 1), machine: newMachine(),
			lagging: map[kv.NodeID]*machine{}, contact: map[kv.NodeID]time.Duration{}}
	}
	for id := kv.NodeID(1); id <= kv.NodeID(n); id++ {
		nd := &node{c: c, id: id, believes: map[kv.ShardID]kv.NodeID{}, handlers: map[uint16]func(kv.NodeID, []byte, func([]byte, error)){}}
		nd.view = &view{c: c, follows: true}
		nd.view.refresh()
		nd.r = New(Options{Self: id, Local: nd, Map: nd.view, Peers: nd})
		nd.r.Register()
		c.nodes[id] = nd
	}
	tb.Cleanup(func() {
		for _, nd := range c.nodes {
			nd.r.Close()
		}
	})
	return c
}

func (c *cluster) router(id kv.NodeID) *Router { return c.nodes[id].r }

func (c *cluster) locked(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn()
}

// take gives the calls so far and forgets them.
func (c *cluster) take() []call {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := c.calls
	c.calls = nil
	return calls
}

// ---- node as Local ----

func (n *node) shardLocked(id kv.ShardID) (*shard, error) {
	s := n.c.shards[id]
	hosts := s != nil && slices.ContainsFunc(s.desc.Replicas, func(r *kvpb.ReplicaDescriptor) bool { return kv.NodeID(r.Node) == n.id })
	if !hosts {
		return nil, kv.Errorf(kv.CodeNoReplica, kv.OutcomeNotApplied, "no replica")
	}
	return s, nil
}

func (n *node) leaderLocked(s *shard) kv.NodeID {
	if leader, ok := n.believes[kv.ShardID(s.desc.Shard)]; ok {
		return leader
	}
	return s.leader
}

func (n *node) Propose(ctx context.Context, id kv.ShardID, data []byte, versions uint32) ([]byte, error) {
	if h := n.c.propose; h != nil {
		if err := h(n.id, id); err != nil {
			return nil, err
		}
	}
	answer, err := n.apply(ctx, id, data)
	if h := n.c.proposed; h != nil && err == nil {
		return h(n.id, id, answer)
	}
	return answer, err
}

func (n *node) apply(ctx context.Context, id kv.ShardID, data []byte) ([]byte, error) {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	s, err := n.shardLocked(id)
	if err != nil {
		return nil, err
	}
	if s.leader != n.id {
		e := kv.Errorf(kv.CodeNotLeader, kv.OutcomeNotApplied, "not the leader")
		e.Leader = n.leaderLocked(s)
		return nil, e
	}
	if ctx.Err() != nil {
		return nil, kv.Errorf(kv.CodeTimeout, kv.OutcomeNotApplied, "too late")
	}
	if s.frozen {
		return proto.Marshal(&kvpb.Result{Status: kvpb.Status_STATUS_FROZEN})
	}
	res := s.machine.apply(s.desc, data, time.Now().UnixMilli())
	if res.Status == kvpb.Status_STATUS_WRONG_SHARD {
		res.Sibling = s.sibling
	}
	return proto.Marshal(res)
}

func (n *node) ReadIndex(ctx context.Context, id kv.ShardID) error {
	if h := n.c.readIndex; h != nil {
		if err := h(ctx, n.id, id); err != nil {
			return err
		}
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	s, err := n.shardLocked(id)
	if err == nil && s.leader != n.id {
		e := kv.Errorf(kv.CodeNotLeader, kv.OutcomeNone, "not the leader")
		e.Leader = n.leaderLocked(s)
		return e
	}
	return err
}

func (n *node) Read(id kv.ShardID, req *kvpb.ReadRequest) (*kvpb.ReadResponse, error) {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	s, err := n.shardLocked(id)
	if err != nil {
		return nil, err
	}
	m := s.machine
	if lagging := s.lagging[n.id]; lagging != nil {
		m = lagging
	}
	if s.frozen {
		return &kvpb.ReadResponse{Status: kvpb.Status_STATUS_FROZEN, Descriptor_: s.desc}, nil
	}
	resp := m.read(s.desc, req)
	if resp.Status == kvpb.Status_STATUS_WRONG_SHARD {
		resp.Sibling = s.sibling
	}
	return resp, nil
}

func (n *node) Leader(id kv.ShardID) (kv.NodeID, bool) {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	s, err := n.shardLocked(id)
	if err != nil {
		return 0, false
	}
	leader := n.leaderLocked(s)
	return leader, leader != 0
}

func (n *node) LastContact(id kv.ShardID) (time.Duration, bool) {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	s, err := n.shardLocked(id)
	if err != nil {
		return 0, false
	}
	return s.contact[n.id], true
}

// ---- node as Peers ----

func (n *node) Handle(method uint16, h func(kv.NodeID, []byte, func([]byte, error))) {
	n.handlers[method] = h
}

func (n *node) Call(ctx context.Context, to kv.NodeID, method uint16, req []byte) ([]byte, error) {
	lost := kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown, "lost")
	if _, ok := ctx.Deadline(); !ok {
		n.c.tb.Error("a call without a deadline")
	}
	if to == n.id {
		n.c.tb.Error("a node called itself")
	}
	n.c.mu.Lock()
	this := call{n.id, to, method}
	n.c.calls = append(n.c.calls, this)
	target, what := n.c.nodes[to], deliver
	if n.c.fault != nil {
		what = n.c.fault(this)
	}
	if target == nil || target.down {
		what = refuse
	}
	n.c.mu.Unlock()
	switch what {
	case refuse:
		return nil, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "connection refused")
	case loseAsk:
		return nil, lost
	case hang:
		<-ctx.Done()
		return nil, lost
	case late:
		n.c.underWay.Go(func() {
			time.Sleep(n.c.lateBy()) // on virtual time
			done := make(chan struct{})
			target.handlers[method](n.id, bytes.Clone(req), func([]byte, error) { close(done) })
			<-done
		})
		return nil, lost
	}
	type answer struct {
		resp []byte
		err  error
	}
	ch := make(chan answer, 1)
	target.handlers[method](n.id, bytes.Clone(req), func(resp []byte, err error) {
		ch <- answer{bytes.Clone(resp), kv.FromWire(kv.ToWire(err))}
	})
	select {
	case a := <-ch:
		if what == loseAnswer {
			return nil, lost
		}
		return a.resp, a.err
	case <-ctx.Done():
		return nil, lost
	}
}

// ---- view as Map ----

// view is a node's shard map. It takes what it learns, and, if it follows, the
// truth when it has a hole.
type view struct {
	c       *cluster
	follows bool
	learned int

	mu    sync.Mutex
	descs []*kvpb.ShardDescriptor // sorted, disjoint
	hole  bool                    // was met; the truth is taken at the next question
}

// refresh takes the truth.
func (v *view) refresh() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.refreshLocked()
}

func (v *view) refreshLocked() {
	v.c.mu.Lock()
	defer v.c.mu.Unlock()
	var all []*kvpb.ShardDescriptor
	for _, s := range v.c.shards {
		all = append(all, s.desc)
	}
	slices.SortFunc(all, func(a, b *kvpb.ShardDescriptor) int { return bytes.Compare(a.Start, b.Start) })
	v.descs, v.hole = all, false
}

// lock locks the view, and has it catch up if it met a hole before.
func (v *view) lock() {
	v.mu.Lock()
	if v.hole && v.follows {
		v.refreshLocked()
	}
}

func (v *view) Lookup(key []byte) (*kvpb.ShardDescriptor, bool) {
	v.lock()
	defer v.mu.Unlock()
	for _, d := range v.descs {
		if owns(d, key) {
			return d, true
		}
	}
	v.hole = true
	return nil, false
}

func (v *view) Overlapping(start, end []byte) []*kvpb.ShardDescriptor {
	v.lock()
	defer v.mu.Unlock()
	var out []*kvpb.ShardDescriptor
	for _, d := range v.descs {
		if (len(d.End) == 0 || bytes.Compare(start, d.End) < 0) && (len(end) == 0 || bytes.Compare(d.Start, end) < 0) {
			out = append(out, d)
		}
	}
	v.hole = v.hole || len(out) == 0 || !reaches(out[len(out)-1], end)
	return out
}

func (v *view) Learn(d *kvpb.ShardDescriptor) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.learned++
	for _, old := range v.descs {
		if overlap(old, d) && old.Generation >= d.Generation {
			return
		}
	}
	// What is known of the rest stays, as in the real map.
	next := []*kvpb.ShardDescriptor{d}
	for _, old := range v.descs {
		if !overlap(old, d) {
			next = append(next, old)
			continue
		}
		if bytes.Compare(old.Start, d.Start) < 0 {
			left := proto.CloneOf(old)
			left.End = d.Start
			next = append(next, left)
		}
		if len(d.End) > 0 && (len(old.End) == 0 || bytes.Compare(d.End, old.End) < 0) {
			right := proto.CloneOf(old)
			right.Start = d.End
			next = append(next, right)
		}
	}
	v.descs = next
	slices.SortFunc(v.descs, func(a, b *kvpb.ShardDescriptor) int { return bytes.Compare(a.Start, b.Start) })
}

func overlap(a, b *kvpb.ShardDescriptor) bool {
	return (len(a.End) == 0 || bytes.Compare(b.Start, a.End) < 0) && (len(b.End) == 0 || bytes.Compare(a.Start, b.End) < 0)
}

// ---- shorthands ----

func put(key, value string) *kvpb.Txn {
	return &kvpb.Txn{Then: []*kvpb.Op{{Kind: kvpb.OpKind_OP_PUT, Key: []byte(key), Value: []byte(value)}}}
}

func add(key string, delta int64) *kvpb.Txn {
	return &kvpb.Txn{Then: []*kvpb.Op{{Kind: kvpb.OpKind_OP_ADD, Key: []byte(key), Delta: delta}}}
}

func (c *cluster) mustPut(keys ...string) {
	c.tb.Helper()
	for _, key := range keys {
		if _, err := c.router(1).Txn(context.Background(), put(key, "v:"+key), nil); err != nil {
			c.tb.Fatalf("put %q: %v", key, err)
		}
	}
	c.take()
}

func (c *cluster) mustGet(from kv.NodeID, key string, opts kv.ReadOptions) (string, kv.Served) {
	c.tb.Helper()
	got, err := c.router(from).Get(context.Background(), []byte(key), opts)
	if err != nil {
		c.tb.Fatalf("get %q: %v", key, err)
	}
	if got.Item == nil {
		return "", got.Served
	}
	return string(got.Item.Value), got.Served
}

func wantError(t *testing.T, err error, code kv.Code, outcome kv.Outcome) {
	t.Helper()
	if kv.CodeOf(err) != code || kv.OutcomeOf(err) != outcome {
		t.Fatalf("error %s, want code %q, outcome %q", describe(err), code, outcome)
	}
}

func describe(err error) string {
	return fmt.Sprintf("%v (code %q, outcome %q)", err, kv.CodeOf(err), kv.OutcomeOf(err))
}
