package raftnode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quorate-db/quorate/internal/simnet"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// cutLog takes a snapshot on every running node and leaves nothing before it in
// the log, whatever the library keeps for stragglers.
func (c *testCluster) cutLog() {
	c.t.Helper()
	for _, n := range c.nodes {
		if n.host == nil {
			continue
		}
		r, ok := n.host.Replica(testShard)
		if !ok {
			continue
		}
		c.until("a snapshot", time.Minute, func() bool { // not while one is sent
			ctx, cancel := within(time.Second)
			defer cancel()
			return r.Snapshot(ctx) == nil
		})
		store := n.logs.store(r.id)
		first, _ := store.FirstIndex()
		if flushed := r.snaps.flushedIndex(); first > 0 && first <= flushed {
			if err := store.DeleteRange(first, flushed); err != nil {
				c.t.Fatal(err)
			}
		}
	}
}

// leaveBehind cuts a follower off, and has the others' logs begin after what it misses:
// "k" with the value "v".
func (c *testCluster) leaveBehind(leader *Replica) kv.NodeID {
	c.t.Helper()
	slow := leader.id.Node%3 + 1
	c.net.Isolate(slow, true)
	c.mustPut(leader, "k", "v")
	for id := range c.nodes {
		if id != slow {
			c.until("applied everywhere else", time.Second, func() bool { return machineOf(c.replica(id)).get("k") == "v" })
		}
	}
	c.cutLog()
	return slow
}

// healForChunks heals the network and lets so many chunks of a snapshot through, none after
// them. It returns when one was lost.
func (c *testCluster) healForChunks(g *gateMesh, chunks int32) {
	c.t.Helper()
	var sent atomic.Int32
	g.set(func() {
		g.drop = func(_ kv.NodeID, m peer.Method, _ []byte) bool {
			return m == peer.MethodSnapshotChunk && sent.Add(1) > chunks
		}
	})
	c.net.Heal()
	c.until("a part has arrived", 10*time.Second, func() bool { return sent.Load() > chunks })
}

func TestLaggingFollowerGetsTheState(t *testing.T) {
	for _, kind := range []Kind{Durable, InMemory} {
		t.Run(kind.String(), func(t *testing.T) {
			var received atomic.Int64
			bubbleWith(t, 3, kind, func(o *Options) {
				o.Hooks.SnapshotReceived = func(_ kv.ServerID, n int64, _ time.Duration, err error) {
					if err == nil {
						received.Add(n)
					}
				}
			}, func(c *testCluster) {
				l := c.leader()
				slow := l.id.Node%3 + 1
				for round := range 3 {
					c.net.Isolate(slow, true)
					for i := range 20 {
						c.mustPut(l, fmt.Sprint("k", i), fmt.Sprint(round))
					}
					c.cutLog()
					c.net.Heal()
					c.mustPut(c.leader(), "after", fmt.Sprint(round))
					c.converged()
				}
				if received.Load() == 0 {
					t.Fatal("no state was sent")
				}
				c.down(slow)
				c.up(slow)
				c.mustPut(c.leader(), "last", "1")
				c.converged()
				if n := machineOf(c.replica(slow)).countStaged(0); n > 0 {
					t.Fatalf("%d staged images are left", n)
				}
			})
		})
	}
}

func TestStateTravelsOverABadNetwork(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		l := c.leader()
		slow := c.leaveBehind(l)
		c.net.SetAll(simnet.Link{Drop: 0.1, Duplicate: 0.2, DelayMax: 20 * time.Millisecond})
		c.until("caught up", 5*time.Minute, func() bool { return machineOf(c.replica(slow)).get("k") == "v" })
		c.net.Heal()
		c.putSomewhere("k", "w")
		c.converged()
	})
}

// The leader never hears that its snapshot was installed. It must not send it for
// ever.
func TestLostAnswerOfAnInstall(t *testing.T) {
	gates, setup := gated()
	bubbleWith(t, 3, Durable, setup, func(c *testCluster) {
		l := c.leader()
		slow := c.leaveBehind(l)
		g := gates[l.id.Node]
		release := make(chan struct{})
		g.set(func() {
			g.release = release
			g.late = func(to kv.NodeID, m peer.Method) bool {
				return m == peer.MethodSnapshotChunk && machineOf(c.replica(slow)).get("k") == "v"
			}
		})
		c.net.Heal()
		c.until("installed", 30*time.Second, func() bool { return machineOf(c.replica(slow)).get("k") == "v" })
		pause(time.Second)
		var sent atomic.Int32
		g.set(func() {
			g.late = nil
			g.drop = func(_ kv.NodeID, m peer.Method, _ []byte) bool {
				if m == peer.MethodSnapshotChunk {
					sent.Add(1)
				}
				return false
			}
		})
		close(release)
		pause(20 * time.Second)
		before := sent.Load()
		pause(20 * time.Second) // nothing is written, so nothing new is to be had
		if after := sent.Load(); after != before {
			t.Fatalf("still sending: %d messages, then %d", before, after)
		}
		c.mustPut(c.leader(), "k", "w")
		c.converged()
	})
}

// A sender that falls silent blocks nobody, and what it sent is thrown away.
func TestSilentSender(t *testing.T) {
	gates, setup := gated()
	bubbleWith(t, 3, Durable, setup, func(c *testCluster) {
		l := c.leader()
		slow := c.leaveBehind(l)
		g := gates[l.id.Node]
		c.healForChunks(g, 2)
		// The follower still votes: it is needed for an election.
		c.net.Isolate(l.id.Node, true)
		c.until("an election without the sender", 10*time.Second, func() bool {
			r := c.replica(slow)
			return r.Status().Term > l.Status().Term || r.Status().Role != kv.RoleFollower
		})
		pause(stageIdle + sendPatience)
		if n := machineOf(c.replica(slow)).countStaged(0); n > 0 {
			t.Fatalf("%d staged images are left", n)
		}
		g.set(func() { g.drop = nil })
		c.net.Heal()
		c.putSomewhere("k", "w")
		c.converged()
	})
}

// Chunks travel in a window. One that is lost on the way is sent again, with those
// behind it, and nothing twice that arrived in order.
func TestLostChunkIsSentAgain(t *testing.T) {
	gates, setup := gated()
	bubbleWith(t, 3, Durable, setup, func(c *testCluster) {
		l := c.leader()
		slow := c.leaveBehind(l)
		const lost = 3 * snapshotChunkBytes
		var mu sync.Mutex
		sent := map[uint64]int{} // by offset
		g := gates[l.id.Node]
		g.set(func() {
			g.drop = func(_ kv.NodeID, m peer.Method, req []byte) bool {
				if m != peer.MethodSnapshotChunk {
					return false
				}
				in := wireReader{rest: req}
				in.envelope()
				ck, err := in.decodeChunk()
				if err != nil {
					t.Error(err)
					return false
				}
				mu.Lock()
				defer mu.Unlock()
				sent[ck.offset]++
				return ck.offset == lost && sent[lost] == 1
			}
		})
		c.net.Heal()
		c.until("installed", time.Minute, func() bool { return machineOf(c.replica(slow)).get("k") == "v" })
		mu.Lock()
		defer mu.Unlock()
		const behind = sendWindow - 1
		for at, n := range sent {
			switch i := int(at/snapshotChunkBytes) - lost/snapshotChunkBytes; {
			case i < 0 && n != 1, i == 0 && n != 2, i > 0 && i <= behind && n > 2, i > behind && int(at/snapshotChunkBytes) < len(sent)-1 && n != 1:
				t.Errorf("the chunk at %d was sent %d times", at, n)
			}
		}
		if len(sent) < sendWindow+2 {
			t.Errorf("%d chunks: nothing is tested", len(sent))
		}
	})
}

// A leader that is deposed while it sends leaves half a snapshot behind. Its successor
// does not have to wait until that is given up for lack of news.
func TestNewLeaderSendsItsOwn(t *testing.T) {
	gates, setup := gated()
	bubbleWith(t, 3, Durable, setup, func(c *testCluster) {
		l := c.leader()
		slow := c.leaveBehind(l)
		next := kv.ServerID{Node: 6 - l.id.Node - slow, Shard: testShard, Incarnation: 1}
		c.healForChunks(gates[l.id.Node], 3)
		c.eventually("handed over", func(ctx context.Context, l *Replica) error {
			if l.id == next {
				return nil
			}
			return l.Transfer(ctx, next)
		})
		c.until("installed", stageIdle/2, func() bool { return machineOf(c.replica(slow)).get("k") == "v" })
		c.mustPut(c.leader(), "k", "w")
		c.converged()
	})
}

// While a snapshot is sent, the log that follows it is kept.
func TestSendingKeepsTheLog(t *testing.T) {
	gates, setup := gated()
	bubbleWith(t, 3, Durable, setup, func(c *testCluster) {
		l := c.leader()
		c.leaveBehind(l)
		release := make(chan struct{})
		g := gates[l.id.Node]
		g.set(func() {
			g.release = release
			g.late = func(_ kv.NodeID, m peer.Method) bool { return m == peer.MethodSnapshotChunk }
		})
		c.net.Heal()
		c.until("on its way", 10*time.Second, func() bool { return g.held.Load() > 0 })
		c.mustPut(l, "k", "w")
		ctx, cancel := within(time.Second)
		defer cancel()
		if err := l.Snapshot(ctx); err == nil || !strings.Contains(err.Error(), "being sent") {
			t.Fatalf("the log was cut: %v", err)
		}
		g.set(func() { g.late = nil })
		close(release)
		c.converged()
		c.until("afterwards it is", 10*time.Second, func() bool {
			ctx, cancel := within(time.Second)
			defer cancel()
			return l.Snapshot(ctx) == nil
		})
	})
}

// A snapshot is installed where the log goes on beyond it: what follows is kept if
// it fits, and dropped if it contradicts.
func TestInstallBelowTheEndOfTheLog(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		l := c.leader()
		for i := range 10 {
			c.mustPut(l, fmt.Sprint("k", i), "v")
		}
		// The old leader writes entries that nobody else gets.
		c.net.Isolate(l.id.Node, true)
		for i := range 3 {
			_ = put(l, fmt.Sprint("lost", i), "v", 50*time.Millisecond) // unknown
		}
		next := c.leader(l.id.Node)
		c.mustPut(next, "new", "v")
		c.cutLog()
		c.net.Heal()
		c.mustPut(c.leader(), "after", "v")
		c.converged()
		last, err := c.nodes[l.id.Node].logs.store(l.id).LastIndex()
		if err != nil || last != 0 && last < l.machine.Applied().Index {
			t.Fatalf("log ends at %d, state is at %d (%v)", last, l.machine.Applied().Index, err)
		}
		c.down(l.id.Node)
		c.up(l.id.Node)
		c.mustPut(c.leader(), "again", "v")
		c.converged()
	})
}

func TestSnapshotsAreTakenByThemselves(t *testing.T) {
	bubbleWith(t, 3, Durable, func(o *Options) {
		o.Timing.SnapshotEntries, o.Timing.TrailingEntries = 50, 20
	}, func(c *testCluster) {
		l := c.leader()
		for i := range 300 {
			c.mustPut(l, "k", fmt.Sprint(i))
		}
		pause(3 * time.Second)
		for id := range c.nodes {
			r := c.replica(id)
			if r.snaps.flushedIndex() < 200 {
				t.Fatalf("node %s: flushed at %d", id, r.snaps.flushedIndex())
			}
			first, _ := c.nodes[id].logs.store(r.id).FirstIndex()
			if first <= 1 || first > r.snaps.flushedIndex()+1 {
				t.Fatalf("node %s: log begins at %d, flushed at %d", id, first, r.snaps.flushedIndex())
			}
		}
	})
}

func TestTrailing(t *testing.T) {
	for _, tc := range []struct {
		entries, bytes int64
		want           uint64
	}{
		{0, 0, 8192},
		{100, 100 * 100, 8192},
		{100, 100 << 20, trailingEntriesMin},
		{100, 100 * 32 << 10, 1024},
	} {
		if got := trailing(tc.entries, tc.bytes, 8192); got != tc.want {
			t.Errorf("trailing(%d, %d) = %d, want %d", tc.entries, tc.bytes, got, tc.want)
		}
	}
}

func TestLogThatBeginsAfterTheStateIsAFailure(t *testing.T) {
	bubble(t, 1, func(c *testCluster) {
		l := c.leader()
		for i := range 5 {
			c.mustPut(l, "k", fmt.Sprint(i))
		}
		n := c.nodes[1]
		c.down(1)
		n.disks[testShard].saved = nil // the machine's disk is lost, the log's is not
		if err := n.logs.store(l.id).DeleteRange(1, 3); err != nil {
			t.Fatal(err)
		}
		c.up(1)
		c.until("failed", time.Second, func() bool { return strings.Contains(c.replica(1).Status().Failure, "log begins at 4") })
	})
}

func TestDamagedSnapshotFileIsNotUsed(t *testing.T) {
	fs := vfs.NewMem()
	files := &snapshotFiles{fs: fs, dir: "snap"}
	if err := files.open(); err != nil {
		t.Fatal(err)
	}
	image := func(index uint64) Image {
		m := newTestMachine(nil)
		m.state.Applied.Index, m.state.Applied.Term = index, 1
		i, err := m.Image()
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	for index := range uint64(4) {
		if err := files.write(image(index + 1)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := files.indexes(); err != nil || len(got) != 2 || got[0] != 4 || got[1] != 3 {
		t.Fatalf("files %v, %v", got, err)
	}
	whole := readAll(t, fs, files.path(files.name(4)))
	tries := [][]byte{nil, whole[:7], whole[:len(whole)/2], whole[:len(whole)-1], append(bytes.Clone(whole), 0)}
	for i := range 60 {
		bad := bytes.Clone(whole)
		bad[i*(len(bad)-1)/59] ^= 1 << (i % 8)
		tries = append(tries, bad)
	}
	for i, bad := range tries {
		writeAll(t, fs, files.path(files.name(4)), bad)
		m := newTestMachine(nil)
		var damaged error
		if err := files.restore(m, func(_ uint64, err error) { damaged = errors.Join(damaged, err) }); err != nil {
			t.Fatal(err)
		}
		if damaged == nil || m.Applied().Index != 3 {
			t.Fatalf("try %d: damaged %v, state at %d", i, damaged, m.Applied().Index)
		}
	}
}

func readAll(t *testing.T, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(f); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func writeAll(t *testing.T, fs vfs.FS, path string, data []byte) {
	t.Helper()
	f, err := fs.Create(path, WriteCategory)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(bytes.Clone(data)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
