package sim

import (
	"context"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement"
	"github.com/quorate-db/quorate/placement/metapb"
)

// admin is what an operator does to a cluster, through any of its nodes.
type admin = *placement.Control

// askWithin bounds one request to the control plane.
const askWithin = 10 * time.Second

// founding gives the settings that a run's cluster begins with. Without changes the
// cluster keeps its shape.
func founding(c Config) kv.ClusterConfig {
	out := kv.ClusterConfig{DeadGrace: time.Hour, SplitBytes: -1, SplitLoad: -1, MergeBytes: -1}
	if c.ChangeEvery > 0 {
		out.DeadGrace, out.AutoBalance = deadGrace, true
	}
	return out
}

// deadGrace is after how long a silent machine's replicas are replaced: faults that
// take long end both sides of it.
const deadGrace = 6 * time.Second

// admin gives what administers the cluster through some machine that runs, nil if
// none does.
func (n *nemesis) admin() admin {
	members := n.c.members()
	for _, i := range n.rng.Perm(len(members)) {
		if running := members[i].server(); running != nil {
			return running.Control()
		}
	}
	return nil
}

// ask has something done to the cluster through any machine, and notes what and how
// it went. Under faults it may well fail.
func (n *nemesis) ask(kind, what string, do func(ctx context.Context, to admin) error) error {
	to := n.admin()
	if to == nil {
		return errNobody
	}
	ctx, cancel := context.WithTimeout(context.Background(), askWithin)
	defer cancel()
	err := do(ctx, to)
	switch {
	case err == nil:
		n.c.fault(kind, "%s", what)
	default:
		n.c.note("%s: %s: %v", kind, what, err)
	}
	return err
}

var errNobody = kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "no machine runs")

// operate is ask for what begins an operation. It waits for it for a while, and one
// in four times cancels it before.
func (n *nemesis) operate(kind, what string, begin func(ctx context.Context, to admin) (kv.Operation, error)) (kv.Operation, bool) {
	var op kv.Operation
	err := n.ask(kind, what, func(ctx context.Context, to admin) (err error) {
		op, err = begin(ctx, to)
		return err
	})
	if err != nil {
		return op, false
	}
	if n.rng.IntN(6) == 0 {
		n.pause(time.Duration(n.rng.Int64N(int64(2 * time.Second))))
		_ = n.ask("cancel", kind+" "+what, func(ctx context.Context, to admin) error {
			_, err := to.Cancel(ctx, op.ID)
			return err
		})
	}
	return n.follow(op, n.about(10*time.Second))
}

// follow waits until an operation is over, or for so long.
func (n *nemesis) follow(op kv.Operation, within time.Duration) (kv.Operation, bool) {
	for end := time.Now().Add(within); time.Now().Before(end); {
		if state := n.c.state(); state != nil {
			if now := state.Operation(op.ID); now != nil && now.State != string(kv.OperationRunning) {
				n.c.note("operation %d (%s %s) is %s %s", now.Id, now.Kind, now.Target, now.State, now.Error)
				op.State = kv.OperationState(now.State)
				return op, op.State == kv.OperationDone
			}
		}
		if !n.pause(250 * time.Millisecond) {
			return op, false
		}
	}
	return op, false
}

// shard draws one of the shards that are known, nil if there is none.
func (n *nemesis) shard() *metapb.Shard {
	state := n.c.state()
	if state == nil || len(state.Shards()) == 0 {
		return nil
	}
	return state.Shards()[n.rng.IntN(len(state.Shards()))]
}

// removed reports whether the cluster has forgotten a node for ever.
func (c *Cluster) removed(id kv.NodeID) bool {
	state := c.state()
	return state != nil && state.Node(id).GetState() == metapb.NodeState_NODE_REMOVED
}
