package placement

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

// three starts a settled cluster of three nodes.
func three(t *testing.T, w *world) []kv.NodeID {
	ids := []kv.NodeID{1, 2, 3}
	for _, id := range ids {
		w.start(id, addresses(ids...), 3, nil)
	}
	eventually(t, 20*time.Second, "settled", func() bool { return w.settled(8, ids...) })
	return ids
}

func (w *world) metaLeader() kv.NodeID {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range w.groups {
		return g.leader
	}
	return 0
}

func TestALaterNodeJoins(t *testing.T) {
	for name, join := range map[string][]string{
		"through the leader": addresses(1), "through a follower": addresses(3), "with the flags of the founders": addresses(1, 2, 3),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				three(t, w)
				w.start(4, join, 0, nil)
				eventually(t, 10*time.Second, "four nodes", func() bool { return w.settled(8, 1, 2, 3, 4) })
				w.start(5, join, 3, nil)
				eventually(t, 10*time.Second, "five nodes", func() bool { return w.settled(8, 1, 2, 3, 4, 5) })
			})
		})
	}
}

// A node whose disk was lost has a new id. It cannot take its old name while the
// old record has it, and joins under another one.
func TestAWipedNodeIsANewNode(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		three(t, w)
		w.nodes[1].stop() // the founder, which must not found again
		n := w.start(21, addresses(1, 2, 3), 3, func(o *Options) { o.Self.Name, o.Self.PeerAddress = "n1", peerAddress(1) })
		eventually(t, 10*time.Second, "refused", func() bool { return n.failure() != nil })
		if got := n.failure().Error(); !strings.Contains(got, `the name "n1" belongs to node 0000000000000001`) {
			t.Errorf("failure: %s", got)
		}
		n.stop()
		n = w.start(21, addresses(1, 2, 3), 3, func(o *Options) { o.Self.Name, o.Self.PeerAddress = "n1b", peerAddress(1) })
		eventually(t, 20*time.Second, "joined", func() bool { return n.machine.State().Node(21) != nil })
		if n.cluster() != w.nodes[2].cluster() || len(w.groups) != 1 {
			t.Error("it is in another cluster")
		}
		if records := n.disk.records; len(records) != 1 {
			t.Errorf("it holds %d replicas, though none was assigned to it", len(records))
		}
	})
}

func TestARestartedNodeWithAnotherAddressIsRecorded(t *testing.T) {
	for _, id := range []kv.NodeID{1, 2, 3} { // one of them leads the meta shard
		bubble(t, func(t *testing.T, w *world) {
			ids := three(t, w)
			w.nodes[id].stop()
			// The others' records still have the old address.
			w.start(id, addresses(ids...), 3, func(o *Options) { o.Self.PeerAddress = "moved:7101" })
			eventually(t, 10*time.Second, "recorded", func() bool {
				return w.nodes[id%3+1].machine.State().Node(id).PeerAddress == "moved:7101"
			})
			eventually(t, 30*time.Second, "settled", func() bool { return w.settled(8, ids...) })
		})
	}
}

func TestTheWholeClusterRestarts(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		ids := three(t, w)
		cluster := w.nodes[1].cluster()
		w.stopAll()
		for _, id := range []kv.NodeID{3, 1, 2} {
			w.start(id, addresses(ids...), 3, nil)
			time.Sleep(time.Second)
		}
		eventually(t, 30*time.Second, "settled", func() bool { return w.settled(8, ids...) })
		if w.nodes[2].cluster() != cluster {
			t.Error("another cluster")
		}
	})
}

// After a node's restart its shards have moved away. Leaders are spread again,
// with few transfers, and then stay.
func TestLeadersSpreadAfterARestartAndThenRest(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		ids := []kv.NodeID{1, 2, 3, 4, 5}
		for _, id := range ids {
			w.start(id, addresses(ids...), 5, func(o *Options) { o.SplitPoints = EvenSplitPoints(20) })
		}
		eventually(t, 60*time.Second, "settled", func() bool { return w.settled(20, ids...) })
		for _, id := range ids {
			w.nodes[id].stop()
			time.Sleep(10 * time.Second)
			w.locked(func() { w.transfers = 0 })
			w.start(id, addresses(ids...), 5, func(o *Options) { o.SplitPoints = EvenSplitPoints(20) })
			eventually(t, 60*time.Second, "settled", func() bool { return w.settled(20, ids...) })
			w.locked(func() {
				if w.transfers > 20 { // one a shard; mostly a handful, but elections of the same moment cost more
					t.Errorf("%d transfers after node %s came back", w.transfers, id)
				}
				w.transfers = 0
			})
			time.Sleep(2 * time.Minute)
			w.locked(func() {
				if w.transfers > 0 {
					t.Errorf("%d transfers while all was even", w.transfers)
				}
			})
		}
	})
}

func TestAnAssignmentIsFollowedOnlyOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		ids := three(t, w)
		// The record of a replica is gone but for its tombstone, as after a move away.
		n := w.nodes[2]
		n.stop()
		before := len(n.disk.records)
		w.start(2, addresses(ids...), 3, nil)
		time.Sleep(10 * time.Second)
		if len(n.disk.records) != before {
			t.Errorf("%d records, %d before the restart", len(n.disk.records), before)
		}
		h := w.nodes[1].machine.State().Shards()[0]
		moved := &metapb.Shard{Initial: h.Initial, Current: clip(h.Current, h.Current.Start, h.Current.End, 9)}
		moved.Current.Replicas = slices.DeleteFunc(slices.Clone(h.Current.Replicas), isOn(2))
		if _, ok := assignment(moved, 2); ok {
			t.Error("a replica that has moved away is assigned still")
		}
		if _, ok := assignment(&metapb.Shard{Current: h.Current}, 2); ok {
			t.Error("a shard that was split off is bootstrapped")
		}
	})
}

func TestViews(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		ids := three(t, w)
		ctx := context.Background()
		time.Sleep(3 * time.Second)
		leader := w.metaLeader()
		for _, id := range ids {
			c := w.nodes[id].control
			nodes := c.Nodes(ctx)
			leaders := 0
			for _, n := range nodes {
				leaders += n.Leaders
				if !n.Alive || n.LastSeenMs == 0 || n.Replicas != 8 || n.DiskBytes == 0 || n.MetaRole == "" || n.HTTPAddress == "" {
					t.Errorf("node %s sees %+v", id, n)
				}
			}
			if len(nodes) != 3 || leaders != 8 {
				t.Errorf("node %s sees %d nodes with %d leaders", id, len(nodes), leaders)
			}
			shards := c.Shards(ctx)
			for _, s := range shards {
				if s.Leader == 0 || s.Bytes == 0 || s.Keys == 0 || s.Term == 0 || len(s.Replicas) != 3 || s.Replicas[2].Role == "" {
					t.Errorf("node %s sees %+v", id, s)
				}
			}
			want := kv.ClusterInfo{ID: w.nodes[1].cluster(), Nodes: 3, NodesAlive: 3, Shards: 8, ShardsWithLeader: 8, ReplicationFactor: 3, MetaLeader: leader}
			if got := c.Cluster(ctx); got != want {
				t.Errorf("node %s sees %+v, want %+v", id, got, want)
			}
			for _, check := range c.Checks() {
				if !check.OK || check.Detail != "" {
					t.Errorf("node %s: %+v", id, check)
				}
			}
		}
		// One node dies: the others say so after a while.
		w.nodes[2].stop()
		eventually(t, 20*time.Second, "seen dead", func() bool { return w.nodes[3].control.Cluster(ctx).NodesAlive == 2 })
		if n := w.nodes[3].control.Nodes(ctx)[slicesIndexNode(w, 2)]; n.Alive || n.LastSeenMs == 0 {
			t.Errorf("the dead node: %+v", n)
		}
		for _, s := range w.nodes[3].control.Shards(ctx) {
			for _, r := range s.Replicas {
				if (r.Role != "") != (r.ID.Node != 2) {
					t.Errorf("with one dead: replica %+v", r)
				}
			}
		}
		// Two are dead: no meta leader, and the answer says what it does not know.
		w.nodes[1].stop()
		time.Sleep(5 * time.Second)
		c := w.nodes[3].control
		if got := c.Cluster(ctx); got.MetaLeader != 0 || got.Nodes != 3 || got.NodesAlive != 1 || got.Shards != 8 || got.ShardsWithLeader != 0 {
			t.Errorf("degraded: %+v", got)
		}
		for _, s := range c.Shards(ctx) {
			for _, r := range s.Replicas {
				if (r.Role != "") != (r.ID.Node == 3) {
					t.Errorf("degraded: replica %+v", r)
				}
			}
		}
		if checks := c.Checks(); checks[1].OK || checks[1].Detail == "" {
			t.Errorf("degraded: %+v", checks)
		}
	})
}

// slicesIndexNode gives a node's place among the members.
func slicesIndexNode(w *world, id kv.NodeID) int {
	return slices.IndexFunc(w.nodes[3].machine.State().Members(), func(n *metapb.Node) bool { return n.Id == uint64(id) })
}

func TestHandlersRefuseNonsense(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		three(t, w)
		n := w.nodes[1]
		ask := func(method uint16, req []byte) error {
			ch := make(chan error, 1)
			n.handlers[method](7, req, func(_ []byte, err error) { ch <- err })
			return <-ch
		}
		for _, method := range []uint16{MethodProbe, MethodJoin, MethodReport, MethodAdmin} {
			for _, req := range [][]byte{nil, {0xff}, {0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f}, []byte(strings.Repeat("x", 1000))} {
				if err := ask(method, req); kv.CodeOf(err) != kv.CodeInvalid || kv.OutcomeOf(err) != kv.OutcomeNotApplied {
					t.Errorf("method %d, request %q: %v", method, req, err)
				}
			}
		}
		n.control.Close()
		if err := ask(MethodJoin, nil); kv.CodeOf(err) != kv.CodeDraining {
			t.Errorf("after Close: %v", err)
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		good := w.start(1, nil, 0, nil).opts
		for name, spoil := range map[string]func(*Options){
			"no machine":         func(o *Options) { o.Machine = nil },
			"no address":         func(o *Options) { o.Self.PeerAddress = "" },
			"replication factor": func(o *Options) { o.ReplicationFactor = 8 },
			"split points":       func(o *Options) { o.SplitPoints = [][]byte{{2}, {1}} },
			"expect":             func(o *Options) { o.Expect = -1 },
		} {
			o := good
			spoil(&o)
			if _, err := New(o); err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
	})
}

// A removed node learns of it from the meta leader and ends.
func TestARemovedNodeEnds(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		three(t, w)
		n := w.start(4, addresses(1), 0, nil)
		eventually(t, 10*time.Second, "four nodes", func() bool { return w.settled(8, 1, 2, 3, 4) })
		leader := w.nodes[w.metaLeader()]
		if _, err := propose(context.Background(), fakeMeta{leader}, cmdState(4, metapb.NodeState_NODE_REMOVED)); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, "failed", func() bool { return n.failure() != nil })
		if got := n.failure().Error(); !strings.Contains(got, "was removed") {
			t.Errorf("failure: %s", got)
		}
	})
}

func TestJoinIsRefusedToMembersOfAnotherCluster(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		three(t, w)
		for _, n := range w.nodes {
			_, err := n.control.agent.admit(context.Background(), 9, &metapb.JoinRequest{ClusterId: "other", Node: testNode(9)})
			if kv.CodeOf(err) != kv.CodeConflict {
				t.Errorf("node %s: %v", n.id, err)
			}
			_, err = n.control.agent.admit(context.Background(), 8, &metapb.JoinRequest{Node: testNode(9)})
			if kv.CodeOf(err) != kv.CodeInvalid {
				t.Errorf("node %s, for another: %v", n.id, err)
			}
		}
	})
}

// A shard whose leadership will not move is not asked all the time.
func TestTransfersRest(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		ids := three(t, w)
		w.nodes[3].stop()
		time.Sleep(10 * time.Second)
		w.start(3, addresses(ids...), 3, nil)
		w.mu.Lock()
		w.reluctant, w.asked = true, map[kv.ShardID]int{}
		w.mu.Unlock()
		time.Sleep(time.Minute)
		w.mu.Lock()
		defer w.mu.Unlock()
		for shard, n := range w.asked {
			if n > 7 {
				t.Errorf("shard %s: %d transfers in a minute", shard, n)
			}
		}
		if len(w.asked) == 0 {
			t.Error("no transfer at all")
		}
	})
}

// An unanswered or failing step is tried again after longer and longer waits.
func TestFailedStepsWaitLonger(t *testing.T) {
	l := &loop{tuning: Tuning{}.withDefaults(), running: map[string]Step{}, retry: map[string]attempt{}, log: slog.New(&logSink{})}
	now := time.UnixMilli(1e12)
	l.now = func() time.Time { return now }
	step := Step{Kind: StepCreateShards}
	var waits []time.Duration
	for range 8 {
		l.ended(step, errDown, false)
		waits = append(waits, l.retry[step.Key()].notBefore.Sub(now))
	}
	want := []time.Duration{5e8, 1e9, 2e9, 4e9, 8e9, 15e9, 15e9, 15e9}
	if !slices.Equal(waits, want) {
		t.Errorf("waits %v, want %v", waits, want)
	}
	l.ended(step, nil, false)
	if len(l.retry) != 0 {
		t.Error("a step that succeeded waits")
	}
}
