package placement

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// State is the meta shard's state at one applied index. It is immutable, and so
// is everything it hands out: callers must not change it.
type State struct {
	clusterID   string
	settings    *metapb.Settings
	nodes       []*metapb.Node  // ascending id
	shards      []*metapb.Shard // ascending id
	segments    segments
	nextShard   uint64
	nextOrdinal uint64
	config      *metapb.ClusterConfig
	changes     changes
	history     history
	tokens      *TokenSet
}

func emptyState() *State {
	return &State{
		settings: &metapb.Settings{}, config: configToProto(DefaultConfig()), nextShard: uint64(kv.FirstDataShard), nextOrdinal: 1,
		history: history{nextOperation: 1, nextEvent: 1},
		tokens:  &TokenSet{},
	}
}

// ClusterID is empty before the cluster is founded.
func (s *State) ClusterID() string { return s.clusterID }

// Settings gives the cluster's settings; never nil.
func (s *State) Settings() *metapb.Settings { return s.settings }

// Nodes gives every node that ever registered, removed ones too, by id.
func (s *State) Nodes() []*metapb.Node { return s.nodes }

// Members gives the nodes that are not removed, in the order they registered.
func (s *State) Members() []*metapb.Node {
	out := make([]*metapb.Node, 0, len(s.nodes))
	for _, n := range s.nodes {
		if n.State != metapb.NodeState_NODE_REMOVED {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b *metapb.Node) int { return cmp.Compare(a.Ordinal, b.Ordinal) })
	return out
}

// Node finds a node, removed ones too; nil if it never registered.
func (s *State) Node(id kv.NodeID) *metapb.Node {
	i, ok := s.nodeIndex(uint64(id))
	if !ok {
		return nil
	}
	return s.nodes[i]
}

// Shards gives every shard, by id.
func (s *State) Shards() []*metapb.Shard { return s.shards }

// Shard finds a shard, nil if there is none.
func (s *State) Shard(id kv.ShardID) *metapb.Shard {
	i, ok := s.shardIndex(uint64(id))
	if !ok {
		return nil
	}
	return s.shards[i]
}

func (s *State) nodeIndex(id uint64) (int, bool) {
	return slices.BinarySearchFunc(s.nodes, id, func(n *metapb.Node, id uint64) int { return cmp.Compare(n.Id, id) })
}

func (s *State) shardIndex(id uint64) (int, bool) {
	return slices.BinarySearchFunc(s.shards, id, func(h *metapb.Shard, id uint64) int {
		return cmp.Compare(h.Current.Shard, id)
	})
}

// withNode gives a copy in which n replaces or joins the nodes.
func (s *State) withNode(n *metapb.Node) *State {
	next := *s
	i, found := s.nodeIndex(n.Id)
	next.nodes = slices.Clone(s.nodes)
	if found {
		next.nodes[i] = n
	} else {
		next.nodes = slices.Insert(next.nodes, i, n)
	}
	return &next
}

// toProto gives the state as it stands in a snapshot.
func (s *State) toProto() *metapb.State {
	out := &metapb.State{
		ClusterId:   s.clusterID,
		Settings:    s.settings,
		Nodes:       s.nodes,
		Shards:      s.shards,
		NextShard:   s.nextShard,
		NextOrdinal: s.nextOrdinal,
		Config:      s.config,
		Moves:       s.changes.moves, Splits: s.changes.splits, Merges: s.changes.merges, Retired: s.changes.retired,
		Operations: s.history.operations, Events: s.history.events,
		NextOperation: s.history.nextOperation, NextEvent: s.history.nextEvent,
		Tokens: s.tokens.list, Bootstrapped: s.tokens.bootstrapped,
	}
	for _, e := range s.segments {
		out.Segments = append(out.Segments, &metapb.Segment{Start: e.start, Shard: uint64(e.shard), Generation: e.generation})
	}
	return out
}

// stateFromProto takes p over and checks all that apply relies on.
func stateFromProto(p *metapb.State) (*State, error) {
	if p == nil {
		return nil, errors.New("no state")
	}
	s := &State{
		clusterID:   p.ClusterId,
		settings:    p.Settings,
		nodes:       p.Nodes,
		shards:      p.Shards,
		nextShard:   p.NextShard,
		nextOrdinal: p.NextOrdinal,
		config:      p.Config,
		changes:     changes{moves: p.Moves, splits: p.Splits, merges: p.Merges, retired: p.Retired},
		history: history{
			operations: p.Operations, events: p.Events,
			nextOperation: max(1, p.NextOperation), nextEvent: max(1, p.NextEvent),
		},
		tokens: &TokenSet{list: p.Tokens, bootstrapped: p.Bootstrapped},
	}
	if s.settings == nil {
		s.settings = &metapb.Settings{}
	}
	if s.config == nil { // an image from before there was one
		c := DefaultConfig()
		if rf := int(s.settings.ReplicationFactor); rf > 0 {
			c.ReplicationFactor = rf
		}
		s.config = configToProto(c)
	}
	for _, e := range p.Segments {
		s.segments = append(s.segments, segment{start: e.Start, shard: kv.ShardID(e.Shard), generation: e.Generation})
	}
	return s, s.check()
}

// check gives an error unless the state could have come from commands.
func (s *State) check() error {
	if err := s.segments.check(); err != nil {
		return err
	}
	for i, n := range s.nodes {
		if n.Id == 0 || n.Ordinal == 0 || n.Ordinal >= s.nextOrdinal || i > 0 && s.nodes[i-1].Id >= n.Id {
			return fmt.Errorf("node %016x is out of order or has a bad ordinal", n.Id)
		}
	}
	held := map[uint64]bool{}
	for i, h := range s.shards {
		d := h.Current
		if d == nil || len(d.Replicas) == 0 || !rangeOK(d.Start, d.End) {
			return fmt.Errorf("shard record %d of %d has no usable descriptor", i, len(s.shards))
		}
		if d.Shard < uint64(kv.FirstDataShard) || d.Shard >= s.nextShard || i > 0 && s.shards[i-1].Current.Shard >= d.Shard {
			return fmt.Errorf("shard %d is out of order or has an id that was not given out", d.Shard)
		}
		held[d.Shard] = true
	}
	for _, e := range s.segments {
		if !held[uint64(e.shard)] {
			return fmt.Errorf("the shard map names shard %s, which has no record", e.shard)
		}
	}
	if err := s.checkTokens(); err != nil {
		return err
	}
	return s.checkChanges()
}

// sameNode reports whether two nodes have the same names and addresses.
func sameNode(a, b *metapb.Node) bool {
	return a.GetId() == b.GetId() && a.GetName() == b.GetName() && a.GetZone() == b.GetZone() &&
		a.GetHttpAddress() == b.GetHttpAddress() && a.GetPeerAddress() == b.GetPeerAddress() &&
		a.GetRelease() == b.GetRelease()
}

// replicaOf finds a node's replica in a descriptor, nil if it has none.
func replicaOf(d *kvpb.ShardDescriptor, node uint64) *kvpb.ReplicaDescriptor {
	for _, r := range d.GetReplicas() {
		if r.Node == node {
			return r
		}
	}
	return nil
}

// held finds in d the very replica that want names, of the same incarnation; nil if it is
// not there, or if want is nil.
func held(d *kvpb.ShardDescriptor, want *kvpb.ReplicaDescriptor) *kvpb.ReplicaDescriptor {
	r := replicaOf(d, want.GetNode())
	if r.GetIncarnation() != want.GetIncarnation() {
		return nil
	}
	return r
}

// orderReplicas puts replicas in the order that old has them, so that the first
// stays the preferred leader; what is new follows by node id.
func orderReplicas(old, replicas []*kvpb.ReplicaDescriptor) []*kvpb.ReplicaDescriptor {
	place := make(map[uint64]int, len(old))
	for i, r := range old {
		place[r.Node] = i + 1
	}
	out := slices.Clone(replicas)
	slices.SortStableFunc(out, func(a, b *kvpb.ReplicaDescriptor) int {
		pa, pb := place[a.Node], place[b.Node]
		switch {
		case pa != 0 && pb != 0:
			return cmp.Compare(pa, pb)
		case pa != 0:
			return -1
		case pb != 0:
			return 1
		default:
			return cmp.Compare(a.Node, b.Node)
		}
	})
	return out
}
