package simnet_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorate-db/quorate/internal/simnet"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

const (
	a kv.NodeID = 0xa
	b kv.NodeID = 0xb
	c kv.NodeID = 0xc
)

// trio is a network of three nodes that record the numbers they are asked and
// echo them.
type trio struct {
	net  *simnet.Network
	node map[kv.NodeID]*simnet.Node

	mu   sync.Mutex
	got  []uint64
	gone []string // "who about whom"
}

func newTrio(t *testing.T) *trio {
	f := &trio{net: simnet.New(1), node: make(map[kv.NodeID]*simnet.Node)}
	for _, id := range []kv.NodeID{a, b, c} {
		f.start(t, id)
	}
	t.Cleanup(f.net.Close)
	return f
}

func (f *trio) start(t *testing.T, id kv.NodeID) {
	nd := f.net.Node(id)
	nd.Handle(peer.MethodTerms, f.record)
	nd.Handle(peer.MethodProbe, f.record)
	nd.OnUnreachable(func(gone kv.NodeID) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.gone = append(f.gone, fmt.Sprintf("%x about %x", uint64(id), uint64(gone)))
	})
	if err := nd.Start(); err != nil {
		t.Fatal(err)
	}
	f.node[id] = nd
}

func (f *trio) record(_ kv.NodeID, req []byte, reply func([]byte, error)) {
	f.mu.Lock()
	f.got = append(f.got, binary.LittleEndian.Uint64(req))
	f.mu.Unlock()
	reply(req, nil)
}

func (f *trio) received() []uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]uint64(nil), f.got...)
}

func (f *trio) alarms() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.gone...)
}

// ask sends a number from a to b and gives what becomes of it.
func (f *trio) ask(number uint64, timeout time.Duration) <-chan error {
	ch := make(chan error, 2) // room for a second call, which would be a bug
	req := binary.LittleEndian.AppendUint64(nil, number)
	f.node[a].Send(b, peer.MethodTerms, req, time.Now().Add(timeout), func(resp []byte, err error) {
		if err == nil && binary.LittleEndian.Uint64(resp) != number {
			err = errors.New("answer to another question")
		}
		ch <- err
	})
	return ch
}

func wantCode(t *testing.T, err error, code kv.Code, outcome kv.Outcome) {
	t.Helper()
	if kv.CodeOf(err) != code || kv.OutcomeOf(err) != outcome {
		t.Fatalf("got %v (%s, %s), want %s, %s", err, kv.CodeOf(err), kv.OutcomeOf(err), code, outcome)
	}
}

func inBubble(t *testing.T, f func(t *testing.T, f *trio)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newTrio(t)) })
}

func TestOrderIsKeptWithEqualDelays(t *testing.T) {
	for _, delay := range []time.Duration{0, 3 * time.Millisecond} {
		inBubble(t, func(t *testing.T, f *trio) {
			f.net.SetLink(a, b, simnet.Link{DelayMin: delay, DelayMax: delay})
			for i := range uint64(500) {
				f.ask(i, time.Second)
			}
			start := time.Now()
			if err := <-f.ask(500, time.Second); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took != delay {
				t.Fatalf("took %v, want %v", took, delay)
			}
			for i, n := range f.received() {
				if uint64(i) != n {
					t.Fatalf("at %d: got %d", i, n)
				}
			}
		})
	}
}

func TestUnequalDelaysReorder(t *testing.T) {
	inBubble(t, func(t *testing.T, f *trio) {
		f.net.SetLink(a, b, simnet.Link{DelayMin: time.Millisecond, DelayMax: 9 * time.Millisecond})
		for i := range uint64(200) {
			f.ask(i, time.Second)
		}
		time.Sleep(10 * time.Millisecond)
		got := f.received()
		if len(got) != 200 {
			t.Fatalf("got %d of 200", len(got))
		}
		swaps := 0
		for i := 1; i < len(got); i++ {
			if got[i] < got[i-1] {
				swaps++
			}
		}
		if swaps == 0 {
			t.Fatal("nothing overtook anything")
		}
	})
}

func TestDropLosesRequestsOrAnswers(t *testing.T) {
	for name, link := range map[string][2]kv.NodeID{"request": {a, b}, "answer": {b, a}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, f *trio) {
				f.net.SetLink(link[0], link[1], simnet.Link{Drop: 1})
				start := time.Now()
				wantCode(t, <-f.ask(1, time.Second), kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
				if took := time.Since(start); took != time.Second {
					t.Fatalf("failed after %v", took)
				}
				arrived := len(f.received())
				if want := map[string]int{"request": 0, "answer": 1}[name]; arrived != want {
					t.Fatalf("request arrived %d times, want %d", arrived, want)
				}
				if got := f.net.Counters().Answerless; got != int64(arrived) {
					t.Fatalf("counted %d answers lost, want %d", got, arrived)
				}
			})
		})
	}
}

func TestDuplicateRunsTheHandlerTwiceAndDoneOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, f *trio) {
		f.net.SetAll(simnet.Link{Duplicate: 1})
		ch := f.ask(7, time.Second)
		synctest.Wait()
		if got := f.received(); len(got) != 2 {
			t.Fatalf("handler ran %d times", len(got))
		}
		if len(ch) != 1 {
			t.Fatalf("done called %d times", len(ch))
		}
		if err := <-ch; err != nil {
			t.Fatal(err)
		}
	})
}

// A write of which one copy is refused and another applied would be answered to be
// not applied: the mesh promises that there is one.
func TestForwardsAreNotDoubled(t *testing.T) {
	inBubble(t, func(t *testing.T, f *trio) {
		f.net.SetAll(simnet.Link{Duplicate: 1})
		for _, m := range []peer.Method{peer.MethodForwardPropose, peer.MethodForwardRead, peer.MethodReport, peer.MethodAdmin} {
			before := f.net.Counters()
			f.node[a].Send(b, m, nil, time.Now().Add(time.Second), func([]byte, error) {})
			synctest.Wait()
			if now := f.net.Counters(); now.Duplicated != before.Duplicated || now.Delivered != before.Delivered+2 {
				t.Errorf("method %d: %+v", m, now)
			}
		}
	})
}

func TestCutIsOneWayAndCatchesWhatIsInFlight(t *testing.T) {
	inBubble(t, func(t *testing.T, f *trio) {
		f.net.SetLink(a, b, simnet.Link{DelayMin: time.Second})
		ch := f.ask(1, 5*time.Second)
		f.net.Cut(a, b, true)
		wantCode(t, <-ch, kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
		if got := f.received(); len(got) != 0 {
			t.Fatalf("arrived over a cut link: %v", got)
		}
		f.net.Cut(a, b, false)
		if err := <-f.ask(2, 5*time.Second); err != nil {
			t.Fatal(err)
		}
		f.net.Partition([]kv.NodeID{a, c})
		wantCode(t, <-f.ask(3, 5*time.Second), kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
		if f.net.LinkOf(a, c).Cut || !f.net.LinkOf(b, a).Cut || !f.net.LinkOf(c, b).Cut {
			t.Fatal("partition cut the wrong links")
		}
	})
}

func TestPauseHoldsUntilResume(t *testing.T) {
	inBubble(t, func(t *testing.T, f *trio) {
		f.net.Pause(b)
		late, early := f.ask(1, time.Minute), f.ask(2, time.Second)
		wantCode(t, <-early, kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
		synctest.Wait()
		if len(late) != 0 || len(f.received()) != 0 {
			t.Fatal("a paused node was reached")
		}
		f.net.Resume(b)
		if err := <-late; err != nil {
			t.Fatal(err)
		}
		if got := f.received(); len(got) != 2 {
			t.Fatalf("got %v, want both", got)
		}
	})
}

func TestKilledBreaksCallsAndRaisesTheAlarm(t *testing.T) {
	inBubble(t, func(t *testing.T, f *trio) {
		f.net.SetLink(a, b, simnet.Link{DelayMin: time.Second})
		ch := f.ask(1, time.Minute)
		start := time.Now()
		f.net.Down(b, simnet.Killed)
		wantCode(t, <-ch, kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
		wantCode(t, <-f.ask(2, time.Minute), kv.CodeUnavailable, kv.OutcomeNotApplied)
		synctest.Wait()
		if took := time.Since(start); took != 0 {
			t.Fatalf("took %v", took)
		}
		// c never talked to b, so it does not hear of its end.
		if got := f.alarms(); len(got) != 1 || got[0] != "a about b" {
			t.Fatalf("alarms: %v", got)
		}
		f.net.Up(b)
		if err := <-f.ask(3, time.Minute); err != nil {
			t.Fatal(err)
		}
		if got := f.received(); len(got) != 1 || got[0] != 3 {
			t.Fatalf("got %v: what was in flight outlived the kill", got)
		}
	})
}

func TestLostIsSilent(t *testing.T) {
	inBubble(t, func(t *testing.T, f *trio) {
		if err := <-f.ask(1, time.Second); err != nil {
			t.Fatal(err)
		}
		f.net.Down(b, simnet.Lost)
		f.node[b].Close()
		start := time.Now()
		wantCode(t, <-f.ask(2, time.Second), kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
		if took := time.Since(start); took != time.Second {
			t.Fatalf("took %v", took)
		}
		if got := f.alarms(); len(got) != 0 {
			t.Fatalf("alarms: %v", got)
		}
		f.start(t, b)
		if err := <-f.ask(3, time.Second); err != nil {
			t.Fatal(err)
		}
	})
}

func TestCloseEndsEverything(t *testing.T) {
	inBubble(t, func(t *testing.T, f *trio) {
		f.net.SetAll(simnet.Link{DelayMin: time.Hour})
		ch := f.ask(1, 2*time.Hour)
		f.node[a].Close()
		wantCode(t, <-ch, kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
		wantCode(t, <-f.ask(2, time.Second), kv.CodeUnavailable, kv.OutcomeNotApplied)
		if err := f.net.Node(b).Start(); err == nil {
			t.Fatal("two endpoints of one id")
		}
		// The bubble fails the test if a goroutine or timer of a closed node is left.
	})
}

func TestDialByAddress(t *testing.T) {
	inBubble(t, func(t *testing.T, f *trio) {
		f.net.SetAddress(b, "b.example:7101")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		req := binary.LittleEndian.AppendUint64(nil, 5)
		id, _, err := f.node[a].Dial(ctx, "b.example:7101", peer.MethodProbe, req)
		if id != b || err != nil {
			t.Fatalf("got %v, %v", id, err)
		}
		_, _, err = f.node[a].Dial(ctx, "b.example:7101", peer.MethodTerms, req)
		wantCode(t, err, kv.CodeInvalid, kv.OutcomeNotApplied)
		_, _, err = f.node[a].Dial(ctx, "c.example:7101", peer.MethodProbe, req)
		wantCode(t, err, kv.CodeUnavailable, kv.OutcomeNotApplied)
	})
}

func TestSameSeedSameFate(t *testing.T) {
	run := func(seed uint64) string {
		var fate string
		synctest.Test(t, func(t *testing.T) {
			f := newTrio(t)
			f.net.Close()
			f.net = simnet.New(seed)
			t.Cleanup(f.net.Close)
			for _, id := range []kv.NodeID{a, b} {
				f.start(t, id)
			}
			f.net.SetLink(a, b, simnet.Link{Drop: 0.5})
			for i := range uint64(64) {
				f.ask(i, time.Second)
			}
			synctest.Wait()
			fate = fmt.Sprint(f.received())
		})
		return fate
	}
	if one, two := run(1), run(1); one != two {
		t.Fatalf("seed 1 gave %s, then %s", one, two)
	}
	if one, two := run(1), run(2); one == two {
		t.Fatal("seeds 1 and 2 gave the same")
	}
}
