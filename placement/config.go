package placement

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

// DefaultConfig gives the settings that a cluster begins with.
func DefaultConfig() kv.ClusterConfig {
	c := kv.DefaultClusterConfig()
	c.Revision = 1
	return c
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
		c.MergeBytes = min(d.MergeBytes, c.SplitBytes/kv.MergeShare)
	case c.MergeBytes == 0:
		c.MergeBytes = d.MergeBytes
	}
	c.SplitLoad = max(0, c.SplitLoad)
	return c
}

// checkConfig gives an error, in words, unless the settings can be followed.
func checkConfig(c kv.ClusterConfig) error {
	if err := c.Validate(); err != nil {
		return kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "%s", err)
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
		DeadGrace:  time.Duration(min(max(c.GetDeadGraceMs(), 0), kv.DeadGraceMax.Milliseconds()+1)) * time.Millisecond,
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
