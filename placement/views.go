package placement

import (
	"cmp"
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

const (
	summaryFresh   = time.Second            // a summary is asked for at most as often
	summaryTimeout = 500 * time.Millisecond // and waited for no longer
)

// views answers questions about the cluster from what this node follows and from
// what the meta leader has heard. Without a meta leader the answers say less:
// nobody is alive for sure, and only local replicas have a status.
type views struct {
	agent *agent
	// turn has one slot. Who fills it may fetch a summary and touch what follows;
	// the others wait, and share what was fetched.
	turn    chan struct{}
	summary *metapb.Summary
	fetched time.Time
}

// picture is one consistent set of facts to answer from.
type picture struct {
	state    *State
	known    bool // the meta leader's summary is in it
	health   map[kv.NodeID]*metapb.NodeHealth
	replicas map[kv.ShardID]map[kv.NodeID]*metapb.ReplicaReport
	leaders  map[kv.ShardID]*metapb.ReplicaReport
	reports  map[kv.NodeID]*metapb.NodeReport
	led      map[kv.NodeID]int // data shards that a node leads
	leaderOf map[kv.ShardID]kv.NodeID
}

func (v *views) picture(ctx context.Context) *picture {
	p := &picture{
		state:    v.agent.machine.State(),
		health:   map[kv.NodeID]*metapb.NodeHealth{},
		replicas: map[kv.ShardID]map[kv.NodeID]*metapb.ReplicaReport{},
		leaders:  map[kv.ShardID]*metapb.ReplicaReport{},
		reports:  map[kv.NodeID]*metapb.NodeReport{},
		led:      map[kv.NodeID]int{},
		leaderOf: map[kv.ShardID]kv.NodeID{},
	}
	if summary := v.fetch(ctx); summary != nil {
		p.known = true
		for _, h := range summary.Nodes {
			p.health[kv.NodeID(h.Node)] = h
			if h.Alive {
				p.add(h.Report)
			}
		}
	}
	p.add(v.agent.ownReport()) // fresher than what the leader has of it
	for shard, node := range p.leaderOf {
		if shard != kv.MetaShard {
			p.led[node]++
		}
	}
	return p
}

// add takes a node's report in; a later one of the same node replaces it.
func (p *picture) add(report *metapb.NodeReport) {
	node := kv.NodeID(report.GetNode())
	p.reports[node] = report
	for _, r := range report.GetReplicas() {
		shard := kv.ShardID(r.Shard)
		if p.replicas[shard] == nil {
			p.replicas[shard] = map[kv.NodeID]*metapb.ReplicaReport{}
		}
		p.replicas[shard][node] = r
		switch known := p.leaders[shard]; {
		case r.LeaderReady && (known == nil || r.Term >= known.Term):
			p.leaders[shard], p.leaderOf[shard] = r, node
		case !r.LeaderReady && known != nil && p.leaderOf[shard] == node:
			delete(p.leaders, shard)
			delete(p.leaderOf, shard)
		}
	}
}

// fetch gives the meta leader's summary, at most summaryFresh old, or nil if
// there is no leader that answers.
func (v *views) fetch(ctx context.Context) *metapb.Summary {
	a := v.agent
	if a.meta.IsLeader() {
		if summary, err := a.summary(); err == nil {
			return summary
		}
	}
	select {
	case v.turn <- struct{}{}:
		defer func() { <-v.turn }()
	case <-ctx.Done():
		return nil
	}
	if !v.fetched.IsZero() && a.now().Sub(v.fetched) < summaryFresh {
		return v.summary
	}
	v.summary = v.ask(ctx)
	v.fetched = a.now()
	return v.summary
}

func (v *views) ask(ctx context.Context) *metapb.Summary {
	a := v.agent
	leader := a.meta.Leader()
	if leader == 0 || leader == a.self {
		return nil
	}
	req, err := proto.Marshal(&metapb.AdminRequest{Body: &metapb.AdminRequest_Summary{Summary: &metapb.SummaryRequest{}}})
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, summaryTimeout)
	defer cancel()
	resp, err := a.peers.Call(ctx, leader, MethodAdmin, req)
	if err != nil {
		a.log.Debug("no summary from the meta leader", "leader", leader.String(), "err", err)
		return nil
	}
	var answer metapb.AdminAnswer
	if proto.Unmarshal(resp, &answer) != nil {
		return nil
	}
	return answer.Summary
}

// Nodes gives the nodes of the cluster, in the order they registered. A node
// whose LastSeenMs is zero and that is not Alive has not been heard of: nothing
// is known of it if the meta shard has no leader (Cluster says so).
func (c *Control) Nodes(ctx context.Context) []kv.NodeInfo {
	p := c.views.picture(ctx)
	placed := map[uint64]int{}
	for _, h := range p.state.Shards() {
		for _, r := range h.Current.Replicas {
			placed[r.Node]++
		}
	}
	var out []kv.NodeInfo
	for _, n := range p.state.Members() {
		id := kv.NodeID(n.Id)
		h := p.health[id]
		out = append(out, kv.NodeInfo{
			ID: id, Name: n.Name, Zone: n.Zone, HTTPAddress: n.HttpAddress, PeerAddress: n.PeerAddress, Release: n.Release,
			Alive:      h.GetAlive() || id == c.agent.self,
			LastSeenMs: h.GetLastSeenMs(),
			Draining:   n.State == metapb.NodeState_NODE_DRAINING,
			MetaRole:   kv.Role(p.replicas[kv.MetaShard][id].GetRole()),
			Replicas:   placed[n.Id],
			Leaders:    p.led[id],
			DiskBytes:  h.GetReport().GetDiskBytes(),
			DiskFree:   h.GetReport().GetDiskFreeBytes(),
			State:      nodeState(n.State),
		})
		out[len(out)-1].Bytes, out[len(out)-1].Reads, out[len(out)-1].Writes = p.sums(id)
	}
	return out
}

// sums adds up what a node's data replicas hold and serve. A write counts where the
// shard is led.
func (p *picture) sums(node kv.NodeID) (size int64, reads, writes float64) {
	for _, r := range p.reports[node].GetReplicas() {
		if kv.ShardID(r.Shard) == kv.MetaShard {
			continue
		}
		size += r.Bytes
		reads += r.Reads
		if r.LeaderReady {
			writes += r.Writes
		}
	}
	return size, reads, writes
}

func nodeState(s metapb.NodeState) kv.NodeState {
	switch s {
	case metapb.NodeState_NODE_DRAINING:
		return kv.NodeDraining
	case metapb.NodeState_NODE_REMOVING:
		return kv.NodeRemoving
	default:
		return kv.NodeActive
	}
}

// shardChange says what is being done to a shard.
func shardChange(s *State, shard kv.ShardID) kv.ShardChange {
	if m := s.Move(shard); m != nil {
		return kv.ShardChange{Kind: kv.OperationMove, From: kv.NodeID(m.Remove.GetNode()), To: kv.NodeID(m.Add.GetNode()), Operation: m.Operation,
			Detail: s.moveText(m) + " (" + reasonText(m.Reason) + ")"}
	}
	if c := s.Split(shard); c != nil {
		return kv.ShardChange{Kind: kv.OperationSplit, Operation: c.Operation, Detail: "its right half becomes shard " + kv.ShardID(c.Child).String()}
	}
	if m := s.Merge(shard); m != nil {
		return kv.ShardChange{Kind: kv.OperationMerge, Operation: m.Operation, Detail: mergeDetail(m)}
	}
	return kv.ShardChange{}
}

// Shards gives the shards in the order of their ranges. A zero Leader means that
// none is known here.
func (c *Control) Shards(ctx context.Context) []kv.ShardInfo {
	p := c.views.picture(ctx)
	var out []kv.ShardInfo
	for _, h := range p.state.Shards() {
		shard := kv.ShardID(h.Current.Shard)
		lead := p.leaders[shard]
		info := kv.ShardInfo{
			Descriptor: h.Current, Leader: p.leaderOf[shard], Term: lead.GetTerm(), Bytes: lead.GetBytes(), Keys: lead.GetKeys(),
			Writes: lead.GetWrites(), Change: shardChange(p.state, shard),
		}
		for _, r := range h.Current.Replicas {
			id := kv.ServerID{Node: kv.NodeID(r.Node), Shard: shard, Incarnation: r.Incarnation}
			replica := kv.ReplicaInfo{ID: id}
			if got := p.replicas[shard][id.Node]; got.GetIncarnation() == id.Incarnation {
				replica.Role, replica.AppliedIndex, replica.Failure = kv.Role(got.GetRole()), got.GetAppliedIndex(), got.GetFailure()
				info.Reads += got.GetReads()
			}
			info.Replicas = append(info.Replicas, replica)
		}
		out = append(out, info)
	}
	slices.SortStableFunc(out, func(a, b kv.ShardInfo) int {
		return cmp.Compare(string(a.Descriptor.Start), string(b.Descriptor.Start))
	})
	return out
}

// Cluster sums the cluster up. A zero MetaLeader means that the meta shard has no
// leader that this node can reach; what is alive is then not known.
func (c *Control) Cluster(ctx context.Context) kv.ClusterInfo {
	p := c.views.picture(ctx)
	out := kv.ClusterInfo{
		ID:                cmp.Or(p.state.ClusterID(), c.agent.identity.ClusterID()),
		Shards:            len(p.state.Shards()),
		ReplicationFactor: p.state.Config().ReplicationFactor,
	}
	if p.known {
		out.MetaLeader = c.agent.meta.Leader()
	}
	for _, n := range p.state.Members() {
		out.Nodes++
		if p.health[kv.NodeID(n.Id)].GetAlive() || kv.NodeID(n.Id) == c.agent.self {
			out.NodesAlive++
		}
	}
	for _, h := range p.state.Shards() {
		if p.leaderOf[kv.ShardID(h.Current.Shard)] != 0 {
			out.ShardsWithLeader++
		}
	}
	return out
}

// Checks says line by line whether this node's part of the cluster is in order.
func (c *Control) Checks() []kv.Check {
	a := c.agent
	state := a.machine.State()
	check := func(name string, ok bool, otherwise string) kv.Check {
		if ok {
			otherwise = ""
		}
		return kv.Check{Name: name, OK: ok, Detail: otherwise}
	}
	joined := false
	select {
	case <-c.joined:
		joined = true
	default:
	}
	missing := 0
	for _, spec := range a.assigned(state) {
		if len(spec.Members) > 0 && !a.replicas.Known(spec.ID) {
			missing++
		}
	}
	return []kv.Check{
		check("joined", joined, "this node is not in a cluster yet"),
		check("meta", a.meta.Leader() != 0 && state.Node(a.self) != nil, "the meta shard is not followed, or does not know this node yet"),
		check("shards", len(state.Shards()) > 0, "the initial shards are not made yet"),
		check("replicas", missing == 0, "some replicas that this node was assigned are not made yet"),
	}
}
