package placement

import (
	"bytes"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/kv/planted"
	"github.com/quorate-db/quorate/placement/metapb"
)

// Bounds of what a command may bring. Beyond the sizes, they keep a bad client
// of the meta shard from filling every node's memory.
const (
	nameBytesMax          = 255
	replicationFactorMax  = 7
	initialShardsMax      = 4096
	allocateShardsMax     = 1024
	descriptorReportsMax  = 1024
	replicasPerShardMax   = 16
	firstMetaIncarnation  = 1
	firstShardIncarnation = 1
	firstShardGeneration  = 1
)

// refuse makes the answer to a command that changed nothing.
func refuse(code kv.Code, format string, args ...any) *metapb.Result {
	return &metapb.Result{Error: kv.ToWire(kv.Errorf(code, kv.OutcomeNotApplied, format, args...))}
}

// command gives the state after c and the answer to it. The state is s itself if
// nothing changed. At is the entry's time, milliseconds since the Unix epoch.
func (s *State) command(c *metapb.Command, at int64) (*State, *metapb.Result) {
	switch body := c.Body.(type) {
	case *metapb.Command_FoundCluster:
		return s.foundCluster(body.FoundCluster, at)
	case *metapb.Command_RegisterNode:
		return s.registerNode(body.RegisterNode, at)
	case *metapb.Command_SetNodeState:
		return s.setNodeState(body.SetNodeState, at)
	case *metapb.Command_CreateShards:
		return s.createShards(body.CreateShards, at)
	case *metapb.Command_ReportDescriptors:
		return s.reportDescriptors(body.ReportDescriptors, at)
	case *metapb.Command_AllocateShards:
		return s.allocateShards(body.AllocateShards)
	case *metapb.Command_SetConfig:
		return s.setConfig(body.SetConfig, at)
	case *metapb.Command_RemoveNode:
		return s.removeNode(body.RemoveNode, at)
	case *metapb.Command_BeginMove:
		return s.beginMove(body.BeginMove, at)
	case *metapb.Command_CancelMove:
		return s.cancelMove(body.CancelMove, at)
	case *metapb.Command_BeginSplit:
		return s.beginSplit(body.BeginSplit, at)
	case *metapb.Command_EndSplit:
		return s.endSplit(body.EndSplit, at)
	case *metapb.Command_BeginMerge:
		return s.beginMerge(body.BeginMerge, at)
	case *metapb.Command_AdvanceMerge:
		return s.advanceMerge(body.AdvanceMerge, at)
	case *metapb.Command_BeginRebalance:
		return s.beginRebalance(at)
	case *metapb.Command_EndOperation:
		return s.endOperation(body.EndOperation, at)
	case *metapb.Command_AppendEvents:
		return s.appendEvents(body.AppendEvents)
	case *metapb.Command_CreateToken:
		return s.createToken(body.CreateToken, at)
	case *metapb.Command_RevokeToken:
		return s.revokeToken(body.RevokeToken, at)
	default:
		return s, refuse(kv.CodeInternal, "no rule for this command")
	}
}

func (s *State) foundCluster(c *metapb.FoundCluster, at int64) (*State, *metapb.Result) {
	set := c.GetSettings()
	switch {
	case s.clusterID != "":
		return s, refuse(kv.CodeConflict, "the cluster was founded already, as %s", s.clusterID)
	case c.GetClusterId() == "" || len(c.ClusterId) > nameBytesMax:
		return s, refuse(kv.CodeInvalid, "a cluster id has 1 to %d bytes", nameBytesMax)
	case set.GetReplicationFactor() < 1 || set.GetReplicationFactor() > replicationFactorMax:
		return s, refuse(kv.CodeInvalid, "replication factor %d: want 1 to %d", set.GetReplicationFactor(), replicationFactorMax)
	}
	if err := checkSplitPoints(set.SplitPoints); err != nil {
		return s, &metapb.Result{Error: kv.ToWire(err)}
	}
	config, err := foundConfig(set)
	if err != nil {
		return s, &metapb.Result{Error: kv.ToWire(err)}
	}
	next := *s
	next.clusterID = c.ClusterId
	next.settings, next.config = proto.CloneOf(set), config
	return next.register(c.GetFounder(), s, at)
}

func (s *State) registerNode(c *metapb.RegisterNode, at int64) (*State, *metapb.Result) {
	if s.clusterID == "" || c.GetClusterId() != s.clusterID {
		return s, refuse(kv.CodeConflict, "this is cluster %q, not %q", s.clusterID, c.GetClusterId())
	}
	return s.register(c.GetNode(), s, at)
}

// register adds a node or updates it. When it refuses, the state is old.
func (s *State) register(n *metapb.Node, old *State, at int64) (*State, *metapb.Result) {
	if n.GetId() == 0 || n.GetPeerAddress() == "" {
		return old, refuse(kv.CodeInvalid, "a node needs an id and a peer address")
	}
	for _, text := range []string{n.Name, n.Zone, n.HttpAddress, n.PeerAddress, n.Release} {
		if len(text) > nameBytesMax {
			return old, refuse(kv.CodeTooLarge, "a node's name, zone, addresses and release have at most %d bytes each", nameBytesMax)
		}
	}
	known := s.Node(kv.NodeID(n.Id))
	if known.GetState() == metapb.NodeState_NODE_REMOVED && !planted.On(planted.RemovedNodeReturns) {
		return old, refuse(kv.CodeConflict, "node %s was removed from the cluster; its data directory cannot come back", kv.NodeID(n.Id))
	}
	record := &metapb.Node{
		Id: n.Id, Name: n.Name, Zone: n.Zone, HttpAddress: n.HttpAddress, PeerAddress: n.PeerAddress, Release: n.Release,
		State: metapb.NodeState_NODE_ACTIVE, Ordinal: s.nextOrdinal, MetaIncarnation: firstMetaIncarnation,
	}
	if record.Name == "" {
		record.Name = kv.NodeID(n.Id).String()
	}
	for _, other := range s.nodes {
		if other.Name == record.Name && other.Id != n.Id && other.State != metapb.NodeState_NODE_REMOVED {
			return old, refuse(kv.CodeConflict,
				"the name %q belongs to node %s at %s: choose another name, or remove that node first",
				record.Name, kv.NodeID(other.Id), other.PeerAddress)
		}
	}
	if known != nil {
		if sameNode(known, record) && known.State != metapb.NodeState_NODE_REMOVED {
			return s, &metapb.Result{Node: known}
		}
		record.State, record.Ordinal, record.MetaIncarnation = known.State, known.Ordinal, known.MetaIncarnation
		if known.State == metapb.NodeState_NODE_REMOVED {
			record.State = metapb.NodeState_NODE_ACTIVE // only with the planted fault
		}
		return s.withNode(record), &metapb.Result{Node: record}
	}
	next := s.withNode(record)
	next.nextOrdinal++
	next.event(at, EventNodeJoined, record.Id, 0, inZone(fmt.Sprintf("node %s at %s joined", record.Name, record.PeerAddress), record.Zone))
	return next, &metapb.Result{Node: record}
}

func inZone(text, zone string) string {
	if zone == "" {
		return text
	}
	return text + " in zone " + zone
}

func (s *State) setNodeState(c *metapb.SetNodeState, at int64) (*State, *metapb.Result) {
	known := s.Node(kv.NodeID(c.GetNode()))
	switch {
	case known == nil:
		return s, refuse(kv.CodeNotFound, "no node %s", kv.NodeID(c.GetNode()))
	case known.State == c.State:
		return s, &metapb.Result{Node: known}
	case known.State == metapb.NodeState_NODE_REMOVED:
		return s, refuse(kv.CodeConflict, "node %s was removed", kv.NodeID(c.Node))
	}
	kind, detail := "", ""
	switch c.State {
	case metapb.NodeState_NODE_ACTIVE, metapb.NodeState_NODE_DRAINING:
		if known.State == metapb.NodeState_NODE_REMOVING {
			return s, refuse(kv.CodeConflict, "node %s is being removed: cancel that operation first", known.Name)
		}
		kind, detail = EventNodeDraining, fmt.Sprintf("node %s is draining: its leaders move away", known.Name)
		if c.State == metapb.NodeState_NODE_ACTIVE {
			kind, detail = EventNodeActive, fmt.Sprintf("node %s may lead again", known.Name)
		}
	case metapb.NodeState_NODE_REMOVED:
		for _, h := range s.shards {
			if replicaOf(h.Current, c.Node) != nil {
				return s, refuse(kv.CodeConflict, "node %s still holds a replica of shard %d", kv.NodeID(c.Node), h.Current.Shard)
			}
		}
		for _, m := range s.changes.moves {
			if m.Add.GetNode() == c.Node {
				return s, refuse(kv.CodeConflict, "a replica of shard %d is on its way to node %s", m.Shard, kv.NodeID(c.Node))
			}
		}
		kind, detail = EventNodeRemoved, fmt.Sprintf("node %s was removed", known.Name)
	default:
		return s, refuse(kv.CodeInvalid, "no such node state: %d", c.State)
	}
	record := proto.CloneOf(known)
	record.State = c.State
	next := s.withNode(record)
	next.event(at, kind, c.Node, 0, detail)
	if op := s.removal(c.Node); op != nil && c.State == metapb.NodeState_NODE_REMOVED {
		next.end(at, op.Id, kv.OperationDone, "")
	}
	return next, &metapb.Result{Node: record}
}

func (s *State) createShards(c *metapb.CreateShards, at int64) (*State, *metapb.Result) {
	first := s.nextShard
	if s.clusterID == "" || len(s.shards) > 0 {
		return s, refuse(kv.CodeConflict, "the initial shards are made once, after founding")
	}
	if len(c.GetShards()) == 0 || len(c.Shards) > initialShardsMax {
		return s, refuse(kv.CodeInvalid, "want 1 to %d initial shards", initialShardsMax)
	}
	next := *s
	next.shards, next.segments = nil, nil
	var end []byte
	for i, d := range c.Shards {
		if d.GetShard() != first+uint64(i) || d.Generation != firstShardGeneration || !bytes.Equal(d.Start, end) || i > 0 && len(end) == 0 {
			return s, refuse(kv.CodeConflict, "initial shard %d does not continue the one before it", i)
		}
		if !rangeOK(d.Start, d.End) || len(d.End) > kv.KeyBytesMax {
			return s, refuse(kv.CodeInvalid, "initial shard %d has no keys or too long an end", i)
		}
		if err := s.checkInitialReplicas(d); err != nil {
			return s, &metapb.Result{Error: kv.ToWire(err)}
		}
		end = d.End
		next.shards = append(next.shards, &metapb.Shard{
			Current: proto.CloneOf(d), State: metapb.ShardState_SHARD_CREATING, Initial: proto.CloneOf(d),
			NextIncarnation: firstShardIncarnation + 1, ChangedMs: at,
		})
		next.segments = append(next.segments, segment{start: slices.Clone(d.Start), shard: kv.ShardID(d.Shard), generation: d.Generation})
	}
	if len(end) != 0 {
		return s, refuse(kv.CodeInvalid, "the initial shards end at %q, not at the end of the key space", end)
	}
	next.nextShard += uint64(len(c.Shards))
	return &next, &metapb.Result{FirstShard: first}
}

func (s *State) checkInitialReplicas(d *kvpb.ShardDescriptor) error {
	seen := map[uint64]bool{}
	for _, r := range d.Replicas {
		n := s.Node(kv.NodeID(r.GetNode()))
		if n == nil || n.State == metapb.NodeState_NODE_REMOVED || seen[r.Node] ||
			r.Incarnation != firstShardIncarnation || r.Role != kvpb.ReplicaRole_ROLE_VOTER {
			return kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "shard %d: %s cannot be one of its initial replicas", d.Shard, kv.NodeID(r.GetNode()))
		}
		seen[r.Node] = true
	}
	if len(seen) == 0 || len(seen) > replicasPerShardMax {
		return kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "shard %d: want 1 to %d replicas", d.Shard, replicasPerShardMax)
	}
	return nil
}

func (s *State) allocateShards(c *metapb.AllocateShards) (*State, *metapb.Result) {
	if c.GetCount() == 0 || c.Count > allocateShardsMax {
		return s, refuse(kv.CodeInvalid, "want 1 to %d shard ids at a time", allocateShardsMax)
	}
	next := *s
	next.nextShard += uint64(c.Count)
	return &next, &metapb.Result{FirstShard: s.nextShard}
}

// checkSplitPoints gives an error unless the points ascend strictly and are keys.
func checkSplitPoints(points [][]byte) error {
	if len(points) >= initialShardsMax {
		return kv.Errorf(kv.CodeTooLarge, kv.OutcomeNotApplied, "at most %d initial shards", initialShardsMax)
	}
	for i, p := range points {
		if len(p) < kv.KeyBytesMin || len(p) > kv.KeyBytesMax || i > 0 && bytes.Compare(points[i-1], p) >= 0 {
			return kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "split point %d (%q) is not a key above the one before it", i, p)
		}
	}
	return nil
}
