package raftnode

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
)

func TestStalledLeaderIsReplaced(t *testing.T) {
	var stalls, resumed atomic.Int32
	bubbleWith(t, 3, Durable, func(o *Options) {
		o.Hooks.Stalled = func(_ kv.ServerID, begin bool) {
			if begin {
				stalls.Add(1)
			} else {
				resumed.Add(1)
			}
		}
	}, func(c *testCluster) {
		for round := range 5 {
			l := c.leader()
			c.mustPut(l, "before", fmt.Sprint(round))
			release := c.nodes[l.id.Node].logs.store(l.id).hang()
			start := time.Now()
			stuck := make(chan error, 1)
			go func() { stuck <- put(l, "stuck", fmt.Sprint(round), time.Minute) }()
			next := c.leader(l.id.Node)
			c.mustPut(next, "after", fmt.Sprint(round))
			if took := time.Since(start); took > 10*time.Second {
				t.Fatalf("writes came back after %s", took)
			}
			release()
			if err := <-stuck; kv.OutcomeOf(err) == kv.OutcomeNotApplied {
				t.Fatalf("the stuck write was logged, got %v", err)
			}
			c.converged()
			for id := range c.nodes {
				if n := c.replica(id).mute.Load(); n != 0 {
					t.Fatalf("node %s stays mute (%d)", id, n)
				}
			}
		}
		if stalls.Load() == 0 || stalls.Load() != resumed.Load() {
			t.Fatalf("%d stalls, %d ends", stalls.Load(), resumed.Load())
		}
	})
}

// The library's own pipeline got stuck after a follower's disk had stalled.
func TestPipelineSurvivesAHundredStalls(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		l := c.leader()
		slow := l.id.Node%3 + 1
		for i := range 100 {
			release := c.nodes[slow].logs.store(c.replica(slow).id).hang()
			for range 40 { // more than the window holds
				c.mustPut(l, "k", fmt.Sprint(i))
			}
			pause(time.Duration(i%8) * time.Second)
			release()
			if i%10 == 9 {
				c.converged()
				if now := c.leader(); now != l {
					t.Fatalf("stall %d of a follower moved leadership to node %s", i, now.id.Node)
				}
			}
		}
		c.converged()
	})
}

// A failed write stops the replica; it is mute before anybody could hear of it.
func TestFailedWriteStopsTheReplica(t *testing.T) {
	for _, leads := range []bool{true, false} {
		t.Run(fmt.Sprint("leader=", leads), func(t *testing.T) {
			bubble(t, 3, func(c *testCluster) {
				l := c.leader()
				victim := l
				if !leads {
					victim = c.replica(l.id.Node%3 + 1)
				}
				c.nodes[victim.id.Node].logs.store(victim.id).fail(errors.New("input/output error"))
				err := put(l, "k", "v", 5*time.Second)
				if leads && kv.OutcomeOf(err) != kv.OutcomeUnknown || !leads && err != nil {
					t.Fatalf("got %v", err)
				}
				c.until("stopped", 10*time.Second, func() bool {
					s := victim.Status()
					return s.Role == kv.RoleStopped && strings.Contains(s.Failure, "input/output")
				})
				next := c.leader(victim.id.Node)
				c.mustPut(next, "k", "w")
				c.nodes[victim.id.Node].logs.store(victim.id).fail(nil)
				c.down(victim.id.Node)
				c.up(victim.id.Node)
				c.converged()
			})
		})
	}
}

// Raft cannot store its term: the library would panic.
func TestFailedTermDoesNotPanic(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		l := c.leader()
		victim := c.replica(l.id.Node%3 + 1)
		c.nodes[victim.id.Node].logs.store(victim.id).fail(errors.New("input/output error"))
		c.net.Isolate(l.id.Node, true) // so it has to vote or stand
		c.until("stopped", 30*time.Second, func() bool { return victim.Status().Role == kv.RoleStopped })
		c.net.Heal()
		c.mustPut(c.leader(victim.id.Node), "k", "v")
	})
}

// badLog gives entries that cannot be read.
type badLog struct {
	LogStore
	bad atomic.Uint64
}

func (l *badLog) GetLog(index uint64, out *raft.Log) error {
	if index == l.bad.Load() {
		return kv.Errorf(kv.CodeCorrupt, kv.OutcomeNone, "entry %d has a flipped bit", index)
	}
	return l.LogStore.GetLog(index, out)
}

// badLogs wraps the logs of one node.
type badLogs struct {
	Logs
	log *badLog
}

func (l *badLogs) Open(id kv.ServerID, kind LogKind) (LogStore, error) {
	inner, err := l.Logs.Open(id, kind)
	l.log.LogStore = inner
	return l.log, err
}

func TestCorruptLogEntryStopsTheReplica(t *testing.T) {
	log := &badLog{}
	bubbleWith(t, 3, Durable, func(o *Options) {
		if o.Node == 1 {
			o.Logs = &badLogs{o.Logs, log}
		}
	}, func(c *testCluster) {
		l := c.leader()
		for i := range 5 {
			c.mustPut(l, fmt.Sprint("k", i), "v")
		}
		c.converged()
		one := c.replica(1)
		next := l.inst.Load().raft.LastIndex() + 1
		log.bad.Store(next)
		c.putSomewhere("k", "w")
		c.putSomewhere("k", "x")
		c.until("stopped or served from memory", 10*time.Second, func() bool {
			s := one.Status()
			return strings.Contains(s.Failure, "flipped bit") || one == l && machineOf(one).get("k") == "x"
		})
		if got := machineOf(one).get("k"); got != "" && one != l {
			t.Fatalf("applied %q beyond a corrupt entry", got)
		}
	})
}
