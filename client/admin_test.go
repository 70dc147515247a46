package client

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
)

func TestOperations(t *testing.T) {
	overBoth(t, func(t *testing.T, c *Client, e *edge) {
		ctx := t.Context()
		e.cluster.Set([]kv.NodeInfo{{ID: testNode, Name: "north", Alive: true, DiskFree: 5, Bytes: 4, Reads: 2.5}, {ID: 0xb2, Name: "the south"}},
			[]kv.ShardInfo{})
		if err := c.Drain(ctx, "the south", true); err != nil {
			t.Fatal(err)
		}
		nodes, err := c.Nodes(ctx)
		if err != nil || nodes[1].State != kv.NodeDraining || nodes[0].State != kv.NodeActive || nodes[0].DiskFree != 5 || nodes[0].Bytes != 4 || nodes[0].ReadsPerSecond != 2.5 {
			t.Errorf("nodes: %+v, %v", nodes, err)
		}
		if err := c.Drain(ctx, "b2", false); err != nil {
			t.Fatal(err)
		}
		if err := c.Drain(ctx, "nobody", true); !IsNotFound(err) {
			t.Errorf("drain of nobody: %v", err)
		}
		o, err := c.RemoveNode(ctx, "b2")
		want := Operation{ID: 1, Kind: kv.OperationRemoveNode, State: kv.OperationRunning, Target: "node 00000000000000b2", Node: "00000000000000b2", Started: o.Started, Updated: o.Updated,
			Total: 3, Detail: "waiting for its turn", Cancellable: true}
		if err != nil || !reflect.DeepEqual(o, want) || o.Started.IsZero() || o.Over() {
			t.Errorf("remove: %+v, %v", o, err)
		}
		for i := range 3 {
			if o, err = c.Operation(ctx, 1); err != nil || o.Done != int64(i+1) || o.Over() != (i == 2) {
				t.Errorf("operation: %+v, %v", o, err)
			}
		}
		if _, err := c.CancelOperation(ctx, 1); !IsConflict(err) || OutcomeOf(err) != kv.OutcomeNotApplied {
			t.Errorf("cancel of what is over: %v", err)
		}
		if o, err := c.SplitShard(ctx, 7, "\xff&key=x"); err != nil || o.Target != `shard 7 at "\xff&key=x"` {
			t.Errorf("split: %+v, %v", o, err)
		}
		if o, err := c.SplitShard(ctx, 7, ""); err != nil || o.Target != "shard 7" {
			t.Errorf("split: %+v, %v", o, err)
		}
		if o, err := c.MergeShard(ctx, 7); err != nil || o.Kind != kv.OperationMerge {
			t.Errorf("merge: %+v, %v", o, err)
		}
		e.cluster.Set([]kv.NodeInfo{{ID: testNode, Name: "a&b"}, {ID: 0xb2, Name: "c d"}}, nil)
		if o, err := c.MoveReplica(ctx, 7, "a&b", "c d"); err != nil || o.Kind != kv.OperationMove || o.Node != "00000000000000b2" || o.Shard != 7 {
			t.Errorf("move: %+v, %v", o, err)
		}
		if err := c.TransferLeader(ctx, 7, "c d"); err != nil {
			t.Errorf("transfer: %v", err)
		}
		o, err = c.CancelOperation(ctx, 5)
		if err != nil || o.State != kv.OperationCancelled || o.Error == "" {
			t.Errorf("cancel: %+v, %v", o, err)
		}
		all, err := c.Operations(ctx)
		if err != nil || len(all) != 5 || all[0].ID != 5 {
			t.Errorf("operations: %+v, %v", all, err)
		}
		if _, err := c.Operation(ctx, 99); !IsNotFound(err) {
			t.Errorf("operation of nobody: %v", err)
		}
	})
}

func TestProblemsEventsAndRebalance(t *testing.T) {
	overBoth(t, func(t *testing.T, c *Client, e *edge) {
		ctx := t.Context()
		e.admin.Set([]kv.Problem{{Code: "node-dead", Severity: kv.SeverityCritical, Summary: "s", Help: "h", Node: testNode, SinceMs: 1_700_000_000_000}},
			[]kv.PlannedStep{{Kind: "move-replica", Shard: 7, From: testNode, To: 0xb2, Bytes: 9, Reason: "r"}})
		problems, err := c.Problems(ctx)
		if want := (Problem{Code: "node-dead", Severity: kv.SeverityCritical, Summary: "s", Help: "h", Node: testNode.String(), Since: time.UnixMilli(1_700_000_000_000).UTC()}); err != nil || len(problems) != 1 || problems[0] != want {
			t.Errorf("%+v, %v", problems, err)
		}
		plan, err := c.Rebalance(ctx, true)
		if err != nil || !plan.DryRun || plan.Operation != nil || len(plan.Steps) != 1 || plan.Steps[0] != (PlannedStep{"move-replica", 7, testNode.String(), "00000000000000b2", 9, "r"}) {
			t.Errorf("%+v, %v", plan, err)
		}
		if plan, err = c.Rebalance(ctx, false); err != nil || plan.Operation == nil || plan.Operation.Kind != kv.OperationRebalance {
			t.Errorf("%+v, %v", plan, err)
		}
		for range 3 {
			e.admin.Happen("node-joined", "x")
		}
		events, err := c.Events(ctx, 1, 1, time.Second)
		if err != nil || len(events) != 1 || events[0].Seq != 2 || events[0].Kind != "node-joined" || events[0].Time.IsZero() {
			t.Errorf("%+v, %v", events, err)
		}
		if events, err = c.Events(ctx, 3, 0, 0); err != nil || len(events) != 0 {
			t.Errorf("%+v, %v", events, err)
		}
	})
}

func TestClusterConfig(t *testing.T) {
	overBoth(t, func(t *testing.T, c *Client, e *edge) {
		ctx := t.Context()
		first, err := c.ClusterConfig(ctx)
		if err != nil || first.Revision != 1 || first.ReplicationFactor != 3 || first.DeadGrace != Duration(5*time.Minute) || !first.AutoBalance {
			t.Fatalf("%+v, %v", first, err)
		}
		factor, grace := 5, Duration(90*time.Second)
		second, err := c.ChangeClusterConfig(ctx, ConfigChange{ReplicationFactor: &factor, DeadGrace: &grace}, 0)
		want := first
		want.Revision, want.ReplicationFactor, want.DeadGrace = 2, factor, grace
		if err != nil || second != want {
			t.Errorf("%+v, %v", second, err)
		}
		if _, err := c.ChangeClusterConfig(ctx, ConfigChange{ReplicationFactor: &factor}, 1); !IsConditionFailed(err) || err.(*Error).Version != 2 {
			t.Errorf("another revision: %v", err)
		}
		if _, err := c.SetClusterConfig(ctx, first); !IsConditionFailed(err) {
			t.Errorf("another revision: %v", err)
		}
		second.LeaderZone = "ü"
		if third, err := c.SetClusterConfig(ctx, second); err != nil || third.LeaderZone != "ü" || third.Revision != 3 {
			t.Errorf("%+v, %v", third, err)
		}
		factor = 8
		if _, err := c.ChangeClusterConfig(ctx, ConfigChange{ReplicationFactor: &factor}, 0); CodeOf(err) != kv.CodeInvalid || !strings.Contains(err.Error(), "replication_factor 8") {
			t.Errorf("%v", err)
		}
	})
}

// TestChangesAreNotRepeatedBlindly: no answer came, so a change that is not the
// same when done twice is unknown; one that is, and a refusal, are tried again.
func TestChangesAreNotRepeatedBlindly(t *testing.T) {
	overBoth(t, func(t *testing.T, c *Client, e *edge) {
		ctx := t.Context()
		e.cluster.Set([]kv.NodeInfo{{ID: testNode, Name: "north"}}, nil)
		unknown := &kv.Error{Code: kv.CodeOutcomeUnknown, Outcome: kv.OutcomeUnknown}
		e.admin.Fail(unknown, 1)
		if _, err := c.SplitShard(ctx, 7, ""); !IsOutcomeUnknown(err) {
			t.Errorf("split: %v", err)
		}
		if all, err := c.Operations(ctx); err != nil || len(all) != 0 {
			t.Errorf("%+v, %v", all, err)
		}
		e.admin.Fail(unknown, 1)
		if err := c.Drain(ctx, "north", true); err != nil {
			t.Errorf("drain: %v", err)
		}
		e.admin.Fail(&kv.Error{Code: kv.CodeUnavailable, Outcome: kv.OutcomeNotApplied}, 1)
		if o, err := c.SplitShard(ctx, 7, ""); err != nil || o.ID != 1 {
			t.Errorf("split after a refusal: %+v, %v", o, err)
		}
	})
}
