package raftnode

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// eventually runs a step until it works, at whoever leads.
func (c *testCluster) eventually(what string, step func(ctx context.Context, leader *Replica) error) {
	c.t.Helper()
	var last error
	defer func() {
		if c.t.Failed() {
			c.t.Logf("last error: %v", last)
		}
	}()
	c.until(what, 60*time.Second, func() bool {
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		last = step(ctx, c.leader())
		return last == nil
	})
}

// move replaces a member by a new one on another node, one step at a time.
func (c *testCluster) move(from, to kv.ServerID) {
	c.t.Helper()
	c.create(to.Node, to.Shard, to.Incarnation, nil)
	c.eventually("added", func(ctx context.Context, l *Replica) error { return l.AddNonvoter(ctx, to) })
	c.eventually("promoted", func(ctx context.Context, l *Replica) error { return l.Promote(ctx, to) })
	c.eventually("removed", func(ctx context.Context, l *Replica) error { return l.Remove(ctx, from) })
	ctx, cancel := within(20 * time.Second)
	defer cancel()
	if err := c.nodes[from.Node].host.Destroy(ctx, from); err != nil {
		c.t.Fatal(err)
	}
	delete(c.nodes[from.Node].disks, from.Shard)
}

func TestMembersMove(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		c.up(4)
		id := func(node, incarnation int) kv.ServerID {
			return kv.ServerID{Node: kv.NodeID(node), Shard: testShard, Incarnation: uint64(incarnation)}
		}
		free, moves := kv.NodeID(4), 0
		for i := range 20 {
			c.mustPut(c.leader(), fmt.Sprint("k", i), "v")
		}
		c.cutLog() // so that what comes needs the state, not the log
		incarnation := map[kv.NodeID]int{1: 1, 2: 1, 3: 1, 4: 0}
		for moves < 8 {
			from := kv.NodeID(moves%4 + 1) // leaders among them
			if from == free {
				from = from%4 + 1
			}
			incarnation[free]++
			c.move(id(int(from), incarnation[from]), id(int(free), incarnation[free]))
			free = from
			moves++
			c.mustPut(c.leader(), fmt.Sprint("m", moves), "v")
		}
		c.converged()
		l := c.leader()
		for i := range 20 {
			if machineOf(l).get(fmt.Sprint("k", i)) != "v" {
				t.Fatalf("write %d is lost", i)
			}
		}
		if s := l.Status(); len(s.Members) != 3 || voters(s.Members) != 3 {
			t.Fatalf("members %v", s.Members)
		}
		// Again from disk.
		for id := range c.nodes {
			c.down(id)
		}
		for id := range c.nodes {
			c.up(id)
		}
		c.mustPut(c.leader(), "end", "v")
		c.converged()
	})
}

func TestMembershipRefusals(t *testing.T) {
	bubble(t, 1, func(c *testCluster) {
		c.up(2)
		l := c.leader()
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		two := kv.ServerID{Node: 2, Shard: testShard, Incarnation: 1}
		check := func(err error, code kv.Code) {
			t.Helper()
			if kv.CodeOf(err) != code {
				t.Fatalf("got %v, want %s", err, code)
			}
		}
		check(l.Promote(ctx, two), kv.CodeConflict)
		check(l.Remove(ctx, l.id), kv.CodeConflict)
		check(l.Remove(ctx, two), "")
		check(l.AddNonvoter(ctx, kv.ServerID{Node: 2, Shard: 9, Incarnation: 1}), kv.CodeConflict)
		check(l.AddNonvoter(ctx, kv.ServerID{Node: 1, Shard: testShard, Incarnation: 2}), kv.CodeConflict)
		check(l.AddNonvoter(ctx, two), "") // before it exists there
		check(l.AddNonvoter(ctx, two), "")
		check(l.Promote(ctx, two), kv.CodeUnavailable)
		c.create(2, testShard, 1, nil)
		c.until("follows", 10*time.Second, func() bool {
			return c.replica(2).Status().Role == kv.RoleLearner && c.replica(2).machine.Applied().Index > 0
		})
		check(c.replica(2).Promote(ctx, two), kv.CodeNotLeader)
		check(c.replica(2).AddNonvoter(ctx, two), kv.CodeNotLeader)
		check(c.replica(2).Remove(ctx, two), kv.CodeNotLeader)
		check(c.replica(2).Transfer(ctx, two), kv.CodeNotLeader)
		rctx, rcancel := within(2 * time.Second)
		defer rcancel()
		if err := c.replica(2).ReadIndex(rctx); err != nil {
			t.Fatalf("a learner does not read: %v", err)
		}
		c.eventually("promoted", func(ctx context.Context, l *Replica) error { return l.Promote(ctx, two) })
		// The leader removes itself by handing over.
		check(l.Remove(ctx, l.id), kv.CodeNotLeader)
		c.until("the other leads", 5*time.Second, func() bool { return c.replica(2).Status().LeaderReady })
		check(c.replica(2).Remove(ctx, l.id), "")
		c.mustPut(c.replica(2), "alone", "v")
		// The removed one cannot disturb.
		term := c.replica(2).Status().Term
		pause(10 * time.Second)
		if got := c.replica(2).Status().Term; got != term {
			t.Fatalf("term went from %d to %d", term, got)
		}
	})
}

// Of three, one has just died, and nobody who plans knows it yet. To take a living one
// out would leave a shard of which half lives.
func TestRemovalLeavesAMajorityThatAnswers(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		l := c.leader()
		living, dead := c.replica(l.id.Node%3+1), c.replica((l.id.Node+1)%3+1)
		c.down(dead.id.Node)
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		if err := l.Remove(ctx, living.id); kv.CodeOf(err) != kv.CodeUnavailable || kv.OutcomeOf(err) != kv.OutcomeNotApplied {
			t.Fatalf("the living one is taken out: %v", err)
		}
		c.mustPut(l, "k", "v")
		if err := l.Remove(ctx, dead.id); err != nil {
			t.Fatal(err)
		}
		c.mustPut(l, "k", "w")
	})
}

// A member that has not heard that another one came votes for it all the same: it may
// be the only one that can lead.
func TestLaggingMemberVotesForOneThatItDoesNotKnow(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		c.up(4)
		c.mustPut(c.leader(), "before", "v")
		c.converged()
		c.net.Isolate(3, true)
		c.net.Isolate(4, true)
		c.net.CutBoth(4, 1, false)
		c.net.CutBoth(4, 2, false)
		first := kv.ServerID{Node: 1, Shard: testShard, Incarnation: 1}
		c.until("one of two others leads", 20*time.Second, func() bool { l := c.leader(); return l.id.Node != 3 && l.Status().LeaderReady })
		c.move(first, kv.ServerID{Node: 4, Shard: testShard, Incarnation: 1})
		c.down(1)
		c.mustPut(c.leader(), "between", "v")
		c.until("the new one has it", 20*time.Second, func() bool { return machineOf(c.replica(4)).get("between") == "v" })
		c.down(2)
		c.until("the new one alone does not lead", 20*time.Second, func() bool { return c.replica(4).Status().Role != kv.RoleLeader })
		c.net.Heal()
		c.until("the new one leads", time.Minute, func() bool { return c.replica(4).Status().LeaderReady })
		c.mustPut(c.replica(4), "after", "v")
		c.until("the lagging one has all", 20*time.Second, func() bool { return machineOf(c.replica(3)).get("after") == "v" })
	})
}

func TestRecords(t *testing.T) {
	bubble(t, 1, func(c *testCluster) {
		h := c.nodes[1].host
		ctx, cancel := within(10 * time.Second)
		defer cancel()
		record := func(incarnation uint64) Record {
			id := kv.ServerID{Node: 1, Shard: testShard, Incarnation: incarnation}
			return Record{ID: id, Kind: Durable, Log: SharedLog, Payload: []byte("x"), Members: []kv.Member{{ID: id, Voter: true}}}
		}
		want := func(err error, code kv.Code) {
			t.Helper()
			if kv.CodeOf(err) != code {
				t.Fatalf("got %v, want %s", err, code)
			}
		}
		want(h.Create(ctx, record(1)), kv.CodeConflict)
		want(h.Create(ctx, record(2)), kv.CodeConflict) // one at a time
		want(h.Create(ctx, Record{}), kv.CodeInvalid)
		want(h.Destroy(ctx, record(1).ID), "")
		want(h.Destroy(ctx, record(1).ID), "")
		if _, ok := h.Replica(testShard); ok {
			t.Fatal("still there")
		}
		want(h.Create(ctx, record(1)), kv.CodeConflict) // tombstoned
		delete(c.nodes[1].disks, testShard)
		want(h.Create(ctx, record(2)), "")
		c.leader()
		c.down(1)
		c.up(1)
		h = c.nodes[1].host
		if r := c.replica(1); r.id.Incarnation != 2 || string(r.Record().Payload) != "x" {
			t.Fatalf("came back as %v", r.record)
		}
		c.leader()
		want(h.Destroy(ctx, record(1).ID), "") // a later one is there
		if _, ok := h.Replica(testShard); !ok {
			t.Fatal("the order to destroy another incarnation destroyed this one")
		}
		want(h.Destroy(ctx, record(2).ID), "")
		c.down(1)
		c.up(1)
		if n := len(c.nodes[1].host.Replicas()); n != 0 {
			t.Fatalf("%d replicas came back from a tombstone", n)
		}
		want(c.nodes[1].host.Create(ctx, record(2)), kv.CodeConflict)
	})
}

// What fails half way can be repeated.
func TestCreateAndDestroyCanBeRepeated(t *testing.T) {
	var broken atomic.Bool
	bubbleWith(t, 1, Durable, func(o *Options) {
		machine := o.Machine
		o.Machine = func(r Record) (StateMachine, error) {
			if broken.Load() {
				return nil, errors.New("no space")
			}
			return machine(r)
		}
	}, func(c *testCluster) {
		h := c.nodes[1].host
		id := kv.ServerID{Node: 1, Shard: 9, Incarnation: 1}
		r := Record{ID: id, Kind: Durable, Log: SharedLog, Members: []kv.Member{{ID: id, Voter: true}}}
		ctx, cancel := within(20 * time.Second)
		defer cancel()
		broken.Store(true)
		if err := h.Create(ctx, r); err == nil {
			t.Fatal("created without a machine")
		}
		broken.Store(false)
		if err := h.Create(ctx, r); err != nil {
			t.Fatal(err)
		}
		nine := c.replicaOf(1, 9)
		c.until("leads", 10*time.Second, func() bool { return nine.Status().LeaderReady })
		c.mustPut(nine, "a", "b")
		// The disk hangs, and the replica cannot be stopped in time.
		release := c.nodes[1].logs.store(id).hang()
		stuck := make(chan error, 1)
		go func() { stuck <- put(nine, "c", "d", time.Minute) }()
		pause(10 * time.Millisecond)
		short, cancelShort := within(time.Second)
		defer cancelShort()
		if err := h.Destroy(short, id); err == nil {
			t.Fatal("destroyed while a write hangs")
		}
		release()
		if err := h.Destroy(ctx, id); err != nil {
			t.Fatal(err)
		}
		if err := <-stuck; kv.OutcomeOf(err) == kv.OutcomeNotApplied {
			t.Fatalf("a write that was logged: %v", err)
		}
	})
}

// A record whose configuration was not written before a crash is bootstrapped
// when the host opens.
func TestBootstrapIsFinished(t *testing.T) {
	bubble(t, 1, func(c *testCluster) {
		c.leader()
		n := c.nodes[1]
		id := c.replica(1).id
		c.down(1)
		log := n.logs.store(id)
		last, _ := log.LastIndex()
		if err := log.DeleteRange(1, last); err != nil {
			t.Fatal(err)
		}
		n.disks[testShard].saved = nil
		c.up(1)
		c.mustPut(c.leader(), "a", "b")
	})
}

// A replica that was destroyed and made again is another server: messages for the
// first one are refused.
func TestOtherIncarnationIsRefused(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		l := c.leader()
		victim := l.id.Node%3 + 1
		ctx, cancel := within(10 * time.Second)
		defer cancel()
		if err := c.nodes[victim].host.Destroy(ctx, kv.ServerID{Node: victim, Shard: testShard, Incarnation: 1}); err != nil {
			t.Fatal(err)
		}
		delete(c.nodes[victim].disks, testShard)
		c.create(victim, testShard, 2, nil)
		pause(5 * time.Second)
		r := c.replica(victim)
		if s := r.Status(); s.Term != 0 || s.LastIndex != 0 || len(s.Members) != 0 || s.Role != kv.RoleLearner {
			t.Fatalf("got %+v", s)
		}
		if a := c.nodes[victim].host.termsOf(kv.ServerID{Node: victim, Shard: testShard, Incarnation: 1}); a.known {
			t.Fatal("answers for another incarnation")
		}
		c.mustPut(c.leader(), "a", "b")
	})
}
