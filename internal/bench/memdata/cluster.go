package memdata

import (
	"context"
	"errors"
	"sync"

	"github.com/quorate-db/quorate/kv"
)

// Cluster answers what a node knows of its cluster, and how it is, with what it
// is told to.
type Cluster struct {
	mu     sync.Mutex
	nodes  []kv.NodeInfo
	shards []kv.ShardInfo
	checks []kv.Check
	dead   bool
}

// Set replaces the nodes and shards.
func (c *Cluster) Set(nodes []kv.NodeInfo, shards []kv.ShardInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes, c.shards = nodes, shards
}

// SetHealth replaces the readiness checks and whether the process is alive.
func (c *Cluster) SetHealth(live bool, checks ...kv.Check) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead, c.checks = !live, checks
}

// Nodes lists the nodes.
func (c *Cluster) Nodes(context.Context) ([]kv.NodeInfo, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes, nil
}

// Shards lists the shards.
func (c *Cluster) Shards(context.Context) ([]kv.ShardInfo, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shards, nil
}

// Cluster sums up.
func (c *Cluster) Cluster(context.Context) (kv.ClusterInfo, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info := kv.ClusterInfo{ID: "memory", Nodes: len(c.nodes), Shards: len(c.shards), ReplicationFactor: 1}
	for _, n := range c.nodes {
		if n.Alive {
			info.NodesAlive++
		}
	}
	for _, s := range c.shards {
		if s.Leader != 0 {
			info.ShardsWithLeader++
		}
	}
	return info, nil
}

// Live tells whether it is alive.
func (c *Cluster) Live() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return errors.New("told to be dead")
	}
	return nil
}

// Ready lists the checks.
func (c *Cluster) Ready(context.Context) []kv.Check {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.checks
}
