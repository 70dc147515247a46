package memdata

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/quorate-db/quorate/kv"
)

// adminEpochMs dates what happens here: every step is a second later than the last.
const adminEpochMs = 1_700_000_000_000

// adminSteps is how many steps each operation has.
const adminSteps = 3

// Admin is the control plane of a Cluster that does nothing by itself: each look at
// an operation does one step of it.
type Admin struct {
	cluster *Cluster

	mu         sync.Mutex
	operations []kv.Operation
	problems   []kv.Problem
	events     []kv.Event
	config     kv.ClusterConfig
	steps      []kv.PlannedStep
	failure    error
	failures   int // how many calls fail
	stalled    bool
	nowMs      int64
}

// NewAdmin makes the control plane of a cluster.
func NewAdmin(c *Cluster) *Admin {
	a := &Admin{cluster: c, config: kv.DefaultClusterConfig(), nowMs: adminEpochMs}
	a.config.Revision = 1
	return a
}

// Set replaces what is wrong and what a rebalance would do.
func (a *Admin) Set(problems []kv.Problem, steps []kv.PlannedStep) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.problems, a.steps = problems, steps
}

// Fail makes the next n calls fail.
func (a *Admin) Fail(err error, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failure, a.failures = err, n
}

// Stall keeps operations from getting on.
func (a *Admin) Stall(on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stalled = on
}

// Happen adds an event.
func (a *Admin) Happen(kind, detail string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.happenLocked(kind, 0, 0, detail)
}

func (a *Admin) happenLocked(kind string, node kv.NodeID, shard kv.ShardID, detail string) {
	a.nowMs += 1000
	a.events = append(a.events, kv.Event{Seq: uint64(len(a.events)) + 1, TimeMs: a.nowMs, Kind: kind, Node: node, Shard: shard, Detail: detail})
}

func (a *Admin) failLocked() error {
	if a.failures == 0 {
		return nil
	}
	a.failures--
	return a.failure
}

func (a *Admin) beginLocked(o kv.Operation) (kv.Operation, error) {
	if err := a.failLocked(); err != nil {
		return kv.Operation{}, err
	}
	a.nowMs += 1000
	o.ID, o.State, o.Total, o.Cancellable = uint64(len(a.operations))+1, kv.OperationRunning, adminSteps, true
	o.StartedMs, o.UpdatedMs, o.Detail = a.nowMs, a.nowMs, "waiting for its turn"
	a.operations = append(a.operations, o)
	return o, nil
}

// nodes changes the nodes of the cluster.
func (a *Admin) nodes(change func([]kv.NodeInfo) []kv.NodeInfo) {
	a.cluster.mu.Lock()
	defer a.cluster.mu.Unlock()
	a.cluster.nodes = change(slices.Clone(a.cluster.nodes))
}

// Drain notes it.
func (a *Admin) Drain(_ context.Context, node kv.NodeID, on bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.failLocked(); err != nil {
		return err
	}
	a.nodes(func(nodes []kv.NodeInfo) []kv.NodeInfo {
		for i := range nodes {
			if nodes[i].ID == node {
				nodes[i].Draining, nodes[i].State = on, kv.NodeActive
				if on {
					nodes[i].State, nodes[i].Leaders = kv.NodeDraining, 0
				}
			}
		}
		return nodes
	})
	a.happenLocked("node-drained", node, 0, fmt.Sprintf("draining: %t", on))
	return nil
}

// RemoveNode begins; the node is gone with the last step.
func (a *Admin) RemoveNode(_ context.Context, node kv.NodeID) (kv.Operation, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.beginLocked(kv.Operation{Kind: kv.OperationRemoveNode, Target: "node " + node.String(), Node: node})
}

// Split begins.
func (a *Admin) Split(_ context.Context, shard kv.ShardID, key []byte) (kv.Operation, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	target := fmt.Sprintf("shard %s", shard)
	if len(key) > 0 {
		target += fmt.Sprintf(" at %q", key)
	}
	return a.beginLocked(kv.Operation{Kind: kv.OperationSplit, Target: target, Shard: shard})
}

// Merge begins.
func (a *Admin) Merge(_ context.Context, shard kv.ShardID) (kv.Operation, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.beginLocked(kv.Operation{Kind: kv.OperationMerge, Target: fmt.Sprintf("shard %s", shard), Shard: shard})
}

// Move begins.
func (a *Admin) Move(_ context.Context, shard kv.ShardID, from, to kv.NodeID) (kv.Operation, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.beginLocked(kv.Operation{Kind: kv.OperationMove, Target: fmt.Sprintf("shard %s from %s to %s", shard, from, to), Node: to, Shard: shard})
}

// TransferLeader notes it.
func (a *Admin) TransferLeader(_ context.Context, shard kv.ShardID, to kv.NodeID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.failLocked(); err != nil {
		return err
	}
	a.happenLocked("leader-elected", to, shard, "asked for")
	return nil
}

// Rebalance gives the steps that were set.
func (a *Admin) Rebalance(_ context.Context, dryRun bool) ([]kv.PlannedStep, kv.Operation, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if dryRun || len(a.steps) == 0 {
		return a.steps, kv.Operation{}, a.failLocked()
	}
	o, err := a.beginLocked(kv.Operation{Kind: kv.OperationRebalance, Target: "the cluster"})
	return a.steps, o, err
}

// Problems gives what was set.
func (a *Admin) Problems(context.Context) ([]kv.Problem, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.problems, a.failLocked()
}

// Events gives what happened.
func (a *Admin) Events(_ context.Context, after uint64, limit int) ([]kv.Event, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	from := min(after, uint64(len(a.events)))
	return slices.Clone(a.events[from:min(int(from)+limit, len(a.events))]), a.failLocked()
}

// Operations gives all, the newest first.
func (a *Admin) Operations(context.Context) ([]kv.Operation, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := slices.Clone(a.operations)
	slices.Reverse(out)
	return out, a.failLocked()
}

// Operation does a step of one and gives it.
func (a *Admin) Operation(_ context.Context, id uint64) (kv.Operation, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o, err := a.findLocked(id)
	if err != nil {
		return kv.Operation{}, err
	}
	if o.State == kv.OperationRunning && !a.stalled {
		a.nowMs += 1000
		o.Done++
		o.UpdatedMs, o.Detail = a.nowMs, fmt.Sprintf("step %d of %d is done", o.Done, o.Total)
		if o.Done == o.Total {
			o.State, o.Cancellable = kv.OperationDone, false
			a.finish(o)
		}
	}
	return *o, nil
}

func (a *Admin) finish(o *kv.Operation) {
	if o.Kind != kv.OperationRemoveNode {
		return
	}
	a.nodes(func(nodes []kv.NodeInfo) []kv.NodeInfo {
		return slices.DeleteFunc(nodes, func(n kv.NodeInfo) bool { return n.ID == o.Node })
	})
}

func (a *Admin) findLocked(id uint64) (*kv.Operation, error) {
	if err := a.failLocked(); err != nil {
		return nil, err
	}
	if id == 0 || id > uint64(len(a.operations)) {
		return nil, &kv.Error{Code: kv.CodeNotFound, Outcome: kv.OutcomeNotApplied, Detail: "no such operation"}
	}
	return &a.operations[id-1], nil
}

// Cancel ends one.
func (a *Admin) Cancel(_ context.Context, id uint64) (kv.Operation, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o, err := a.findLocked(id)
	if err != nil {
		return kv.Operation{}, err
	}
	if o.State != kv.OperationRunning {
		return *o, &kv.Error{Code: kv.CodeConflict, Outcome: kv.OutcomeNotApplied, Detail: "the operation is over"}
	}
	a.nowMs += 1000
	o.State, o.Cancellable, o.UpdatedMs, o.Error = kv.OperationCancelled, false, a.nowMs, "cancelled by an operator"
	return *o, nil
}

// Config gives the settings.
func (a *Admin) Config(context.Context) (kv.ClusterConfig, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.config, a.failLocked()
}

// SetConfig replaces them.
func (a *Admin) SetConfig(_ context.Context, c kv.ClusterConfig) (kv.ClusterConfig, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.failLocked(); err != nil {
		return a.config, err
	}
	if c.Revision != a.config.Revision {
		return a.config, &kv.Error{Code: kv.CodeConditionFailed, Outcome: kv.OutcomeNotApplied, Version: kv.Version(a.config.Revision), Detail: "the settings have another revision"}
	}
	c.Revision++
	a.config = c
	return c, nil
}
