package placement

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

// TestClusterHealsItself lets random things happen to a cluster, lets it rest, and
// holds that it ends with what was asked for and that the planner never took a
// living quorum away (model.change).
func TestClusterHealsItself(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zones := rapid.IntRange(0, 3).Draw(t, "zones")
		zone := func() string {
			if zones == 0 {
				return ""
			}
			return fmt.Sprint("z", rapid.IntRange(1, zones).Draw(t, "zone"))
		}
		names := make([]string, rapid.IntRange(1, 5).Draw(t, "nodes"))
		for i := range names {
			names[i] = zone()
		}
		config := kv.ClusterConfig{ReplicationFactor: rapid.IntRange(1, 5).Draw(t, "rf"), DeadGrace: time.Minute, MergeBytes: -1}
		m := newModel(t, config, rapid.IntRange(1, 12).Draw(t, "shards"), names...)
		m.run(30 * time.Second)
		for range rapid.IntRange(0, 8).Draw(t, "events") {
			m.something(t, zone)
			m.run(time.Duration(rapid.IntRange(0, 150).Draw(t, "pause")) * time.Second)
		}
		m.revive(t)
		m.settle()
		m.check()
	})
}

// something happens.
func (m *model) something(t *rapid.T, zone func() string) {
	ids := slices.Sorted(maps.Keys(m.nodes))
	id := rapid.SampledFrom(ids).Draw(t, "node")
	switch rapid.IntRange(0, 8).Draw(t, "event") {
	case 0:
		m.join(ids[len(ids)-1]+1, zone())
	case 1, 2:
		m.nodes[id].alive = false
		if !m.metaQuorum() {
			m.nodes[id].alive = true
		}
	case 3:
		m.nodes[id].alive = m.state().Node(kv.NodeID(id)).State != metapb.NodeState_NODE_REMOVED
	case 4:
		m.d.do(t, cmdRemove(id))
	case 5:
		c := m.state().Config()
		c.ReplicationFactor = rapid.IntRange(1, 5).Draw(t, "rf")
		m.d.must(t, cmdConfig(c))
	case 6:
		shards := slices.Sorted(maps.Keys(m.shards))
		if len(shards) > 0 {
			m.d.do(t, cmdSplit(rapid.SampledFrom(shards).Draw(t, "shard"), ""))
		}
	case 7:
		m.d.do(t, cmdState(id, metapb.NodeState(rapid.IntRange(1, 2).Draw(t, "drain"))))
	case 8:
		for i, e := range m.state().segments {
			if i > 0 && rapid.Bool().Draw(t, "merge") {
				m.d.do(t, cmdMerge(uint64(m.state().segments[i-1].shard), uint64(e.shard)))
				break
			}
		}
	}
}

func (m *model) metaQuorum() bool {
	all, alive := 0, 0
	for _, x := range m.members {
		if x.Voter {
			all++
			if m.alive(uint64(x.ID.Node)) {
				alive++
			}
		}
	}
	return alive > all/2
}

// revive undoes what nobody could heal: drains that were forgotten, and deaths that
// took a shard's quorum.
func (m *model) revive(t *rapid.T) {
	for _, n := range m.state().Members() {
		if n.State == metapb.NodeState_NODE_DRAINING {
			m.d.must(t, cmdState(n.Id, metapb.NodeState_NODE_ACTIVE))
		}
	}
	for _, s := range m.shards {
		for _, r := range s.d.Replicas {
			if !m.quorum(s) && m.state().Node(kv.NodeID(r.Node)).State != metapb.NodeState_NODE_REMOVED {
				m.nodes[r.Node].alive = true
			}
		}
	}
}
