package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// Liveness is what the meta leader thinks of a node.
type Liveness int

const (
	// Unheard: no report yet, and too early to call it dead.
	Unheard Liveness = iota
	// Alive: reports regularly.
	Alive
	// Dead: has not reported for Tuning.DeadAfter.
	Dead
)

// Health is what the meta leader has heard of one node.
type Health struct {
	Liveness Liveness
	LastSeen time.Time          // zero = never
	Report   *metapb.NodeReport // the last, its replicas ascending by shard; nil = none
}

// Lead says who leads a shard and since when the meta leader has known it.
type Lead struct {
	Node  kv.NodeID
	Term  uint64
	Since time.Time
}

// Input is all that a plan may depend on.
type Input struct {
	State   *State
	Now     time.Time
	Members []kv.Member // of the meta shard
	Commit  uint64      // of the meta shard
	Health  map[kv.NodeID]Health
	Leads   map[kv.ShardID]Lead
	// Moving has the shards whose leader was just told to hand over, and to whom.
	// They count as led by it until reports have had the time to say so.
	Moving map[kv.ShardID]kv.NodeID
	// Busy has the keys of steps under way or waiting to be tried again.
	Busy   map[string]bool
	Tuning Tuning
}

// Tuning is the planner's and the loop's numbers. Zero fields take the default.
type Tuning struct {
	Tick           time.Duration // the loop plans at least as often; 1 s
	ReportEvery    time.Duration // 1 s
	DeadAfter      time.Duration // without a report; 5 s
	AliveAfter     int           // reports in a row bring a dead node back; 3
	StepTimeout    time.Duration // 10 s
	StepsAtOnce    int           // 8
	VotersMax      int           // of the meta shard; 5
	CatchUpEntries uint64        // a replica that lags by no more is caught up; 256
	LeaderStable   time.Duration // a younger leader is not moved; 2 s
	TransferRest   time.Duration // a shard's leader is moved at most as often; 10 s
	TransfersMax   int           // planned in a round; 4
}

func (t Tuning) withDefaults() Tuning {
	orDuration(&t.Tick, time.Second)
	orDuration(&t.ReportEvery, time.Second)
	orDuration(&t.DeadAfter, 5*time.Second)
	orDuration(&t.StepTimeout, 10*time.Second)
	orDuration(&t.LeaderStable, 2*time.Second)
	orDuration(&t.TransferRest, 10*time.Second)
	orInt(&t.AliveAfter, 3)
	orInt(&t.StepsAtOnce, 8)
	orInt(&t.VotersMax, 5)
	orInt(&t.TransfersMax, 4)
	if t.CatchUpEntries == 0 {
		t.CatchUpEntries = 256
	}
	return t
}

func orDuration(d *time.Duration, otherwise time.Duration) {
	if *d == 0 {
		*d = otherwise
	}
}

func orInt(n *int, otherwise int) {
	if *n == 0 {
		*n = otherwise
	}
}

// StepKind names what a step does.
type StepKind string

const (
	// StepAddNonvoter makes Server follow the meta shard.
	StepAddNonvoter StepKind = "add-nonvoter"
	// StepPromote gives Server a vote in the meta shard.
	StepPromote StepKind = "promote"
	// StepCreateShards proposes the initial Shards.
	StepCreateShards StepKind = "create-shards"
	// StepReport proposes what shards said of themselves.
	StepReport StepKind = "report-descriptors"
	// StepTransfer tells From to hand the leadership of Shard to To.
	StepTransfer StepKind = "transfer-leader"
)

// Step is one small change, safe to repeat and safe to fail.
type Step struct {
	Kind    StepKind
	Server  kv.ServerID
	Shards  []*kvpb.ShardDescriptor
	Reports []*metapb.DescriptorReport
	Shard   kv.ShardID
	From    kv.NodeID
	To      kv.NodeID
}

// Key names what a step works on. Steps with the same key exclude one another.
func (s Step) Key() string {
	switch s.Kind {
	case StepAddNonvoter, StepPromote:
		return "meta members"
	case StepTransfer:
		return "shard " + s.Shard.String()
	default:
		return string(s.Kind)
	}
}

// String says in words what the step does.
func (s Step) String() string {
	switch s.Kind {
	case StepAddNonvoter:
		return fmt.Sprintf("let node %s follow the meta shard", s.Server.Node)
	case StepPromote:
		return fmt.Sprintf("give node %s a vote in the meta shard", s.Server.Node)
	case StepCreateShards:
		return fmt.Sprintf("create the initial shards (%d)", len(s.Shards))
	case StepReport:
		ids := make([]string, len(s.Reports))
		for i, r := range s.Reports {
			ids[i] = kv.ShardID(r.Shard.Shard).String()
		}
		return "record what shards say of themselves: " + strings.Join(ids, " ")
	case StepTransfer:
		return fmt.Sprintf("move the leader of shard %s from %s to %s", s.Shard, s.From, s.To)
	default:
		return string(s.Kind)
	}
}

// Plan gives the next steps. It is pure: the same input gives the same steps in
// the same order. Carrying all of them out, in any order and any number of
// times, is safe; what is left to do is seen in the next input.
func Plan(in Input) []Step {
	if in.State.ClusterID() == "" {
		return nil
	}
	in.Tuning = in.Tuning.withDefaults()
	var steps []Step
	steps = append(steps, planMembers(&in)...)
	steps = append(steps, planShards(&in)...)
	steps = append(steps, planReports(&in)...)
	steps = append(steps, planLeaders(&in)...)
	kept := steps[:0]
	for _, s := range steps {
		if !in.Busy[s.Key()] {
			kept = append(kept, s)
		}
	}
	return kept
}

// replicaReport finds what a node last said of its replica of a shard, nil if it
// said nothing.
func (in *Input) replicaReport(node kv.NodeID, shard kv.ShardID) *metapb.ReplicaReport {
	replicas := in.Health[node].Report.GetReplicas()
	i, found := slices.BinarySearchFunc(replicas, uint64(shard), func(r *metapb.ReplicaReport, id uint64) int {
		return cmp.Compare(r.Shard, id)
	})
	if !found {
		return nil
	}
	return replicas[i]
}

func (in *Input) alive(node kv.NodeID) bool { return in.Health[node].Liveness == Alive }

// zoneOf gives the node's zone. A node without one is a zone by itself: nothing
// is known that it would share with another.
func zoneOf(n *metapb.Node) string {
	if n.Zone != "" {
		return "zone " + n.Zone
	}
	return "node " + kv.NodeID(n.Id).String()
}
