package raftnode

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
)

func TestCommandsShareEntries(t *testing.T) {
	var entries, commands atomic.Int32
	bubbleWith(t, 3, Durable, func(o *Options) {
		o.Hooks.Proposed = func(_ kv.ServerID, n, _ int, _ time.Duration, ok bool) {
			if ok {
				entries.Add(1)
				commands.Add(int32(n))
			}
		}
	}, func(c *testCluster) {
		l := c.leader()
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				for j := range 10 {
					if err := put(l, fmt.Sprint(i), fmt.Sprint(j), 5*time.Second); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if commands.Load() != 640 || entries.Load() > 100 {
			t.Fatalf("%d commands in %d entries", commands.Load(), entries.Load())
		}
		c.converged()
		if got := machineOf(l).state.Count; got != 640 {
			t.Fatalf("%d commands applied", got)
		}
	})
}

// Versions grow in the order of the answers, across leaders, whatever the clocks
// do, and follow the clock after a pause.
func TestVersionsGrow(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		var last uint64
		version := func(r *Replica) uint64 {
			ctx, cancel := within(5 * time.Second)
			defer cancel()
			out, err := r.Propose(ctx, []byte("a=b"), 3)
			if err != nil {
				t.Fatal(err)
			}
			var v uint64
			if _, err := fmt.Sscanf(string(out), "%d:", &v); err != nil {
				t.Fatal(err)
			}
			if v <= last {
				t.Fatalf("version %d after %d", v, last)
			}
			last = v + 2
			return v
		}
		for i, skew := range []time.Duration{0, time.Hour, -time.Hour, 0, -10 * time.Minute} {
			for _, n := range c.nodes {
				n.skew.Store(int64(skew))
			}
			l := c.leader()
			for range 5 {
				version(l)
			}
			pause(time.Duration(i) * 7 * time.Second) // longer than the ceiling's window
			version(l)
			ctx, cancel := within(5 * time.Second)
			if err := l.Transfer(ctx, kv.ServerID{}); err != nil {
				t.Fatal(err)
			}
			cancel()
		}
		for _, n := range c.nodes {
			n.skew.Store(int64(2 * time.Hour))
		}
		pause(time.Minute)
		l := c.leader()
		v := kv.Version(version(l))
		if ahead := v.Time().Sub(time.Now().Add(2 * time.Hour)).Abs(); ahead > 100*time.Millisecond {
			t.Fatalf("after a pause a version is %s away from the clock", ahead)
		}
		for id := range c.nodes {
			if n := machineOf(c.replica(id)).rejected; n > 0 {
				t.Fatalf("node %s rejected %d entries", id, n)
			}
		}
	})
}

// An entry that the machine rejects was not applied; its commands are proposed
// again, and their callers do not notice.
func TestRejectedEntriesAreProposedAgain(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		l := c.leader()
		c.mustPut(l, "a", "1")
		c.converged()
		for id := range c.nodes { // as if another leader had used versions
			m := machineOf(c.replica(id))
			m.mu.Lock()
			m.state.Applied.LastVersion += kv.VersionAt(3_600_000)
			m.state.Applied.Ceiling += kv.VersionAt(3_600_000)
			m.mu.Unlock()
		}
		c.mustPut(l, "a", "2")
		c.converged()
		m := machineOf(l)
		if m.rejected != 1 || m.state.Count != 2 || m.get("a") != "2" {
			t.Fatalf("%d rejected, %d applied, a = %q", m.rejected, m.state.Count, m.get("a"))
		}
	})
}

func TestOneClockAheadIsBounded(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		l := c.leader()
		pause(3 * time.Second) // clocks are exchanged
		c.nodes[l.id.Node].skew.Store(int64(time.Hour))
		c.mustPut(l, "a", "b")
		if ahead := time.Until(time.UnixMilli(l.machine.Applied().NowMs)); ahead > 1100*time.Millisecond || ahead < 900*time.Millisecond {
			t.Fatalf("the shard's clock is %s ahead, want the limit of 1s", ahead)
		}
	})
}

func TestOutcomes(t *testing.T) {
	check := func(t *testing.T, err error, code kv.Code, outcome kv.Outcome) {
		t.Helper()
		if kv.CodeOf(err) != code || kv.OutcomeOf(err) != outcome {
			t.Fatalf("got %v (%s, %q), want %s, %q", err, kv.CodeOf(err), kv.OutcomeOf(err), code, outcome)
		}
	}
	bubble(t, 3, func(c *testCluster) {
		l := c.leader()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := l.Propose(ctx, []byte("a=b"), 1)
		check(t, err, kv.CodeTimeout, kv.OutcomeNotApplied)
		ctx, cancel = within(time.Second)
		_, err = l.Propose(ctx, make([]byte, kv.EntryBytesMax), 1)
		check(t, err, kv.CodeTooLarge, kv.OutcomeNotApplied)
		cancel()

		// Cut off: the first is proposed and its fate unknown; the second waits behind it.
		c.net.Isolate(l.id.Node, true)
		first := make(chan error, 1)
		go func() { first <- put(l, "first", "1", 200*time.Millisecond) }()
		pause(50 * time.Millisecond)
		check(t, put(l, "second", "1", 100*time.Millisecond), kv.CodeTimeout, kv.OutcomeNotApplied)
		check(t, <-first, kv.CodeOutcomeUnknown, kv.OutcomeUnknown)

		// Still there when leadership is lost: the same, from Raft.
		go func() { first <- put(l, "third", "1", 20*time.Second) }()
		check(t, <-first, kv.CodeNotLeader, kv.OutcomeNotApplied) // it waited behind the first
		next := c.leader(l.id.Node)
		c.mustPut(next, "second", "2")
		c.net.Heal()
		c.until("a hint", 10*time.Second, func() bool {
			var e *kv.Error
			return errors.As(put(l, "a", "b", time.Second), &e) && e.Code == kv.CodeNotLeader && e.Leader == next.id.Node
		})
		c.converged()
		if machineOf(next).get("second") != "2" {
			t.Fatal("a write that was not applied was applied")
		}
	})
}

func TestLeadershipLostIsUnknown(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		l := c.leader()
		c.net.Isolate(l.id.Node, true)
		err := put(l, "k", "v", 20*time.Second)
		if kv.CodeOf(err) != kv.CodeOutcomeUnknown || kv.OutcomeOf(err) != kv.OutcomeUnknown {
			t.Fatalf("got %v", err)
		}
		if !strings.Contains(err.Error(), "leadership lost") {
			t.Fatalf("the reason is missing: %v", err)
		}
		c.net.Heal()
	})
}

func TestQueueIsBounded(t *testing.T) {
	var refused atomic.Int32
	bubbleWith(t, 3, Durable, func(o *Options) {
		o.Hooks.Refused = func(kv.ServerID) { refused.Add(1) }
	}, func(c *testCluster) {
		l := c.leader()
		c.net.Isolate(l.id.Node, true)
		var wg sync.WaitGroup
		var overloaded atomic.Int32
		for range queueCommandsMax + 2000 {
			wg.Go(func() {
				if err := put(l, "k", "v", 300*time.Millisecond); kv.CodeOf(err) == kv.CodeOverloaded {
					overloaded.Add(1)
				}
			})
		}
		wg.Wait()
		if overloaded.Load() == 0 || overloaded.Load() != refused.Load() {
			t.Fatalf("%d refused, the hook saw %d", overloaded.Load(), refused.Load())
		}
		c.net.Heal()
		c.putSomewhere("k", "after")
	})
}

// A proposal that is waiting when its replica closes gets an answer.
func TestCloseAnswersWaiters(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		l := c.leader()
		c.net.Isolate(l.id.Node, true)
		answers := make(chan error, 20)
		for range 10 {
			go func() { answers <- put(l, "k", "v", time.Minute) }()
			go func() {
				ctx, cancel := within(time.Minute)
				defer cancel()
				answers <- l.ReadIndex(ctx)
			}()
		}
		pause(10 * time.Millisecond)
		start := time.Now()
		c.down(l.id.Node)
		for range 20 {
			if err := <-answers; err == nil {
				t.Error("succeeded")
			}
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Fatalf("closing took %s", took)
		}
	})
}

// A machine that meets an entry of a newer release stops its replica, and says
// nothing against the disk.
func TestNewerReleaseIsNoStorageFailure(t *testing.T) {
	var replica, storage atomic.Int32
	bubbleWith(t, 3, Durable, func(o *Options) {
		o.Hooks.Failed = func(_ kv.ServerID, _ error, ofStorage bool) {
			if ofStorage {
				storage.Add(1)
			} else {
				replica.Add(1)
			}
		}
	}, func(c *testCluster) {
		l := c.leader()
		m := machineOf(l)
		m.mu.Lock()
		m.broken = fmt.Errorf("a command: %w", kv.ErrNewerRelease)
		m.mu.Unlock()
		_ = put(l, "k", "v", 5*time.Second) // its outcome is not the matter here
		c.until("the replica has stopped", 5*time.Second, func() bool { return l.Status().Role == kv.RoleStopped })
		if replica.Load() != 1 || storage.Load() != 0 {
			t.Fatalf("%d failures of the replica, %d of storage", replica.Load(), storage.Load())
		}
	})
}

// A machine that fails stops its replica and nothing else.
func TestMachineFailureStopsTheReplica(t *testing.T) {
	var failed atomic.Int32
	bubbleWith(t, 3, Durable, func(o *Options) {
		o.Hooks.Failed = func(_ kv.ServerID, _ error, storage bool) {
			if storage {
				failed.Add(1)
			}
		}
	}, func(c *testCluster) {
		l := c.leader()
		m := machineOf(l)
		m.mu.Lock()
		m.broken = errors.New("the disk is on fire")
		m.mu.Unlock()
		err := put(l, "k", "v", 5*time.Second)
		if kv.OutcomeOf(err) != kv.OutcomeUnknown {
			t.Fatalf("got %v", err)
		}
		next := c.leader(l.id.Node)
		if machineOf(next).get("k") != "v" {
			t.Fatal("a committed entry is lost")
		}
		c.until("the replica has stopped", 5*time.Second, func() bool {
			s := l.Status()
			return s.Role == kv.RoleStopped && strings.Contains(s.Failure, "on fire")
		})
		if failed.Load() != 1 {
			t.Fatalf("the hook was called %d times", failed.Load())
		}
		if err := put(l, "k", "v", time.Second); kv.CodeOf(err) != kv.CodeNoReplica {
			t.Fatalf("got %v", err)
		}
		ctx, cancel := within(time.Second)
		defer cancel()
		if err := l.ReadIndex(ctx); kv.CodeOf(err) != kv.CodeNoReplica {
			t.Fatalf("got %v", err)
		}
		c.mustPut(next, "k", "w")
	})
}

// An entry that this release does not know stops the replica: it is not skipped.
func TestUnknownEntryStopsTheReplica(t *testing.T) {
	bubble(t, 1, func(c *testCluster) {
		l := c.leader()
		inst := l.inst.Load()
		if !inst.begin() {
			t.Fatal("not running")
		}
		applied := l.machine.Applied().Index
		_, err := l.entryResponse(inst.raft.Apply([]byte{0x08, 0x63}, 0)) // format 99
		inst.end()
		if kv.OutcomeOf(err) != kv.OutcomeUnknown {
			t.Fatalf("got %v", err)
		}
		c.until("stopped", 5*time.Second, func() bool { return strings.Contains(l.Status().Failure, "format 99") })
		if l.machine.Applied().Index != applied {
			t.Fatal("the entry was skipped")
		}
		c.down(1)
		c.up(1)
		c.until("stopped again", 10*time.Second, func() bool { return strings.Contains(c.replica(1).Status().Failure, "format 99") })
	})
}
