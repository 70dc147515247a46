package kv

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// MergeShare: what has merged is at most one such part of what would split, so that
// no shard is split and merged in turns.
const MergeShare = 4

// DefaultClusterConfig gives the settings of a cluster whose founder was told
// nothing else.
//
// SplitLoad is about a quarter of what one shard serves on a small machine. It is only
// half of the condition: such a shard must also take more than an even share of the
// cluster's load, or a split would move nothing.
func DefaultClusterConfig() ClusterConfig {
	return ClusterConfig{
		ReplicationFactor: 3,
		DeadGrace:         5 * time.Minute,
		SplitBytes:        256 << 20,
		SplitLoad:         5000,
		MergeBytes:        16 << 20,
		AutoBalance:       true,
		SnapshotRate:      64 << 20,
		MovesPerNode:      2,
		MovesPerCluster:   8,
	}
}

// Validate reports everything that is wrong with the settings at once, each by the
// name that it has in JSON.
func (c *ClusterConfig) Validate() error {
	var errs []error
	bad := func(name string, value any, want string) {
		errs = append(errs, fmt.Errorf("%s %v: want %s", name, value, want))
	}
	if f := c.ReplicationFactor; f < 1 || f > ReplicationFactorMax {
		bad("replication_factor", f, fmt.Sprintf("1 to %d", ReplicationFactorMax))
	}
	if d := c.DeadGrace; d < DeadGraceMin || d > DeadGraceMax {
		bad("dead_grace", d, fmt.Sprintf("%s to %s", DeadGraceMin, DeadGraceMax))
	}
	if n := c.SplitBytes; n != 0 && n < SplitBytesMin {
		bad("split_bytes", n, fmt.Sprintf("0 (never) or at least %d", SplitBytesMin))
	}
	if l := c.SplitLoad; l < 0 || math.IsNaN(l) || math.IsInf(l, 0) {
		bad("split_load", l, "operations a second, or 0 (never)")
	}
	if n := c.MergeBytes; n < 0 {
		bad("merge_bytes", n, "bytes, or 0 (never)")
	} else if c.SplitBytes > 0 && n > c.SplitBytes/MergeShare {
		bad("merge_bytes", n, fmt.Sprintf("at most a quarter of split_bytes, %d, or shards would merge and split in turns", c.SplitBytes/MergeShare))
	}
	if len(c.LeaderZone) > ZoneBytesMax {
		bad("leader_zone", c.LeaderZone[:ZoneBytesMax], fmt.Sprintf("at most %d bytes", ZoneBytesMax))
	}
	if n := c.SnapshotRate; n != 0 && n < SnapshotRateMin {
		bad("snapshot_rate", n, fmt.Sprintf("0 (unlimited) or at least %d bytes a second", SnapshotRateMin))
	}
	if n := c.MovesPerNode; n < 1 || n > MovesPerNodeMax {
		bad("moves_per_node", n, fmt.Sprintf("1 to %d", MovesPerNodeMax))
	}
	if n := c.MovesPerCluster; n < 1 || n > MovesPerClusterMax {
		bad("moves_per_cluster", n, fmt.Sprintf("1 to %d", MovesPerClusterMax))
	}
	return errors.Join(errs...)
}
