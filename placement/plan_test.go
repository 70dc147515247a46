package placement

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// planWorld is what a transcript plans for. Nodes are named by small numbers.
type planWorld struct {
	d      *driver
	in     Input
	splits int
}

// TestPlan runs the transcripts in testdata/plan. Commands:
//
//	cluster rf=N expect=N shards=N [voters=N]  a new cluster
//	node                              a line per node: ID [zone=Z] [alive|unheard|dead] [voter|nonvoter|outside]
//	                                  [lag=N] [failed] [nometa] [draining]; a node that is known is changed
//	lead                              a line per shard: SHARD NODE [age=D]; or "all NODE", "preferred", "none"
//	replica                           NODE SHARD [lag=N] [bytes=N] [failed] [gone]
//	reported                          the leaders have told of their shards
//	plan                              the next steps
//	run                               carry steps out until there are none, round by round
//	show                              shards with their replicas, and counts per node
func TestPlan(t *testing.T) {
	datadriven.Walk(t, "testdata/plan", func(t *testing.T, path string) {
		var w *planWorld
		datadriven.RunTest(t, path, func(t *testing.T, c *datadriven.TestData) string {
			if c.Cmd == "cluster" {
				w = newPlanWorld(t, c)
				return ""
			}
			for _, line := range strings.Split(c.Input, "\n") {
				if f := strings.Fields(line); len(f) > 0 {
					w.line(t, c.Cmd, f)
				}
			}
			switch c.Cmd {
			case "reported":
				for _, h := range w.in.State.Shards() {
					w.d.do(t, cmdReport(&metapb.DescriptorReport{Shard: h.Current, ConfigIndex: 1}))
				}
				w.in.State = w.d.m.State()
			case "plan":
				return w.steps(Plan(w.in))
			case "run":
				return w.run(t)
			case "show":
				return w.show()
			}
			return ""
		})
	})
}

func newPlanWorld(t *testing.T, c *datadriven.TestData) *planWorld {
	var rf, expect, voters int
	w := &planWorld{d: newDriver(), splits: 1}
	c.ScanArgs(t, "rf", &rf)
	c.ScanArgs(t, "expect", &expect)
	c.MaybeScanArgs(t, "shards", &w.splits)
	c.MaybeScanArgs(t, "voters", &voters)
	w.in = Input{
		Now: time.UnixMilli(1e12), Commit: 1000, Health: map[kv.NodeID]Health{}, Leads: map[kv.ShardID]Lead{},
		Tuning: Tuning{VotersMax: voters},
	}
	v := *w.d.m.current.Load()
	state := *v.state
	state.clusterID = "c"
	state.settings = &metapb.Settings{ReplicationFactor: uint32(rf), ExpectedNodes: uint32(expect), SplitPoints: EvenSplitPoints(w.splits)}
	config := DefaultConfig()
	config.ReplicationFactor = rf
	state.config = configToProto(config)
	v.state = &state
	w.d.m.publish(&v, true)
	w.in.State = w.d.m.State()
	return w
}

// options splits "a b=c" into a map.
func options(fields []string) map[string]string {
	out := map[string]string{}
	for _, f := range fields {
		k, v, _ := strings.Cut(f, "=")
		out[k] = v
	}
	return out
}

func number(text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil && text != "" {
		panic(err)
	}
	return n
}

func (w *planWorld) line(t *testing.T, cmd string, f []string) {
	switch cmd {
	case "node":
		w.node(t, number(f[0]), options(f[1:]))
	case "lead":
		w.lead(f)
	case "replica":
		w.replica(kv.NodeID(number(f[0])), number(f[1]), options(f[2:]))
	default:
		t.Fatalf("%s takes no lines", cmd)
	}
	w.in.State = w.d.m.State()
}

func (w *planWorld) node(t *testing.T, id uint64, o map[string]string) {
	node := kv.NodeID(id)
	if w.in.State.Node(node) == nil {
		n := testNode(id)
		n.Zone = o["zone"]
		w.d.do(t, cmdRegister("c", n))
		w.in.Health[node] = Health{Liveness: Alive, Steady: true, LastSeen: w.in.Now, Report: &metapb.NodeReport{Node: id}}
	}
	if _, ok := o["draining"]; ok {
		w.d.do(t, cmdState(id, metapb.NodeState_NODE_DRAINING))
	}
	h := w.in.Health[node]
	for word, liveness := range map[string]Liveness{"alive": Alive, "unheard": Unheard, "dead": Dead} {
		if _, ok := o[word]; ok {
			h.Liveness = liveness
		}
	}
	w.in.Health[node] = h
	for word, voter := range map[string]bool{"voter": true, "nonvoter": false} {
		if _, ok := o[word]; ok {
			w.member(node, voter)
		}
	}
	if _, ok := o["nometa"]; !ok {
		w.replica(node, uint64(kv.MetaShard), o)
	}
}

func (w *planWorld) member(node kv.NodeID, voter bool) {
	id := kv.ServerID{Node: node, Shard: kv.MetaShard, Incarnation: 1}
	w.in.Members = slices.DeleteFunc(w.in.Members, func(m kv.Member) bool { return m.ID == id })
	w.in.Members = append(w.in.Members, kv.Member{ID: id, Voter: voter})
}

// replica sets what a node reports of a replica.
func (w *planWorld) replica(node kv.NodeID, shard uint64, o map[string]string) {
	report := w.in.Health[node].Report
	report.Replicas = slices.DeleteFunc(report.Replicas, func(r *metapb.ReplicaReport) bool { return r.Shard == shard })
	if _, gone := o["gone"]; gone {
		return
	}
	r := &metapb.ReplicaReport{Shard: shard, Incarnation: 1, Role: string(kv.RoleFollower), CommitIndex: 1000, AppliedIndex: 1000 - number(o["lag"]),
		Bytes: int64(number(o["bytes"]))}
	if _, failed := o["failed"]; failed {
		r.Failure = "disk"
	}
	report.Replicas = append(report.Replicas, r)
	sortReplicas(report)
}

// lead sets who leads which shard and has everybody report accordingly.
func (w *planWorld) lead(f []string) {
	age := time.Minute
	if o := options(f); o["age"] != "" {
		age, _ = time.ParseDuration(o["age"])
	}
	for _, h := range w.in.State.Shards() {
		shard := kv.ShardID(h.Current.Shard)
		to := uint64(0)
		switch {
		case f[0] == "preferred":
			to = h.Current.Replicas[0].Node
		case f[0] == "all":
			to = number(f[1])
		case f[0] == "none":
		case f[0] == shard.String():
			to = number(f[1])
		default:
			continue
		}
		delete(w.in.Leads, shard)
		if to != 0 && replicaOf(h.Current, to) != nil {
			w.in.Leads[shard] = Lead{Node: kv.NodeID(to), Term: 1, Since: w.in.Now.Add(-age)}
		}
		for _, r := range h.Current.Replicas {
			w.replica(kv.NodeID(r.Node), h.Current.Shard, nil)
		}
	}
}

func (w *planWorld) steps(steps []Step) string {
	if len(steps) == 0 {
		return "nothing to do\n"
	}
	var b strings.Builder
	for _, s := range steps {
		text := s.String()
		for _, n := range w.in.State.Nodes() {
			text = strings.ReplaceAll(text, kv.NodeID(n.Id).String(), fmt.Sprint(n.Id))
		}
		fmt.Fprintln(&b, text)
	}
	return b.String()
}

// run carries out what is planned, at once and without failure.
func (w *planWorld) run(t *testing.T) string {
	var b strings.Builder
	for range 200 {
		steps := Plan(w.in)
		b.WriteString(w.steps(steps))
		if len(steps) == 0 {
			return b.String()
		}
		for _, s := range steps {
			switch s.Kind {
			case StepAddNonvoter, StepPromote:
				w.member(s.Server.Node, s.Kind == StepPromote)
			case StepCreateShards:
				if r := w.d.do(t, cmdCreate(s.Shards...)); r.Error != nil {
					t.Fatal(r.Error)
				}
			case StepReport:
				w.d.do(t, cmdReport(s.Reports...))
			case StepTransfer:
				w.in.Leads[s.Shard] = Lead{Node: s.To, Term: w.in.Leads[s.Shard].Term + 1, Since: w.in.Now.Add(-time.Minute)}
			}
		}
		w.in.State = w.d.m.State()
	}
	t.Fatal("the plan does not end")
	return ""
}

func (w *planWorld) show() string {
	var b strings.Builder
	replicas, preferred, leads := map[uint64]int{}, map[uint64]int{}, map[uint64]int{}
	for i, h := range w.in.State.Shards() {
		var nodes []string
		for _, r := range h.Current.Replicas {
			nodes = append(nodes, fmt.Sprint(r.Node))
			replicas[r.Node]++
		}
		preferred[h.Current.Replicas[0].Node]++
		leads[uint64(w.in.Leads[kv.ShardID(h.Current.Shard)].Node)]++
		if i < 12 {
			fmt.Fprintf(&b, "%d [%s, %s) on %s\n", h.Current.Shard, h.Current.Start, h.Current.End, strings.Join(nodes, " "))
		}
	}
	for _, n := range w.in.State.Members() {
		fmt.Fprintf(&b, "node %d: %d replicas, %d preferred, leads %d\n", n.Id, replicas[n.Id], preferred[n.Id], leads[n.Id])
	}
	return b.String()
}

// TestPlaceSpreads holds place to what it promises, over random nodes and zones.
func TestPlaceSpreads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.IntRange(1, 12).Draw(t, "nodes")
		zones := rapid.IntRange(0, 4).Draw(t, "zones")
		factor := min(rapid.IntRange(1, 7).Draw(t, "factor"), count)
		shards := rapid.IntRange(1, 40).Draw(t, "shards")
		var nodes []*metapb.Node
		names := map[string]int{}
		for i := range count {
			n := &metapb.Node{Id: uint64(i + 1), Ordinal: uint64(i + 1)}
			if zones > 0 {
				n.Zone = fmt.Sprint(rapid.IntRange(1, zones).Draw(t, "zone"))
			}
			names[zoneOf(n)]++
			nodes = append(nodes, n)
		}
		placed := place(EvenSplitPoints(shards), factor, nodes, 2)
		if len(placed) != shards || !slices.EqualFunc(placed, place(EvenSplitPoints(shards), factor, nodes, 2), sameDescriptor) {
			t.Fatalf("%d shards, or not the same twice", len(placed))
		}
		replicas, preferred := map[uint64]int{}, map[uint64]int{}
		for _, n := range nodes {
			replicas[n.Id], preferred[n.Id] = 0, 0
		}
		for _, d := range placed {
			perZone := map[string]int{}
			for _, r := range d.Replicas {
				replicas[r.Node]++
				perZone[zoneOf(nodes[r.Node-1])]++
			}
			preferred[d.Replicas[0].Node]++
			if len(d.Replicas) != factor || len(perZone) != min(factor, len(names)) {
				t.Fatalf("shard %d: %d replicas in %d of %d zones", d.Shard, len(d.Replicas), len(perZone), len(names))
			}
		}
		if len(names) == count { // no zone has two nodes: nothing stands against evenness
			if spread(replicas) > 1 || spread(preferred) > 1 {
				t.Fatalf("replicas %v, preferred %v", replicas, preferred)
			}
		}
	})
}

func spread(count map[uint64]int) int {
	all := slices.Collect(maps.Values(count))
	return slices.Max(all) - slices.Min(all)
}

func sameDescriptor(a, b *kvpb.ShardDescriptor) bool { return a.String() == b.String() }

// TestLeaderSpreadingEnds holds P7: from any leaders, with any nodes dead, the
// moves end within the potential's reach, and end even where all can lead.
func TestLeaderSpreadingEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.IntRange(1, 7).Draw(t, "nodes")
		factor := min(rapid.IntRange(1, 5).Draw(t, "factor"), count)
		shards := rapid.IntRange(1, 30).Draw(t, "shards")
		in := Input{State: leaderState(count, factor, shards), Now: time.UnixMilli(1e12), Health: map[kv.NodeID]Health{}, Leads: map[kv.ShardID]Lead{},
			Tuning: Tuning{}.withDefaults()}
		dead := 0
		for i := range count {
			h := Health{Liveness: Alive, Report: &metapb.NodeReport{}}
			if i > 0 && rapid.IntRange(0, 4).Draw(t, "dead") == 0 {
				h.Liveness = Dead
				dead++
			}
			in.Health[kv.NodeID(i+1)] = h
		}
		for _, h := range in.State.Shards() {
			r := h.Current.Replicas[rapid.IntRange(0, factor-1).Draw(t, "leader")]
			in.Leads[kv.ShardID(h.Current.Shard)] = Lead{Node: kv.NodeID(r.Node), Term: 1}
			for _, r := range h.Current.Replicas {
				report := in.Health[kv.NodeID(r.Node)].Report
				report.Replicas = append(report.Replicas, &metapb.ReplicaReport{Shard: h.Current.Shard, Incarnation: 1, Role: string(kv.RoleFollower)})
			}
		}
		for {
			begin := potential(&in)
			steps := planLeaders(newBoard(&in))
			if len(steps) == 0 {
				break
			}
			before := begin
			for _, s := range steps {
				in.Leads[s.Shard] = Lead{Node: s.To, Term: 2}
				after := potential(&in)
				if after > before {
					t.Fatalf("%s: potential %v to %v", s, before, after)
				}
				before = after
			}
			if before >= begin {
				t.Fatalf("a round did not make the leaders more even: %v to %v", begin, before)
			}
		}
		counts := leaderCounts(&in)
		if factor > 1 && dead == 0 && slices.Max(counts)-slices.Min(counts) > 1 {
			t.Fatalf("ends uneven: %v", counts)
		}
	})
}

func leaderCounts(in *Input) []int {
	return slices.Collect(maps.Values(newLeaderBoard(newBoard(in)).count))
}

// potential is that of P7.
func potential(in *Input) int {
	sum := 0
	for _, n := range leaderCounts(in) {
		sum += n * n
	}
	return sum
}

func leaderState(count, factor, shards int) *State {
	s := emptyState()
	s.clusterID = "c"
	for i := range count {
		s.nodes = append(s.nodes, &metapb.Node{Id: uint64(i + 1), Ordinal: uint64(i + 1), State: metapb.NodeState_NODE_ACTIVE})
	}
	for _, d := range place(EvenSplitPoints(shards), factor, s.nodes, 2) {
		s.shards = append(s.shards, &metapb.Shard{Current: d})
	}
	return s
}

func TestEvenSplitPoints(t *testing.T) {
	for n := 1; n <= 200; n++ {
		points := EvenSplitPoints(n)
		if err := checkSplitPoints(points); err != nil || len(points) != n-1 {
			t.Errorf("%d shards: %d points, %v", n, len(points), err)
		}
	}
	if got := fmt.Sprintf("%s", EvenSplitPoints(8)); got != "[7k FV NF V ck kV sF]" {
		t.Errorf("8 shards: %s", got)
	}
}
