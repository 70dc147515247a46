package placement

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// world is a cluster of fakes in one synctest bubble: a network, one meta group
// per cluster with instant replication, and data shards that elect a leader as
// soon as a majority of their members exist. What is on a disk survives crash
// and start.
type world struct {
	t  *testing.T
	mu sync.Mutex

	nodes  map[kv.NodeID]*fakeNode
	groups map[kv.NodeID]*metaGroup // by founder
	data   map[dataKey]*dataShard

	// crash stops crashNode at its crashAt-th durable operation, if not 0.
	crashNode kv.NodeID
	crashAt   int
	ops       []string // durable operations of crashNode

	transfers    int
	asked        map[kv.ShardID]int // transfers by shard
	reluctant    bool               // transfers succeed and change nothing
	refuseAbsorb bool               // every absorption is refused
	bootstrap    map[dataKey]*ReplicaSpec
}

// metaGroup is the meta shard of one cluster.
type metaGroup struct {
	log     []kv.Entry
	members []kv.Member
	leader  kv.NodeID
	term    uint64
	version kv.Version
}

// dataKey names a data shard: of which cluster, by its founder, and its id.
type dataKey struct {
	founder kv.NodeID
	shard   kv.ShardID
}

type dataShard struct {
	members []kv.Member
	created map[kv.NodeID]bool
	leader  kv.NodeID
	term    uint64

	desc        *kvpb.ShardDescriptor
	config      uint64
	frozen      uint64
	into        kv.ShardID
	index       uint64 // of the last entry
	bytes       int64
	absorptions int
}

// disk is what a node keeps when its process dies.
type disk struct {
	cluster string
	records map[kv.ServerID]ReplicaSpec
	founder kv.NodeID // whose meta group it belongs to; 0 = not added to any yet
	tombs   map[kv.ServerID]bool
	rate    int64 // of snapshots, as set
}

// fakeNode is one process.
type fakeNode struct {
	w        *world
	id       kv.NodeID
	opts     Options
	disk     *disk
	up       bool
	crashed  chan struct{}
	machine  *Machine
	control  *Control
	handlers map[uint16]func(kv.NodeID, []byte, func([]byte, error))
	logs     *logSink
}

var errDown = kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "down")

func newWorld(t *testing.T) *world {
	return &world{
		t: t, nodes: map[kv.NodeID]*fakeNode{}, groups: map[kv.NodeID]*metaGroup{},
		data: map[dataKey]*dataShard{}, bootstrap: map[dataKey]*ReplicaSpec{}, asked: map[kv.ShardID]int{},
	}
}

func peerAddress(id kv.NodeID) string { return fmt.Sprintf("n%d:7101", uint64(id)) }

func addresses(ids ...kv.NodeID) []string {
	var out []string
	for _, id := range ids {
		out = append(out, peerAddress(id))
	}
	return out
}

// start starts a node on its disk. change adapts the options; it may be nil.
func (w *world) start(id kv.NodeID, join []string, expect int, change func(*Options)) *fakeNode {
	n := &fakeNode{w: w, id: id, crashed: make(chan struct{}), machine: NewMachine(), logs: &logSink{},
		disk:     &disk{records: map[kv.ServerID]ReplicaSpec{}, tombs: map[kv.ServerID]bool{}},
		handlers: map[uint16]func(kv.NodeID, []byte, func([]byte, error)){}}
	n.opts = Options{
		Self:    Self{Name: fmt.Sprintf("n%d", uint64(id)), HTTPAddress: fmt.Sprintf("n%d:7001", uint64(id)), PeerAddress: peerAddress(id), Release: "test"},
		Join:    join,
		Expect:  expect,
		Machine: n.machine, Identity: fakeIdentity{n}, Meta: fakeMeta{n}, Replicas: fakeReplicas{n}, Actions: fakeActions{n}, Peers: fakePeers{n},
		SplitPoints:    EvenSplitPoints(8),
		LearnAddresses: func(map[kv.NodeID]string) {},
		Disk:           func() (int64, int64) { return 100 * int64(id), 1 << 40 },
		Logger:         slog.New(n.logs),
	}
	if change != nil {
		change(&n.opts)
	}
	var err error
	if n.control, err = New(n.opts); err != nil {
		w.t.Fatal(err)
	}
	n.control.Register()
	w.mu.Lock()
	if old := w.nodes[id]; old != nil {
		n.disk = old.disk
	}
	n.up = true
	w.nodes[id] = n
	w.electLocked()
	n.replayLocked()
	w.mu.Unlock()
	n.control.Start()
	return n
}

// locked runs f while nothing else touches the world.
func (w *world) locked(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// stop ends a process; its disk stays.
func (n *fakeNode) stop() {
	n.w.mu.Lock()
	n.downLocked()
	n.w.mu.Unlock()
	n.control.Close()
}

func (n *fakeNode) downLocked() {
	if !n.up {
		return
	}
	n.up = false
	close(n.crashed)
	n.w.electLocked()
}

func (w *world) stopAll() {
	w.mu.Lock()
	all := slices.Collect(maps.Values(w.nodes))
	w.mu.Unlock()
	for _, n := range all {
		n.stop()
	}
}

func (w *world) upLocked(id kv.NodeID) bool { return w.nodes[id] != nil && w.nodes[id].up }

// electLocked gives every group without a living leader a new one, if a majority
// of its voters is up.
func (w *world) electLocked() {
	for _, g := range w.groups {
		if w.upLocked(g.leader) {
			if quorum(g.members, w.upLocked) {
				continue
			}
		}
		g.leader = 0
		if leader := w.candidateLocked(g.members, w.upLocked); leader != 0 {
			g.leader = leader
			g.term++
		}
	}
	for _, d := range w.data {
		here := func(id kv.NodeID) bool { return w.upLocked(id) && d.created[id] }
		if here(d.leader) && quorum(d.members, here) {
			continue
		}
		d.leader = 0
		if leader := w.candidateLocked(d.members, here); leader != 0 {
			d.leader = leader
			d.term++
		}
	}
}

func quorum(members []kv.Member, here func(kv.NodeID) bool) bool {
	voters, up := 0, 0
	for _, m := range members {
		if m.Voter {
			voters++
			if here(m.ID.Node) {
				up++
			}
		}
	}
	return up > voters/2
}

func (w *world) candidateLocked(members []kv.Member, here func(kv.NodeID) bool) kv.NodeID {
	if !quorum(members, here) {
		return 0
	}
	var best kv.NodeID
	for _, m := range members { // the highest id, to be unlike what placement prefers
		if m.Voter && here(m.ID.Node) && m.ID.Node > best {
			best = m.ID.Node
		}
	}
	return best
}

func (n *fakeNode) groupLocked() *metaGroup {
	if _, ok := n.disk.records[kv.ServerID{Node: n.id, Shard: kv.MetaShard, Incarnation: 1}]; !ok {
		return nil
	}
	return n.w.groups[n.disk.founder]
}

// replayLocked applies what the node's machine lacks of its group's log.
func (n *fakeNode) replayLocked() {
	g := n.groupLocked()
	if g == nil || !n.up {
		return
	}
	applied := int(n.machine.Applied().Index)
	if applied < len(g.log) {
		if _, err := n.machine.Apply(g.log[applied:]); err != nil {
			n.w.t.Error(err)
		}
	}
}

// durable is called before and after each operation that a crash may cut off.
func (n *fakeNode) durableLocked(what string) error {
	if !n.up {
		return errDown
	}
	if n.id != n.w.crashNode {
		return nil
	}
	n.w.ops = append(n.w.ops, what)
	if len(n.w.ops) == n.w.crashAt {
		n.downLocked()
		return errDown
	}
	return nil
}

// ---- Identity ----

type fakeIdentity struct{ *fakeNode }

func (f fakeIdentity) Node() kv.NodeID { return f.id }

func (f fakeIdentity) ClusterID() string {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return f.disk.cluster
}

func (f fakeIdentity) SetClusterID(id string) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if err := f.durableLocked("before cluster id"); err != nil {
		return err
	}
	if f.disk.cluster != "" && f.disk.cluster != id {
		return errors.New("another cluster")
	}
	f.disk.cluster = id
	return f.durableLocked("after cluster id")
}

// ---- Meta ----

type fakeMeta struct{ *fakeNode }

func (f fakeMeta) Status() (kv.ReplicaStatus, bool) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	g := f.groupLocked()
	if g == nil {
		return kv.ReplicaStatus{}, false
	}
	return f.metaStatusLocked(g), true
}

func (n *fakeNode) metaStatusLocked(g *metaGroup) kv.ReplicaStatus {
	st := kv.ReplicaStatus{
		ID:   kv.ServerID{Node: n.id, Shard: kv.MetaShard, Incarnation: 1},
		Role: kv.RoleFollower, Term: g.term, Leader: g.leader, Members: slices.Clone(g.members),
		CommitIndex: uint64(len(g.log)), AppliedIndex: n.machine.Applied().Index,
	}
	if g.leader == n.id {
		st.Role, st.LeaderReady = kv.RoleLeader, true
	}
	return st
}

func (f fakeMeta) IsLeader() bool {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	g := f.groupLocked()
	return f.up && g != nil && g.leader == f.id
}

func (f fakeMeta) Leader() kv.NodeID {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if g := f.groupLocked(); g != nil && f.up {
		return g.leader
	}
	return 0
}

func (f fakeMeta) ReadIndex(context.Context) error { return nil }

func (f fakeMeta) Propose(_ context.Context, data []byte) ([]byte, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	g, err := f.leadLocked()
	if err != nil {
		return nil, err
	}
	if err := f.durableLocked("before propose"); err != nil {
		return nil, err
	}
	index := uint64(len(g.log)) + 1
	g.version++
	e := kv.Entry{Index: index, Term: g.term, Stamp: kv.Stamp{Term: g.term, Version: g.version, Ceiling: 1 << 60, NowMs: time.Now().UnixMilli()},
		Commands: []kv.EntryCommand{{Data: data, Versions: 1}}}
	g.log = append(g.log, e)
	results, err := f.machine.Apply([]kv.Entry{e})
	if err != nil {
		return nil, err
	}
	f.w.replicateLocked(g)
	return results[0].Results[0], f.durableLocked("after propose")
}

func (f fakeMeta) leadLocked() (*metaGroup, error) {
	g := f.groupLocked()
	if g == nil || !f.up || g.leader != f.id {
		return nil, kv.Errorf(kv.CodeNotLeader, kv.OutcomeNotApplied, "not the leader")
	}
	return g, nil
}

func (w *world) replicateLocked(g *metaGroup) {
	for _, n := range w.nodes {
		if n.groupLocked() == g {
			n.replayLocked()
		}
	}
}

func (f fakeMeta) AddNonvoter(_ context.Context, id kv.ServerID) error { return f.setMember(id, false) }
func (f fakeMeta) Promote(_ context.Context, id kv.ServerID) error     { return f.setMember(id, true) }

func (f fakeMeta) Remove(_ context.Context, id kv.ServerID) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	g, err := f.leadLocked()
	if err != nil {
		return err
	}
	g.members = slices.DeleteFunc(g.members, func(m kv.Member) bool { return m.ID == id })
	f.w.electLocked()
	return nil
}

func (f fakeMeta) setMember(id kv.ServerID, voter bool) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	g, err := f.leadLocked()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(g.members, func(m kv.Member) bool { return m.ID == id })
	if i < 0 {
		g.members = append(g.members, kv.Member{ID: id})
		i = len(g.members) - 1
		f.w.nodes[id.Node].disk.founder = f.disk.founder
	}
	g.members[i].Voter = g.members[i].Voter || voter
	f.w.electLocked()
	f.w.replicateLocked(g)
	return nil
}

// ---- Replicas ----

type fakeReplicas struct{ *fakeNode }

func (f fakeReplicas) Known(id kv.ServerID) bool {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	_, ok := f.disk.records[id]
	return ok
}

func (f fakeReplicas) Create(_ context.Context, spec ReplicaSpec) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if _, ok := f.disk.records[spec.ID]; ok {
		return errors.New("exists")
	}
	if err := f.durableLocked("before create " + spec.ID.Shard.String()); err != nil {
		return err
	}
	f.disk.records[spec.ID] = spec
	switch {
	case spec.ID.Shard == kv.MetaShard && len(spec.Members) > 0:
		f.disk.founder = f.id
		f.w.groups[f.id] = &metaGroup{members: spec.Members}
	case spec.ID.Shard != kv.MetaShard:
		f.createDataLocked(spec)
	}
	f.w.electLocked()
	f.replayLocked()
	return f.durableLocked("after create " + spec.ID.Shard.String())
}

func (f fakeReplicas) createDataLocked(spec ReplicaSpec) {
	shard := dataKey{f.disk.founder, spec.ID.Shard}
	if len(spec.Members) == 0 { // it waits to be added
		f.w.data[shard].created[f.id] = true
		return
	}
	if first := f.w.bootstrap[shard]; first == nil {
		f.w.bootstrap[shard] = &spec
	} else if !slices.Equal(first.Members, spec.Members) || !proto.Equal(first.Descriptor, spec.Descriptor) {
		f.w.t.Errorf("shard %v is bootstrapped in two ways: %v and %v", shard, first, spec)
	}
	if f.w.data[shard] == nil {
		f.w.data[shard] = &dataShard{members: spec.Members, created: map[kv.NodeID]bool{}, desc: spec.Descriptor, config: 1, index: 10, bytes: 1 << 20}
	}
	f.w.data[shard].created[f.id] = true
}

func (f fakeReplicas) States() []ReplicaState {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	var out []ReplicaState
	if g := f.groupLocked(); g != nil {
		out = append(out, ReplicaState{Status: f.metaStatusLocked(g)})
	}
	for id := range f.disk.records {
		d := f.w.data[dataKey{f.disk.founder, id.Shard}]
		if id.Shard == kv.MetaShard || d == nil || f.disk.tombs[id] {
			continue
		}
		st := kv.ReplicaStatus{ID: id, Role: kv.RoleFollower, Term: d.term, Leader: d.leader, Members: d.members, CommitIndex: d.index, AppliedIndex: d.index}
		if !slices.ContainsFunc(d.members, func(m kv.Member) bool { return m.ID == id && m.Voter }) {
			st.Role = kv.RoleLearner
		}
		if d.leader == f.id {
			st.Role, st.LeaderReady = kv.RoleLeader, true
		}
		out = append(out, ReplicaState{Status: st, Descriptor: d.desc, ConfigIndex: d.config, Bytes: d.bytes, Keys: 7, FrozenIndex: d.frozen, FrozenInto: d.into})
	}
	return out
}
