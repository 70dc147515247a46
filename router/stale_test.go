package router

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// lag leaves a node's replica at what the shard has now.
func (c *cluster) lag(id kv.ShardID, node kv.NodeID) {
	c.locked(func() { c.shards[id].lagging[node] = c.shards[id].machine.clone() })
}

func (c *cluster) write(t *testing.T, key, value string) kv.Version {
	t.Helper()
	w, err := c.router(1).Txn(context.Background(), put(key, value), nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.Served.LastVersion
}

func TestStaleReads(t *testing.T) {
	c := newCluster(t, 3)
	c.write(t, "k", "old")
	c.lag(2, 2)
	c.lag(2, 3)
	c.write(t, "k", "new")
	stale := kv.ReadOptions{Consistency: kv.Stale}

	// This node's own replica answers, whatever it has and whoever leads.
	c.locked(func() { c.shards[2].leader = 0 })
	c.take()
	got, served := c.mustGet(2, "k", stale)
	if got != "old" || served.Node != 2 || served.Consistency != kv.Stale || len(c.take()) != 0 {
		t.Fatalf("got %q, %+v", got, served)
	}
	// A node without a replica asks those that have one, in turn.
	c.locked(func() {
		c.shards[2].desc.Replicas = c.shards[2].desc.Replicas[1:]
		c.nodes[2].down = true
	})
	for range 4 {
		got, served = c.mustGet(1, "k", stale)
		if got != "old" || served.Node != 3 || served.Consistency != kv.Stale {
			t.Fatalf("got %q, %+v", got, served)
		}
	}
	c.locked(func() { c.nodes[2].down = false })
	c.take()
	asked := map[kv.NodeID]int{}
	for range 10 {
		_, served = c.mustGet(1, "k", stale)
		asked[served.Node]++
	}
	if asked[2] != 5 || asked[3] != 5 {
		t.Fatalf("asked %v, want both alike", asked)
	}
}

func TestStalenessIsBounded(t *testing.T) {
	c := newCluster(t, 3)
	c.write(t, "k", "old")
	c.lag(2, 2)
	c.lag(2, 3)
	c.write(t, "k", "new")
	c.locked(func() {
		c.shards[2].contact[2] = 10 * time.Second
		c.shards[2].contact[3] = 3 * time.Second
	})
	for bound, want := range map[time.Duration]struct {
		value string
		node  kv.NodeID
		as    kv.Consistency
	}{
		time.Minute:     {"old", 2, kv.Stale},
		5 * time.Second: {"old", 3, kv.Stale},
		// The leader is asked as any other replica, and is never out of touch.
		time.Second:     {"new", 1, kv.Stale},
		time.Nanosecond: {"new", 1, kv.Stale},
	} {
		// Of two that qualify, either may answer.
		for range 3 {
			c.locked(func() {
				if bound == 5*time.Second {
					c.nodes[1].down = true
				}
			})
			got, served := c.mustGet(2, "k", kv.ReadOptions{Consistency: kv.Stale, MaxStaleness: bound})
			if got != want.value || served.Node != want.node || served.Consistency != want.as {
				t.Errorf("within %s: %q, %+v", bound, got, served)
			}
			c.locked(func() { c.nodes[1].down = false })
		}
	}
}

func TestAVersionOfOnesOwnIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.write(t, "k", "old")
		c.lag(2, 2)
		c.lag(2, 3)
		seen := c.write(t, "k", "new")
		opts := kv.ReadOptions{Consistency: kv.Stale, MinVersion: seen}
		c.fault = func(k call) fault { // the leader is not a candidate at first
			if k.to == 1 {
				return refuse
			}
			return deliver
		}
		caughtUp := time.AfterFunc(50*time.Millisecond, func() { c.locked(func() { delete(c.shards[2].lagging, 2) }) })
		defer caughtUp.Stop()
		got, served := c.mustGet(2, "k", opts)
		if got != "new" || served.Node != 2 || served.Consistency != kv.Stale {
			t.Fatalf("got %q, %+v", got, served)
		}
		// If it takes too long the leader answers, linearizably: here the version
		// is one of a busier shard, that this one will not reach.
		c.fault = nil
		ahead := kv.VersionAt(time.Now().Add(time.Hour).UnixMilli())
		began := time.Now()
		got, served = c.mustGet(2, "k", kv.ReadOptions{Consistency: kv.Stale, MinVersion: ahead})
		if got != "new" || served.Node != 1 || served.Consistency != kv.Linearizable {
			t.Fatalf("got %q, %+v", got, served)
		}
		if took := time.Since(began); took < 100*time.Millisecond || took > 300*time.Millisecond {
			t.Fatalf("after %s, want a wait of 100ms and no more than a pause longer", took)
		}
		// A linearizable read sees whatever was acknowledged and does not wait.
		began = time.Now()
		if got, _ = c.mustGet(2, "k", kv.ReadOptions{MinVersion: ahead}); got != "new" || time.Since(began) > 0 {
			t.Fatalf("got %q after %s", got, time.Since(began))
		}
	})
}

func TestAStaleReadDoesNotBelieveALaggard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Node 2's map knows the split; the replica that answers first has an
		// older range. It is passed over, not learned from.
		c := newCluster(t, 2)
		c.mustPut("a", "z")
		c.split(2, "m", 9)
		c.nodes[2].view.refresh()
		wrong := &kvpb.ReadResponse{Status: kvpb.Status_STATUS_WRONG_SHARD, Descriptor_: &kvpb.ShardDescriptor{Shard: 2, Generation: 2}}
		if done, _ := c.router(2).staleAnswer(&kvpb.ShardDescriptor{Shard: 2, Generation: 2}, wrong, nil); done {
			t.Error("believed a replica that knows no more than the map")
		}
		if done, err := c.router(2).staleAnswer(&kvpb.ShardDescriptor{Shard: 2, Generation: 1}, wrong, nil); !done || kv.CodeOf(err) != kv.CodeWrongShard {
			t.Errorf("a newer one: %v, %v", done, err)
		}
		// An old map finds the way.
		if got, served := c.mustGet(1, "z", kv.ReadOptions{Consistency: kv.Stale}); got != "v:z" || served.Shard != 9 {
			t.Fatalf("got %q, %+v", got, served)
		}
		if c.nodes[1].view.learned == 0 {
			t.Error("nothing was learned")
		}
	})
}

func TestStaleReadWithoutAnybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.locked(func() {
			c.shards[2].desc.Replicas = c.shards[2].desc.Replicas[1:]
			c.nodes[2].down, c.nodes[3].down = true, true
		})
		_, err := c.router(1).Get(context.Background(), []byte("k"), kv.ReadOptions{Consistency: kv.Stale})
		wantError(t, err, kv.CodeUnavailable, kv.OutcomeNone)
		// One that comes back is enough, without a leader.
		back := time.AfterFunc(time.Second, func() {
			c.locked(func() { c.nodes[3].down, c.shards[2].leader = false, 0 })
		})
		defer back.Stop()
		if _, served := c.mustGet(1, "k", kv.ReadOptions{Consistency: kv.Stale}); served.Node != 3 {
			t.Fatalf("%+v", served)
		}
	})
}

func TestReadAtAVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		first := c.write(t, "k", "1")
		time.Sleep(time.Minute)
		between := kv.VersionAt(time.Now().UnixMilli())
		time.Sleep(time.Minute)
		second := c.write(t, "k", "2")
		for _, from := range []kv.NodeID{1, 2} {
			for at, want := range map[kv.Version]string{first - 1: "", first: "1", between: "1", second - 1: "1", second: "2"} {
				got, served := c.mustGet(from, "k", kv.ReadOptions{At: at})
				if got != want || served.Consistency != kv.Linearizable {
					t.Errorf("at %s: %q by %+v, want %q", at, got, served, want)
				}
			}
		}
		// A quiet shard has written nothing since: the version is settled by an
		// empty command before it is read, so that no later write can slip below it.
		time.Sleep(time.Minute)
		quiet := kv.VersionAt(time.Now().UnixMilli()) - 1
		for _, from := range []kv.NodeID{1, 2} {
			got, served := c.mustGet(from, "k", kv.ReadOptions{At: quiet})
			if got != "2" || served.LastVersion < quiet {
				t.Errorf("from %s: %q with the last version %s, asked was %s", from, got, served.LastVersion, quiet)
			}
		}
		// The near future is waited for, the far one refused.
		soon := kv.VersionAt(time.Now().Add(2 * time.Second).UnixMilli())
		began := time.Now()
		if got, _ := c.mustGet(2, "k", kv.ReadOptions{At: soon}); got != "2" {
			t.Errorf("soon: %q", got)
		}
		wantAbout(t, time.Since(began), 2*time.Second)
		_, err := c.router(2).Get(context.Background(), []byte("k"), kv.ReadOptions{At: kv.VersionAt(time.Now().Add(time.Hour).UnixMilli())})
		wantError(t, err, kv.CodeInvalid, kv.OutcomeNone)
		// A follower that is far enough may serve what cannot change any more.
		got, served := c.mustGet(2, "k", kv.ReadOptions{At: first, Consistency: kv.Stale})
		if got != "1" || served.Node != 2 {
			t.Errorf("stale at the first version: %q by %+v", got, served)
		}
	})
}

// TestSettlingKeepsToTheLeader counts the calls: read, empty command, read.
func TestSettlingKeepsToTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 5)
		c.mustPut("k")
		c.mustGet(4, "k", kv.ReadOptions{})
		time.Sleep(time.Minute) // virtual: a quiet shard
		c.take()
		c.mustGet(4, "k", kv.ReadOptions{At: kv.VersionAt(time.Now().UnixMilli()) - 1})
		calls := c.take()
		if len(calls) != 3 {
			t.Fatalf("calls %v, want three", calls)
		}
		for _, k := range calls {
			if k.to != 1 {
				t.Fatalf("calls %v, want all to the leader", calls)
			}
		}
	})
}

func TestReadRefusals(t *testing.T) {
	r := newCluster(t, 1).router(1)
	_, err := r.Get(context.Background(), nil, kv.ReadOptions{})
	wantError(t, err, kv.CodeInvalid, kv.OutcomeNone)
	_, err = r.Get(context.Background(), make([]byte, kv.KeyBytesMax+1), kv.ReadOptions{})
	wantError(t, err, kv.CodeKeyTooLong, kv.OutcomeNone)
	_, err = r.Get(context.Background(), []byte("k"), kv.ReadOptions{Consistency: "eventual"})
	wantError(t, err, kv.CodeInvalid, kv.OutcomeNone)
}
