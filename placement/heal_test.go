package placement

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
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

// TestHeal runs the transcripts in testdata/heal on the model. Commands:
//
//	cluster rf=N shards=N zones=a,b,c [grace=D] [split=BYTES] [load=N]  one node for each zone; "-" is none
//	run D             lets it live for so long and gives what was planned, but reports
//	settle            lets it live until nothing is planned for some minutes, likewise
//	node ID [dead|alive|full|roomy|draining|active]; a node that is not known joins [zone=Z]
//	remove ID, cancel OP, config rf=N [leader-zone=Z]
//	shard ID [bytes=MIB] [load=N]
//	show              shards with their replicas, and counts per node
//	problems          in words
func TestHeal(t *testing.T) {
	datadriven.Walk(t, "testdata/heal", func(t *testing.T, path string) {
		var m *model
		datadriven.RunTest(t, path, func(t *testing.T, c *datadriven.TestData) string {
			if c.Cmd == "cluster" {
				m = clusterOf(t, c)
				return ""
			}
			return m.command(t, c)
		})
	})
}

func clusterOf(t *testing.T, c *datadriven.TestData) *model {
	var zones, grace string
	var shards int
	config := kv.ClusterConfig{DeadGrace: 30 * time.Second}
	c.ScanArgs(t, "rf", &config.ReplicationFactor)
	c.ScanArgs(t, "shards", &shards)
	c.ScanArgs(t, "zones", &zones)
	c.MaybeScanArgs(t, "split", &config.SplitBytes)
	if c.MaybeScanArgs(t, "grace", &grace) {
		config.DeadGrace, _ = time.ParseDuration(grace)
	}
	names := strings.Split(zones, ",")
	for i := range names {
		names[i] = strings.Trim(names[i], "-")
	}
	m := newModel(t, config, shards, names...)
	m.run(time.Minute)
	m.log = nil
	return m
}

func (m *model) command(t *testing.T, c *datadriven.TestData) string {
	arg := func(i int) string { return c.CmdArgs[i].Key }
	m.t = t
	switch c.Cmd {
	case "run":
		d, err := time.ParseDuration(arg(0))
		if err != nil {
			t.Fatal(err)
		}
		m.run(d)
	case "settle":
		m.settle()
	case "node":
		m.nodeCommand(number(arg(0)), c)
	case "remove":
		return m.answer(m.d.do(t, cmdRemove(number(arg(0)))))
	case "cancel":
		return m.answer(m.d.do(t, cmdEnd(number(arg(0)), kv.OperationCancelled)))
	case "config":
		config := m.state().Config()
		c.MaybeScanArgs(t, "rf", &config.ReplicationFactor)
		c.MaybeScanArgs(t, "leader-zone", &config.LeaderZone)
		return m.answer(m.d.do(t, cmdConfig(config)))
	case "shard":
		s := m.shards[number(arg(0))]
		var mib int64
		if c.MaybeScanArgs(t, "bytes", &mib) {
			s.bytes = mib << 20
		}
		c.MaybeScanArgs(t, "load", &s.load)
	case "show":
		return m.show()
	case "problems":
		return m.problems()
	default:
		t.Fatalf("no such command: %s", c.Cmd)
	}
	if c.Cmd != "run" && c.Cmd != "settle" {
		return ""
	}
	out := m.names(strings.Join(m.log, "\n"))
	m.log = nil
	return cmp.Or(out, "nothing was planned") + "\n"
}

func (m *model) nodeCommand(id uint64, c *datadriven.TestData) {
	zone := ""
	c.MaybeScanArgs(m.t.(*testing.T), "zone", &zone)
	if m.nodes[id] == nil {
		m.join(id, zone)
	}
	n := m.nodes[id]
	for _, a := range c.CmdArgs[1:] {
		switch a.Key {
		case "dead", "alive":
			n.alive = a.Key == "alive"
		case "full":
			n.free, n.size = 5<<30, 100<<30
		case "roomy":
			n.free, n.size = 50<<30, 100<<30
		case "draining":
			m.d.must(m.t, cmdState(id, metapb.NodeState_NODE_DRAINING))
		case "active":
			m.d.must(m.t, cmdState(id, metapb.NodeState_NODE_ACTIVE))
		}
	}
}

// names writes nodes by their small numbers.
func (m *model) names(text string) string {
	for id := range m.nodes {
		text = strings.ReplaceAll(text, kv.NodeID(id).String(), fmt.Sprint(id))
	}
	return text
}

func (m *model) answer(r *metapb.Result) string {
	switch {
	case r.Error != nil:
		return r.Error.Detail + "\n"
	case r.Operation != nil:
		op := r.Operation
		return fmt.Sprintf("operation %d: %s of %s: %s\n", op.Id, op.Kind, op.Target, op.State)
	}
	return ""
}

func (m *model) show() string {
	var b strings.Builder
	replicas, leads, size := map[uint64]int{}, map[uint64]int{}, map[uint64]int64{}
	for _, id := range slices.Sorted(maps.Keys(m.shards)) {
		s := m.shards[id]
		var on []uint64
		for _, r := range s.d.Replicas {
			on = append(on, r.Node)
			replicas[r.Node]++
			size[r.Node] += s.bytes
		}
		slices.Sort(on)
		leads[s.leader]++
		fmt.Fprintf(&b, "shard %d on %v, %d MiB\n", id, on, s.bytes>>20)
	}
	for _, n := range m.state().Nodes() {
		fmt.Fprintf(&b, "node %d: %s, %d replicas, leads %d, %d MiB\n", n.Id, stateWord(n.State), replicas[n.Id], leads[n.Id], size[n.Id]>>20)
	}
	return b.String()
}

func (m *model) problems() string {
	c := &Control{tracker: m.tracker, loop: &loop{retry: map[string]attempt{}}}
	in := m.input()
	var b strings.Builder
	for _, p := range c.problems(&in) {
		fmt.Fprintf(&b, "%s %s: %s\n  %s\n", p.Severity, p.Code, p.Summary, p.Help)
	}
	return cmp.Or(b.String(), "none\n")
}
