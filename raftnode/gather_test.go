package raftnode

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// sentMesh notes what is sent, and when, and answers nothing.
type sentMesh struct {
	mu   sync.Mutex // two timers may fire side by side
	sent []sentMessage
	done []func([]byte, error) // of each
}

type sentMessage struct {
	to  kv.NodeID
	req []byte
	at  time.Time
}

func (m *sentMesh) Self() kv.NodeID                  { return 1 }
func (m *sentMesh) Handle(peer.Method, peer.Handler) {}
func (m *sentMesh) OnUnreachable(func(kv.NodeID))    {}
func (m *sentMesh) Send(to kv.NodeID, _ peer.Method, req []byte, _ time.Time, done func([]byte, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done = append(m.done, done)
	m.sent = append(m.sent, sentMessage{to: to, req: req, at: time.Now()})
}

func (m *sentMesh) Dial(context.Context, string, peer.Method, []byte) (kv.NodeID, []byte, error) {
	return 0, nil, errors.ErrUnsupported
}

const testGather = 50 * time.Millisecond

// Messages that are held back leave together, and none waits longer than it may.
func TestHeldMessagesLeaveTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := &sentMesh{}
		g := newGatherer(mesh, testGather)
		tr := &transport{mute: new(atomic.Int32)}
		var began []time.Time
		for i := range 40 { // for two periods, so that two flushes are due
			began = append(began, time.Now())
			g.send(kv.NodeID(2+i%2), heldMessage{t: tr, req: []byte{byte(i)}})
			pause(2*testGather/40 - time.Microsecond)
		}
		pause(testGather)
		synctest.Wait()
		moments := map[time.Time]int{}
		for _, s := range mesh.sent {
			moments[s.at]++
			if waited := s.at.Sub(began[s.req[0]]); waited <= 0 || waited > testGather {
				t.Errorf("message %d waited %s", s.req[0], waited)
			}
		}
		if len(mesh.sent) != 40 || len(moments) > 3 {
			t.Errorf("%d messages left at %d moments", len(mesh.sent), len(moments))
		}
	})
}

// What became mute while it waited says nothing (R12, R13), and who waits learns it.
func TestHeldMessageOfAMuteReplicaIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := &sentMesh{}
		g := newGatherer(mesh, testGather)
		tr := &transport{mute: new(atomic.Int32)}
		var answers []error
		g.send(2, heldMessage{t: tr, done: func(_ []byte, err error) { answers = append(answers, err) }})
		tr.mute.Add(1)
		pause(testGather)
		synctest.Wait()
		if len(mesh.sent) != 0 || len(answers) != 1 || !errors.Is(answers[0], errMute) {
			t.Errorf("sent %d messages, answered %v", len(mesh.sent), answers)
		}
	})
}

// A closed gatherer holds nothing, not even what comes late.
func TestClosedGathererHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := &sentMesh{}
		g := newGatherer(mesh, testGather)
		tr := &transport{mute: new(atomic.Int32)}
		g.send(2, heldMessage{t: tr})
		g.close()
		g.send(2, heldMessage{t: tr})
		if len(mesh.sent) != 2 {
			t.Errorf("%d messages left, want 2", len(mesh.sent))
		}
	})
}

// A crowd does not wait.
func TestGathererIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := &sentMesh{}
		g := newGatherer(mesh, testGather)
		tr := &transport{mute: new(atomic.Int32)}
		for range gatheredMax {
			g.send(2, heldMessage{t: tr})
		}
		if len(mesh.sent) != gatheredMax {
			t.Errorf("%d messages left, want %d", len(mesh.sent), gatheredMax)
		}
		g.close()
	})
}

// A pipeline holds back only appends that tell nothing new, in order, and says of
// them how old they are.
func TestPipelineHoldsBackWhatTellsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := &sentMesh{}
		g := newGatherer(mesh, testGather)
		tr := &transport{mesh: mesh, gather: g, mute: new(atomic.Int32), timing: Timing{Heartbeat: time.Second, Append: time.Second}}
		p := newPipeline(tr, testEnvelope)
		entry := []*raft.Log{{Index: 6, Term: 3, Type: raft.LogCommand, Data: []byte("data")}}
		began := time.Now()
		for i, step := range []struct {
			commit  uint64
			entries []*raft.Log
			left    int // so many have left in all
		}{
			{5, nil, 1},   // news: the first
			{5, nil, 1},   // no news
			{5, entry, 3}, // news, and what waited goes before it
			{5, nil, 3},
			{6, nil, 5}, // news of what is committed
			{6, nil, 5},
		} {
			m := &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 5, PrevLogTerm: 3, LeaderCommitIndex: step.commit, Entries: step.entries}
			if _, err := p.AppendEntries(m, &raft.AppendEntriesResponse{}); err != nil {
				t.Fatal(err)
			}
			if len(mesh.sent) != step.left {
				t.Fatalf("after step %d %d messages have left, want %d", i, len(mesh.sent), step.left)
			}
			pause(3 * time.Millisecond)
		}
		pause(testGather)
		synctest.Wait()
		var commits []uint64
		for i, s := range mesh.sent {
			in := &wireReader{rest: s.req}
			m, err := in.decodeAppend(in.envelope())
			if err != nil {
				t.Fatal(err)
			}
			commits = append(commits, m.LeaderCommitIndex)
			made := began.Add(time.Duration(i) * 3 * time.Millisecond)
			if told := s.at.Add(-in.held()); told.Sub(made).Abs() > time.Microsecond || in.failed {
				t.Errorf("message %d says that it was made at %s, and it was at %s", i, told.Sub(began), made.Sub(began))
			}
		}
		if len(commits) != 6 || commits[3] != 5 || commits[4] != 6 {
			t.Errorf("commit indexes in the order of sending: %v", commits)
		}
	})
}

// An append that waited until there was room in the window says how old it is. The
// simulator found followers whose disk had hung, and that took what had been committed
// before for what was committed after.
func TestPipelineSaysHowLongRoomWasMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := &sentMesh{}
		tr := &transport{mesh: mesh, gather: newGatherer(mesh, testGather), mute: new(atomic.Int32), timing: Timing{Heartbeat: time.Second, Append: time.Minute}}
		p := newPipeline(tr, testEnvelope)
		send := func(commit uint64) {
			m := &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 5, PrevLogTerm: 3, LeaderCommitIndex: commit}
			if _, err := p.AppendEntries(m, &raft.AppendEntriesResponse{}); err != nil {
				t.Error(err)
			}
		}
		for i := range pipelineWindow {
			send(uint64(i + 1))
		}
		go func() {
			send(pipelineWindow + 1) // is news
			send(pipelineWindow + 1) // is not, and is held back after it got in
		}()
		const full = 2 * time.Second
		for i := range 2 {
			pause(full)
			synctest.Wait()
			if got := len(mesh.sent); got != pipelineWindow+i {
				t.Fatalf("%d appends have left a window of %d, and %d were answered", got, pipelineWindow, i)
			}
			mesh.done[i](encodeAppendResponse(&raft.AppendEntriesResponse{Term: 3, Success: true}), nil)
		}
		pause(testGather)
		synctest.Wait()
		for i, want := range []time.Duration{full, full + testGather} {
			in := &wireReader{rest: mesh.sent[pipelineWindow+i].req}
			if _, err := in.decodeAppend(in.envelope()); err != nil {
				t.Fatal(err)
			}
			if held := in.held(); held < full || held > want {
				t.Errorf("append %d says that it was held back for %s", i, held)
			}
		}
	})
}
