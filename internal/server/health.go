package server

import (
	"context"
	"fmt"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement"
)

// clusterViews is the control plane's views as httpd wants them.
type clusterViews struct{ control *placement.Control }

func (c clusterViews) Nodes(ctx context.Context) ([]kv.NodeInfo, error) {
	return c.control.Nodes(ctx), nil
}

func (c clusterViews) Shards(ctx context.Context) ([]kv.ShardInfo, error) {
	return c.control.Shards(ctx), nil
}

func (c clusterViews) Cluster(ctx context.Context) (kv.ClusterInfo, error) {
	return c.control.Cluster(ctx), nil
}

// health answers the probes of a node.
type health struct{ node *Node }

// Live is nil as long as no replica has failed for good.
func (h health) Live() error {
	for _, r := range h.node.host.Replicas() {
		if failure := r.Status().Failure; failure != "" {
			return fmt.Errorf("replica %s has stopped: %s", r.ID(), failure)
		}
	}
	return nil
}

// Ready adds to the control plane's checks that every local replica knows its
// leader and has caught up with what it knows to be committed.
func (h health) Ready(context.Context) []kv.Check {
	checks := h.node.control.Checks()
	leaderless, behind := 0, 0
	for _, r := range h.node.host.Replicas() {
		if _, ok := r.Leader(); !ok {
			leaderless++
		}
		if s := r.Status(); s.CommitIndex > s.AppliedIndex+catchUpEntries {
			behind++
		}
	}
	return append(checks,
		kv.Check{Name: "leaders", OK: leaderless == 0, Detail: detail(leaderless, "local replicas know no leader")},
		kv.Check{Name: "caught-up", OK: behind == 0, Detail: detail(behind, "local replicas are behind their shard")},
	)
}

// catchUpEntries is how far a replica may lag behind its commit index and still
// count as caught up: about what is in flight on a busy shard.
const catchUpEntries = 1024

func detail(n int, what string) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d %s", n, what)
}
