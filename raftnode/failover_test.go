package raftnode

import (
	"fmt"
	"testing"
	"time"

	"github.com/quorate-db/quorate/internal/simnet"
	"github.com/quorate-db/quorate/kv"
)

func TestFailoverKeepsAcknowledgedWrites(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		written := 0
		for round := range 4 {
			l := c.leader()
			for range 10 {
				c.mustPut(l, fmt.Sprint("k", written), fmt.Sprint(round))
				written++
			}
			c.down(l.id.Node)
			next := c.leader(l.id.Node)
			for i := range written {
				if machineOf(next).get(fmt.Sprint("k", i)) == "" {
					t.Fatalf("round %d: write %d is lost", round, i)
				}
			}
			c.mustPut(next, "after", fmt.Sprint(round))
			c.up(l.id.Node)
			c.converged()
		}
	})
}

// A node that was away for long learns at once what it has missed, although the
// library would not ask it for ten seconds.
func TestReturnAfterALongAbsence(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		l := c.leader()
		c.mustPut(l, "before", "v")
		for id := range c.nodes {
			if id == l.id.Node {
				continue
			}
			c.down(id)
			c.mustPut(l, fmt.Sprint("while", id, "away"), "v")
			pause(2 * time.Minute)
			c.up(id)
			c.until("the node that is back has what it missed", 2*time.Second, func() bool {
				return machineOf(c.replica(id)).get(fmt.Sprint("while", id, "away")) == "v"
			})
		}
	})
}

// A follower that was cut off does not take what it is told then for news of now: as
// long as it lacks what was written meanwhile, it knows that it is behind.
func TestReturnKnowsHowOldItIs(t *testing.T) {
	const travel = 20 * time.Millisecond
	bubble(t, 3, func(c *testCluster) {
		c.net.SetAll(simnet.Link{DelayMin: travel, DelayMax: travel})
		for round := range 20 {
			l := c.leader()
			follower := c.replica(1 + l.id.Node%3)
			c.net.Cut(l.id.Node, follower.id.Node, true) // its own messages arrive
			c.mustPut(l, fmt.Sprint("a", round), "v")
			pause(c.nodes[l.id.Node].host.opts.Timing.Append + time.Second) // until it is given up
			key := fmt.Sprint("b", round)
			c.mustPut(l, key, "v")
			written := time.Now()
			pause(time.Duration(1000+17*round) * time.Millisecond)
			c.net.Cut(l.id.Node, follower.id.Node, false)
			c.until("the follower has all", 5*time.Second, func() bool {
				age, known := follower.LastContact()
				has := machineOf(follower).get(key) == "v"
				if known && !has && age+2*travel < time.Since(written) {
					t.Errorf("round %d: the follower says that it is %s old, and lacks what was written %s ago", round, age, time.Since(written))
				}
				return has
			})
			c.converged()
		}
	})
}

func TestRestartOfEverything(t *testing.T) {
	for _, kind := range []Kind{Durable, InMemory} {
		t.Run(kind.String(), func(t *testing.T) {
			bubbleWith(t, 3, kind, nil, func(c *testCluster) {
				for i := range 10 {
					c.mustPut(c.leader(), fmt.Sprint("k", i), "v")
				}
				for id := range c.nodes {
					ctx, cancel := within(time.Second)
					if err := c.replica(id).Snapshot(ctx); err != nil {
						t.Fatal(err)
					}
					cancel()
				}
				for i := range 10 {
					c.mustPut(c.leader(), fmt.Sprint("m", i), "v")
				}
				for id := range c.nodes {
					c.down(id)
				}
				for id := range c.nodes {
					c.up(id)
				}
				l := c.leader()
				for i := range 10 {
					if m := machineOf(l); m.get(fmt.Sprint("k", i)) != "v" || m.get(fmt.Sprint("m", i)) != "v" {
						t.Fatalf("write %d is lost", i)
					}
				}
				c.mustPut(l, "again", "v")
				c.converged()
				if got := machineOf(l).state.Count; got != 21 {
					t.Fatalf("%d commands were applied, want 21", got)
				}
			})
		})
	}
}

// A refused connection makes a follower stand at once; a machine that is gone
// without a word costs the timeout.
func TestFailoverIsFastWhereAProcessDied(t *testing.T) {
	for _, tc := range []struct {
		kind simnet.DownKind
		max  time.Duration
	}{{simnet.Killed, 300 * time.Millisecond}, {simnet.Lost, 5 * time.Second}} {
		t.Run(fmt.Sprint(tc.kind), func(t *testing.T) {
			bubble(t, 3, func(c *testCluster) {
				l := c.leader()
				c.mustPut(l, "a", "1")
				start := time.Now()
				c.net.Down(l.id.Node, tc.kind)
				next := c.leader(l.id.Node)
				if took := time.Since(start); took > tc.max {
					t.Fatalf("failover took %s, want at most %s", took, tc.max)
				}
				c.mustPut(next, "b", "2")
				c.net.Up(l.id.Node)
				c.converged()
			})
		})
	}
}

// Where messages take a while, followers of a leader that has died do not stand against
// each other: that would cost an election timeout.
func TestFailoverWhereMessagesTakeLong(t *testing.T) {
	bubble(t, 5, func(c *testCluster) {
		for round := range 8 {
			c.net.SetAll(simnet.Link{DelayMin: 30 * time.Millisecond, DelayMax: 45 * time.Millisecond})
			l := c.leader()
			c.mustPut(l, "a", fmt.Sprint(round))
			start := time.Now()
			c.net.Down(l.id.Node, simnet.Killed)
			next := c.leader(l.id.Node)
			if took := time.Since(start); took > 500*time.Millisecond {
				t.Fatalf("round %d: failover took %s", round, took)
			}
			c.mustPut(next, "b", fmt.Sprint(round))
			c.net.Up(l.id.Node)
			c.net.Heal()
			c.converged()
		}
	})
}

func TestCloseHandsLeadershipOver(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		l := c.leader()
		n := c.nodes[l.id.Node]
		start := time.Now()
		ctx, cancel := within(10 * time.Second)
		defer cancel()
		if err := n.host.Close(ctx); err != nil {
			t.Fatal(err)
		}
		n.mesh.Close()
		n.host = nil
		c.leader(l.id.Node)
		if took := time.Since(start); took > 700*time.Millisecond {
			t.Fatalf("without a leader for %s", took)
		}
	})
}

func TestTransfer(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		for range 10 {
			l := c.leader()
			c.mustPut(l, "a", "1")
			to := l.id
			to.Node = l.id.Node%3 + 1
			ctx, cancel := within(5 * time.Second)
			if err := l.Transfer(ctx, to); err != nil {
				t.Fatal(err)
			}
			cancel()
			c.until("the chosen one leads", time.Second, func() bool { return c.replica(to.Node).Status().LeaderReady })
		}
	})
}

// Leadership is not handed to one that cannot be reached, however often that is
// tried: the leader stays, and takes writes all the while.
func TestTransferToOneThatIsGone(t *testing.T) {
	for _, kind := range []simnet.DownKind{simnet.Killed, simnet.Lost} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			bubble(t, 3, func(c *testCluster) {
				l := c.leader()
				c.mustPut(l, "a", "1")
				_, term, _ := l.leading()
				to := l.id
				to.Node = l.id.Node%3 + 1
				c.net.Down(to.Node, kind)
				pause(200 * time.Millisecond) // the appends to it begin to fail
				for i := range 4 {
					done := make(chan error, 1)
					go func() {
						ctx, cancel := within(5 * time.Second)
						defer cancel()
						done <- l.Transfer(ctx, to)
					}()
					if err := put(l, "b", fmt.Sprint(i), 100*time.Millisecond); err != nil {
						t.Fatalf("write while attempt %d was under way: %v", i, err)
					}
					if err := <-done; err == nil {
						t.Fatal("leadership moved to a node that nobody reaches")
					}
					if err := put(l, "b", fmt.Sprint(i), 100*time.Millisecond); err != nil {
						t.Fatalf("write after attempt %d: %v", i, err)
					}
				}
				// To whoever can is another matter.
				ctx, cancel := within(5 * time.Second)
				defer cancel()
				if err := l.Transfer(ctx, kv.ServerID{}); err != nil {
					t.Fatalf("transfer to anybody: %v", err)
				}
				if _, now, _ := c.leader(to.Node, l.id.Node).leading(); now <= term {
					t.Fatalf("term %d after term %d", now, term)
				}
				c.net.Up(to.Node)
				c.converged()
			})
		})
	}
}

// The library's flag of a transfer in progress, left behind, makes a leader
// refuse every write for ever; we restart it.
func TestStuckTransferRestartsRaft(t *testing.T) {
	bubble(t, 1, func(c *testCluster) {
		l := c.leader()
		c.mustPut(l, "a", "1")
		before := l.inst.Load()
		pause(10 * time.Second)
		l.transferRefused() // as if Raft had said so
		c.until("another run of Raft", 5*time.Second, func() bool {
			inst := l.inst.Load()
			return inst != nil && inst != before
		})
		c.mustPut(c.leader(), "b", "2")
		if l.machine.(*testMachine).get("a") != "1" {
			t.Fatal("the state is gone")
		}
	})
}

func TestUnreachableDoesNotDisturbAHealthyGroup(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		l := c.leader()
		for id, n := range c.nodes {
			if id != l.id.Node {
				for other := range c.nodes {
					if other != l.id.Node {
						n.host.unreachable(other)
					}
				}
			}
		}
		n := c.nodes[l.id.Node]
		n.host.unreachable(l.id.Node)
		pause(time.Second)
		if _, term, _ := l.leading(); term != l.Status().Term || !l.Status().LeaderReady {
			t.Fatal("leadership was lost")
		}
	})
}
