package router

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// split parts a shard at a key; the right half gets the given id and the leader
// of the left.
func (c *cluster) split(id kv.ShardID, at string, child kv.ShardID) {
	c.locked(func() { c.splitLocked(id, at, child) })
}

func (c *cluster) splitLocked(id kv.ShardID, at string, child kv.ShardID) {
	left := c.shards[id]
	right := &shard{leader: left.leader, machine: left.machine.clone(), lagging: map[kv.NodeID]*machine{}, contact: map[kv.NodeID]time.Duration{}}
	left.desc, right.desc = proto.CloneOf(left.desc), proto.CloneOf(left.desc)
	left.desc.Generation++
	left.desc.End = []byte(at)
	right.desc.Generation++
	right.desc.Shard, right.desc.Start = uint64(child), []byte(at)
	left.sibling = right.desc
	c.shards[child] = right
}

// freeze readies a shard to be absorbed by its left neighbour.
func (c *cluster) freeze(id kv.ShardID) { c.locked(func() { c.shards[id].frozen = true }) }

// absorbLocked has a shard take over its frozen right neighbour.
func (c *cluster) absorbLocked(into, id kv.ShardID) {
	left, right := c.shards[into], c.shards[id]
	left.machine.absorb(right.desc, right.machine)
	left.desc = proto.CloneOf(left.desc)
	left.desc.Generation = max(left.desc.Generation, right.desc.Generation) + 1
	left.desc.End = right.desc.End
	delete(c.shards, id)
}

func (c *cluster) absorb(into, id kv.ShardID) { c.locked(func() { c.absorbLocked(into, id) }) }

// moveLocked gives a shard other replicas; the first leads. Its range and generation stay.
func (c *cluster) moveLocked(id kv.ShardID, nodes ...kv.NodeID) {
	s := c.shards[id]
	s.desc = proto.CloneOf(s.desc)
	s.desc.Replicas = nil
	for _, n := range nodes {
		s.desc.Replicas = append(s.desc.Replicas, &kvpb.ReplicaDescriptor{Node: uint64(n), Role: kvpb.ReplicaRole_ROLE_VOTER})
	}
	s.leader = nodes[0]
}

// both gives a transaction that adds one to each of the keys.
func both(keys ...string) *kvpb.Txn {
	txn := &kvpb.Txn{}
	for _, key := range keys {
		txn.Then = append(txn.Then, add(key, 1).Then...)
	}
	return txn
}

// TestARetryAfterASplitGoesStraightToTheChild: the refusal tells both halves, so a
// map that hears of nothing else is enough.
func TestARetryAfterASplitGoesStraightToTheChild(t *testing.T) {
	for name, do := range map[string]func(r *Router) error{
		"write": func(r *Router) error { _, err := r.Txn(context.Background(), put("z", "v"), nil); return err },
		"read": func(r *Router) error {
			_, err := r.Get(context.Background(), []byte("z"), kv.ReadOptions{})
			return err
		},
		"scan": func(r *Router) error {
			_, err := r.Scan(context.Background(), kv.ScanRequest{Start: []byte("x")})
			return err
		},
		"scan backwards": func(r *Router) error {
			_, err := r.Scan(context.Background(), kv.ScanRequest{Start: []byte("x"), Reverse: true})
			return err
		},
		"scan over both": func(r *Router) error { _, err := r.Scan(context.Background(), kv.ScanRequest{}); return err },
		"delete range": func(r *Router) error {
			_, err := r.DeleteRange(context.Background(), []byte("x"), nil, nil)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 3)
				c.mustPut("a", "z")
				c.nodes[2].view.follows = false
				c.split(2, "m", 9)
				c.take()
				began := time.Now()
				if err := do(c.router(2)); err != nil {
					t.Fatal(err)
				}
				if calls := c.take(); len(calls) > 4 || time.Since(began) > 0 {
					t.Errorf("%d calls in %s", len(calls), time.Since(began))
				}
			})
		})
	}
}

// TestAFrozenShardIsWaitedFor until it is absorbed or goes on, longer than patience
// would, by reads and writes, and by a node whose map hears of nothing.
func TestAFrozenShardIsWaitedFor(t *testing.T) {
	for name, do := range map[string]func(r *Router) error{
		"write": func(r *Router) error { _, err := r.Txn(context.Background(), put("z", "v"), nil); return err },
		"batch": func(r *Router) error { return r.Batch(context.Background(), counters("y", "n"), nil)[1].Err },
		"read": func(r *Router) error {
			_, err := r.Get(context.Background(), []byte("z"), kv.ReadOptions{})
			return err
		},
		"stale read": func(r *Router) error {
			_, err := r.Get(context.Background(), []byte("z"), kv.ReadOptions{Consistency: kv.Stale})
			return err
		},
		"scan": func(r *Router) error { _, err := r.Scan(context.Background(), kv.ScanRequest{}); return err },
		"scan backwards": func(r *Router) error {
			_, err := r.Scan(context.Background(), kv.ScanRequest{Reverse: true})
			return err
		},
		"delete range": func(r *Router) error { _, err := r.DeleteRange(context.Background(), nil, nil, nil); return err },
	} {
		for _, absorbed := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := newCluster(t, 3, "m")
					// Node 3 is to have no replica of either.
					c.locked(func() {
						c.moveLocked(2, 1, 2)
						c.moveLocked(3, 2, 1)
					})
					v := c.nodes[3].view
					v.refresh()
					v.follows = false
					c.freeze(3)
					end := time.AfterFunc(7*time.Second, func() {
						if absorbed {
							c.absorb(2, 3)
						} else {
							c.locked(func() { c.shards[3].frozen = false })
						}
					})
					defer end.Stop()
					began := time.Now()
					if err := do(c.router(3)); err != nil {
						t.Fatal(err)
					}
					if took := time.Since(began); took < 7*time.Second || took > 7200*time.Millisecond {
						t.Errorf("it took %s", took)
					}
				})
			})
		}
	}
}

// TestATransactionThatASplitParts is refused only if it certainly was not applied,
// and will not be (invariant 5).
func TestATransactionThatASplitParts(t *testing.T) {
	for _, keys := range [][]string{{"a", "z"}, {"z", "a"}} {
		for _, applied := range []bool{false, true} { // by the attempt whose answer is lost
			for _, again := range []bool{false, true} { // by another node: the caller's own retry
				t.Run(fmt.Sprintf("%v,applied=%v,again=%v", keys, applied, again), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { parted(t, keys, applied, again) })
				})
			}
		}
	}
}

func parted(t *testing.T, keys []string, applied, again bool) {
	id := &kvpb.RequestID{Hi: 1, Lo: 2, IssuedMs: time.Now().UnixMilli(), Fingerprint: 3}
	c := newCluster(t, 2)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	first := true
	part := func() error {
		if !first {
			return nil
		}
		first = false
		c.split(2, "m", 9)
		c.nodes[1].view.refresh()
		c.nodes[2].view.refresh()
		if again {
			cancel()
		}
		return kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown, "lost")
	}
	if applied {
		c.proposed = func(_ kv.NodeID, _ kv.ShardID, answer []byte) ([]byte, error) { return answer, part() }
	} else {
		c.propose = func(kv.NodeID, kv.ShardID) error { return part() }
	}
	w, err := c.router(1).Txn(ctx, both(keys...), id)
	if again {
		wantError(t, err, kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
		w, err = c.router(2).Txn(context.Background(), both(keys...), id)
	}
	if applied && (err != nil || !w.Replayed) {
		t.Fatalf("%+v, %v", w, err)
	}
	if !applied {
		wantError(t, err, kv.CodeCrossShardTxn, kv.OutcomeNotApplied)
	}
	for _, key := range keys {
		if got, _ := c.mustGet(1, key, kv.ReadOptions{}); (got == "1") != applied {
			t.Errorf("%s counts %q", key, got)
		}
	}
}

// TestALateAttemptFindsTheShardChanged has an attempt come when the keys are in one
// shard again, after the request was refused because they were not.
func TestALateAttemptFindsTheShardChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		first := true
		c.lateBy = func() time.Duration { return time.Second }
		c.fault = func(call) fault {
			if !first {
				return deliver
			}
			first = false
			c.splitLocked(2, "m", 9)
			return late
		}
		_, err := c.router(2).Txn(context.Background(), both("a", "z"), nil)
		wantError(t, err, kv.CodeCrossShardTxn, kv.OutcomeNotApplied)
		c.absorb(2, 9)
		c.underWay.Wait()
		if got, _ := c.mustGet(1, "a", kv.ReadOptions{}); got != "" {
			t.Fatalf("a counts %s", got)
		}
		if _, err := c.router(2).Txn(context.Background(), both("a", "z"), nil); err != nil {
			t.Fatal(err)
		}
	})
}

// TestAShardInTwoPieces has a map that has heard of a child in the middle of what it
// believes to be one shard's: what lies left and right of it is not one group.
func TestAShardInTwoPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		c.mustPut("a", "m", "z")
		c.split(2, "k", 9)
		c.split(9, "p", 10)
		v := c.nodes[2].view
		v.follows = false
		v.Learn(c.shards[9].desc)
		if all := v.Overlapping(nil, nil); len(all) != 3 || all[0].Shard != all[2].Shard {
			t.Fatalf("the map is %v", all)
		}
		// Until the map hears of the third shard, nobody knows who has the rest.
		news := time.AfterFunc(time.Second, v.refresh)
		got, err := c.router(2).MultiGet(context.Background(), [][]byte{[]byte("a"), []byte("z"), []byte("m")}, kv.ReadOptions{})
		if err != nil || string(got[0].Item.GetKey()) != "a" || string(got[1].Item.GetKey()) != "z" {
			t.Fatalf("%v, %v", got, err)
		}
		v.descs = []*kvpb.ShardDescriptor{{Shard: 2, Generation: 1, Replicas: c.shards[2].desc.Replicas}}
		v.Learn(c.shards[9].desc)
		news.Reset(time.Second)
		defer news.Stop()
		for i, o := range c.router(2).Batch(context.Background(), counters("b", "y", "n", "x"), nil) {
			if o.Err != nil || o.Written.Result.Ops[0].Number != 1 {
				t.Errorf("operation %d: %+v", i, o)
			}
		}
	})
}
