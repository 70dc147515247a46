package placement

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

func cmdConfig(c kv.ClusterConfig) *metapb.Command {
	return &metapb.Command{Body: &metapb.Command_SetConfig{SetConfig: configToProto(c)}}
}

func cmdRemove(node uint64) *metapb.Command {
	return &metapb.Command{Body: &metapb.Command_RemoveNode{RemoveNode: &metapb.RemoveNode{Node: node}}}
}

func cmdMove(shard, add, remove uint64) *metapb.Command {
	return &metapb.Command{Body: &metapb.Command_BeginMove{BeginMove: &metapb.BeginMove{
		Shard: shard, Add: add, Remove: remove, Reason: metapb.MoveReason_MOVE_ORDERED, Ordered: true}}}
}

func cmdCancelMove(m *metapb.Move) *metapb.Command {
	return &metapb.Command{Body: &metapb.Command_CancelMove{CancelMove: m}}
}

func cmdSplit(shard uint64, key string) *metapb.Command {
	return &metapb.Command{Body: &metapb.Command_BeginSplit{BeginSplit: &metapb.BeginSplit{Shard: shard, Key: []byte(key), Ordered: true}}}
}

func cmdMerge(left, right uint64) *metapb.Command {
	return &metapb.Command{Body: &metapb.Command_BeginMerge{BeginMerge: &metapb.BeginMerge{Left: left, Right: right, Ordered: true}}}
}

func cmdAdvance(left, right uint64, from, to metapb.MergeStage, index uint64) *metapb.Command {
	return &metapb.Command{Body: &metapb.Command_AdvanceMerge{AdvanceMerge: &metapb.AdvanceMerge{
		Left: left, Right: right, From: from, To: to, FrozenIndex: index, Why: "trouble"}}}
}

func cmdEnd(id uint64, state kv.OperationState) *metapb.Command {
	return &metapb.Command{Body: &metapb.Command_EndOperation{EndOperation: &metapb.EndOperation{Id: id, State: string(state)}}}
}

// active gives founded's machine with both shards reported and a fourth node.
func active(t tester) *driver {
	d := founded(t)
	d.do(t, cmdRegister("c", testNode(4)))
	for _, h := range d.m.State().Shards() {
		d.do(t, cmdReport(&metapb.DescriptorReport{Shard: h.Current, ConfigIndex: 1}))
	}
	return d
}

// must fails the test if the command is refused.
func (d *driver) must(t tester, c *metapb.Command) *metapb.Result {
	t.Helper()
	r := d.do(t, c)
	if r.Error != nil {
		t.Fatalf("refused: %v", r.Error)
	}
	if err := d.m.State().check(); err != nil {
		t.Fatal(err)
	}
	return r
}

func (d *driver) refused(t tester, code kv.Code, c *metapb.Command) {
	t.Helper()
	before := d.m.State()
	r := d.do(t, c)
	if kv.Code(r.Error.GetCode()) != code {
		t.Fatalf("answer %v, want %s", r, code)
	}
	if d.m.State() != before {
		t.Fatal("a refused command changed the state")
	}
}

// reconfigure reports a shard with other members: "1 2 n4.2" has node 4 as a
// non-voter of incarnation 2.
func (d *driver) reconfigure(t tester, shard uint64, members ...string) {
	t.Helper()
	h := d.m.State().Shard(kv.ShardID(shard))
	report := cloneOf(h.Current)
	report.Replicas = nil
	for _, text := range members {
		r := &kvpb.ReplicaDescriptor{Incarnation: 1, Role: kvpb.ReplicaRole_ROLE_VOTER}
		if text[0] == 'n' {
			text, r.Role = text[1:], kvpb.ReplicaRole_ROLE_NONVOTER
		}
		fmt.Sscanf(text, "%d.%d", &r.Node, &r.Incarnation)
		report.Replicas = append(report.Replicas, r)
	}
	d.must(t, cmdReport(&metapb.DescriptorReport{Shard: report, ConfigIndex: h.ConfigIndex + 1}))
}

func TestMoveEndsWithTheConfiguration(t *testing.T) {
	d := active(t)
	got := d.must(t, cmdMove(2, 4, 1))
	if got.Move.Add.Incarnation != 2 || got.Move.Remove.Incarnation != 1 || got.Operation.GetId() == 0 {
		t.Fatalf("%v", got)
	}
	d.refused(t, kv.CodeConflict, cmdMove(2, 4, 2))
	d.refused(t, kv.CodeConflict, cmdSplit(2, "f"))
	d.refused(t, kv.CodeConflict, cmdMerge(2, 3))
	for _, members := range [][]string{{"1", "2", "3", "n4.2"}, {"1", "2", "3", "4.2"}} {
		d.reconfigure(t, 2, members...)
		if d.m.State().Move(2) == nil {
			t.Fatalf("the move is over with %v", members)
		}
	}
	d.reconfigure(t, 2, "2", "3", "4.2")
	if s := d.m.State(); s.Move(2) != nil || s.Operation(got.Operation.Id).State != string(kv.OperationDone) {
		t.Fatalf("the move is not over: %v", s.Operations())
	}
	if got := d.must(t, cmdMove(2, 1, 0)); got.Move.Add.Incarnation != 3 {
		t.Errorf("an incarnation was given out twice: %v", got.Move)
	}
}

// TestReturnOfADeadNode: when its node is back, a replica need not be replaced, unless it
// was taken out already. Then the shard would be left with a voter too few.
func TestReturnOfADeadNode(t *testing.T) {
	d := active(t)
	c := cmdMove(2, 4, 1)
	c.GetBeginMove().Reason = metapb.MoveReason_MOVE_DEAD
	d.must(t, c)
	for _, taken := range []bool{false, true} {
		members := []string{"1", "2", "3", "n4.2"}
		if taken {
			members = members[1:]
		}
		d.reconfigure(t, 2, members...)
		in := Input{State: d.m.State(), Health: map[kv.NodeID]Health{}}
		for id := range kv.NodeID(5) {
			in.Health[id] = Health{Liveness: Alive, Report: &metapb.NodeReport{Node: uint64(id)}}
		}
		b := newBoard(&in)
		m := in.State.Move(2)
		added := replicaOf(in.State.Shard(2).Current, 4)
		if why := b.pointless(b.part(2), m, added, false); (why == "") != taken {
			t.Errorf("taken out %t: %q", taken, why)
		}
	}
}

func TestIncarnationsAreNeverGivenOutTwice(t *testing.T) {
	d := active(t)
	seen := map[uint64]bool{1: true}
	for range 5 {
		m := d.must(t, cmdMove(2, 4, 1)).Move
		if seen[m.Add.Incarnation] {
			t.Fatalf("incarnation %d again", m.Add.Incarnation)
		}
		seen[m.Add.Incarnation] = true
		d.must(t, cmdCancelMove(m))
		if d.m.State().Move(2) != nil {
			t.Fatal("a cancelled move that had not begun is not over")
		}
		d.refused(t, kv.CodeConflict, cmdCancelMove(m))
	}
}

func TestCancelledMoveTakesItsFollowerAway(t *testing.T) {
	d := active(t)
	op := d.must(t, cmdMove(2, 4, 1)).Operation
	d.reconfigure(t, 2, "1", "2", "3", "n4.2")
	if got := d.must(t, cmdEnd(op.Id, kv.OperationCancelled)).Operation; got.State != string(kv.OperationCancelled) || got.Cancellable {
		t.Fatalf("%v", got)
	}
	if m := d.m.State().Move(2); m == nil || !m.Cancelled {
		t.Fatalf("the follower is forgotten: %v", m)
	}
	d.refused(t, kv.CodeConflict, cmdEnd(op.Id, kv.OperationCancelled))
	d.reconfigure(t, 2, "1", "2", "3")
	if d.m.State().Move(2) != nil {
		t.Fatal("the cancelled move is not over")
	}
	// One that has a vote by then stays.
	m := d.must(t, cmdMove(2, 4, 1)).Move
	d.reconfigure(t, 2, "1", "2", "3", "n4.3")
	d.must(t, cmdCancelMove(m))
	d.reconfigure(t, 2, "1", "2", "3", "4.3")
	if d.m.State().Move(2) != nil {
		t.Fatal("the cancelled move of a voter is not over")
	}
}

func TestMovesRefuse(t *testing.T) {
	d := active(t)
	d.refused(t, kv.CodeNotFound, cmdMove(9, 4, 1))
	d.refused(t, kv.CodeNotFound, cmdMove(2, 9, 1))
	d.refused(t, kv.CodeInvalid, cmdMove(2, 0, 0))
	d.refused(t, kv.CodeConflict, cmdMove(2, 1, 2))
	d.refused(t, kv.CodeConflict, cmdMove(2, 0, 4))
	stale := cmdMove(2, 4, 1)
	stale.GetBeginMove().ConfigIndex = 7
	d.refused(t, kv.CodeConflict, stale)
	d.must(t, cmdState(4, metapb.NodeState_NODE_DRAINING))
	d.refused(t, kv.CodeConflict, cmdMove(2, 4, 1))
	d.reconfigure(t, 2, "1")
	d.refused(t, kv.CodeConflict, cmdMove(2, 0, 1))
	fresh := founded(t)
	fresh.do(t, cmdRegister("c", testNode(4)))
	fresh.refused(t, kv.CodeConflict, cmdMove(2, 4, 1)) // no leader has reported
}

func TestRemoveNode(t *testing.T) {
	d := active(t)
	op := d.must(t, cmdRemove(1)).Operation
	if op.Total != 2 || op.Kind != string(kv.OperationRemoveNode) {
		t.Fatalf("%v", op)
	}
	if again := d.must(t, cmdRemove(1)).Operation; again.Id != op.Id {
		t.Fatalf("asked twice: %v", again)
	}
	d.refused(t, kv.CodeConflict, cmdRemove(2)) // two would be left for three replicas
	d.refused(t, kv.CodeConflict, cmdState(1, metapb.NodeState_NODE_ACTIVE))
	d.refused(t, kv.CodeConflict, cmdState(1, metapb.NodeState_NODE_REMOVED))
	d.reconfigure(t, 2, "2", "3", "4.2")
	d.reconfigure(t, 3, "2", "3", "4.2")
	d.must(t, cmdState(1, metapb.NodeState_NODE_REMOVED))
	if got := d.m.State().Operation(op.Id); got.State != string(kv.OperationDone) || got.Done != 2 {
		t.Fatalf("%v", got)
	}
	d.refused(t, kv.CodeConflict, cmdRegister("c", testNode(1)))
	d.refused(t, kv.CodeConflict, cmdRemove(1))
	d.refused(t, kv.CodeConflict, cmdRemove(3))
}

func TestCancelledRemovalKeepsTheNode(t *testing.T) {
	d := active(t)
	op := d.must(t, cmdRemove(1)).Operation
	move := cmdMove(2, 4, 1)
	move.GetBeginMove().Ordered, move.GetBeginMove().Reason = false, metapb.MoveReason_MOVE_LEAVING
	d.must(t, move)
	d.must(t, cmdEnd(op.Id, kv.OperationCancelled))
	if s := d.m.State(); s.Node(1).State != metapb.NodeState_NODE_ACTIVE || s.Move(2) != nil {
		t.Fatalf("%v %v", s.Node(1), s.Move(2))
	}
}

func TestSplitEndsWithBothReports(t *testing.T) {
	d := active(t)
	d.refused(t, kv.CodeInvalid, cmdSplit(2, "m"))
	d.refused(t, kv.CodeInvalid, cmdSplit(3, "m"))
	d.refused(t, kv.CodeNotFound, cmdSplit(7, "m"))
	got := d.must(t, cmdSplit(2, "f"))
	if got.Split.Child != 4 || got.Split.Generation != 1 {
		t.Fatalf("%v", got)
	}
	d.refused(t, kv.CodeConflict, cmdMove(2, 4, 1))
	d.refused(t, kv.CodeConflict, cmdEnd(got.Operation.Id, kv.OperationCancelled))
	d.must(t, cmdReport(&metapb.DescriptorReport{Shard: descriptor(4, 2, "f", "m", 1, 2, 3), ConfigIndex: 10}))
	if d.m.State().Split(2) == nil {
		t.Fatal("over before the parent was heard of")
	}
	d.must(t, cmdReport(&metapb.DescriptorReport{Shard: descriptor(2, 2, "", "f", 1, 2, 3), ConfigIndex: 1}))
	s := d.m.State()
	if s.Split(2) != nil || s.Operation(got.Operation.Id).State != string(kv.OperationDone) || s.Shard(4).StickyUntilMs == 0 {
		t.Fatalf("not over: %v %v", s.Split(2), s.Operations())
	}
	// One that is given up, and happens all the same.
	p := d.must(t, cmdSplit(3, "t")).Split
	d.must(t, &metapb.Command{Body: &metapb.Command_EndSplit{EndSplit: &metapb.EndSplit{Shard: 3, Child: p.Child, Error: "no answer"}}})
	d.must(t, cmdReport(&metapb.DescriptorReport{Shard: descriptor(p.Child, 2, "t", "", 1, 2, 3), ConfigIndex: 10}))
	if d.m.State().Shard(kv.ShardID(p.Child)) == nil {
		t.Fatal("the child is unknown")
	}
}

func TestMergeRetiresTheRightShard(t *testing.T) {
	d := active(t)
	d.refused(t, kv.CodeConflict, cmdMerge(3, 2))
	d.refused(t, kv.CodeNotFound, cmdMerge(3, 9))
	op := d.must(t, cmdMerge(2, 3)).Operation
	const aligning, freezing, frozen = metapb.MergeStage_MERGE_ALIGNING, metapb.MergeStage_MERGE_FREEZING, metapb.MergeStage_MERGE_FROZEN
	d.refused(t, kv.CodeConflict, cmdAdvance(2, 3, freezing, frozen, 7))
	d.refused(t, kv.CodeInvalid, cmdAdvance(2, 3, aligning, frozen, 7))
	d.must(t, cmdAdvance(2, 3, aligning, freezing, 0))
	d.refused(t, kv.CodeInvalid, cmdAdvance(2, 3, freezing, frozen, 0))
	d.must(t, cmdAdvance(2, 3, freezing, frozen, 7))
	d.refused(t, kv.CodeConflict, cmdMove(2, 4, 1))
	d.refused(t, kv.CodeConflict, cmdMove(3, 4, 1))
	d.must(t, cmdReport(&metapb.DescriptorReport{Shard: descriptor(2, 2, "", "", 1, 2, 3), ConfigIndex: 1}))
	s := d.m.State()
	if len(s.Merges()) != 0 || s.Operation(op.Id).State != string(kv.OperationDone) || len(s.Shards()) != 1 {
		t.Fatalf("not over: %v %v", s.Merges(), s.Operations())
	}
	if r := s.Retired(3); r.GetInto() != 2 || r.GetGeneration() != 2 {
		t.Fatalf("retired: %v", r)
	}
	d.refused(t, kv.CodeNotFound, cmdMove(3, 4, 1))
	if got := d.do(t, cmdReport(&metapb.DescriptorReport{Shard: descriptor(3, 9, "m", "", 1, 2, 3), ConfigIndex: 9})); got.Accepted != 0 {
		t.Fatal("a retired shard came back")
	}
}

func TestMergeGivenUp(t *testing.T) {
	d := active(t)
	op := d.must(t, cmdMerge(2, 3)).Operation
	stages := []metapb.MergeStage{metapb.MergeStage_MERGE_ALIGNING, metapb.MergeStage_MERGE_FREEZING, metapb.MergeStage_MERGE_REFUSING,
		metapb.MergeStage_MERGE_UNFREEZING, metapb.MergeStage_MERGE_ENDED}
	d.must(t, cmdAdvance(2, 3, stages[0], stages[1], 0))
	if got := d.must(t, cmdEnd(op.Id, kv.OperationCancelled)).Operation; got.State != string(kv.OperationRunning) {
		t.Fatalf("over while the right shard is frozen: %v", got)
	}
	for i := 2; i+1 < len(stages); i++ {
		d.must(t, cmdAdvance(2, 3, stages[i], stages[i+1], 0))
	}
	if got := d.m.State().Operation(op.Id); got.State != string(kv.OperationCancelled) || len(d.m.State().Merges()) != 0 {
		t.Fatalf("%v", got)
	}
}

func TestConfigHasRevisions(t *testing.T) {
	d := active(t)
	c := d.m.State().Config()
	if want := DefaultConfig(); c != want {
		t.Fatalf("%+v", c)
	}
	c.ReplicationFactor, c.DeadGrace = 5, time.Minute
	d.must(t, cmdConfig(c))
	d.refused(t, kv.CodeConditionFailed, cmdConfig(c))
	if got := d.m.State().Config(); got.Revision != 2 || got.ReplicationFactor != 5 || got.DeadGrace != time.Minute {
		t.Fatalf("%+v", got)
	}
	for name, spoil := range map[string]func(*kv.ClusterConfig){
		"rf 0": func(c *kv.ClusterConfig) { c.ReplicationFactor = 0 }, "rf 8": func(c *kv.ClusterConfig) { c.ReplicationFactor = 8 },
		"grace": func(c *kv.ClusterConfig) { c.DeadGrace = 0 }, "nan": func(c *kv.ClusterConfig) { c.SplitLoad = math.NaN() },
		"flapping": func(c *kv.ClusterConfig) { c.MergeBytes = c.SplitBytes / 2 }, "moves": func(c *kv.ClusterConfig) { c.MovesPerNode = 0 },
		"rate": func(c *kv.ClusterConfig) { c.SnapshotRate = 1 }, "long grace": func(c *kv.ClusterConfig) { c.DeadGrace = 1 << 62 },
	} {
		bad := d.m.State().Config()
		spoil(&bad)
		if r := d.do(t, cmdConfig(bad)); kv.Code(r.Error.GetCode()) != kv.CodeInvalid {
			t.Errorf("%s: %v", name, r)
		}
	}
	if err := checkConfig(foundingConfig(kv.ClusterConfig{})); err != nil {
		t.Error(err)
	}
	small := foundingConfig(kv.ClusterConfig{SplitBytes: 1 << 20, SplitLoad: -1})
	if err := checkConfig(small); err != nil || small.MergeBytes != 256<<10 || small.SplitLoad != 0 {
		t.Errorf("%+v: %v", small, err)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	d := active(t)
	var running uint64
	for i := range operationsKept + 50 {
		r := d.must(t, &metapb.Command{Body: &metapb.Command_BeginRebalance{BeginRebalance: &metapb.BeginRebalance{}}})
		if i == 0 {
			running = d.must(t, cmdMove(2, 4, 1)).Operation.Id
		}
		d.must(t, cmdEnd(r.Operation.Id, kv.OperationDone))
	}
	s := d.m.State()
	if len(s.Operations()) != operationsKept+1 || s.Operation(running) == nil {
		t.Errorf("%d operations", len(s.Operations()))
	}
	many := &metapb.AppendEvents{}
	for range eventsPerCommand {
		many.Events = append(many.Events, &metapb.Event{Kind: EventLeader})
	}
	for range 6 {
		d.must(t, &metapb.Command{Body: &metapb.Command_AppendEvents{AppendEvents: many}})
	}
	events := d.m.State().Events()
	if len(events) != eventsKept || events[eventsKept-1].Seq-events[0].Seq != eventsKept-1 {
		t.Errorf("%d events from %d on", len(events), events[0].Seq)
	}
}

// TestChangesAtRandom drives the machine with changes of all kinds, stale ones too,
// and holds that the state stays possible, that an image restores it, and that no
// incarnation and no shard id is given out twice.
func TestChangesAtRandom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := active(t)
		given := map[string]bool{}
		once := func(id string) {
			if given[id] {
				t.Fatalf("%s was given out twice", id)
			}
			given[id] = true
		}
		shard := func() uint64 { return rapid.Uint64Range(2, 6).Draw(t, "shard") }
		node := func() uint64 { return rapid.Uint64Range(0, 5).Draw(t, "node") }
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			s := d.m.State()
			switch rapid.IntRange(0, 9).Draw(t, "kind") {
			case 0, 1:
				if r := d.do(t, cmdMove(shard(), node(), node())); r.Error == nil && r.Move.Add != nil {
					once(fmt.Sprint("replica ", r.Move.Shard, " ", r.Move.Add.Incarnation))
				}
			case 2:
				if r := d.do(t, cmdSplit(shard(), rapid.SampledFrom([]string{"", "c", "f", "p"}).Draw(t, "key"))); r.Error == nil {
					once(fmt.Sprint("shard ", r.Split.Child))
				}
			case 3:
				d.do(t, cmdMerge(shard(), shard()))
			case 4, 5:
				for _, m := range s.Merges() {
					stage := func() metapb.MergeStage { return metapb.MergeStage(rapid.IntRange(1, 6).Draw(t, "stage")) }
					d.do(t, cmdAdvance(m.Left, m.Right, m.Stage, stage(), 5))
				}
			case 6:
				if ops := s.Operations(); len(ops) > 0 {
					d.do(t, cmdEnd(rapid.SampledFrom(ops).Draw(t, "op").Id, kv.OperationCancelled))
				}
			case 7:
				d.do(t, cmdRemove(node()))
				d.do(t, cmdState(node(), metapb.NodeState(rapid.IntRange(1, 4).Draw(t, "state"))))
			default:
				randomReport(t, d, shard())
			}
			if err := d.m.State().check(); err != nil {
				t.Fatal(err)
			}
		}
		m := NewMachine()
		if err := restore(m, bytes.NewReader(imageOf(t, d.m))); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(digestOf(t, m), digestOf(t, d.m)) {
			t.Fatal("an image does not bring the state back")
		}
	})
}

// randomReport reports what may follow from what is under way, or something else.
func randomReport(t *rapid.T, d *driver, shard uint64) {
	s := d.m.State()
	h := s.Shard(kv.ShardID(shard))
	if h == nil {
		return
	}
	report := &metapb.DescriptorReport{Shard: cloneOf(h.Current), ConfigIndex: h.ConfigIndex + 1}
	switch {
	case s.Move(kv.ShardID(shard)) != nil && rapid.Bool().Draw(t, "move"):
		m := s.Move(kv.ShardID(shard))
		if m.Remove != nil && len(report.Shard.Replicas) > 1 && rapid.Bool().Draw(t, "gone") {
			report.Shard.Replicas = slices.DeleteFunc(report.Shard.Replicas, isOn(m.Remove.Node))
		}
		if m.Add != nil && replicaOf(report.Shard, m.Add.Node) == nil {
			report.Shard.Replicas = append(report.Shard.Replicas, cloneOf(m.Add))
		}
	case s.Split(kv.ShardID(shard)) != nil && rapid.Bool().Draw(t, "split"):
		p := s.Split(kv.ShardID(shard))
		if len(p.Key) > 0 {
			child := cloneOf(h.Current)
			child.Shard, child.Start, child.Generation = p.Child, p.Key, p.Generation+1
			d.do(t, cmdReport(&metapb.DescriptorReport{Shard: child, ConfigIndex: 10}))
			report.Shard.End, report.Shard.Generation = p.Key, p.Generation+1
		}
	case s.Merge(kv.ShardID(shard)) != nil && rapid.Bool().Draw(t, "merge"):
		m := s.Merge(kv.ShardID(shard))
		right := s.Shard(kv.ShardID(m.Right)).Current
		if m.Left == shard {
			report.Shard.End, report.Shard.Generation = right.End, max(report.Shard.Generation, right.Generation)+1
		}
	case rapid.Bool().Draw(t, "refused"):
		report.Shard.Generation++
	}
	d.do(t, cmdReport(report))
}
