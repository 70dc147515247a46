package placement

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

// Bounds of the settings of a cluster.
const (
	deadGraceMin       = time.Second
	deadGraceMax       = 24 * time.Hour
	splitBytesMin      = 64 << 10 // below it a shard would be little but its own bookkeeping
	snapshotRateMin    = 64 << 10 // slower, and large snapshots would never end
	movesPerNodeMax    = 64
	movesPerClusterMax = 1024
)

// DefaultConfig gives the settings that a cluster begins with.
//
// SplitLoad is about a quarter of what one shard serves on a small machine. It is only half of the
// condition: such a shard must also take more than an even share of the cluster's
// load, or a split would move nothing.
func DefaultConfig() kv.ClusterConfig {
	return kv.ClusterConfig{
		Revision: 1, ReplicationFactor: 3, DeadGrace: 5 * time.Minute,
		SplitBytes: 256 << 20, SplitLoad: 5000, MergeBytes: 16 << 20, AutoBalance: true,
		SnapshotRate: 64 << 20, MovesPerNode: 2, MovesPerCluster: 8,
	}
}

// foundingConfig fills what is zero in c with the defaults. A negative SplitBytes,
// SplitLoad, MergeBytes or SnapshotRate means zero, that is never or no bound.
// A cluster begins with balancing on.
func foundingConfig(c kv.ClusterConfig) kv.ClusterConfig {
	d := DefaultConfig()
	c.Revision, c.AutoBalance = d.Revision, true
	orInt(&c.ReplicationFactor, d.ReplicationFactor)
	orDuration(&c.DeadGrace, d.DeadGrace)
	orInt(&c.MovesPerNode, d.MovesPerNode)
	orInt(&c.MovesPerCluster, d.MovesPerCluster)
	if c.SplitLoad == 0 {
		c.SplitLoad = d.SplitLoad
	}
	for _, f := range []struct {
		value     *int64
		otherwise int64
	}{{&c.SplitBytes, d.SplitBytes}, {&c.SnapshotRate, d.SnapshotRate}} {
		if *f.value == 0 {
			*f.value = f.otherwise
		}
		*f.value = max(0, *f.value)
	}
	switch {
	case c.MergeBytes < 0:
		c.MergeBytes = 0
	case c.MergeBytes == 0 && c.SplitBytes > 0:
		c.MergeBytes = min(d.MergeBytes, c.SplitBytes/mergeShare)
	case c.MergeBytes == 0:
		c.MergeBytes = d.MergeBytes
	}
	c.SplitLoad = max(0, c.SplitLoad)
	return c
}

// mergeShare: what has merged is at most one such part of what would split, so
// that no shard is split and merged in turns.
const mergeShare = 4

// checkConfig gives an error, in words, unless the settings can be followed.
func checkConfig(c kv.ClusterConfig) error {
	bad := func(format string, args ...any) error {
		return kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, format, args...)
	}
	switch {
	case c.ReplicationFactor < 1 || c.ReplicationFactor > replicationFactorMax:
		return bad("replication factor %d: want 1 to %d", c.ReplicationFactor, replicationFactorMax)
	case c.DeadGrace < deadGraceMin || c.DeadGrace > deadGraceMax:
		return bad("dead grace %s: want %s to %s", c.DeadGrace, deadGraceMin, deadGraceMax)
	case c.SplitBytes < 0 || c.SplitBytes > 0 && c.SplitBytes < splitBytesMin:
		return bad("split bytes %d: want 0 (never) or at least %d", c.SplitBytes, splitBytesMin)
	case !(c.SplitLoad >= 0): // also not a number
		return bad("split load %v: want 0 (never) or more", c.SplitLoad)
	case c.MergeBytes < 0:
		return bad("merge bytes %d: want 0 (never) or more", c.MergeBytes)
	case c.SplitBytes > 0 && c.MergeBytes > c.SplitBytes/mergeShare:
		return bad("merge bytes %d: want at most a quarter of split bytes (%d), or shards would merge and split in turns",
			c.MergeBytes, c.SplitBytes/mergeShare)
	case len(c.LeaderZone) > nameBytesMax:
		return bad("leader zone: want at most %d bytes", nameBytesMax)
	case c.SnapshotRate < 0 || c.SnapshotRate > 0 && c.SnapshotRate < snapshotRateMin:
		return bad("snapshot rate %d: want 0 (no bound) or at least %d bytes a second", c.SnapshotRate, snapshotRateMin)
	case c.MovesPerNode < 1 || c.MovesPerNode > movesPerNodeMax:
		return bad("moves per node %d: want 1 to %d", c.MovesPerNode, movesPerNodeMax)
	case c.MovesPerCluster < 1 || c.MovesPerCluster > movesPerClusterMax:
		return bad("moves per cluster %d: want 1 to %d", c.MovesPerCluster, movesPerClusterMax)
	}
	return nil
}

func configToProto(c kv.ClusterConfig) *metapb.ClusterConfig {
	return &metapb.ClusterConfig{
		Revision: c.Revision, ReplicationFactor: uint32(c.ReplicationFactor), DeadGraceMs: c.DeadGrace.Milliseconds(),
		SplitBytes: c.SplitBytes, SplitLoad: c.SplitLoad, MergeBytes: c.MergeBytes, AutoBalance: c.AutoBalance,
		LeaderZone: c.LeaderZone, SnapshotRate: c.SnapshotRate,
		MovesPerNode: uint32(c.MovesPerNode), MovesPerCluster: uint32(c.MovesPerCluster),
	}
}

func configFromProto(c *metapb.ClusterConfig) kv.ClusterConfig {
	return kv.ClusterConfig{
		Revision: c.GetRevision(), ReplicationFactor: int(c.GetReplicationFactor()),
		DeadGrace:  time.Duration(min(max(c.GetDeadGraceMs(), 0), deadGraceMax.Milliseconds()+1)) * time.Millisecond,
		SplitBytes: c.GetSplitBytes(), SplitLoad: c.GetSplitLoad(), MergeBytes: c.GetMergeBytes(), AutoBalance: c.GetAutoBalance(),
		LeaderZone: c.GetLeaderZone(), SnapshotRate: c.GetSnapshotRate(),
		MovesPerNode: int(c.GetMovesPerNode()), MovesPerCluster: int(c.GetMovesPerCluster()),
	}
}

// Config gives the settings of the cluster.
func (s *State) Config() kv.ClusterConfig { return configFromProto(s.config) }

// foundConfig gives what a cluster begins with, or why it cannot.
func foundConfig(set *metapb.Settings) (*metapb.ClusterConfig, error) {
	if set.Config == nil {
		c := DefaultConfig()
		c.ReplicationFactor = int(set.ReplicationFactor)
		return configToProto(c), nil
	}
	config := proto.CloneOf(set.Config)
	config.Revision, config.ReplicationFactor = 1, set.ReplicationFactor
	return config, checkConfig(configFromProto(config))
}

// setConfig replaces the settings, if c was made from the newest ones.
func (s *State) setConfig(c *metapb.ClusterConfig, at int64) (*State, *metapb.Result) {
	switch {
	case s.clusterID == "":
		return s, refuse(kv.CodeConflict, "the cluster is not founded yet")
	case c.GetRevision() != s.config.GetRevision():
		r := refuse(kv.CodeConditionFailed, "the settings are at revision %d, not %d: they were changed in between", s.config.GetRevision(), c.GetRevision())
		r.Error.Version = s.config.GetRevision()
		return s, r
	}
	if err := checkConfig(configFromProto(c)); err != nil {
		return s, &metapb.Result{Error: kv.ToWire(err)}
	}
	next := *s
	next.config = proto.CloneOf(c)
	next.config.Revision++
	next.event(at, EventConfig, 0, 0, configChanges(s.Config(), next.Config()))
	return &next, &metapb.Result{Config: next.config}
}
