package sim

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// restFor is how long a cluster has to stay as it is to be at rest: longer than the
// planner waits before it tries again. restWithin bounds how long it may take to come
// to rest once all is healed.
const (
	restFor    = 20 * time.Second
	restWithin = 15 * time.Minute
)

// settle ends what operators began, and waits until every operation is over, every
// shard is as the settings ask, and the planner has had nothing to do for a while
// (C10).
func (c *Cluster) settle() error {
	if err := c.await(restWithin, time.Second, c.calmDown); err != nil {
		return err
	}
	var before string
	since := time.Now()
	return c.await(restWithin, 500*time.Millisecond, func() string {
		c.countEvents()
		c.sweepRemoved()
		unrest := c.unrest()
		now := c.shape()
		if unrest != "" || now != before {
			before, since = now, time.Now()
		}
		switch {
		case unrest != "":
			return unrest
		case time.Since(since) < restFor:
			return "the cluster goes on changing"
		}
		return ""
	})
}

// calmDown lets every node lead again and gives the cluster the settings that it
// was founded with. It says in words what failed.
func (c *Cluster) calmDown() string {
	for _, n := range c.members() {
		running := n.server()
		if running == nil {
			return n.name + " is down"
		}
		ctx, cancel := context.WithTimeout(context.Background(), askWithin)
		err := calmDown(ctx, running.Control(), c.idsOfMembers())
		cancel()
		if err == nil {
			return ""
		}
		if n == c.members()[len(c.members())-1] {
			return err.Error()
		}
	}
	return "no machine is of the cluster"
}

func calmDown(ctx context.Context, to admin, nodes map[kv.NodeID]bool) error {
	known, err := to.Operations(ctx)
	if err != nil {
		return err
	}
	leaving := map[kv.NodeID]bool{}
	for _, op := range known {
		if op.State != kv.OperationRunning || op.Kind != kv.OperationRemoveNode {
			continue
		}
		if len(nodes)-len(leaving) > 3 {
			leaving[op.Node] = true
			continue
		}
		// It began when fewer replicas were asked for; it cannot end with as many as now.
		if _, err := to.Cancel(ctx, op.ID); err != nil && kv.CodeOf(err) != kv.CodeConflict {
			return err
		}
	}
	for id := range nodes {
		if leaving[id] {
			continue
		}
		if err := to.Drain(ctx, id, false); err != nil && kv.CodeOf(err) != kv.CodeNotFound && kv.CodeOf(err) != kv.CodeConflict {
			return err
		}
	}
	return reconfigure(ctx, to, func(c *kv.ClusterConfig) {
		c.ReplicationFactor, c.SplitBytes, c.MergeBytes, c.LeaderZone = 3, 0, 0, ""
	})
}

// shape gives who holds what, as the meta shard has it.
func (c *Cluster) shape() string {
	var b bytes.Buffer
	if state := c.state(); state != nil {
		for _, s := range state.Shards() {
			fmt.Fprintf(&b, "%d %q %d %d;", s.Current.Shard, s.Current.Start, s.Current.Generation, s.ConfigIndex)
		}
	}
	return b.String()
}

// unrest says in words what keeps the cluster from being at rest, "" for nothing.
func (c *Cluster) unrest() string {
	state := c.state()
	if state == nil {
		return "nobody knows the cluster's state"
	}
	for _, m := range state.Moves() {
		return fmt.Sprintf("a move of shard %d is under way: %s (from %s to %s; the shard is %s of index %d)", m.Shard, m,
			c.nameOf(kv.NodeID(m.Remove.GetNode())), c.nameOf(kv.NodeID(m.Add.GetNode())), c.replicasText(kv.ShardID(m.Shard)), state.Shard(kv.ShardID(m.Shard)).GetConfigIndex())
	}
	for _, s := range state.Splits() {
		return fmt.Sprintf("a split of shard %d is under way: %s", s.Shard, s)
	}
	for _, m := range state.Merges() {
		return fmt.Sprintf("a merge of shard %d with %d is under way: %s", m.Left, m.Right, m)
	}
	for _, op := range state.Operations() {
		if op.State == string(kv.OperationRunning) {
			return fmt.Sprintf("operation %d is under way: %s %s %s", op.Id, op.Kind, op.Target, op.Detail)
		}
	}
	for _, s := range state.Shards() {
		if problem := c.misplaced(s.Current); problem != "" {
			return problem
		}
	}
	return ""
}

// replicasText gives the replicas of a shard as the meta shard has them.
func (c *Cluster) replicasText(shard kv.ShardID) string {
	var b bytes.Buffer
	if state := c.state(); state != nil {
		for _, r := range state.Shard(shard).GetCurrent().GetReplicas() {
			fmt.Fprintf(&b, "%s.%d %s ", c.nameOf(kv.NodeID(r.Node)), r.Incarnation, r.Role)
		}
	}
	return b.String()
}

// misplaced says in words what is wrong with where a shard's replicas are: too many
// or too few, on a machine that is not of the cluster, or two in a zone although
// there are zones enough.
func (c *Cluster) misplaced(d *kvpb.ShardDescriptor) string {
	byID := map[kv.NodeID]*Node{}
	zones := map[int]bool{}
	for _, n := range c.members() {
		byID[n.ID()] = n
		zones[n.zone()] = true
	}
	want := min(3, len(byID))
	if len(d.Replicas) != want {
		return fmt.Sprintf("shard %d has %d of %d replicas", d.Shard, len(d.Replicas), want)
	}
	used := map[int]int{}
	for _, r := range d.Replicas {
		n := byID[kv.NodeID(r.Node)]
		switch {
		case n == nil:
			return fmt.Sprintf("shard %d has a replica on %s, which is gone", d.Shard, c.nameOf(kv.NodeID(r.Node)))
		case r.Role != kvpb.ReplicaRole_ROLE_VOTER:
			return fmt.Sprintf("shard %d has a replica without a vote on %s", d.Shard, n.name)
		}
		used[n.zone()]++
	}
	if c.config.Zones > 0 && len(used) < min(want, len(zones)) {
		return fmt.Sprintf("shard %d lies in %d of %d zones", d.Shard, len(used), len(zones))
	}
	return ""
}

// shaped is what a replica's machine says of its range.
type shaped interface {
	Descriptor() *kvpb.ShardDescriptor
}

// checkShape holds what the shards themselves are against what the meta shard has:
// their ranges cover the key space once, every replica is in its shard's
// configuration, and every member has its replica (C10).
func (c *Cluster) checkShape() {
	state := c.state()
	if state == nil {
		c.watch.violation("C10: nobody knows the cluster's state")
		return
	}
	ranges := map[kv.ShardID]*kvpb.ShardDescriptor{}
	for _, n := range c.members() {
		for _, r := range n.server().Host().Replicas() {
			s := r.Status()
			if !slices.ContainsFunc(s.Members, func(m kv.Member) bool { return m.ID == s.ID }) {
				c.watch.violation("C10: %s has replica %s, which is in no configuration", n.name, s.ID)
			}
			if s.ID.Shard == kv.MetaShard {
				continue
			}
			if state.Shard(s.ID.Shard) == nil {
				c.watch.violation("C10: %s has a replica of shard %s, which the meta shard does not know", n.name, s.ID.Shard)
			}
			if m, ok := r.Machine().(shaped); ok {
				ranges[s.ID.Shard] = m.Descriptor()
			}
		}
	}
	for _, s := range state.Shards() {
		c.checkShard(s, ranges[kv.ShardID(s.Current.Shard)])
	}
	c.checkCover(ranges)
}

// checkShard holds a shard as the meta shard has it against what it says itself.
func (c *Cluster) checkShard(s *metapb.Shard, d *kvpb.ShardDescriptor) {
	known := s.Current
	switch {
	case d == nil:
		c.watch.violation("C10: nobody has a replica of shard %d", known.Shard)
		return
	case !bytes.Equal(d.Start, known.Start) || !bytes.Equal(d.End, known.End) || d.Generation != known.Generation:
		c.watch.violation("C10: shard %d is [%q, %q) of generation %d, and the meta shard has [%q, %q) of generation %d",
			d.Shard, d.Start, d.End, d.Generation, known.Start, known.End, known.Generation)
	}
	if c.config.ChangeEvery > 0 {
		if problem := c.misplaced(known); problem != "" {
			c.watch.violation("C10: %s", problem)
		}
	}
	for _, r := range known.Replicas {
		for _, n := range c.members() {
			if n.ID() != kv.NodeID(r.Node) {
				continue
			}
			if have, ok := n.server().Host().Replica(kv.ShardID(known.Shard)); !ok || have.ID().Incarnation != r.Incarnation {
				c.watch.violation("C10: %s does not have replica %d.%d, a member of its shard", n.name, known.Shard, r.Incarnation)
			}
		}
	}
}

// checkCover holds the shards' own ranges against the key space.
func (c *Cluster) checkCover(ranges map[kv.ShardID]*kvpb.ShardDescriptor) {
	list := make([]*kvpb.ShardDescriptor, 0, len(ranges))
	for _, d := range ranges {
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b *kvpb.ShardDescriptor) int { return bytes.Compare(a.Start, b.Start) })
	var end []byte
	for i, d := range list {
		if !bytes.Equal(d.Start, end) || i > 0 && len(d.Start) == 0 {
			c.watch.violation("C10: shard %d begins at %q, the one before ends at %q", d.Shard, d.Start, end)
		}
		end = d.End
	}
	if len(list) == 0 || len(end) != 0 {
		c.watch.violation("C10: the shards cover nothing from %q on", end)
	}
}
