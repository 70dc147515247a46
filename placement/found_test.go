package placement

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/quorate-db/quorate/kv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bubble runs f in virtual time and stops every node at its end, so that a
// goroutine that outlives its owner fails the test.
func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stopAll()
		defer func() {
			if t.Failed() {
				for id, n := range w.nodes {
					t.Logf("node %s: %s", id, strings.Join(n.logs.all(), "\n\t"))
				}
			}
		}()
		f(t, w)
	})
}

// eventually waits in virtual time until cond holds.
func eventually(t *testing.T, within time.Duration, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("after %v: not %s", within, what)
		}
		time.Sleep(20 * time.Millisecond) // virtual
		synctest.Wait()
	}
}

// never watches for a while that cond does not become true.
func never(t *testing.T, during time.Duration, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(during); time.Now().Before(end); {
		if cond() {
			t.Fatalf("%s, though it must not", what)
		}
		time.Sleep(50 * time.Millisecond) // virtual
		synctest.Wait()
	}
}

func (n *fakeNode) cluster() string { return fakeIdentity{n}.ClusterID() }

// failure gives the fatal error of a node, nil if it has none.
func (n *fakeNode) failure() error {
	select {
	case err := <-n.control.Failed():
		n.control.failed <- err
		return err
	default:
		return nil
	}
}

func (n *fakeNode) said(text string) bool {
	return slices.ContainsFunc(n.logs.all(), func(line string) bool { return strings.Contains(line, text) })
}

// voters counts the voters of the only meta group.
func (w *world) voters() (voters, members int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range w.groups {
		for _, m := range g.members {
			members++
			if m.Voter {
				voters++
			}
		}
	}
	return voters, members
}

// leaderSpread gives how many leaders the node with the most and the one with the
// fewest have, over the nodes that hold replicas and are up, and how many shards have none.
func (w *world) leaderSpread() (most, least, without int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	count := map[kv.NodeID]int{}
	for _, d := range w.data {
		for node := range d.created {
			if w.upLocked(node) {
				count[node] += 0
			}
		}
		if d.leader == 0 {
			without++
		} else {
			count[d.leader]++
		}
	}
	least = 1 << 30
	for _, n := range count {
		most, least = max(most, n), min(least, n)
	}
	return most, least, without
}

// settled reports whether one cluster of exactly these nodes is complete: all
// joined, all know all, the meta shard has its voters, all shards run, evenly led.
func (w *world) settled(shards int, ids ...kv.NodeID) bool {
	cluster := w.nodes[ids[0]].cluster()
	for _, id := range ids {
		n := w.nodes[id]
		state := n.machine.State()
		if cluster == "" || n.cluster() != cluster || state.ClusterID() != cluster || len(state.Members()) != len(ids) || len(state.Shards()) != shards {
			return false
		}
		for _, h := range state.Shards() {
			if h.ConfigIndex == 0 {
				return false // its leader has not reported
			}
		}
	}
	voters, members := w.voters()
	most, least, without := w.leaderSpread()
	w.mu.Lock()
	groups := len(w.groups)
	w.mu.Unlock()
	return groups == 1 && members == len(ids) && voters == metaVotersWanted(len(ids), 5) && without == 0 && most-least <= 1
}

func permutations(ids []kv.NodeID) [][]kv.NodeID {
	if len(ids) <= 1 {
		return [][]kv.NodeID{slices.Clone(ids)}
	}
	var out [][]kv.NodeID
	for i := range ids {
		rest := slices.Delete(slices.Clone(ids), i, i+1)
		for _, p := range permutations(rest) {
			out = append(out, append([]kv.NodeID{ids[i]}, p...))
		}
	}
	return out
}

func TestFoundingInEveryOrder(t *testing.T) {
	ids := []kv.NodeID{1, 2, 3}
	for _, order := range permutations(ids) {
		for _, gap := range []time.Duration{0, 100 * time.Millisecond, 7 * time.Second} {
			t.Run(fmt.Sprint(order, gap), func(t *testing.T) {
				bubble(t, func(t *testing.T, w *world) {
					for i, id := range order {
						if i > 0 && w.nodes[order[0]].cluster() != "" {
							t.Fatal("founded before all were there")
						}
						w.start(id, addresses(ids...), 3, nil)
						time.Sleep(gap)
					}
					eventually(t, 15*time.Second, "settled", func() bool { return w.settled(8, ids...) })
				})
			})
		}
	}
}

func TestFoundingOfManySizes(t *testing.T) {
	for _, size := range []int{1, 2, 4, 5, 7} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				var ids []kv.NodeID
				for i := range size {
					ids = append(ids, kv.NodeID(i+1))
				}
				for _, id := range ids {
					w.start(id, addresses(ids...), size, nil)
				}
				eventually(t, 20*time.Second, "settled", func() bool { return w.settled(8, ids...) })
				replicas := map[uint64]int{}
				for _, h := range w.nodes[1].machine.State().Shards() {
					if len(h.Current.Replicas) != min(3, size) {
						t.Errorf("shard %d has %d replicas", h.Current.Shard, len(h.Current.Replicas))
					}
					for _, r := range h.Current.Replicas {
						replicas[r.Node]++
					}
				}
				if len(replicas) != size {
					t.Errorf("replicas on %d of %d nodes", len(replicas), size)
				}
			})
		})
	}
}

func TestFoundingAlone(t *testing.T) {
	for name, join := range map[string][]string{"no join": nil, "own address": addresses(1)} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.start(1, join, 0, nil)
				eventually(t, 10*time.Second, "settled", func() bool { return w.settled(8, 1) })
			})
		})
	}
}

// A node that is not in the list of join addresses counts through its own probes.
func TestFoundingWithNodesOutsideTheList(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		for _, id := range []kv.NodeID{1, 2, 3, 4, 5} {
			w.start(id, addresses(1, 2), 5, nil)
		}
		eventually(t, 20*time.Second, "settled", func() bool { return w.settled(8, 1, 2, 3, 4, 5) })
	})
}

func TestNoFoundingWhileOneIsMissing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		ids := []kv.NodeID{1, 2, 3}
		w.start(1, addresses(ids...), 3, nil)
		w.start(3, addresses(ids...), 3, nil)
		never(t, time.Minute, "founded", func() bool { return w.nodes[1].cluster()+w.nodes[3].cluster() != "" })
		if !w.nodes[1].said("heard from 2; no answer from [n2:7101]") {
			t.Errorf("the founder does not say whom it misses: %q", w.nodes[1].logs.all())
		}
		if lines := len(w.nodes[1].logs.all()); lines > 4 {
			t.Errorf("%d lines about the same reason", lines)
		}
		w.start(2, addresses(ids...), 3, nil)
		eventually(t, 20*time.Second, "settled", func() bool { return w.settled(8, ids...) })
	})
}

func TestNoFoundingWhenOneIsNotBlank(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		ids := []kv.NodeID{1, 2, 3}
		n := w.start(2, addresses(9), 0, nil)
		w.locked(func() { n.disk.cluster = "old" }) // a member of a cluster that is gone
		w.start(1, addresses(ids...), 3, nil)
		w.start(3, addresses(ids...), 3, nil)
		never(t, time.Minute, "founded", func() bool { return w.nodes[1].cluster()+w.nodes[3].cluster() != "" })
		if !w.nodes[1].said("cluster old") {
			t.Error("no reason given")
		}
	})
}

// A node that began to found something by itself is not blank.
func TestNoFoundingWithABegunFounding(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		n := w.start(2, addresses(1, 2), 2, nil)
		id := kv.ServerID{Node: 2, Shard: kv.MetaShard, Incarnation: 1}
		w.locked(func() { n.disk.records[id] = ReplicaSpec{ID: id} }) // of a group that has no leader
		a := w.start(1, addresses(1, 2), 2, nil)
		never(t, 30*time.Second, "founded", func() bool { return a.cluster() != "" })
		if !a.said("is not blank") || !n.said("has no leader yet") {
			t.Error("no reason given")
		}
	})
}

func TestNoFoundingWithDifferentFlags(t *testing.T) {
	t.Run("first address", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			a := w.start(1, addresses(1, 2), 2, nil)
			b := w.start(2, addresses(2, 1), 2, nil)
			never(t, time.Minute, "founded", func() bool { return a.cluster()+b.cluster() != "" })
			if !a.said("other flags") || !b.said("other flags") {
				t.Error("no reason given")
			}
		})
	})
	t.Run("number", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			a := w.start(1, addresses(1, 2, 3), 2, nil)
			w.start(2, addresses(1, 2, 3), 3, nil)
			never(t, time.Minute, "founded", func() bool { return a.cluster() != "" })
		})
	})
	t.Run("nobody to join", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			n := w.start(1, nil, 3, nil)
			eventually(t, time.Second, "failed", func() bool { return n.failure() != nil })
		})
	})
}

// Two nodes that advertise the founder's address do not both found.
func TestOnlyWhoAnswersAtTheFirstAddressFounds(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		impostor := w.start(4, addresses(1, 2), 2, func(o *Options) { o.Self.PeerAddress = peerAddress(1) })
		w.start(1, addresses(1, 2), 2, nil)
		eventually(t, 10*time.Second, "founded", func() bool { return w.nodes[1].cluster() != "" })
		time.Sleep(20 * time.Second)
		w.locked(func() {
			if len(w.groups) != 1 || w.groups[1] == nil {
				t.Errorf("%d clusters", len(w.groups))
			}
		})
		if !impostor.said("this node advertises n1:7101, but node 0000000000000001 answers there") {
			t.Error("no reason given")
		}
	})
}

func TestTwoClustersAreNotMixed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.start(1, nil, 0, nil)
		b := w.start(2, nil, 0, nil)
		eventually(t, 10*time.Second, "founded both", func() bool { return a.cluster() != "" && b.cluster() != "" })
		c := w.start(3, addresses(1, 2), 0, nil)
		never(t, 30*time.Second, "joined", func() bool { return c.cluster() != "" })
		if !c.said("different clusters") {
			t.Errorf("no reason given: %q", c.logs.all())
		}
		// A member of one cannot be made to join the other.
		a.stop()
		delete(a.disk.records, kv.ServerID{Node: 1, Shard: kv.MetaShard, Incarnation: 1})
		a = w.start(1, addresses(2), 0, nil)
		eventually(t, 10*time.Second, "failed", func() bool { return a.failure() != nil })
		if got := a.failure().Error(); !strings.Contains(got, "belongs to") {
			t.Errorf("failure: %s", got)
		}
	})
}

// TestCrashesWhileEntering stops the founder or a joiner at each of its durable
// operations, before and after it takes effect, and starts it again on its disk.
func TestCrashesWhileEntering(t *testing.T) {
	ids := []kv.NodeID{1, 2, 3}
	for _, victim := range []kv.NodeID{1, 2} {
		for at := 1; ; at++ {
			ran := false
			t.Run(fmt.Sprintf("node %s operation %d", victim, at), func(t *testing.T) {
				bubble(t, func(t *testing.T, w *world) {
					w.crashNode, w.crashAt = victim, at
					for _, id := range ids {
						w.start(id, addresses(ids...), 3, nil)
					}
					eventually(t, 30*time.Second, "crashed or settled", func() bool {
						select {
						case <-w.nodes[victim].crashed:
							ran = true
							return true
						default:
							return w.settled(8, ids...)
						}
					})
					if !ran {
						return
					}
					w.nodes[victim].stop()
					time.Sleep(3 * time.Second)
					var crashedAt string
					w.locked(func() { crashedAt = w.ops[at-1] })
					w.start(victim, addresses(ids...), 3, nil)
					eventually(t, 60*time.Second, "settled after a crash at "+crashedAt, func() bool { return w.settled(8, ids...) })
				})
			})
			if !ran {
				if at < 5 {
					t.Fatalf("only %d operations of node %s were tried", at-1, victim)
				}
				break
			}
		}
	}
}

// A founder that began and then finds another cluster must not make a second one.
func TestResumedFoundingYieldsToAnotherCluster(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.crashNode, w.crashAt = 1, 2 // after the replica record
		a := w.start(1, addresses(1, 2), 2, nil)
		w.start(2, addresses(1, 2), 2, nil)
		<-a.crashed
		a.stop()
		w.nodes[2].stop()
		b := w.start(2, nil, 0, nil) // the operator gave up waiting
		eventually(t, 10*time.Second, "founded", func() bool { return b.cluster() != "" })
		a = w.start(1, addresses(1, 2), 2, nil)
		eventually(t, 10*time.Second, "failed", func() bool { return a.failure() != nil })
		if got := a.failure().Error(); !strings.Contains(got, "began to found") {
			t.Errorf("failure: %s", got)
		}
	})
}
