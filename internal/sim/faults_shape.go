package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/quorate-db/quorate/internal/simnet"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// What changes a cluster's own shape: an operator's orders, and machines that come
// and go. It is no fault, but faults hit upon it.
var (
	rangeChanges = []fault{
		{6, (*nemesis).splitAtKey},
		{2, (*nemesis).splitAnywhere},
		{6, (*nemesis).mergeSome},
		{1, (*nemesis).sizes},
	}
	replicaChanges = []fault{
		{8, (*nemesis).moveSome},
		{3, (*nemesis).transferTo},
		{1, (*nemesis).leaderZone},
		{1, (*nemesis).rebalance},
		{1, (*nemesis).fillDisk},
	}
	nodeChanges = []fault{
		{3, (*nemesis).drain},
		{3, (*nemesis).remove},
		{4, (*nemesis).join},
		{3, (*nemesis).wipe},
		{3, (*nemesis).replication},
	}
)

// splitAtKey splits between two groups of keys, or within one.
func (n *nemesis) splitAtKey() {
	key := keyOf(n.rng.IntN(n.c.config.Shards), n.rng.IntN(n.c.config.Groups), n.rng.IntN(2*cells)/2)
	if n.rng.IntN(4) > 0 {
		key = key[:len(key)-1] // before the whole group
	}
	state := n.c.state()
	if state == nil {
		return
	}
	for _, s := range state.Shards() {
		if d := s.Current; string(d.Start) < key && (len(d.End) == 0 || key < string(d.End)) {
			n.operate("split", fmt.Sprintf("shard %d at %q", d.Shard, key), func(ctx context.Context, to admin) (kv.Operation, error) {
				return to.Split(ctx, kv.ShardID(d.Shard), []byte(key))
			})
			return
		}
	}
}

func (n *nemesis) splitAnywhere() {
	if s := n.shard(); s != nil {
		n.operate("split", fmt.Sprintf("shard %d in its middle", s.Current.Shard), func(ctx context.Context, to admin) (kv.Operation, error) {
			return to.Split(ctx, kv.ShardID(s.Current.Shard), nil)
		})
	}
}

func (n *nemesis) mergeSome() {
	if s := n.shard(); s != nil && len(s.Current.End) > 0 {
		n.operate("merge", fmt.Sprintf("shard %d with its right neighbour", s.Current.Shard), func(ctx context.Context, to admin) (kv.Operation, error) {
			return to.Merge(ctx, kv.ShardID(s.Current.Shard))
		})
	}
}

// sizes has the cluster split and merge by itself for a while, and gives it what to
// split.
func (n *nemesis) sizes() {
	n.settings("sizes", "split above 64 KiB, merge below 8 KiB", func(c *kv.ClusterConfig) { c.SplitBytes, c.MergeBytes = 64<<10, 8<<10 })
	n.ballast(kvpb.OpKind_OP_PUT)
	n.pause(n.about(8 * time.Second))
	n.ballast(kvpb.OpKind_OP_DELETE)
	n.pause(n.about(8 * time.Second))
	n.settings("sizes", "neither", func(c *kv.ClusterConfig) { c.SplitBytes, c.MergeBytes = 0, 0 })
}

// ballastKeys and ballastBytes are what makes a shard large.
const ballastKeys, ballastBytes = 24, 4 << 10

// ballast writes or deletes what makes one range large.
func (n *nemesis) ballast(kind kvpb.OpKind) {
	running := n.node().server()
	if running == nil {
		return
	}
	shard := n.rng.IntN(n.c.config.Shards)
	for i := range ballastKeys {
		op := &kvpb.Op{Kind: kind, Key: fmt.Appendf(nil, "s%02d/z%03d", shard, i)}
		if kind == kvpb.OpKind_OP_PUT {
			op.Value = make([]byte, ballastBytes)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		_, _ = running.Router().Txn(ctx, &kvpb.Txn{Then: []*kvpb.Op{op}}, nil)
		cancel()
	}
}

// settings changes the cluster's settings.
func (n *nemesis) settings(kind, what string, change func(*kv.ClusterConfig)) {
	_ = n.ask(kind, what, func(ctx context.Context, to admin) error { return reconfigure(ctx, to, change) })
}

func reconfigure(ctx context.Context, to admin, change func(*kv.ClusterConfig)) error {
	config, err := to.Config(ctx)
	if err != nil {
		return err
	}
	change(&config)
	_, err = to.SetConfig(ctx, config)
	return err
}

// moveSome moves a replica to a machine that has none of that shard, or, by
// mistake, to one that has.
func (n *nemesis) moveSome() {
	s := n.shard()
	if s == nil || len(s.Current.Replicas) == 0 {
		return
	}
	holds := map[kv.NodeID]bool{}
	for _, r := range s.Current.Replicas {
		holds[kv.NodeID(r.Node)] = true
	}
	from := kv.NodeID(s.Current.Replicas[n.rng.IntN(len(s.Current.Replicas))].Node)
	var target kv.NodeID
	for _, m := range n.c.members() {
		if id := m.ID(); id != 0 && (target == 0 || holds[target] || !holds[id] && n.rng.IntN(2) == 0) {
			target = id
		}
	}
	shard := kv.ShardID(s.Current.Shard)
	n.operate("move", fmt.Sprintf("shard %s from %s to %s", shard, n.c.nameOf(from), n.c.nameOf(target)), func(ctx context.Context, to admin) (kv.Operation, error) {
		return to.Move(ctx, shard, from, target)
	})
}

func (n *nemesis) transferTo() {
	s := n.shard()
	if s == nil || len(s.Current.Replicas) == 0 {
		return
	}
	target := kv.NodeID(s.Current.Replicas[n.rng.IntN(len(s.Current.Replicas))].Node)
	_ = n.ask("transfer-to", fmt.Sprintf("shard %d to %s", s.Current.Shard, n.c.nameOf(target)), func(ctx context.Context, to admin) error {
		return to.TransferLeader(ctx, kv.ShardID(s.Current.Shard), target)
	})
}

// leaderZone changes where leaders are preferred.
func (n *nemesis) leaderZone() {
	zone := ""
	if n.c.config.Zones > 0 && n.rng.IntN(3) > 0 {
		zone = fmt.Sprintf("z%d", 1+n.rng.IntN(n.c.config.Zones))
	}
	n.settings("leader-zone", zone, func(c *kv.ClusterConfig) { c.LeaderZone = zone })
}

func (n *nemesis) rebalance() {
	_ = n.ask("rebalance", "everything", func(ctx context.Context, to admin) error {
		_, _, err := to.Rebalance(ctx, false)
		return err
	})
}

// fillDisk has a machine's disk say that it is nearly full.
func (n *nemesis) fillDisk() {
	node := n.node()
	n.c.fault("disk-full", "%s", node.name)
	node.Fill(true)
	n.pause(n.about(6 * time.Second))
	node.Fill(false)
}

// drain takes a machine's leaders away for a while.
func (n *nemesis) drain() {
	node := n.node()
	id := node.ID()
	if id == 0 {
		return
	}
	_ = n.ask("drain", node.name, func(ctx context.Context, to admin) error { return to.Drain(ctx, id, true) })
	n.pause(n.about(4 * time.Second))
	_ = n.ask("undrain", node.name, func(ctx context.Context, to admin) error { return to.Drain(ctx, id, false) })
}

// remove takes a machine out of the cluster, and waits until it is.
func (n *nemesis) remove() {
	node := n.node()
	id := node.ID()
	if id == 0 || node.isOut() {
		return
	}
	op, _ := n.operate("remove", node.name, func(ctx context.Context, to admin) (kv.Operation, error) { return to.RemoveNode(ctx, id) })
	if op.ID != 0 && op.State == "" {
		n.follow(op, 20*time.Second)
	}
	n.c.sweepRemoved()
}

// sweepRemoved stops machines that the cluster has forgotten: they can be used anew.
func (c *Cluster) sweepRemoved() {
	for _, node := range c.members() {
		if id := node.ID(); id != 0 && c.removed(id) {
			c.note("%s is removed", node.name)
			node.Crash(simnet.Killed, 100, nil)
			node.leave()
		}
	}
}

// join brings a machine that is not of the cluster into it.
func (n *nemesis) join() {
	for _, node := range n.c.nodes {
		if node.isOut() {
			n.c.fault("join", "%s", node.name)
			if err := node.Join(); err != nil {
				n.c.watch.violation("C8: %v", err)
			}
			n.pause(n.about(5 * time.Second))
			return
		}
	}
}

// wipe takes a machine's disk away for good; an empty one takes its place. It waits
// until what was lost is made good elsewhere: a cluster bears one such loss at a
// time.
func (n *nemesis) wipe() {
	node := n.node()
	if node.isOut() || node.ID() == 0 || n.c.fragile() != "" {
		return
	}
	n.c.fault("wipe", "%s", node.name)
	kind := n.kind()
	node.Wipe(kind)
	n.pause(n.about(2 * time.Second))
	n.restart(node)
	for end := time.Now().Add(time.Minute); time.Now().Before(end) && n.c.fragile() != ""; {
		if !n.pause(500 * time.Millisecond) {
			return
		}
	}
}

// fragile says in words why the cluster might not bear the loss of a disk now, ""
// for nothing.
func (c *Cluster) fragile() string {
	state := c.state()
	if state == nil || state.Config().ReplicationFactor < 3 {
		return "the replication factor is too small"
	}
	alive, whole := c.idsOfMembers(), c.wholeReplicas()
	for _, node := range c.members() {
		running := node.server()
		if running == nil {
			return node.name + " is down"
		}
		for _, r := range running.Host().Replicas() {
			voters := 0
			s := r.Status()
			for _, m := range s.Members {
				if !alive[m.ID.Node] {
					return fmt.Sprintf("%s has lost a member already", s.ID)
				}
				if m.Voter {
					voters++
				}
				if !whole[m.ID] {
					return fmt.Sprintf("%s has nothing yet", m.ID)
				}
			}
			if voters < 3 && len(s.Members) > 0 {
				return fmt.Sprintf("%s has %d voters", s.ID, voters)
			}
		}
	}
	return ""
}

// wholeReplicas gives the replicas that have a configuration. One without is of no help
// when another is lost, though it is a member: what a split has made of a replica that
// was not there, or what a move has just added.
func (c *Cluster) wholeReplicas() map[kv.ServerID]bool {
	out := map[kv.ServerID]bool{}
	for _, node := range c.members() {
		running := node.server()
		if running == nil {
			continue
		}
		for _, r := range running.Host().Replicas() {
			if s := r.Status(); len(s.Members) > 0 {
				out[s.ID] = true
			}
		}
	}
	return out
}

func (c *Cluster) idsOfMembers() map[kv.NodeID]bool {
	out := map[kv.NodeID]bool{}
	for _, node := range c.members() {
		if id := node.ID(); id != 0 {
			out[id] = true
		}
	}
	return out
}

// replication changes how many replicas shards have, for a while.
func (n *nemesis) replication() {
	factor := 1 + n.rng.IntN(5)
	n.settings("replication", fmt.Sprint(factor), func(c *kv.ClusterConfig) { c.ReplicationFactor = factor })
	n.pause(n.about(10 * time.Second))
	n.settings("replication", "3 again", func(c *kv.ClusterConfig) { c.ReplicationFactor = 3 })
	n.pause(n.about(4 * time.Second))
}
