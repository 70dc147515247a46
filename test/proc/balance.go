package proc

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/kv"
)

// Share is what one node holds of the data.
type Share struct {
	Node     string // its name
	Zone     string
	Replicas int
	Leaders  int
	Bytes    int64
}

// Shares is what all nodes hold.
type Shares struct {
	Nodes  []Share // those that may hold replicas, by name
	Shards []client.Shard
}

// bytesApart is how far apart the bytes of two nodes may be, as a share of the mean, or
// else the largest shard, or what is not worth moving.
const (
	bytesApart      = 0.20
	bytesApartLeast = 8 << 20
)

// Shares asks every running node, each of which answers from its own copy of the
// cluster's state: they have to agree. It is an error if any shard is not whole: without
// a leader, with another number of voters than the replication factor, with a replica
// that is no voter, or on a node that is dead or on its way out, or with a change under way.
func (c *Cluster) Shares(ctx context.Context, replicationFactor int) (Shares, error) {
	var endpoints []string
	for _, i := range c.RunningNodes() {
		endpoints = append(endpoints, c.Endpoint(i))
	}
	return SharesOf(ctx, client.Config{Endpoints: endpoints}, replicationFactor)
}

// SharesOf is Shares of any cluster, by the base URLs of its running nodes and what else
// a client needs.
func SharesOf(ctx context.Context, cfg client.Config, replicationFactor int) (Shares, error) {
	var all Shares
	var first string
	for _, endpoint := range cfg.Endpoints {
		one := cfg
		one.Endpoints, one.Timeout = []string{endpoint}, 2*time.Second
		s, err := sharesAt(ctx, one, replicationFactor)
		if err != nil {
			return s, fmt.Errorf("%s says: %w", endpoint, err)
		}
		var b strings.Builder
		for _, shard := range s.Shards {
			fmt.Fprintf(&b, "%s %d %q", shard.ID, shard.Generation, shard.Start)
			for _, r := range shard.Replicas {
				fmt.Fprintf(&b, " %s/%d", r.Node, r.Incarnation)
			}
		}
		switch {
		case first == "":
			first, all = b.String(), s
		case first != b.String():
			return s, fmt.Errorf("%s does not know yet what others know", endpoint)
		}
	}
	return all, nil
}

// sharesAt is Shares at one node.
func sharesAt(ctx context.Context, cfg client.Config, replicationFactor int) (Shares, error) {
	var s Shares
	one, err := client.New(cfg)
	if err != nil {
		return s, err
	}
	defer one.Close()
	nodes, err := one.Nodes(ctx)
	if err != nil {
		return s, err
	}
	byID := map[string]*Share{}
	for _, n := range nodes {
		if n.Alive && (n.State == "" || n.State == kv.NodeActive) {
			s.Nodes = append(s.Nodes, Share{Node: n.Name, Zone: n.Zone})
		}
	}
	slices.SortFunc(s.Nodes, func(a, b Share) int { return cmp.Compare(a.Node, b.Node) })
	for _, n := range nodes {
		if i := slices.IndexFunc(s.Nodes, func(x Share) bool { return x.Node == n.Name }); i >= 0 {
			byID[n.ID] = &s.Nodes[i]
		}
	}
	shards, err := one.Shards(ctx)
	if err != nil {
		return s, err
	}
	s.Shards = slices.DeleteFunc(shards, func(x client.Shard) bool { return x.ID == kv.MetaShard })
	for i := range s.Shards {
		if err := count(&s.Shards[i], byID, replicationFactor); err != nil {
			return s, err
		}
	}
	return s, covers(s.Shards)
}

func count(s *client.Shard, nodes map[string]*Share, replicationFactor int) error {
	switch leader := nodes[s.Leader]; {
	case s.Change != nil:
		return fmt.Errorf("shard %s: %s under way: %s", s.ID, s.Change.Kind, s.Change.Detail)
	case leader == nil:
		return fmt.Errorf("shard %s: led by %q, which is no node in use", s.ID, s.Leader)
	case len(s.Replicas) != replicationFactor:
		return fmt.Errorf("shard %s: %d replicas, want %d", s.ID, len(s.Replicas), replicationFactor)
	default:
		leader.Leaders++
	}
	for _, r := range s.Replicas {
		n := nodes[r.Node]
		if n == nil || !r.Voter || r.Failure != "" {
			return fmt.Errorf("shard %s: replica %+v", s.ID, r)
		}
		n.Replicas++
		n.Bytes += s.Bytes
	}
	return nil
}

// covers tells whether the ranges of the shards are all keys, each once.
func covers(shards []client.Shard) error {
	end := ""
	for i := range shards {
		s := &shards[i]
		if s.Start != end || i > 0 && s.Start == "" {
			return fmt.Errorf("shard %s begins at %q, the one before ends at %q", s.ID, s.Start, end)
		}
		end = s.End
	}
	if end != "" || len(shards) == 0 {
		return fmt.Errorf("the last of %d shards ends at %q", len(shards), end)
	}
	return nil
}

// Uneven tells what is not balanced: replicas and leaders differ by at most one
// between nodes, bytes by at most a fifth or one shard (or very little).
func (s *Shares) Uneven(nodes int) error {
	if len(s.Nodes) != nodes {
		return fmt.Errorf("%d nodes in use, want %d: %s", len(s.Nodes), nodes, s)
	}
	by := func(of func(*Share) int64) (least, most, sum int64) {
		least = 1 << 62
		for i := range s.Nodes {
			n := of(&s.Nodes[i])
			least, most, sum = min(least, n), max(most, n), sum+n
		}
		return least, most, sum
	}
	if least, most, _ := by(func(n *Share) int64 { return int64(n.Replicas) }); most-least > 1 {
		return fmt.Errorf("%d to %d replicas a node: %s", least, most, s)
	}
	if least, most, _ := by(func(n *Share) int64 { return int64(n.Leaders) }); most-least > 1 {
		return fmt.Errorf("%d to %d leaders a node: %s", least, most, s)
	}
	largest := int64(bytesApartLeast)
	for i := range s.Shards {
		largest = max(largest, s.Shards[i].Bytes)
	}
	least, most, sum := by(func(n *Share) int64 { return n.Bytes })
	if apart := float64(most - least); apart > float64(largest) && apart > bytesApart*float64(sum)/float64(nodes) {
		return fmt.Errorf("%d to %d bytes a node, allowed %d: %s", least, most, largest, s)
	}
	return nil
}

// String gives a line.
func (s *Shares) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d shards", len(s.Shards))
	for _, n := range s.Nodes {
		fmt.Fprintf(&b, "; %s %d replicas %d leaders %d KiB", n.Node, n.Replicas, n.Leaders, n.Bytes>>10)
		if n.Zone != "" {
			fmt.Fprintf(&b, " in %s", n.Zone)
		}
	}
	return b.String()
}

// WaitBalanced waits until every shard is whole and so many nodes share evenly.
func (c *Cluster) WaitBalanced(t testing.TB, limit time.Duration, nodes, replicationFactor int) Shares {
	t.Helper()
	var s Shares
	begin := time.Now()
	Eventually(t, limit, "balanced", func(ctx context.Context) error {
		var err error
		if s, err = c.Shares(ctx, replicationFactor); err == nil {
			err = s.Uneven(nodes)
		}
		return err
	})
	t.Logf("balanced after %s: %s", time.Since(begin).Round(time.Millisecond), &s)
	return s
}

// Configure changes settings of the cluster.
func (c *Cluster) Configure(t testing.TB, change client.ConfigChange) {
	t.Helper()
	Eventually(t, WaitMax, "settings changed", func(ctx context.Context) error {
		_, err := c.admin.ChangeClusterConfig(ctx, change, 0)
		return err
	})
}
