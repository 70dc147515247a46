package router

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAnyNodeServesAnyKey(t *testing.T) {
	c := newCluster(t, 3, "g", "n", "t")
	for id := kv.NodeID(1); id <= 3; id++ {
		for _, key := range []string{"a", "h", "o", "u", "\x00", "\xff\xff"} {
			want := fmt.Sprintf("%s by %s", key, id)
			w, err := c.router(id).Txn(context.Background(), put(key, want), nil)
			if err != nil {
				t.Fatal(err)
			}
			for from := kv.NodeID(1); from <= 3; from++ {
				got, served := c.mustGet(from, key, kv.ReadOptions{})
				if got != want {
					t.Fatalf("key %q from node %s: %q, want %q", key, from, got, want)
				}
				if served.Consistency != kv.Linearizable || served.Shard != w.Served.Shard || served.Node != w.Served.Node || served.LastVersion != w.Served.LastVersion {
					t.Fatalf("read says %+v, write says %+v", served, w.Served)
				}
			}
		}
	}
}

func TestTheWayToTheLeaderIsRemembered(t *testing.T) {
	c := newCluster(t, 3)
	// Node 2 has no replica and no idea; the voters are asked in turn.
	c.locked(func() {
		d := c.shards[2].desc
		d.Replicas = []*kvpb.ReplicaDescriptor{{Node: 1, Role: kvpb.ReplicaRole_ROLE_NONVOTER}, {Node: 3, Role: kvpb.ReplicaRole_ROLE_VOTER}}
		c.shards[2].leader = 3
	})
	for range 3 {
		if got, _ := c.mustGet(2, "k", kv.ReadOptions{}); got != "" {
			t.Fatalf("got %q", got)
		}
		if calls := c.take(); len(calls) != 1 || calls[0].to != 3 {
			t.Fatalf("calls %v, want one to the only voter", calls)
		}
	}
	// A local read at the leader asks nobody.
	c.mustGet(3, "k", kv.ReadOptions{})
	if calls := c.take(); len(calls) != 0 {
		t.Fatalf("the leader called %v", calls)
	}
	// A hint leads to the new leader at once.
	c.locked(func() {
		c.shards[2].desc.Replicas = append(c.shards[2].desc.Replicas, &kvpb.ReplicaDescriptor{Node: 4, Role: kvpb.ReplicaRole_ROLE_VOTER})
		c.shards[2].leader = 1
	})
	c.mustGet(2, "k", kv.ReadOptions{})
	if calls := c.take(); len(calls) != 2 || calls[0].to != 3 || calls[1].to != 1 {
		t.Fatalf("calls %v, want the old leader and the one it names", calls)
	}
}

func TestAFailoverIsASlowSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.mustPut("n")
		began := time.Now()
		c.locked(func() { c.nodes[1].down = true })
		elected := time.AfterFunc(1200*time.Millisecond, func() { c.locked(func() { c.shards[2].leader = 3 }) })
		defer elected.Stop()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if _, err := c.router(2).Txn(context.Background(), add("counter", 1), nil); err != nil {
					t.Errorf("write over a failover: %v", err)
				}
			})
			wg.Go(func() {
				if _, err := c.router(2).Get(context.Background(), []byte("n"), kv.ReadOptions{}); err != nil {
					t.Errorf("read over a failover: %v", err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took > 1400*time.Millisecond {
			t.Errorf("it took %s, of which the election 1.2s", took)
		}
		if got, _ := c.mustGet(2, "counter", kv.ReadOptions{}); got != "10" {
			t.Errorf("counter %s, want 10", got)
		}
	})
}

// TestLostMessagesApplyOnce has many writers count while messages are lost both
// ways and leaders change. Each acknowledged addition is there exactly once, each
// refused one not at all.
func TestLostMessagesApplyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, "m")
		var mu sync.Mutex
		rng := rand.New(rand.NewPCG(1, 2))
		roll := func(n int) int {
			mu.Lock()
			defer mu.Unlock()
			return rng.IntN(n)
		}
		c.fault = func(call) fault {
			return [...]fault{deliver, deliver, deliver, loseAsk, loseAnswer, loseAnswer, refuse}[roll(7)]
		}
		c.proposed = func(_ kv.NodeID, _ kv.ShardID, answer []byte) ([]byte, error) {
			if roll(4) == 0 {
				return nil, kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown, "leadership lost")
			}
			return answer, nil
		}
		stop := make(chan struct{})
		var wg, changes sync.WaitGroup
		changes.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(7 * time.Millisecond):
					c.locked(func() { c.shards[kv.ShardID(2+roll(2))].leader = kv.NodeID(1 + roll(3)) })
				}
			}
		})
		var acked, replayed [2]int
		for w := range 12 {
			wg.Go(func() {
				for range 40 {
					which := roll(2)
					key := []string{"a", "z"}[which]
					got, err := c.router(kv.NodeID(1+w%3)).Txn(context.Background(), add(key, 1), nil)
					if err != nil {
						t.Errorf("write: %s", describe(err))
						continue
					}
					mu.Lock()
					acked[which]++
					if got.Replayed {
						replayed[which]++
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		close(stop)
		changes.Wait()
		c.fault, c.proposed = nil, nil
		for i, key := range []string{"a", "z"} {
			if got, _ := c.mustGet(1, key, kv.ReadOptions{}); got != strconv.Itoa(acked[i]) {
				t.Errorf("%s counts %s, acknowledged were %d", key, got, acked[i])
			}
			if replayed[i] == 0 {
				t.Errorf("no answer for %s was replayed: the test lost nothing", key)
			}
		}
	})
}

func TestAForwardedRequestIsNotPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		// Nodes 1 and 2 each believe the other to lead; nobody does.
		c.locked(func() {
			c.shards[2].leader = 0
			c.nodes[1].believes[2], c.nodes[2].believes[2] = 2, 1
			c.nodes[3].believes[2] = 2
		})
		_, err := c.router(3).Txn(context.Background(), put("k", "v"), nil)
		wantError(t, err, kv.CodeUnavailable, kv.OutcomeNotApplied)
		_, err = c.router(3).Get(context.Background(), []byte("k"), kv.ReadOptions{})
		wantError(t, err, kv.CodeUnavailable, kv.OutcomeNone)
		calls := c.take()
		if len(calls) < 10 {
			t.Fatalf("only %d calls; the hints were not followed", len(calls))
		}
		for _, k := range calls {
			if k.from != 3 {
				t.Fatalf("call %v by a node that no client asked", k)
			}
		}
		if len(calls) > 400 {
			t.Fatalf("%d calls in ten seconds: no pauses", len(calls))
		}
	})
}

func TestAMapWithHolesIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, "m")
		v := c.nodes[1].view
		v.descs, v.follows = nil, false
		_, err := c.router(1).Get(context.Background(), []byte("k"), kv.ReadOptions{})
		wantError(t, err, kv.CodeUnavailable, kv.OutcomeNone)
		_, err = c.router(1).Scan(context.Background(), kv.ScanRequest{Reverse: true})
		wantError(t, err, kv.CodeUnavailable, kv.OutcomeNone)
		_, err = c.router(1).DeleteRange(context.Background(), nil, nil, nil)
		wantError(t, err, kv.CodeUnavailable, kv.OutcomeNotApplied)
		later := time.AfterFunc(time.Second, v.refresh)
		defer later.Stop()
		if _, err = c.router(1).Txn(context.Background(), put("k", "v"), nil); err != nil {
			t.Fatal(err)
		}
	})
}

func TestANodeWithASlowClockWritesAllTheSame(t *testing.T) {
	c := newCluster(t, 1)
	c.mustPut("k") // the shard knows the time
	past := func() time.Time { return time.Now().Add(-time.Hour) }
	c.nodes[1].r = New(Options{Self: 1, Local: c.nodes[1], Map: c.nodes[1].view, Peers: c.nodes[1], Now: past})
	c.locked(func() { c.shards[2].machine.floorMs = time.Now().Add(-10 * time.Minute).UnixMilli() })
	if _, err := c.router(1).Txn(context.Background(), put("k", "2"), nil); err != nil {
		t.Fatal(err)
	}
	if n, err := c.router(1).DeleteRange(context.Background(), nil, nil, nil); n != 1 || err != nil {
		t.Fatalf("deleted %d, %v", n, err)
	}
	// An id of the caller's is not renewed: nobody knows what became of it.
	old := &kvpb.RequestID{Hi: 1, Lo: 2, IssuedMs: past().UnixMilli()}
	_, err := c.router(1).Txn(context.Background(), put("k", "3"), old)
	wantError(t, err, kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
}

func TestCloseEndsWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		c.locked(func() { c.shards[2].leader = 0 })
		done := make(chan error)
		go func() {
			_, err := c.router(1).Txn(context.Background(), put("k", "v"), nil)
			done <- err
		}()
		synctest.Wait()
		c.router(1).Close()
		wantError(t, <-done, kv.CodeDraining, kv.OutcomeNotApplied)
	})
}
