package placement

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// driver proposes commands to a machine as a leader would.
type driver struct {
	m       *Machine
	index   uint64
	version kv.Version
	clock   func() time.Time // nil = the time is the index
}

func newDriver() *driver { return &driver{m: NewMachine()} }

func (d *driver) entry(commands ...*metapb.Command) kv.Entry {
	d.index++
	d.version += kv.Version(len(commands))
	e := kv.Entry{Index: d.index, Term: 1, Stamp: kv.Stamp{Term: 1, Version: d.version - kv.Version(len(commands)) + 1, Ceiling: 1 << 40, NowMs: int64(d.index)}}
	if d.clock != nil {
		e.Stamp.NowMs = d.clock().UnixMilli()
	}
	for _, c := range commands {
		c.Format = CommandFormat
		data, err := proto.Marshal(c)
		if err != nil {
			panic(err)
		}
		e.Commands = append(e.Commands, kv.EntryCommand{Data: data, Versions: 1})
	}
	return e
}

func (d *driver) do(t tester, c *metapb.Command) *metapb.Result {
	t.Helper()
	results, err := d.m.Apply([]kv.Entry{d.entry(c)})
	if err != nil || results[0].Rejected {
		t.Fatalf("apply: %v, %+v", err, results)
	}
	var out metapb.Result
	if err := proto.Unmarshal(results[0].Results[0], &out); err != nil {
		t.Fatal(err)
	}
	return &out
}

func cmdFound(cluster string, rf uint32, founder *metapb.Node) *metapb.Command {
	return &metapb.Command{Body: &metapb.Command_FoundCluster{FoundCluster: &metapb.FoundCluster{
		ClusterId: cluster, Settings: &metapb.Settings{ReplicationFactor: rf, ExpectedNodes: 1}, Founder: founder}}}
}

func cmdRegister(cluster string, n *metapb.Node) *metapb.Command {
	return &metapb.Command{Body: &metapb.Command_RegisterNode{RegisterNode: &metapb.RegisterNode{ClusterId: cluster, Node: n}}}
}

func cmdState(id uint64, s metapb.NodeState) *metapb.Command {
	return &metapb.Command{Body: &metapb.Command_SetNodeState{SetNodeState: &metapb.SetNodeState{Node: id, State: s}}}
}

func cmdCreate(shards ...*kvpb.ShardDescriptor) *metapb.Command {
	return &metapb.Command{Body: &metapb.Command_CreateShards{CreateShards: &metapb.CreateShards{Shards: shards}}}
}

func cmdReport(reports ...*metapb.DescriptorReport) *metapb.Command {
	return &metapb.Command{Body: &metapb.Command_ReportDescriptors{ReportDescriptors: &metapb.ReportDescriptors{Reports: reports}}}
}

func cmdAllocate(n uint32) *metapb.Command {
	return &metapb.Command{Body: &metapb.Command_AllocateShards{AllocateShards: &metapb.AllocateShards{Count: n}}}
}

func testNode(id uint64) *metapb.Node {
	return &metapb.Node{Id: id, Name: fmt.Sprintf("n%d", id), PeerAddress: fmt.Sprintf("n%d:7101", id)}
}

func descriptor(shard, generation uint64, start, end string, nodes ...uint64) *kvpb.ShardDescriptor {
	d := &kvpb.ShardDescriptor{Shard: shard, Generation: generation, Start: []byte(start), End: []byte(end)}
	for _, n := range nodes {
		d.Replicas = append(d.Replicas, &kvpb.ReplicaDescriptor{Node: n, Incarnation: 1, Role: kvpb.ReplicaRole_ROLE_VOTER})
	}
	return d
}

// founded gives a machine with three nodes and shards 2 ["", m) and 3 [m, end).
func founded(t tester) *driver {
	d := newDriver()
	d.do(t, cmdFound("c", 3, testNode(1)))
	d.do(t, cmdRegister("c", testNode(2)))
	d.do(t, cmdRegister("c", testNode(3)))
	d.do(t, cmdCreate(descriptor(2, 1, "", "m", 1, 2, 3), descriptor(3, 1, "m", "", 2, 3, 1)))
	return d
}

func TestCommandsRefuse(t *testing.T) {
	d := founded(t)
	long := testNode(9)
	long.Zone = string(make([]byte, 300))
	named := testNode(9)
	named.Name = "n2"
	cases := []struct {
		name string
		c    *metapb.Command
		code kv.Code
	}{
		{"found twice", cmdFound("d", 3, testNode(1)), kv.CodeConflict},
		{"register elsewhere", cmdRegister("d", testNode(9)), kv.CodeConflict},
		{"register nobody", cmdRegister("c", nil), kv.CodeInvalid},
		{"long zone", cmdRegister("c", long), kv.CodeTooLarge},
		{"taken name", cmdRegister("c", named), kv.CodeConflict},
		{"create twice", cmdCreate(descriptor(4, 1, "", "", 1)), kv.CodeConflict},
		{"state of nobody", cmdState(9, metapb.NodeState_NODE_DRAINING), kv.CodeNotFound},
		{"no state", cmdState(1, 77), kv.CodeInvalid},
		{"remove a holder", cmdState(1, metapb.NodeState_NODE_REMOVED), kv.CodeConflict},
		{"allocate none", cmdAllocate(0), kv.CodeInvalid},
		{"allocate too many", cmdAllocate(1e6), kv.CodeInvalid},
		{"no body", &metapb.Command{}, kv.CodeInvalid},
		{"empty body", &metapb.Command{Body: &metapb.Command_FoundCluster{}}, kv.CodeConflict},
	}
	for _, c := range cases {
		before := d.m.State()
		r := d.do(t, c.c)
		if kv.Code(r.Error.GetCode()) != c.code || r.Error.GetOutcome() != string(kv.OutcomeNotApplied) {
			t.Errorf("%s: %v, want %s", c.name, r.Error, c.code)
		}
		if d.m.State() != before {
			t.Errorf("%s: the state changed", c.name)
		}
	}
}

func TestCreateShardsRefuses(t *testing.T) {
	d := newDriver()
	if r := d.do(t, cmdCreate(descriptor(2, 1, "", "", 1))); r.Error == nil {
		t.Error("shards before founding")
	}
	if r := d.do(t, cmdFound("c", 9, testNode(1))); r.Error == nil || d.m.State().ClusterID() != "" {
		t.Error("replication factor 9")
	}
	d.do(t, cmdFound("c", 3, testNode(1)))
	nonvoter := descriptor(2, 1, "", "", 1)
	nonvoter.Replicas[0].Role = kvpb.ReplicaRole_ROLE_NONVOTER
	for name, shards := range map[string][]*kvpb.ShardDescriptor{
		"none":            {},
		"hole":            {descriptor(2, 1, "", "a", 1), descriptor(3, 1, "b", "", 1)},
		"no beginning":    {descriptor(2, 1, "a", "", 1)},
		"no end":          {descriptor(2, 1, "", "a", 1)},
		"goes on":         {descriptor(2, 1, "", "", 1), descriptor(3, 1, "", "", 1)},
		"descends":        {descriptor(2, 1, "", "b", 1), descriptor(3, 1, "b", "a", 1)},
		"ids":             {descriptor(3, 1, "", "", 1)},
		"generation":      {descriptor(2, 2, "", "", 1)},
		"unknown node":    {descriptor(2, 1, "", "", 4)},
		"node twice":      {descriptor(2, 1, "", "", 1, 1)},
		"nobody":          {descriptor(2, 1, "", "")},
		"initial learner": {nonvoter},
	} {
		if r := d.do(t, cmdCreate(shards...)); r.Error == nil || len(d.m.State().Shards()) != 0 {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNodesComeUpToDateAndGo(t *testing.T) {
	d := founded(t)
	moved := testNode(2)
	moved.PeerAddress = "elsewhere:1"
	r := d.do(t, cmdRegister("c", moved))
	if r.Node.PeerAddress != "elsewhere:1" || r.Node.Ordinal != 2 || r.Node.MetaIncarnation != 1 {
		t.Errorf("moved: %v", r)
	}
	before := d.m.State()
	d.do(t, cmdRegister("c", moved))
	if d.m.State() != before {
		t.Error("registering the same again made a new state")
	}
	d.do(t, cmdRegister("c", testNode(4)))
	d.do(t, cmdState(4, metapb.NodeState_NODE_DRAINING))
	d.do(t, cmdRegister("c", moved))
	if got := d.m.State().Node(4).State; got != metapb.NodeState_NODE_DRAINING {
		t.Errorf("state %v", got)
	}
	d.do(t, cmdState(4, metapb.NodeState_NODE_REMOVED))
	for _, c := range []*metapb.Command{cmdRegister("c", testNode(4)), cmdState(4, metapb.NodeState_NODE_ACTIVE)} {
		if r := d.do(t, c); kv.Code(r.Error.GetCode()) != kv.CodeConflict {
			t.Errorf("a removed node came back: %v", r)
		}
	}
	heir := testNode(5)
	heir.Name = "n4"
	if r := d.do(t, cmdRegister("c", heir)); r.Error != nil || r.Node.Ordinal != 5 {
		t.Errorf("the name of a removed node is not free: %v", r)
	}
}

func TestNewerReleaseStops(t *testing.T) {
	unknown := []byte{0x08, 1, 0xa2, 0x06, 0} // format 1, field 100
	for name, data := range map[string][]byte{"kind": unknown, "format": {0x08, 2}} {
		d := founded(t)
		before, digest := d.m.Applied(), digestOf(t, d.m)
		good := d.entry(cmdAllocate(1))
		bad := d.entry()
		bad.Stamp.Version, bad.Commands = d.version+1, []kv.EntryCommand{{Data: data, Versions: 1}}
		if _, err := d.m.Apply([]kv.Entry{good, bad}); !errors.Is(err, kv.ErrNewerRelease) {
			t.Errorf("unknown %s: %v", name, err)
		}
		if d.m.Applied().Index != before.Index || !bytes.Equal(digest, digestOf(t, d.m)) {
			t.Errorf("unknown %s: applied in part", name)
		}
	}
}

func TestEntries(t *testing.T) {
	d := founded(t)
	applied := d.m.Applied()
	stale := d.entry(cmdAllocate(1))
	stale.Stamp.Term = 0
	old := d.entry(cmdAllocate(1))
	old.Stamp.Version = applied.LastVersion
	high := d.entry(cmdAllocate(1))
	high.Stamp.Version = applied.Ceiling + 1
	config := kv.Entry{Index: d.index + 1, Term: 1, Config: []byte("conf")}
	start := kv.Entry{Index: d.index + 2, Term: 2, Stamp: kv.Stamp{Term: 2, NowMs: 99}}
	skipped := kv.Entry{Index: 1, Term: 1}
	results, err := d.m.Apply([]kv.Entry{skipped, stale, old, high, config, start})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, true, true, true, false, false} {
		if results[i].Rejected != want || len(results[i].Results) != 0 {
			t.Errorf("entry %d: %+v", i, results[i])
		}
	}
	got := d.m.Applied()
	want := kv.Applied{Index: d.index + 2, Term: 2, Config: []byte("conf"), ConfigIndex: d.index + 1,
		LastVersion: applied.Ceiling, Ceiling: applied.Ceiling + kv.VersionAt(1), NowMs: 99}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("applied %+v, want %+v", got, want)
	}
}

func digestOf(t tester, m *Machine) []byte {
	t.Helper()
	sum, err := m.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func imageOf(t tester, m *Machine) []byte {
	t.Helper()
	img, err := m.Image()
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	var buf bytes.Buffer
	n, err := img.WriteTo(&buf)
	if err != nil || n != int64(buf.Len()) || img.Applied().Index != m.Applied().Index {
		t.Fatalf("image: %d bytes, %v", n, err)
	}
	return buf.Bytes()
}

func TestImage(t *testing.T) {
	d := founded(t)
	data := imageOf(t, d.m)
	m := NewMachine()
	changed := m.Changed()
	if err := restore(m, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("subscribers were not told")
	}
	if !bytes.Equal(digestOf(t, m), digestOf(t, d.m)) || fmt.Sprint(m.Applied()) != fmt.Sprint(d.m.Applied()) {
		t.Error("the restored machine differs")
	}
	if err := restore(m, bytes.NewReader(data)); err == nil {
		t.Error("an image at the applied index was accepted")
	}
	// Both go on alike.
	e := d.entry(cmdAllocate(3))
	for _, machine := range []*Machine{m, d.m} {
		if _, err := machine.Apply([]kv.Entry{e}); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(digestOf(t, m), digestOf(t, d.m)) {
		t.Error("the machines differ after another command")
	}
}

func TestDamagedImagesAreRefused(t *testing.T) {
	data := imageOf(t, founded(t).m)
	m := NewMachine()
	for i := range data {
		flipped := slices.Clone(data)
		flipped[i] ^= 1 << (i % 8)
		if err := restore(m, bytes.NewReader(flipped)); err == nil {
			t.Fatalf("byte %d flipped: accepted", i)
		}
		if err := restore(m, bytes.NewReader(data[:i])); err == nil {
			t.Fatalf("cut at %d: accepted", i)
		}
	}
	if err := restore(m, bytes.NewReader(append(slices.Clone(data), 0))); err == nil {
		t.Error("a trailing byte was accepted")
	}
	if m.Applied().Index != 0 || m.State().ClusterID() != "" {
		t.Error("a refused image left something behind")
	}
}

func TestImagesOfImpossibleStatesAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*State){
		"map without a beginning": func(s *State) { s.segments = s.segments[1:] },
		"map of unknown shard":    func(s *State) { s.shards = s.shards[:1] },
		"shard id not given out":  func(s *State) { s.nextShard = 3 },
		"ordinal not given out":   func(s *State) { s.nextOrdinal = 3 },
		"nodes out of order":      func(s *State) { s.nodes = []*metapb.Node{s.nodes[1], s.nodes[0]} },
	} {
		d := founded(t)
		v := *d.m.current.Load()
		state := *v.state
		spoil(&state)
		v.state = &state
		data, err := v.encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := restore(NewMachine(), bytes.NewReader(data)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestChangesCoalesce(t *testing.T) {
	d := founded(t)
	ch := d.m.Changed()
	e := d.entry()
	e.Config = []byte("conf")
	if _, err := d.m.Apply([]kv.Entry{e}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ch:
		t.Fatal("told of an entry that changed nothing")
	default:
	}
	for range 3 {
		d.do(t, cmdAllocate(1))
	}
	<-ch
	select {
	case <-d.m.Changed():
		t.Fatal("the next change was told before it came")
	default:
	}
}
