package placement

import (
	"cmp"
	"slices"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/planted"
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
	// SilentFor is how long it has not been heard of, counted from when this leader
	// could first have heard it.
	SilentFor time.Duration
	// Steady: it has been alive for long enough to be given replicas.
	Steady bool
	// FailedSince says since when replicas on it have been stopped; nil = none is.
	FailedSince map[kv.ShardID]time.Time
}

// Lead says who leads a shard and since when the meta leader has known it.
type Lead struct {
	Node  kv.NodeID
	Term  uint64
	Since time.Time
	// FrozenSince is when the shard was first heard to be frozen; zero = it is not.
	FrozenSince time.Time
}

// Input is all that a plan may depend on.
type Input struct {
	State   *State
	Now     time.Time
	Self    kv.NodeID   // this node, which leads the meta shard
	Members []kv.Member // of the meta shard
	Commit  uint64      // of the meta shard
	Health  map[kv.NodeID]Health
	Leads   map[kv.ShardID]Lead
	// Moving has the shards whose leader was just told to hand over, and to whom.
	// They count as led by it until reports have had the time to say so.
	Moving map[kv.ShardID]kv.NodeID
	// Seen is since when this node has known each change that is under way, by a clock
	// that nobody sets.
	Seen map[changeKey]time.Time
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
	LongTimeout    time.Duration // of a step that splits or merges; 60 s
	StepsAtOnce    int           // 32
	VotersMax      int           // of the meta shard; 5
	CatchUpEntries uint64        // a replica that lags by no more is caught up; 256
	LeaderStable   time.Duration // a younger leader is not moved; 2 s
	TransferRest   time.Duration // a shard's leader is moved at most as often; 10 s
	TransfersMax   int           // planned in a round; 4
	SteadyAfter    time.Duration // alive for so long, a new node is given replicas; 2 s
	FlapRest       time.Duration // likewise for one that was dead before; 1 min
	FailedAfter    time.Duration // a replica that has failed for so long is replaced; 1 min
	MergeRest      time.Duration // shards that changed later do not merge by themselves; 10 min
	HotAfter       time.Duration // a leader younger than that does not split by load; 30 s
	FreezeMax      time.Duration // a merge is given up when a shard was frozen for so long; 5 s
}

func (t Tuning) withDefaults() Tuning {
	orDuration(&t.Tick, time.Second)
	orDuration(&t.ReportEvery, time.Second)
	orDuration(&t.DeadAfter, 5*time.Second)
	orDuration(&t.StepTimeout, 10*time.Second)
	orDuration(&t.LeaderStable, 2*time.Second)
	orDuration(&t.TransferRest, 10*time.Second)
	orDuration(&t.LongTimeout, time.Minute)
	orDuration(&t.SteadyAfter, 2*time.Second)
	orDuration(&t.FlapRest, time.Minute)
	orDuration(&t.FailedAfter, time.Minute)
	orDuration(&t.MergeRest, 10*time.Minute)
	orDuration(&t.HotAfter, 30*time.Second)
	orDuration(&t.FreezeMax, 5*time.Second)
	orInt(&t.AliveAfter, 3)
	orInt(&t.StepsAtOnce, 32)
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

// Plan gives the next steps. It is pure: the same input gives the same steps in
// the same order. Carrying all of them out, in any order and any number of
// times, is safe; what is left to do is seen in the next input.
func Plan(in Input) []Step {
	steps, _ := plan(in)
	return steps
}

func plan(in Input) ([]Step, *board) {
	if in.State.ClusterID() == "" {
		return nil, nil
	}
	in.Tuning = in.Tuning.withDefaults()
	b := newBoard(&in)
	b.steps = append(b.steps, planMembers(b)...)
	b.steps = append(b.steps, planShards(b)...)
	b.steps = append(b.steps, planReports(&in)...)
	b.planRemovals()
	b.carryMoves()
	b.carrySplits()
	b.carryMerges()
	b.planRepairs()
	b.planSplits()
	b.planMerges()
	b.planBalance()
	b.steps = append(b.steps, planLeaders(b)...)
	b.endRebalance()
	kept := b.steps[:0]
	for _, s := range b.steps {
		if !in.Busy[s.Key()] {
			kept = append(kept, s)
		}
	}
	return kept, b
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
	if n.Zone != "" && !planted.On(planted.ZonesIgnored) {
		return "zone " + n.Zone
	}
	return "node " + kv.NodeID(n.Id).String()
}
