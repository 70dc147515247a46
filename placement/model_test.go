package placement

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// model is a cluster that the planner is let loose on: shards with their own
// configurations, nodes that live and die, the real state machine and the real
// tracker in between, and a clock of its own. A step takes effect at once.
type model struct {
	t       tester
	now     time.Time
	d       *driver
	tracker *tracker
	nodes   map[uint64]*modelNode
	shards  map[uint64]*modelShard
	members []kv.Member
	leader  uint64 // of the meta shard
	busy    map[string]time.Time
	steps   map[StepKind]int
	log     []string
}

type modelNode struct {
	id         uint64
	alive      bool
	free, size int64 // of the disk; 0 = not told
	replicas   map[uint64]uint64
	failing    map[uint64]string
}

type modelShard struct {
	d           *kvpb.ShardDescriptor
	config      uint64
	leader      uint64
	term        uint64
	bytes       int64
	load        float64
	frozen      uint64
	into        uint64
	frozenTimes uint64
}

func newModel(t tester, config kv.ClusterConfig, shards int, zones ...string) *model {
	m := &model{t: t, now: time.UnixMilli(1e12), d: newDriver(), nodes: map[uint64]*modelNode{}, shards: map[uint64]*modelShard{},
		busy: map[string]time.Time{}, steps: map[StepKind]int{}}
	m.d.clock = func() time.Time { return m.now }
	m.tracker = newTracker(Tuning{}.withDefaults(), Hooks{})
	for i, zone := range zones {
		n := testNode(uint64(i + 1))
		n.Zone = zone
		if i == 0 {
			config = foundingConfig(config)
			m.d.must(t, &metapb.Command{Body: &metapb.Command_FoundCluster{FoundCluster: &metapb.FoundCluster{ClusterId: "c", Founder: n,
				Settings: &metapb.Settings{ReplicationFactor: uint32(config.ReplicationFactor), ExpectedNodes: uint32(len(zones)),
					SplitPoints: EvenSplitPoints(shards), Config: configToProto(config)}}}})
			m.leader = 1
			m.members = []kv.Member{{ID: metaServer(m.state().Node(1)), Voter: true}}
			m.nodes[1] = newModelNode(1)
			continue
		}
		m.join(uint64(i+1), zone)
	}
	m.tracker.setLeading(true, m.now)
	return m
}

func newModelNode(id uint64) *modelNode {
	return &modelNode{id: id, alive: true, replicas: map[uint64]uint64{}, failing: map[uint64]string{}}
}

func (m *model) state() *State { return m.d.m.State() }

func (m *model) join(id uint64, zone string) {
	n := testNode(id)
	n.Zone = zone
	m.d.must(m.t, cmdRegister("c", n))
	m.nodes[id] = newModelNode(id)
}

func (m *model) alive(id uint64) bool { return m.nodes[id] != nil && m.nodes[id].alive }

func (m *model) quorum(s *modelShard) bool {
	all, alive := 0, 0
	for _, r := range s.d.Replicas {
		if r.Role != kvpb.ReplicaRole_ROLE_VOTER {
			continue
		}
		all++
		if m.alive(r.Node) && m.nodes[r.Node].replicas[s.d.Shard] == r.Incarnation {
			alive++
		}
	}
	return alive > all/2
}

// tick is one second of the cluster's life.
func (m *model) tick() {
	m.now = m.now.Add(time.Second)
	for _, id := range slices.Sorted(maps.Keys(m.nodes)) {
		if n := m.nodes[id]; n.alive {
			m.follow(n)
		}
	}
	m.elect()
	for _, id := range slices.Sorted(maps.Keys(m.nodes)) {
		if n := m.nodes[id]; n.alive && m.state().Node(kv.NodeID(id)).State != metapb.NodeState_NODE_REMOVED {
			m.tracker.take(m.report(n), m.now)
		}
	}
	in := m.input()
	for _, s := range Plan(in) {
		if until, ok := m.busy[s.Key()]; ok && m.now.Before(until) {
			continue
		}
		m.apply(s)
	}
}

// follow is what the agent does: create what is assigned, destroy what is gone.
func (m *model) follow(n *modelNode) {
	state := m.state()
	for _, h := range state.Shards() {
		if spec, ok := assignment(h, kv.NodeID(n.id)); ok && n.replicas[h.Current.Shard] < spec.ID.Incarnation {
			n.replicas[h.Current.Shard] = spec.ID.Incarnation
			if m.shards[h.Current.Shard] == nil {
				m.shards[h.Current.Shard] = &modelShard{d: cloneOf(h.Initial), config: 1, bytes: 100 << 20}
			}
		}
	}
	for _, move := range state.Moves() {
		if move.Add.GetNode() == n.id && !move.Cancelled && n.replicas[move.Shard] < move.Add.Incarnation {
			n.replicas[move.Shard] = move.Add.Incarnation
			delete(n.failing, move.Shard)
		}
	}
	for shard, incarnation := range n.replicas {
		s, h := m.shards[shard], state.Shard(kv.ShardID(shard))
		move := state.Move(kv.ShardID(shard))
		if state.Retired(kv.ShardID(shard)) != nil || h != nil && h.ConfigIndex == s.config && replicaOf(s.d, n.id).GetIncarnation() != incarnation &&
			move.GetAdd().GetIncarnation() != incarnation {
			delete(n.replicas, shard)
			delete(n.failing, shard)
		}
	}
}

func (m *model) elect() {
	for _, s := range m.shards {
		led := s.leader != 0 && m.alive(s.leader) && replicaOf(s.d, s.leader).GetRole() == kvpb.ReplicaRole_ROLE_VOTER
		if led && m.quorum(s) {
			continue
		}
		s.leader = 0
		for _, r := range s.d.Replicas {
			if m.quorum(s) && r.Role == kvpb.ReplicaRole_ROLE_VOTER && m.alive(r.Node) && m.nodes[r.Node].failing[s.d.Shard] == "" {
				s.leader, s.term = r.Node, s.term+1
				break
			}
		}
	}
	if !m.alive(m.leader) {
		for _, member := range m.members {
			if member.Voter && m.alive(uint64(member.ID.Node)) {
				m.leader = uint64(member.ID.Node)
				m.tracker.setLeading(false, m.now)
				m.tracker.setLeading(true, m.now)
				clear(m.busy)
				return
			}
		}
	}
}

func (m *model) report(n *modelNode) *metapb.NodeReport {
	out := &metapb.NodeReport{Node: n.id, DiskBytes: n.size - n.free, DiskFreeBytes: n.free}
	out.Replicas = append(out.Replicas, &metapb.ReplicaReport{Shard: 1, Incarnation: 1, CommitIndex: 10, AppliedIndex: 10, Role: string(kv.RoleFollower)})
	for shard, incarnation := range n.replicas {
		s := m.shards[shard]
		r := &metapb.ReplicaReport{Shard: shard, Incarnation: incarnation, CommitIndex: 10, AppliedIndex: 10, Role: string(kv.RoleFollower),
			Bytes: s.bytes, Term: s.term, FrozenIndex: s.frozen, FrozenInto: s.into, Failure: n.failing[shard], Generation: s.d.Generation}
		if s.leader == n.id {
			r.Role, r.LeaderReady, r.Writes = string(kv.RoleLeader), true, s.load
			r.Leads = &metapb.DescriptorReport{Shard: cloneOf(s.d), ConfigIndex: s.config}
		}
		out.Replicas = append(out.Replicas, r)
	}
	return out
}

func (m *model) input() Input {
	health, leads, _ := m.tracker.view(m.state(), m.now)
	in := Input{State: m.state(), Now: m.now, Self: kv.NodeID(m.leader), Members: m.members, Commit: 10, Health: health, Leads: leads,
		Moving: map[kv.ShardID]kv.NodeID{}, Busy: map[string]bool{}, Tuning: Tuning{}.withDefaults()}
	for key, until := range m.busy {
		if m.now.Before(until) {
			in.Busy[key] = true
		}
	}
	return in
}

// apply carries a step out on the model, as shards would: what does not fit is
// refused, and what the planner must never do fails the test.
func (m *model) apply(s Step) {
	m.steps[s.Kind]++
	if s.Kind != StepReport {
		m.log = append(m.log, s.String())
	}
	shard := m.shards[uint64(s.Shard)]
	switch s.Kind {
	case StepAddNonvoter, StepPromote, StepRemoveMember:
		m.members = slices.DeleteFunc(m.members, func(x kv.Member) bool { return x.ID == s.Server })
		if s.Kind != StepRemoveMember {
			m.members = append(m.members, kv.Member{ID: s.Server, Voter: s.Kind == StepPromote})
		}
	case StepCreateShards:
		m.d.must(m.t, cmdCreate(s.Shards...))
	case StepReport:
		m.d.must(m.t, cmdReport(s.Reports...))
	case StepTransfer:
		m.transfer(s, shard)
	case StepAddReplica, StepPromoteReplica, StepRemoveReplica:
		m.change(s, shard)
	case StepSplit, StepFreeze, StepAbsorb, StepRefuse, StepUnfreeze:
		m.reshape(s, shard)
	default:
		m.d.do(m.t, s.Command)
		if err := m.state().check(); err != nil {
			m.t.Fatalf("%s: %v", s, err)
		}
	}
}

func (m *model) transfer(s Step, shard *modelShard) {
	m.busy[s.Key()] = m.now.Add(10 * time.Second)
	if s.Shard == kv.MetaShard {
		m.leader = uint64(s.To)
		m.tracker.setLeading(false, m.now)
		m.tracker.setLeading(true, m.now)
		return
	}
	if !m.alive(uint64(s.To)) || shard.leader != uint64(s.From) || replicaOf(shard.d, uint64(s.To)) == nil {
		return // it fails: reports come late
	}
	shard.leader, shard.term = uint64(s.To), shard.term+1
}

// change changes a configuration. To take a living quorum away is a fault.
func (m *model) change(s Step, shard *modelShard) {
	if shard.leader == 0 || shard.leader != uint64(s.From) {
		return
	}
	had, before := m.quorum(shard), shard.d
	next := cloneOf(shard.d)
	next.Replicas = slices.DeleteFunc(next.Replicas, func(r *kvpb.ReplicaDescriptor) bool {
		return r.Node == uint64(s.Server.Node) && r.Incarnation == s.Server.Incarnation
	})
	if s.Kind != StepRemoveReplica {
		role := kvpb.ReplicaRole_ROLE_NONVOTER
		if s.Kind == StepPromoteReplica {
			role = kvpb.ReplicaRole_ROLE_VOTER
		}
		next.Replicas = append(next.Replicas, &kvpb.ReplicaDescriptor{Node: uint64(s.Server.Node), Incarnation: s.Server.Incarnation, Role: role})
	}
	shard.d = next
	if had && !m.quorum(shard) {
		for _, r := range before.Replicas { // of who died a moment ago only the shard's leader can know
			if !m.alive(r.Node) && m.input().Health[kv.NodeID(r.Node)].Liveness != Dead {
				shard.d = before // it refuses
				return
			}
		}
		m.t.Fatalf("%s: the shard lost its quorum: %v", s, next)
	}
	shard.config++
}

func (m *model) reshape(s Step, shard *modelShard) {
	switch s.Kind {
	case StepSplit:
		if shard.d.Generation != s.Split.Generation {
			return
		}
		key := s.Split.Key
		if len(key) == 0 {
			key = append(slices.Clone(shard.d.Start), fmt.Sprintf("%04d", 9999-s.Split.Child)...)
		}
		if len(shard.d.End) > 0 && bytes.Compare(key, shard.d.End) >= 0 {
			m.busy[Step{Kind: StepBeginSplit, Shard: s.Shard}.Key()] = m.now.Add(hotRest)
			m.d.do(m.t, &metapb.Command{Body: &metapb.Command_EndSplit{EndSplit: &metapb.EndSplit{Shard: s.Split.Shard, Child: s.Split.Child, Error: "no key"}}})
			return
		}
		child := &modelShard{d: cloneOf(shard.d), config: 10, bytes: shard.bytes / 2, load: shard.load / 2, leader: shard.leader, term: 1}
		child.d.Shard, child.d.Start, child.d.Generation = s.Split.Child, key, shard.d.Generation+1
		shard.d = cloneOf(shard.d)
		shard.d.End, shard.d.Generation, shard.bytes, shard.load = key, shard.d.Generation+1, shard.bytes-child.bytes, shard.load/2
		for _, r := range child.d.Replicas {
			r.Incarnation = 1
			m.nodes[r.Node].replicas[s.Split.Child] = 1
		}
		m.shards[s.Split.Child] = child
	case StepFreeze:
		shard.frozenTimes++
		shard.frozen, shard.into = 100*shard.frozenTimes, s.Merge.Left
		m.d.must(m.t, advanceMergeCommand(s.Merge, metapb.MergeStage_MERGE_FROZEN, shard.frozen, ""))
	case StepAbsorb:
		right := m.shards[s.Merge.Right]
		if right == nil {
			return // it was absorbed before, and no report has said so yet
		}
		for _, r := range right.d.Replicas {
			if !m.alive(r.Node) {
				return // it does not freeze
			}
		}
		if shard.d.Generation == s.Merge.LeftGeneration && right.frozen == s.Merge.FrozenIndex {
			shard.d = cloneOf(shard.d)
			shard.d.End, shard.d.Generation, shard.bytes = right.d.End, max(shard.d.Generation, right.d.Generation)+1, shard.bytes+right.bytes
			for _, n := range m.nodes {
				delete(n.replicas, s.Merge.Right)
			}
			delete(m.shards, s.Merge.Right)
		}
	case StepRefuse:
		if shard.d.Generation == s.Merge.LeftGeneration {
			shard.d = cloneOf(shard.d)
			shard.d.Generation++
			m.d.do(m.t, advanceMergeCommand(s.Merge, metapb.MergeStage_MERGE_UNFREEZING, 0, ""))
		}
	case StepUnfreeze:
		if shard.frozen == s.Merge.FrozenIndex {
			shard.frozen, shard.into = 0, 0
		}
		m.d.do(m.t, advanceMergeCommand(s.Merge, metapb.MergeStage_MERGE_ENDED, 0, s.Merge.Why))
	}
}

// settle lets the cluster live until nothing was planned for some minutes.
func (m *model) settle() {
	m.t.Helper()
	quiet := 0
	for range 6 * 3600 {
		before := len(m.log)
		m.tick()
		if quiet++; len(m.log) != before {
			quiet = 0
		}
		if quiet == 200 {
			return
		}
	}
	m.t.Fatalf("no rest after six hours; the last steps: %q", m.log[max(0, len(m.log)-12):])
}

// run lets the cluster live for a while.
func (m *model) run(d time.Duration) {
	for end := m.now.Add(d); m.now.Before(end); {
		m.tick()
	}
}

// story tells how the cluster stands, for a test that fails.
func (m *model) story() string {
	out := fmt.Sprintf("moves %v\nconfig %v\n", m.state().Moves(), m.state().config)
	for _, n := range m.state().Members() {
		h := m.input().Health[kv.NodeID(n.Id)]
		out += fmt.Sprintf("node %d %s alive=%v liveness=%v steady=%v silent=%s zone=%q\n", n.Id, n.State, m.alive(n.Id), h.Liveness, h.Steady, h.SilentFor, n.Zone)
	}
	in := m.input()
	b := newBoard(&in)
	for i := range b.parts {
		p := &b.parts[i]
		out += fmt.Sprintf("shard %s: busy %v, led %v, lead %v, true leader %d term %d, record %s, changing %q\n", p.id, p.busy, p.leader != nil, in.Leads[p.id],
			m.shards[uint64(p.id)].leader, m.shards[uint64(p.id)].term, p.record.State, m.state().changing(p.id))
	}
	return out + strings.Join(m.log[max(0, len(m.log)-15):], "\n")
}

// check holds the end state to what was asked for.
func (m *model) check() {
	m.t.Helper()
	config := m.state().Config()
	var targets []*metapb.Node
	stuck := false // a node cannot be emptied without going below the replication factor
	zones := map[string]bool{}
	for _, n := range m.state().Members() {
		if m.alive(n.Id) && n.State != metapb.NodeState_NODE_REMOVING {
			targets = append(targets, n)
			zones[zoneOf(n)] = true
		}
		stuck = stuck || n.State == metapb.NodeState_NODE_REMOVING
	}
	stuck = stuck && len(targets) < config.ReplicationFactor
	rf := min(config.ReplicationFactor, len(targets))
	replicas, leaders := map[uint64]int{}, map[uint64]int{}
	for _, n := range targets {
		replicas[n.Id], leaders[n.Id] = 0, 0
	}
	for id, s := range m.shards {
		if !m.quorum(s) {
			continue // its nodes died at once; nobody can help
		}
		living, used := 0, map[string]bool{}
		for _, r := range s.d.Replicas {
			if r.Role == kvpb.ReplicaRole_ROLE_VOTER && m.alive(r.Node) {
				living++
				used[zoneOf(m.state().Node(kv.NodeID(r.Node)))] = true
			}
			replicas[r.Node]++
		}
		leaders[s.leader]++
		if living != rf && !(stuck && living > rf) || len(used) < min(rf, len(zones)) {
			m.t.Fatalf("shard %d: %d living voters of %d, in %d of %d zones: %v\n%s", id, living, rf, len(used), len(zones), s.d, m.story())
		}
	}
	if !stuck && len(zones) == len(targets) && config.ReplicationFactor <= len(targets) {
		if spread(replicas) > 1 || spread(leaders) > 1 {
			m.t.Fatalf("uneven: replicas %v, leaders %v\n%s", replicas, leaders, m.story())
		}
	}
}
