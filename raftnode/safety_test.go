package raftnode

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// A replica without a configuration would vote for anybody.
func TestUnconfiguredReplicaDoesNotVote(t *testing.T) {
	bubble(t, 1, func(c *testCluster) {
		c.leader()
		c.up(2)
		c.create(2, testShard, 1, nil)
		pause(100 * time.Millisecond)
		two := c.replica(2)
		e := envelope{from: c.replica(1).id, to: two.id}
		for _, m := range []peer.Method{peer.MethodRequestVote, peer.MethodPreVote, peer.MethodTimeoutNow} {
			ctx, cancel := within(time.Second)
			_, err := peer.Call(ctx, c.nodes[1].mesh, 2, m, encodeBallot(e, ballot{term: 50, lastIndex: 99, lastTerm: 40}))
			if err == nil {
				t.Errorf("method %d was answered", m)
			}
			cancel()
		}
		if s := two.Status(); s.Term != 0 {
			t.Fatalf("its term became %d", s.Term)
		}
	})
}

func TestPromoteWaitsForTheLearner(t *testing.T) {
	bubble(t, 1, func(c *testCluster) {
		c.up(2)
		l := c.leader()
		two := kv.ServerID{Node: 2, Shard: testShard, Incarnation: 1}
		c.eventually("added", func(ctx context.Context, l *Replica) error { return l.AddNonvoter(ctx, two) })
		c.create(2, testShard, 1, nil)
		c.until("follows", 10*time.Second, func() bool { return c.replica(2).machine.Applied().Index >= l.machine.Applied().Index })
		// Its machine stops, the rest of it goes on.
		hold := make(chan struct{})
		m := machineOf(c.replica(2))
		m.mu.Lock()
		m.hold = hold
		m.mu.Unlock()
		for i := range promoteLagMax + 10 {
			c.mustPut(l, "k", fmt.Sprint(i))
		}
		pause(2 * time.Second)
		ctx, cancel := within(time.Second)
		defer cancel()
		if err := l.Promote(ctx, two); kv.CodeOf(err) != kv.CodeUnavailable {
			t.Fatalf("promoted one that lags: %v", err)
		}
		m.mu.Lock()
		m.hold = nil
		m.mu.Unlock()
		close(hold)
		c.eventually("promoted", func(ctx context.Context, l *Replica) error { return l.Promote(ctx, two) })
		c.converged()
	})
}

// What is left of a log after a crash, and what start makes of it beside a state
// at index 10 of term 3.
func TestLogIsReconciledWithTheState(t *testing.T) {
	for _, tc := range []struct {
		name        string
		first, last uint64
		term        uint64 // of entry 10
		kept        bool
		fails       bool
	}{
		{name: "empty"},
		{name: "goes on", first: 5, last: 12, term: 3, kept: true},
		{name: "ends with the state", first: 1, last: 10, term: 3, kept: true},
		{name: "begins after it", first: 11, last: 12, kept: true},
		{name: "ends before it", first: 1, last: 9},
		{name: "contradicts it", first: 5, last: 12, term: 2},
		{name: "begins too late", first: 12, last: 13, fails: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, 1, func(c *testCluster) {
				c.leader()
				id := c.replica(1).id
				c.down(1)
				n := c.nodes[1]
				m := newTestMachine(n.disks[testShard])
				m.state.Applied = kv.Applied{Index: 10, Term: 3, Config: EncodeMembers(c.members(testShard, 1)), ConfigIndex: 1}
				if err := m.Flush(); err != nil {
					t.Fatal(err)
				}
				log := n.logs.store(id)
				last, _ := log.LastIndex()
				if err := log.DeleteRange(1, last); err != nil {
					t.Fatal(err)
				}
				for i := tc.first; i <= tc.last && i > 0; i++ {
					term := uint64(4)
					switch {
					case i < 10:
						term = 2
					case i == 10:
						term = tc.term
					}
					if err := log.StoreLog(&raft.Log{Index: i, Term: term, Type: raft.LogNoop}); err != nil {
						t.Fatal(err)
					}
				}
				if err := log.SetUint64(keyCurrentTerm, 4); err != nil {
					t.Fatal(err)
				}
				n.mesh = nil
				c.up(1)
				pause(time.Millisecond)
				r := c.replica(1)
				if failed := r.Status().Failure != ""; failed != tc.fails {
					t.Fatalf("failure %q", r.Status().Failure)
				}
				first, _ := log.FirstIndex()
				if kept := first == tc.first; !tc.fails && tc.first > 0 && kept != tc.kept {
					t.Fatalf("the log begins at %d", first)
				}
				if !tc.fails {
					c.mustPut(c.leader(), "a", "b")
				}
			})
		})
	}
}

// A snapshot that was damaged on its way is thrown away.
func TestDamagedChunksAreRefused(t *testing.T) {
	bubble(t, 1, func(c *testCluster) {
		c.leader()
		c.up(2)
		c.create(2, testShard, 1, nil)
		pause(100 * time.Millisecond)
		two := c.replica(2)
		m := newTestMachine(nil)
		m.state.Applied = kv.Applied{Index: 5, Term: 1, Config: EncodeMembers(c.members(testShard, 1)), ConfigIndex: 1}
		image, err := m.Image()
		if err != nil {
			t.Fatal(err)
		}
		var whole sliceWriter
		if _, err := image.WriteTo(&whole); err != nil {
			t.Fatal(err)
		}
		data := whole[:min(len(whole), snapshotChunkBytes)]
		sum := castagnoli()
		_, _ = sum.Write(data)
		send := func(change func(*chunk)) (chunkAnswer, error) {
			ck := chunk{term: 1, stream: 7, index: 5, terms: 1, last: true, sum: sum.Sum32(), data: data}
			change(&ck)
			ctx, cancel := within(time.Second)
			defer cancel()
			resp, err := peer.Call(ctx, c.nodes[1].mesh, 2, peer.MethodSnapshotChunk, ck.encode(envelope{from: c.replica(1).id, to: two.id}))
			if err != nil {
				return chunkAnswer{}, err
			}
			return decodeChunkAnswer(resp)
		}
		if _, err := send(func(c *chunk) { c.sum++ }); kv.CodeOf(err) != kv.CodeCorrupt {
			t.Fatalf("wrong checksum: %v", err)
		}
		if _, err := send(func(c *chunk) { c.offset, c.stream = 9, 8 }); kv.CodeOf(err) != kv.CodeConflict {
			t.Fatalf("without a beginning: %v", err)
		}
		pause(time.Second)
		// Whole, but another index was announced than it has.
		if a, err := send(func(c *chunk) { c.index, c.stream = 6, 9 }); err != nil || a.status != chunkInstalling {
			t.Fatalf("got %+v, %v", a, err)
		}
		c.until("given up", time.Second, func() bool { return machineOf(two).countStaged(0) == 0 })
		pause(time.Second)
		if s := two.Status(); s.Failure != "" || s.AppliedIndex != 0 || machineOf(two).Applied().Index != 0 {
			t.Fatalf("it was installed, or has failed: %+v", s)
		}
	})
}

type sliceWriter []byte

func (w *sliceWriter) Write(p []byte) (int, error) {
	*w = append(*w, p...)
	return len(p), nil
}
