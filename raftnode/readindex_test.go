package raftnode

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate-db/quorate/internal/simnet"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// gateMesh holds back what matches, as a network or a paused process would.
type gateMesh struct {
	peer.Mesh
	mu   sync.Mutex
	drop func(to kv.NodeID, m peer.Method, req []byte) bool
	// late holds back the answers of what it matches, until released.
	late    func(to kv.NodeID, m peer.Method) bool
	release chan struct{}
	held    atomic.Int32
}

func (g *gateMesh) Send(to kv.NodeID, m peer.Method, req []byte, deadline time.Time, done func([]byte, error)) {
	g.mu.Lock()
	drop, late, release := g.drop, g.late, g.release
	g.mu.Unlock()
	if drop != nil && drop(to, m, req) {
		done(nil, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "dropped"))
		return
	}
	if late != nil && late(to, m) {
		g.Mesh.Send(to, m, req, deadline, func(resp []byte, err error) {
			g.held.Add(1)
			go func() {
				<-release
				done(resp, err)
			}()
		})
		return
	}
	g.Mesh.Send(to, m, req, deadline, done)
}

func (g *gateMesh) set(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

// gated gives every host a gateMesh.
func gated() (map[kv.NodeID]*gateMesh, func(*Options)) {
	gates := map[kv.NodeID]*gateMesh{}
	return gates, func(o *Options) {
		g := &gateMesh{Mesh: o.Mesh}
		gates[o.Node] = g
		o.Mesh = g
	}
}

// A leader whose requests were answered, but whose answers are late, is deposed.
// A read that begins after the new leader has acknowledged a write must not be
// satisfied by answers from before (VerifyUsesInflightHeartbeat).
func TestReadIsNotServedByOldAnswers(t *testing.T) {
	gates, setup := gated()
	bubbleWith(t, 3, Durable, func(o *Options) {
		setup(o)
		if o.Node == 1 { // a paused process: its lease does not run out
			o.Timing.Heartbeat, o.Timing.Election, o.Timing.Lease = 30*time.Second, 30*time.Second, 30*time.Second
		}
	}, func(c *testCluster) {
		one := c.replica(1)
		c.until("node 1 leads", 30*time.Second, func() bool {
			l := c.leader()
			if l != one {
				ctx, cancel := within(time.Second)
				defer cancel()
				_ = l.Transfer(ctx, one.id) // tried again
			}
			return one.Status().LeaderReady
		})
		c.mustPut(one, "k", "old")
		g := gates[1]
		release := make(chan struct{})
		g.set(func() { g.late, g.release = func(kv.NodeID, peer.Method) bool { return true }, release })
		early := make(chan error, 1)
		go func() {
			ctx, cancel := within(20 * time.Second)
			defer cancel()
			early <- one.ReadIndex(ctx)
		}()
		c.until("answers are held back", 5*time.Second, func() bool { return g.held.Load() >= 4 })
		c.net.Isolate(1, true)
		next := c.leader(1)
		c.mustPut(next, "k", "new")
		if !one.Status().LeaderReady {
			t.Fatal("node 1 knows that it was deposed: nothing is tested")
		}
		read := make(chan error, 1)
		go func() {
			ctx, cancel := within(3 * time.Second)
			defer cancel()
			err := one.ReadIndex(ctx)
			if err == nil && machineOf(one).get("k") == "old" {
				err = errors.New("stale")
			} else if err != nil {
				err = nil
			}
			read <- err
		}()
		pause(20 * time.Millisecond)
		close(release)
		if err := <-read; err != nil {
			t.Fatal("a read that began after the write was acknowledged does not see it")
		}
		<-early // began before the new leader: either answer is right
		g.set(func() { g.late = nil })
		c.net.Heal()
		c.until("node 1 reads", 60*time.Second, func() bool {
			ctx, cancel := within(time.Second)
			defer cancel()
			return one.ReadIndex(ctx) == nil && machineOf(one).get("k") == "new"
		})
	})
}

// A leader that nobody follows any more, but that still reaches the others, learns
// from their terms that it must not serve.
func TestReadIsRefusedAtAHigherTerm(t *testing.T) {
	gates, setup := gated()
	bubbleWith(t, 3, Durable, func(o *Options) {
		setup(o)
		if o.Node == 1 { // its lease does not run out
			o.Timing.Heartbeat, o.Timing.Election, o.Timing.Lease = 30*time.Second, 30*time.Second, 30*time.Second
		}
	}, func(c *testCluster) {
		one := c.replica(1)
		c.until("node 1 leads", 30*time.Second, func() bool {
			if l := c.leader(); l != one {
				ctx, cancel := within(time.Second)
				defer cancel()
				_ = l.Transfer(ctx, one.id) // tried again
			}
			return one.Status().LeaderReady
		})
		c.mustPut(one, "k", "old")
		onlyTerms := func(to kv.NodeID, m peer.Method, _ []byte) bool { return m != peer.MethodTerms }
		gates[1].set(func() { gates[1].drop = onlyTerms })
		for id := kv.NodeID(2); id <= 3; id++ {
			gates[id].set(func() {
				gates[id].drop = func(to kv.NodeID, m peer.Method, _ []byte) bool { return to == 1 && m != peer.MethodTerms }
			})
		}
		next := c.leader(1)
		c.mustPut(next, "k", "new")
		if !one.Status().LeaderReady {
			t.Fatal("node 1 knows that it was deposed: nothing is tested")
		}
		ctx, cancel := within(time.Second)
		defer cancel()
		if err := one.ReadIndex(ctx); err == nil {
			t.Fatalf("served %q", machineOf(one).get("k"))
		}
		for _, g := range gates {
			g.set(func() { g.drop = nil })
		}
		c.until("node 1 follows", 60*time.Second, func() bool { return machineOf(one).get("k") == "new" })
	})
}

// A new leader that has not committed anything of its term does not know what was
// acknowledged (VerifyBeforeNoop).
func TestFreshLeaderDoesNotRead(t *testing.T) {
	gates, setup := gated()
	bubbleWith(t, 3, Durable, setup, func(c *testCluster) {
		l := c.leader()
		// Followers know of the commit only from what follows; cut them off right after
		// they have stored the write.
		var cut atomic.Bool
		isEntry := func(_ kv.NodeID, m peer.Method, req []byte) bool {
			if !cut.Load() || m != peer.MethodAppendEntries {
				return false
			}
			in := &wireReader{rest: req}
			a, err := in.decodeAppend(in.envelope())
			return err == nil && len(a.Entries) > 0
		}
		for _, g := range gates {
			g.set(func() { g.drop = isEntry })
		}
		c.mustPut(l, "k", "v")
		cut.Store(true) // from now on no entries move, heartbeats and votes do
		c.net.Isolate(l.id.Node, true)
		var fresh *Replica
		c.until("a leader without its first entry", 20*time.Second, func() bool {
			for id := range c.nodes {
				if r := c.replica(id); id != l.id.Node && r.Status().Role == kv.RoleLeader {
					fresh = r
					return true
				}
			}
			return false
		})
		ctx, cancel := within(300 * time.Millisecond)
		err := fresh.ReadIndex(ctx)
		cancel()
		if err == nil {
			t.Fatalf("a leader that has committed nothing reads %q", machineOf(fresh).get("k"))
		}
		if kv.CodeOf(err) != kv.CodeTimeout || kv.OutcomeOf(err) != kv.OutcomeNone {
			t.Fatalf("got %v", err)
		}
		cut.Store(false)
		c.until("reads", 20*time.Second, func() bool {
			ctx, cancel := within(time.Second)
			defer cancel()
			r := c.leader(l.id.Node)
			return r.ReadIndex(ctx) == nil && machineOf(r).get("k") == "v"
		})
		c.net.Heal()
	})
}

func TestReadsShareRounds(t *testing.T) {
	var rounds, reads atomic.Int32
	bubbleWith(t, 3, Durable, func(o *Options) {
		o.Hooks.ReadRound = func(_ kv.ServerID, n int, _ time.Duration, ok bool) {
			if ok {
				rounds.Add(1)
				reads.Add(int32(n))
			}
		}
	}, func(c *testCluster) {
		l := c.leader()
		var wg sync.WaitGroup
		for id := range c.nodes {
			r := c.replica(id)
			for range 200 {
				wg.Go(func() {
					ctx, cancel := within(5 * time.Second)
					defer cancel()
					if err := r.ReadIndex(ctx); err != nil {
						t.Errorf("node %s: %v", r.id.Node, err)
					}
				})
			}
		}
		wg.Wait()
		if rounds.Load() > 30 {
			t.Fatalf("%d rounds for 600 reads", rounds.Load())
		}
		_ = l
	})
}

// A follower learns of the commit with its read, not with the next heartbeat.
func TestFollowerReadOfAQuietShardIsFast(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		l := c.leader()
		for i := range 10 {
			pause(3 * time.Second)
			c.mustPut(l, "k", fmt.Sprint(i))
			for id := range c.nodes {
				start := time.Now()
				ctx, cancel := within(time.Second)
				if err := c.replica(id).ReadIndex(ctx); err != nil {
					t.Fatal(err)
				}
				cancel()
				if got := machineOf(c.replica(id)).get("k"); got != fmt.Sprint(i) {
					t.Fatalf("node %s read %q after %d", id, got, i)
				}
				if took := time.Since(start); took > 10*time.Millisecond {
					t.Fatalf("node %s: a read took %s", id, took)
				}
			}
		}
		if got := c.leader(); got != l {
			t.Fatal("leadership moved")
		}
	})
}

func TestReadWithoutAMajorityFails(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		l := c.leader()
		c.net.Isolate(l.id.Node, true)
		ctx, cancel := within(300 * time.Millisecond)
		defer cancel()
		if err := l.ReadIndex(ctx); kv.CodeOf(err) != kv.CodeTimeout {
			t.Fatalf("got %v", err)
		}
	})
}

// Readers run against writers while leaders are cut off; no read may miss what was
// acknowledged before it began.
func TestReadsAreLinearizableUnderFaults(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		var acknowledged atomic.Int64
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := int64(1); ctx.Err() == nil; i++ {
				for ctx.Err() == nil {
					done := false
					for id := range c.nodes {
						if put(c.replica(id), "n", fmt.Sprint(i), 500*time.Millisecond) == nil {
							acknowledged.Store(i)
							done = true
							break
						}
					}
					if done {
						break
					}
					pause(5 * time.Millisecond)
				}
				pause(time.Millisecond)
			}
		})
		served, failures := atomic.Int64{}, atomic.Int64{}
		for id := range c.nodes {
			r := c.replica(id)
			wg.Go(func() {
				for ctx.Err() == nil {
					floor := acknowledged.Load()
					rctx, rcancel := within(200 * time.Millisecond)
					err := r.ReadIndex(rctx)
					rcancel()
					if err != nil {
						failures.Add(1)
						continue
					}
					served.Add(1)
					var got int64
					_, _ = fmt.Sscan(machineOf(r).get("n"), &got) // absent is 0
					if got < floor {
						t.Errorf("node %s read %d after %d was acknowledged", r.id.Node, got, floor)
						return
					}
					pause(time.Millisecond)
				}
			})
		}
		for range 12 {
			l := c.leader()
			pause(3 * time.Second)
			c.net.Isolate(l.id.Node, true)
			pause(1500 * time.Millisecond)
			c.net.Heal()
			c.net.SetAll(simnet.Link{DelayMin: 100 * time.Microsecond, DelayMax: 3 * time.Millisecond, Drop: 0.01})
		}
		cancel()
		wg.Wait()
		c.net.Heal()
		c.converged()
		if served.Load() < 1000 || acknowledged.Load() < 100 {
			t.Fatalf("too little happened: %d reads, %d failed, %d writes", served.Load(), failures.Load(), acknowledged.Load())
		}
	})
}
