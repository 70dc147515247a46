package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/quorate-db/quorate/internal/simnet"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement"
)

const childShard = kv.ShardID(500)

// adders add one to counters all over the key space, each add under a request id
// that is asked again until there is an answer. So each is applied exactly once, or
// the counter tells.
type adders struct {
	c    *Cluster
	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup

	mu     sync.Mutex
	added  map[string]int64
	last   map[string]*kvpb.RequestID
	slow   time.Duration // the longest that one add took
	failed error
}

const addersAtOnce = 4

func startAdders(c *Cluster) *adders {
	a := &adders{c: c, stop: make(chan struct{}), added: map[string]int64{}, last: map[string]*kvpb.RequestID{}}
	for n := range addersAtOnce {
		a.wg.Go(func() { a.run(n) })
	}
	return a
}

func (a *adders) run(n int) {
	rng := a.c.rng(uint64(4000 + n))
	for i := 0; ; i++ {
		select {
		case <-a.stop:
			return
		case <-time.After(time.Duration(rng.IntN(40)) * time.Millisecond):
		}
		key := fmt.Sprintf("%c/%d", 'a'+rng.IntN(26), n)
		id := &kvpb.RequestID{Hi: uint64(n + 1), Lo: uint64(i + 1), IssuedMs: time.Now().UnixMilli()}
		began := time.Now()
		_, err := a.add(key, id, rng)
		a.mu.Lock()
		a.added[key]++
		a.last[key] = id
		a.slow = max(a.slow, time.Since(began))
		if err != nil && a.failed == nil {
			a.failed = fmt.Errorf("add %d to %s: %w", i, key, err)
		}
		a.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// add asks one node after the other until one answers.
func (a *adders) add(key string, id *kvpb.RequestID, rng *rand.Rand) (kv.Written, error) {
	txn := &kvpb.Txn{Then: []*kvpb.Op{{Kind: kvpb.OpKind_OP_ADD, Key: []byte(key), Delta: 1}}}
	err := errors.New("no node runs")
	for end := time.Now().Add(settleWithin); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		run := a.c.nodes[rng.IntN(len(a.c.nodes))].server()
		if run == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		var written kv.Written
		written, err = run.Router().Txn(ctx, txn, id)
		cancel()
		if err == nil {
			return written, nil
		}
	}
	return kv.Written{}, err
}

// end ends the adders. It may be called again.
func (a *adders) end() {
	a.once.Do(func() { close(a.stop) })
	a.wg.Wait()
}

// finish ends the adders and checks, through every node, that each add counts once
// and is remembered.
func (a *adders) finish(t *testing.T) {
	t.Helper()
	a.end()
	if a.failed != nil {
		t.Error(a.failed)
	}
	if len(a.added) < 26 {
		t.Errorf("only %d keys were added to: nothing was tested", len(a.added))
	}
	if err := a.c.equal(); err != nil {
		t.Error(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for key, want := range a.added {
		again, err := a.add(key, a.last[key], rng)
		if err != nil || !again.Replayed || again.Result.Ops[0].Number != want {
			t.Errorf("the last add to %s again: %v, %v; want %d", key, again, err, want)
		}
	}
	for _, n := range a.c.nodes {
		for key, want := range a.added {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			reading, err := n.server().Router().Get(ctx, []byte(key), kv.ReadOptions{})
			cancel()
			if err != nil || string(reading.Item.GetValue()) != strconv.FormatInt(want, 10) {
				t.Errorf("%s: %s is %q, want %d (%v)", n.name, key, reading.Item.GetValue(), want, err)
			}
		}
	}
}

// at calls do at whatever node leads a shard until it works.
func at(c *Cluster, shard kv.ShardID, do func(ctx context.Context, a placement.Actions) error) error {
	return eventually(func(ctx context.Context) error {
		for _, n := range c.nodes {
			run := n.server()
			if run == nil {
				continue
			}
			if r, ok := run.Host().Replica(shard); ok && r.Status().LeaderReady {
				return do(ctx, run.Actions())
			}
		}
		return fmt.Errorf("shard %s has no leader", shard)
	})
}

// descriptorOf gives what a shard is, as its replica on some node has it.
func descriptorOf(c *Cluster, shard kv.ShardID) *kvpb.ShardDescriptor {
	var newest *kvpb.ShardDescriptor
	for _, n := range c.nodes {
		run := n.server()
		if run == nil {
			continue
		}
		if r, ok := run.Host().Replica(shard); ok {
			m, ok := r.Machine().(interface {
				Descriptor() *kvpb.ShardDescriptor
			})
			if d := m.Descriptor(); ok && d.Generation >= newest.GetGeneration() {
				newest = d
			}
		}
	}
	return newest
}

// split splits the only shard and waits until the child runs everywhere.
func split(c *Cluster, order placement.SplitOrder) error {
	order.Shard = onlyShard
	if order.Child == 0 {
		order.Child = childShard
	}
	order.Generation = descriptorOf(c, onlyShard).GetGeneration()
	if err := at(c, onlyShard, func(ctx context.Context, a placement.Actions) error { return a.Split(ctx, order) }); err != nil {
		return err
	}
	return c.hold(onlyShard, order.Child)
}

// merge merges the child back into its parent.
func merge(c *Cluster, child kv.ShardID) error {
	parent, right := descriptorOf(c, onlyShard), descriptorOf(c, child)
	var index uint64
	err := at(c, child, func(ctx context.Context, a placement.Actions) (err error) {
		index, err = a.Freeze(ctx, child, onlyShard, right.Generation)
		return err
	})
	if err != nil {
		return fmt.Errorf("freeze: %w", err)
	}
	if err := eventually(func(context.Context) error { return c.frozenEverywhere(child, index) }); err != nil {
		return err
	}
	err = at(c, onlyShard, func(ctx context.Context, a placement.Actions) error {
		return a.Absorb(ctx, onlyShard, parent.Generation, right, index)
	})
	if err != nil {
		return fmt.Errorf("absorb: %w", err)
	}
	if err := c.hold(onlyShard); err != nil {
		return err
	}
	return eventually(func(context.Context) error {
		for _, n := range c.nodes {
			run := n.server()
			if run == nil {
				continue
			}
			if _, ok := run.Host().Replica(child); ok {
				return fmt.Errorf("%s still has a replica of what was absorbed", n.name)
			}
			if marks, err := run.Store().Absorbed(); err != nil || len(marks) > 0 {
				return fmt.Errorf("%s still has marks of what was absorbed: %v, %v", n.name, marks, err)
			}
		}
		return nil
	})
}

func (c *Cluster) frozenEverywhere(shard kv.ShardID, index uint64) error {
	for _, n := range c.nodes {
		run := n.server()
		if run == nil {
			return errors.New(n.name + " is down")
		}
		r, ok := run.Host().Replica(shard)
		if !ok {
			return errors.New(n.name + " has no replica")
		}
		m, ok := r.Machine().(interface{ Frozen() (uint64, kv.ShardID) })
		if at, _ := m.Frozen(); !ok || at != index {
			return fmt.Errorf("%s is frozen at %d, not %d", n.name, at, index)
		}
	}
	return nil
}

// hold waits until shards run on all nodes, of the same generation, and no node's
// store holds a state of any other. Digests of the same index are compared.
func (c *Cluster) hold(shards ...kv.ShardID) error {
	return eventually(func(context.Context) error {
		for _, shard := range shards {
			replicas, newest := c.replicasOf(shard), descriptorOf(c, shard).GetGeneration()
			if len(replicas) != len(c.nodes) {
				return fmt.Errorf("shard %s has %d replicas\n%s", shard, len(replicas), c.describe())
			}
			for _, r := range replicas {
				resp := r.Read(&kvpb.ReadRequest{})
				if g := resp.Descriptor_.GetGeneration(); g != newest {
					return fmt.Errorf("shard %s on %s is of generation %d, not %d", shard, c.nameOf(r.node), g, newest)
				}
				c.watch.digest(c, shard, r)
			}
		}
		for _, n := range c.nodes {
			if states, err := n.server().Store().Replicas(); err != nil || len(states) != len(shards) {
				return fmt.Errorf("%s holds states of %v: %v", n.name, states, err)
			}
		}
		return nil
	})
}

// equal waits until all replicas of each shard have the same digest.
func (c *Cluster) equal() error {
	return eventually(func(context.Context) error {
		for _, shard := range []kv.ShardID{onlyShard, childShard} {
			digests := map[string]bool{}
			for _, r := range c.replicasOf(shard) {
				resp := r.Read(&kvpb.ReadRequest{Digest: true})
				digests[fmt.Sprintf("%d %x", resp.AppliedIndex, resp.Digest)] = true
			}
			if len(digests) > 1 {
				return fmt.Errorf("shard %s has digests %v", shard, digests)
			}
		}
		return nil
	})
}

// inCluster runs f beside a cluster with one shard and adders.
func inCluster(t *testing.T, seed uint64, f func(c *Cluster, a *adders)) {
	t.Helper()
	inBubble(t, func() {
		c := NewCluster(logged(Config{Seed: seed, Shards: 1, Groups: 1}))
		if err := c.Start(); err != nil {
			t.Error(err)
		} else {
			a := startAdders(c)
			time.Sleep(2 * time.Second)
			f(c, a)
			a.end()
		}
		c.Close()
		for _, wrong := range c.watch.broken() {
			t.Error(wrong)
		}
	})
}

func TestSplitAndMergeUnderWrites(t *testing.T) {
	inCluster(t, 1, func(c *Cluster, a *adders) {
		for round := range 3 {
			child := childShard + kv.ShardID(round)
			parentLeader := (&stage{c, nil}).leaderNode()
			a.mu.Lock()
			a.slow = 0
			a.mu.Unlock()
			if err := split(c, placement.SplitOrder{Child: child, Key: []byte("m")}); err != nil {
				t.Error(err)
				return
			}
			err := eventually(func(context.Context) error {
				if r, ok := parentLeader.server().Host().Replica(child); !ok || !r.Status().LeaderReady {
					return fmt.Errorf("the parent's leader does not lead the child:\n%s", c.describe())
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			left, right := descriptorOf(c, onlyShard), descriptorOf(c, child)
			if string(left.End) != "m" || string(right.Start) != "m" || left.Generation != right.Generation {
				t.Errorf("split into %v and %v", left, right)
			}
			time.Sleep(time.Second)
			a.mu.Lock()
			t.Logf("round %d: the slowest write during the split took %s", round, a.slow)
			if a.slow > 400*time.Millisecond { // an election timeout is a second
				t.Errorf("a write took %s", a.slow)
			}
			a.mu.Unlock()
			// Again: it is done.
			err = at(c, onlyShard, func(ctx context.Context, acts placement.Actions) error {
				return acts.Split(ctx, placement.SplitOrder{Shard: onlyShard, Generation: left.Generation - 1, Child: child, Key: []byte("m")})
			})
			if err != nil {
				t.Errorf("the same split again: %v", err)
			}
			if err := merge(c, child); err != nil {
				t.Error(err)
				return
			}
			time.Sleep(time.Second)
		}
		a.finish(t)
	})
}

// leaderNode gives the node that leads the only shard.
func (s *stage) leaderNode() *Node {
	n, _ := s.leader()
	return n
}

// A node is killed at any operation on its disk in the middle of a split and of a
// merge, and comes back.
func TestCrashDuringSplitAndMerge(t *testing.T) {
	seeds := 24
	if testing.Short() {
		seeds = 6
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inCluster(t, seed, func(c *Cluster, a *adders) {
				rng := c.rng(5000)
				for _, change := range []func() error{
					func() error { return split(c, placement.SplitOrder{}) },
					func() error { return merge(c, childShard) },
				} {
					victim := c.nodes[rng.IntN(len(c.nodes))]
					percent, ops := 100*rng.IntN(2), 1+rng.IntN(120)
					crashed := make(chan struct{})
					go func() {
						victim.CrashAt(simnet.Killed, percent, ops, rng, 3*time.Second)
						time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
						if err := victim.Start(); err != nil {
							t.Error(err)
						}
						close(crashed)
					}()
					err := change()
					<-crashed
					if err != nil {
						t.Error(err)
						return
					}
				}
				a.finish(t)
			})
		})
	}
}

// What a shard refuses leaves it as it was.
func TestShapeRefusals(t *testing.T) {
	inCluster(t, 1, func(c *Cluster, a *adders) {
		generation := descriptorOf(c, onlyShard).Generation
		check := func(what string, code kv.Code, do func(ctx context.Context, a placement.Actions) error) {
			t.Helper()
			err := at(c, onlyShard, func(ctx context.Context, a placement.Actions) error {
				if got := kv.CodeOf(do(ctx, a)); got != code {
					return fmt.Errorf("%s: got %q, want %q", what, got, code)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}
		check("another generation", kv.CodeConflict, func(ctx context.Context, a placement.Actions) error {
			return a.Split(ctx, placement.SplitOrder{Shard: onlyShard, Generation: generation + 1, Child: childShard, Key: []byte("m")})
		})
		check("no such neighbour", kv.CodeConflict, func(ctx context.Context, a placement.Actions) error {
			right := &kvpb.ShardDescriptor{Shard: uint64(childShard), Generation: 1, Start: []byte("m")}
			return a.Absorb(ctx, onlyShard, generation, right, 12)
		})
		check("not frozen", "", func(ctx context.Context, a placement.Actions) error { return a.Unfreeze(ctx, onlyShard, 12) })
		check("a shard that is not here", kv.CodeNoReplica, func(ctx context.Context, a placement.Actions) error {
			return a.RefuseAbsorb(ctx, 99, 1)
		})
		if err := split(c, placement.SplitOrder{Key: []byte("m")}); err != nil {
			t.Error(err)
			return
		}
		check("a key outside", kv.CodeConflict, func(ctx context.Context, a placement.Actions) error {
			return a.Split(ctx, placement.SplitOrder{Shard: onlyShard, Generation: generation + 1, Child: childShard + 1, Key: []byte("z")})
		})
		// A merge that is given up: the left one refuses, the right one goes on.
		right := descriptorOf(c, childShard)
		var index uint64
		err := at(c, childShard, func(ctx context.Context, a placement.Actions) (err error) {
			index, err = a.Freeze(ctx, childShard, onlyShard, right.Generation)
			if err != nil {
				return err
			}
			again, err := a.Freeze(ctx, childShard, onlyShard, right.Generation)
			if again != index {
				err = errors.Join(err, fmt.Errorf("frozen at %d, then at %d", index, again))
			}
			if code := kv.CodeOf(a.Remove(ctx, childShard, kv.ServerID{Node: 1, Shard: childShard, Incarnation: 1})); code != kv.CodeConflict {
				err = errors.Join(err, fmt.Errorf("members of a frozen shard: %q", code))
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		left := descriptorOf(c, onlyShard).Generation
		check("refused", "", func(ctx context.Context, a placement.Actions) error { return a.RefuseAbsorb(ctx, onlyShard, left) })
		check("refused again", "", func(ctx context.Context, a placement.Actions) error { return a.RefuseAbsorb(ctx, onlyShard, left) })
		check("absorb after that", kv.CodeConflict, func(ctx context.Context, a placement.Actions) error {
			return a.Absorb(ctx, onlyShard, left, right, index)
		})
		err = at(c, childShard, func(ctx context.Context, a placement.Actions) error { return a.Unfreeze(ctx, childShard, index) })
		if err != nil {
			t.Error(err)
		}
		a.finish(t)
	})
}
