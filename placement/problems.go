package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

const (
	problemsPerCode = 50 // more of a kind are summed up
	slowMove        = 10 * time.Minute
	slowSplit       = time.Minute
)

// problemList gathers problems, at most so many of a kind.
type problemList struct {
	list  []*metapb.Problem
	count map[string]int
}

func (l *problemList) add(p *metapb.Problem) {
	l.count[p.Code]++
	if l.count[p.Code] <= problemsPerCode {
		l.list = append(l.list, p)
	}
}

// noMetaLeader is the problem that hides all others.
func (c *Control) noMetaLeader(err error) kv.Problem {
	var at []string
	if st, ok := c.agent.meta.Status(); ok {
		for _, m := range st.Members {
			if n := c.agent.machine.State().Node(m.ID.Node); m.Voter && n != nil {
				at = append(at, n.Name+" at "+n.PeerAddress)
			}
		}
	}
	help := "nothing, if it is over in a few seconds"
	if len(at) > 0 {
		help = "more than half of these nodes have to run and reach each other: " + strings.Join(at, ", ")
	}
	return kv.Problem{Code: "meta-leaderless", Severity: kv.SeverityCritical, Shard: kv.MetaShard,
		Summary: "the meta shard has no leader that can be reached from here: " + kv.AsError(err).Detail, Help: help}
}

// problems tells what is wrong now, the worst first.
func (c *Control) problems(in *Input) []*metapb.Problem {
	b := newBoard(in)
	l := &problemList{count: map[string]int{}}
	// A leader that is new has not heard from everybody yet.
	heard := c.tracker.leadingFor(in.Now) >= in.Tuning.DeadAfter
	b.nodeProblems(l)
	b.clusterProblems(l, heard)
	b.shardProblems(l, heard)
	c.changeProblems(b, l)
	for code, n := range l.count {
		if n > problemsPerCode {
			l.list = append(l.list, &metapb.Problem{Code: code, Severity: string(kv.SeverityInfo), Help: "nothing: the others tell what helps",
				Summary: fmt.Sprintf("there are %d more problems of this kind", n-problemsPerCode)})
		}
	}
	rank := map[string]int{string(kv.SeverityCritical): 0, string(kv.SeverityWarning): 1, string(kv.SeverityInfo): 2}
	slices.SortStableFunc(l.list, func(x, y *metapb.Problem) int {
		return cmp.Or(cmp.Compare(rank[x.Severity], rank[y.Severity]), cmp.Compare(x.Code, y.Code), cmp.Compare(x.Shard, y.Shard), cmp.Compare(x.Node, y.Node))
	})
	return l.list
}

// changeProblems tells of moves, splits and merges that take much longer than they
// should.
func (c *Control) changeProblems(b *board, l *problemList) {
	for _, m := range b.in.State.Moves() {
		if b.age(m.SinceMs) > slowMove {
			why := c.loop.whyWaiting(Step{Shard: kv.ShardID(m.Shard)}.Key())
			l.add(&metapb.Problem{Code: "move-slow", Severity: string(kv.SeverityWarning), Shard: m.Shard, Node: m.Add.GetNode(), SinceMs: m.SinceMs,
				Summary: fmt.Sprintf("shard %d: %s takes long: %s", m.Shard, b.in.State.moveText(m), cmp.Or(why, moveDetail(b.in, m))),
				Help:    "look into the logs of both nodes, or raise snapshot_rate: quorate config"})
		}
	}
	for _, s := range b.in.State.Splits() {
		if b.under(splitKey(s), s.SinceMs) > slowSplit {
			why := c.loop.whyWaiting(Step{Shard: kv.ShardID(s.Shard)}.Key())
			l.add(&metapb.Problem{Code: "split-slow", Severity: string(kv.SeverityWarning), Shard: s.Shard, SinceMs: s.SinceMs,
				Summary: fmt.Sprintf("the split of shard %d takes long: %s", s.Shard, cmp.Or(why, "no leader of it has carried it out yet")),
				Help:    fmt.Sprintf("nothing, if the shard has a leader: it is given up after %s", splitMax)})
		}
	}
	for _, m := range b.in.State.Merges() {
		if m.Stage != metapb.MergeStage_MERGE_ALIGNING && b.under(stageKey(m), m.StageSinceMs) > 2*b.in.Tuning.FreezeMax {
			why := c.loop.whyWaiting(Step{Shard: kv.ShardID(m.Right)}.Key())
			l.add(&metapb.Problem{Code: "merge-slow", Severity: string(kv.SeverityCritical), Shard: m.Right, SinceMs: m.StageSinceMs,
				Summary: fmt.Sprintf("shard %d answers nothing while it is merged, and that takes long: %s", m.Right, cmp.Or(why, mergeDetail(m))),
				Help:    fmt.Sprintf("more than half of the replicas of shards %d and %d have to run: quorate shards", m.Left, m.Right)})
		}
	}
}

func (b *board) nodeProblems(l *problemList) {
	for _, h := range b.nodes {
		health := b.in.Health[kv.NodeID(h.node.Id)]
		name := h.node.Name
		if health.Liveness == Dead {
			p := &metapb.Problem{Code: "node-dead", Severity: string(kv.SeverityWarning), Node: h.node.Id, SinceMs: b.in.Now.Add(-health.SilentFor).UnixMilli(),
				Summary: fmt.Sprintf("node %s has not reported for %s", name, health.SilentFor.Round(time.Second)),
				Help:    "start it again; if it is lost for good: quorate nodes remove " + name}
			switch left := b.cfg.DeadGrace - health.SilentFor; {
			case h.node.State == metapb.NodeState_NODE_REMOVING:
				p.Help = "nothing: it is being removed"
			case left > 0:
				p.Help = fmt.Sprintf("start it again; in %s its replicas are rebuilt on other nodes", left.Round(time.Second))
			}
			l.add(p)
		}
		if h.node.State == metapb.NodeState_NODE_DRAINING {
			l.add(&metapb.Problem{Code: "node-draining", Severity: string(kv.SeverityInfo), Node: h.node.Id,
				Summary: fmt.Sprintf("node %s is draining: it leads nothing", name), Help: "when it is back: quorate drain " + name + " --undo"})
		}
		if h.alive && h.free >= 0 && health.Report.GetDiskFreeBytes() < h.capacity/10 {
			severity := kv.SeverityWarning
			if health.Report.GetDiskFreeBytes() < h.capacity/33 {
				severity = kv.SeverityCritical
			}
			l.add(&metapb.Problem{Code: "disk-filling", Severity: string(severity), Node: h.node.Id,
				Summary: fmt.Sprintf("node %s has %d MiB of its disk free, less than a tenth: it is given no replicas", name, health.Report.GetDiskFreeBytes()>>20),
				Help:    "add a node or a larger disk: quorate serve --join …"})
		}
		for _, r := range health.Report.GetReplicas() {
			if r.Failure != "" {
				l.add(&metapb.Problem{Code: "replica-failed", Severity: string(kv.SeverityWarning), Node: h.node.Id, Shard: r.Shard,
					Summary: fmt.Sprintf("the replica of shard %d on node %s has stopped: %s", r.Shard, name, r.Failure),
					Help:    "look into the node's log, and start it again"})
			}
		}
		if op := b.in.State.removal(h.node.Id); op != nil {
			op = cloneOf(op)
			explainRemoval(b.in, op)
			l.add(&metapb.Problem{Code: "node-removing", Severity: string(kv.SeverityInfo), Node: h.node.Id, SinceMs: op.StartedMs,
				Summary: fmt.Sprintf("node %s is being removed: %s", name, op.Detail), Help: fmt.Sprintf("to stop it: quorate operations cancel %d", op.Id)})
		}
	}
}

func (b *board) clusterProblems(l *problemList, heard bool) {
	rf, stay := b.cfg.ReplicationFactor, 0
	for _, h := range b.nodes {
		if h.stays() {
			stay++
		}
	}
	if stay < rf {
		l.add(&metapb.Problem{Code: "too-few-nodes", Severity: string(kv.SeverityWarning),
			Summary: fmt.Sprintf("the replication factor is %d, but there are %d nodes", rf, stay),
			Help:    fmt.Sprintf("add nodes: quorate serve --join …, or: quorate config set replication_factor=%d", max(1, stay))})
	}
	if rf%2 == 0 {
		l.add(&metapb.Problem{Code: "even-replication-factor", Severity: string(kv.SeverityInfo),
			Summary: fmt.Sprintf("the replication factor %d survives no more failures than %d", rf, rf-1),
			Help:    fmt.Sprintf("quorate config set replication_factor=%d or %d", rf-1, rf+1)})
	}
	voters, alive := 0, 0
	for _, m := range b.in.Members {
		if m.Voter {
			voters++
			if h := b.byID[uint64(m.ID.Node)]; h != nil && h.alive {
				alive++
			}
		}
	}
	if heard && alive < voters {
		l.add(&metapb.Problem{Code: "meta-under-replicated", Severity: string(kv.SeverityWarning), Shard: uint64(kv.MetaShard),
			Summary: fmt.Sprintf("%d of the %d voters of the meta shard are alive", alive, voters),
			Help:    "start the dead nodes again; after the grace others take their place"})
	}
}

func (b *board) shardProblems(l *problemList, heard bool) {
	for i := range b.parts {
		p := &b.parts[i]
		alive, named := b.living(p)
		_, led := b.in.Leads[p.id]
		moving := b.in.Moving[p.id] != 0
		if heard && p.leader == nil && !moving {
			help := "nothing: an election takes about a second"
			if len(named) > 0 {
				help = "start these nodes again: " + strings.Join(named, ", ")
			}
			l.add(&metapb.Problem{Code: "shard-leaderless", Severity: string(kv.SeverityCritical), Shard: uint64(p.id), Help: help,
				Summary: fmt.Sprintf("shard %s has no leader: %d of %d replicas are alive", p.id, alive, voters(p.record.Current))})
			continue
		}
		if b.in.Now.IsZero() || !led {
			continue
		}
		b.redundancyProblems(l, p, alive, named)
	}
}

// living counts the voters of a shard that live and have not failed, and names the
// nodes of the others.
func (b *board) living(p *part) (alive int, others []string) {
	for _, r := range p.record.Current.Replicas {
		h := b.byID[r.Node]
		switch {
		case h == nil || p.voterOn(r.Node) == nil:
		case h.alive && b.failure(r.Node, p.id) == "":
			alive++
		default:
			others = append(others, h.node.Name)
		}
	}
	return alive, others
}

func (b *board) redundancyProblems(l *problemList, p *part, alive int, dead []string) {
	good, _, _ := b.sort(p)
	if alive < b.cfg.ReplicationFactor {
		problem := &metapb.Problem{Code: "shard-under-replicated", Severity: string(kv.SeverityWarning), Shard: uint64(p.id),
			Summary: fmt.Sprintf("shard %s has %d living replicas of %d", p.id, alive, b.cfg.ReplicationFactor),
			Help:    "add a node: quorate serve --join …"}
		switch m := b.in.State.Move(p.id); {
		case m != nil && m.Add != nil:
			problem.Severity, problem.SinceMs = string(kv.SeverityInfo), m.SinceMs
			problem.Help = "nothing: " + b.in.State.moveText(m) + " is under way"
		case len(dead) > 0 && len(good) >= b.cfg.ReplicationFactor:
			problem.Help = "start these nodes again: " + strings.Join(dead, ", ")
		case b.pick(p, good) != nil || b.fullUp():
			problem.Severity, problem.Help = string(kv.SeverityInfo), "nothing: it is about to be repaired"
		}
		l.add(problem)
	}
	if b.crowded(good) != nil {
		l.add(&metapb.Problem{Code: "zones-shared", Severity: string(kv.SeverityWarning), Shard: uint64(p.id),
			Summary: fmt.Sprintf("two replicas of shard %s are in one zone", p.id),
			Help:    "nothing, if another zone has a node with room: one moves there"})
	}
}
