// Package meshtest is what every peer.Mesh has to do, as tests. The network in
// memory and the one over TCP both run it.
package meshtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// Endpoint is a mesh with its life.
type Endpoint interface {
	peer.Mesh
	Start() error
	Close()
}

// Net is one kind of network in one test. An id may get a new endpoint once its
// former one is closed.
type Net interface {
	Endpoint(t testing.TB, id kv.NodeID) Endpoint
	Address(id kv.NodeID) string
}

// patience is how long a test waits for what must happen.
const patience = time.Minute

const (
	alice kv.NodeID = 0xa11ce
	bob   kv.NodeID = 0xb0b
)

// Cases gives the tests by name; each takes a network without nodes.
func Cases() map[string]func(*testing.T, Net) {
	return map[string]func(*testing.T, Net){
		"Echo":                testEcho,
		"ErrorsTravel":        testErrorsTravel,
		"RefusedAtOnce":       testRefusedAtOnce,
		"OrderWithinAClass":   testOrder,
		"DeadlinePasses":      testDeadline,
		"SendDoesNotBlock":    testSendDoesNotBlock,
		"BuffersStayApart":    testBuffers,
		"ManyCallersBothWays": testManyCallers,
		"PeerDiesAndReturns":  testPeerDies,
		"CloseFailsCallsOnce": testClose,
		"DialByAddress":       testDial,
		"OversizedIsRefused":  testOversized,
		"CallMindsItsContext": testCallContext,
		"ClassesDoNotWait":    testSlowClassDoesNotDelayAnother,
	}
}

type answer struct {
	resp []byte
	err  error
}

// ask sends and gives a channel of all answers, of which there must be one.
func ask(m peer.Mesh, to kv.NodeID, method peer.Method, req []byte, timeout time.Duration) <-chan answer {
	ch := make(chan answer, 4)
	m.Send(to, method, req, time.Now().Add(timeout), func(resp []byte, err error) { ch <- answer{resp, err} })
	return ch
}

func wait[T any](t testing.TB, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing happened", what)
		panic("unreachable")
	}
}

func want(t testing.TB, err error, code kv.Code, outcome kv.Outcome) {
	t.Helper()
	if kv.CodeOf(err) != code || kv.OutcomeOf(err) != outcome {
		t.Fatalf("got %v (%q, %q), want %q, %q", err, kv.CodeOf(err), kv.OutcomeOf(err), code, outcome)
	}
}

func echo(_ kv.NodeID, req []byte, reply func([]byte, error)) { reply(req, nil) }

// node starts an endpoint with an echo for Terms, ForwardRead and Probe.
func node(t testing.TB, net Net, id kv.NodeID, more map[peer.Method]peer.Handler) Endpoint {
	t.Helper()
	e := net.Endpoint(t, id)
	for _, m := range []peer.Method{peer.MethodTerms, peer.MethodForwardRead, peer.MethodProbe} {
		if more[m] == nil {
			e.Handle(m, echo)
		}
	}
	for m, h := range more {
		e.Handle(m, h)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func testEcho(t *testing.T, net Net) {
	from := make(chan kv.NodeID, 1)
	a := node(t, net, alice, nil)
	node(t, net, bob, map[peer.Method]peer.Handler{peer.MethodClock: func(id kv.NodeID, req []byte, reply func([]byte, error)) {
		from <- id
		go reply(append([]byte("re: "), req...), nil)
	}})
	if a.Self() != alice {
		t.Fatalf("self is %s", a.Self())
	}
	got := wait(t, "answer", ask(a, bob, peer.MethodClock, []byte("hello"), patience))
	if got.err != nil || string(got.resp) != "re: hello" {
		t.Fatalf("got %q, %v", got.resp, got.err)
	}
	if id := <-from; id != alice {
		t.Fatalf("handler was told of %s", id)
	}
	centuries := make(chan error, 1)
	a.Send(bob, peer.MethodTerms, nil, time.Now().AddDate(900, 0, 0), func(_ []byte, err error) { centuries <- err })
	if err := wait(t, "answer", centuries); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 8 << 10, 64 << 10, 3 << 20} {
		req := bytes.Repeat([]byte{7}, size)
		got := wait(t, "answer", ask(a, bob, peer.MethodTerms, req, patience))
		if got.err != nil || !bytes.Equal(got.resp, req) {
			t.Fatalf("%d bytes came back as %d, %v", size, len(got.resp), got.err)
		}
	}
}

func testErrorsTravel(t *testing.T, net Net) {
	sent := &kv.Error{Code: kv.CodeNotLeader, Outcome: kv.OutcomeNotApplied, Detail: "ask elsewhere", Shard: 7, Leader: 9, Version: 11}
	failing := func(_ kv.NodeID, req []byte, reply func([]byte, error)) {
		if len(req) > 0 {
			reply(nil, errors.New("plain"))
			return
		}
		reply([]byte("ignored"), fmt.Errorf("wrapped: %w", sent))
	}
	a := node(t, net, alice, nil)
	node(t, net, bob, map[peer.Method]peer.Handler{peer.MethodForwardPropose: failing})
	got := wait(t, "answer", ask(a, bob, peer.MethodForwardPropose, nil, patience))
	var e *kv.Error
	if !errors.As(got.err, &e) || e.Code != sent.Code || e.Outcome != sent.Outcome || e.Detail != sent.Detail ||
		e.Shard != 7 || e.Leader != 9 || e.Version != 11 {
		t.Fatalf("got %#v", got.err)
	}
	got = wait(t, "answer", ask(a, bob, peer.MethodForwardPropose, []byte("x"), patience))
	want(t, got.err, kv.CodeInternal, kv.OutcomeUnknown)
	got = wait(t, "answer", ask(a, bob, peer.MethodAdmin, nil, patience))
	want(t, got.err, kv.CodeInvalid, kv.OutcomeNotApplied)
}

func testRefusedAtOnce(t *testing.T, net Net) {
	a := node(t, net, alice, nil)
	node(t, net, bob, nil)
	want(t, wait(t, "self", ask(a, alice, peer.MethodTerms, nil, patience)).err, kv.CodeInvalid, kv.OutcomeNotApplied)
	want(t, wait(t, "unknown", ask(a, 0xdead, peer.MethodTerms, nil, patience)).err, kv.CodeUnavailable, kv.OutcomeNotApplied)
	want(t, wait(t, "too late", ask(a, bob, peer.MethodTerms, nil, -time.Second)).err, kv.CodeUnavailable, kv.OutcomeNotApplied)
}

func testOrder(t *testing.T, net Net) {
	const count = 2000
	var mu sync.Mutex
	var got []uint64
	a := node(t, net, alice, nil)
	node(t, net, bob, map[peer.Method]peer.Handler{peer.MethodAppendEntries: func(_ kv.NodeID, req []byte, reply func([]byte, error)) {
		mu.Lock()
		got = append(got, binary.LittleEndian.Uint64(req))
		mu.Unlock()
		reply(nil, nil)
	}})
	var last <-chan answer
	for i := range uint64(count) {
		last = ask(a, bob, peer.MethodAppendEntries, binary.LittleEndian.AppendUint64(nil, i), patience)
	}
	if a := wait(t, "last answer", last); a.err != nil {
		t.Fatal(a.err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(got) != count {
		t.Fatalf("%d of %d arrived before the last was answered", len(got), count)
	}
	for i, n := range got {
		if uint64(i) != n {
			t.Fatalf("number %d arrived as number %d", n, i)
		}
	}
}

func testDeadline(t *testing.T, net Net) {
	replies := make(chan func([]byte, error), 1)
	a := node(t, net, alice, nil)
	node(t, net, bob, map[peer.Method]peer.Handler{
		peer.MethodReport: func(_ kv.NodeID, _ []byte, reply func([]byte, error)) { replies <- reply }})
	const timeout = 50 * time.Millisecond
	start := time.Now()
	ch := ask(a, bob, peer.MethodReport, nil, timeout)
	want(t, wait(t, "expiry", ch).err, kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
	if took := time.Since(start); took < timeout {
		t.Fatalf("failed after %v, before its deadline", took)
	}
	(<-replies)([]byte("late"), nil)
	// The late answer comes before this one, and must not be heard.
	go func() { (<-replies)([]byte("good"), nil) }()
	got := wait(t, "next", ask(a, bob, peer.MethodReport, nil, patience))
	if got.err != nil || string(got.resp) != "good" {
		t.Fatalf("got %q, %v", got.resp, got.err)
	}
	if len(ch) != 0 {
		t.Fatal("done was called twice")
	}
}

func testSendDoesNotBlock(t *testing.T, net Net) {
	release := make(chan struct{})
	a := node(t, net, alice, nil)
	node(t, net, bob, map[peer.Method]peer.Handler{
		peer.MethodTerms: func(_ kv.NodeID, req []byte, reply func([]byte, error)) { <-release; reply(req, nil) }})
	returned := make(chan []<-chan answer)
	go func() {
		var chs []<-chan answer
		for range 1000 {
			chs = append(chs, ask(a, bob, peer.MethodTerms, make([]byte, 1000), patience))
		}
		returned <- chs
	}()
	chs := wait(t, "1000 sends to a handler that hangs", returned)
	close(release)
	for _, ch := range chs {
		if got := wait(t, "answer", ch); got.err != nil {
			t.Fatal(got.err)
		}
	}
}

// testBuffers: what either end does with a buffer after it was done with it is
// not seen by the other.
func testBuffers(t *testing.T, net Net) {
	var kept sync.Map
	a := node(t, net, alice, nil)
	node(t, net, bob, map[peer.Method]peer.Handler{peer.MethodTerms: func(_ kv.NodeID, req []byte, reply func([]byte, error)) {
		kept.Store(binary.LittleEndian.Uint64(req), req)
		reply(req, nil)
	}})
	buf := make([]byte, 100)
	for i := range uint64(100) {
		binary.LittleEndian.PutUint64(buf, i)
		got := wait(t, "answer", ask(a, bob, peer.MethodTerms, buf, patience))
		if got.err != nil {
			t.Fatal(got.err)
		}
		clear(buf)
		clear(got.resp)
	}
	kept.Range(func(k, v any) bool {
		if n := binary.LittleEndian.Uint64(v.([]byte)); n != k.(uint64) {
			t.Errorf("request %d reads %d later", k, n)
		}
		return true
	})
}

func testManyCallers(t *testing.T, net Net) {
	a, b := node(t, net, alice, nil), node(t, net, bob, nil)
	var wg sync.WaitGroup
	var bad atomic.Int64
	for i := range 64 {
		from, to := peer.Mesh(a), bob
		if i%2 == 1 {
			from, to = b, alice
		}
		method := []peer.Method{peer.MethodTerms, peer.MethodForwardRead}[i/2%2]
		wg.Go(func() {
			for j := range 100 {
				req := fmt.Appendf(nil, "%d/%d/%s", i, j, bytes.Repeat([]byte("x"), i*j%5000))
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				resp, err := peer.Call(ctx, from, to, method, req)
				cancel()
				if err != nil || !bytes.Equal(req, resp) {
					bad.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := bad.Load(); n != 0 {
		t.Fatalf("%d of 6400 calls failed or were mixed up", n)
	}
}

func testPeerDies(t *testing.T, net Net) {
	hang := map[peer.Method]peer.Handler{peer.MethodReport: func(kv.NodeID, []byte, func([]byte, error)) {}}
	gone := make(chan kv.NodeID, 16)
	a := net.Endpoint(t, alice)
	a.OnUnreachable(func(id kv.NodeID) {
		select {
		case gone <- id:
		default:
		}
	})
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	for range 3 {
		b := node(t, net, bob, hang)
		reach(t, a, bob, peer.MethodTerms)
		reach(t, a, bob, peer.MethodProbe)
		ch := ask(a, bob, peer.MethodReport, nil, patience)
		if got := wait(t, "answer", ask(a, bob, peer.MethodProbe, nil, patience)); got.err != nil {
			t.Fatal(got.err) // of the same class as the one that hangs, so that has arrived
		}
		start := time.Now()
		b.Close()
		want(t, wait(t, "in flight", ch).err, kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
		if took := time.Since(start); took > patience/2 {
			t.Fatalf("a call waited %v for a dead peer", took)
		}
		if id := wait(t, "alarm", gone); id != bob {
			t.Fatalf("alarm about %s", id)
		}
		for {
			got := wait(t, "refusal", ask(a, bob, peer.MethodTerms, nil, patience))
			if kv.OutcomeOf(got.err) == kv.OutcomeUnknown {
				continue // this class has not noticed yet
			}
			want(t, got.err, kv.CodeUnavailable, kv.OutcomeNotApplied)
			break
		}
	}
}

// reach asks until there is an answer.
func reach(t testing.TB, m peer.Mesh, to kv.NodeID, method peer.Method) {
	t.Helper()
	for start := time.Now(); ; {
		got := wait(t, "answer", ask(m, to, method, nil, patience))
		if got.err == nil {
			return
		}
		if time.Since(start) > patience {
			t.Fatalf("node %s is not reached: %v", to, got.err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func testClose(t *testing.T, net Net) {
	var arrived sync.WaitGroup
	arrived.Add(200)
	a := node(t, net, alice, nil)
	node(t, net, bob, map[peer.Method]peer.Handler{
		peer.MethodReport: func(kv.NodeID, []byte, func([]byte, error)) { arrived.Done() }})
	var chs []<-chan answer
	for range 200 {
		chs = append(chs, ask(a, bob, peer.MethodReport, nil, time.Hour))
	}
	arrived.Wait()
	a.Close()
	for _, ch := range chs {
		if len(ch) != 1 {
			t.Fatalf("done was called %d times when Close returned", len(ch))
		}
		want(t, (<-ch).err, kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
	}
	want(t, wait(t, "send", ask(a, bob, peer.MethodTerms, nil, patience)).err, kv.CodeUnavailable, kv.OutcomeNotApplied)
	a.Close() // again, harmless
}

func testDial(t *testing.T, net Net) {
	a := node(t, net, alice, nil)
	node(t, net, bob, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	id, resp, err := a.Dial(ctx, net.Address(bob), peer.MethodProbe, []byte("who"))
	if id != bob || string(resp) != "who" || err != nil {
		t.Fatalf("got %s, %q, %v", id, resp, err)
	}
	id, _, err = a.Dial(ctx, net.Address(alice), peer.MethodProbe, nil)
	if want(t, err, kv.CodeInvalid, kv.OutcomeNotApplied); id != alice {
		t.Fatalf("dialled ourselves and found %s", id)
	}
	_, _, err = a.Dial(ctx, net.Address(bob), peer.MethodTerms, nil)
	want(t, err, kv.CodeInvalid, kv.OutcomeNotApplied)
}

func testOversized(t *testing.T, net Net) {
	a := node(t, net, alice, nil)
	node(t, net, bob, map[peer.Method]peer.Handler{
		peer.MethodReport: func(_ kv.NodeID, _ []byte, reply func([]byte, error)) {
			reply(make([]byte, peer.PayloadBytesMax+1), nil)
		}})
	big := make([]byte, peer.PayloadBytesMax+1)
	want(t, wait(t, "request", ask(a, bob, peer.MethodTerms, big, patience)).err, kv.CodeTooLarge, kv.OutcomeNotApplied)
	want(t, wait(t, "answer", ask(a, bob, peer.MethodReport, nil, patience)).err, kv.CodeTooLarge, kv.OutcomeUnknown)
	got := wait(t, "largest", ask(a, bob, peer.MethodTerms, big[1:], patience))
	if got.err != nil || len(got.resp) != peer.PayloadBytesMax {
		t.Fatalf("got %d bytes, %v", len(got.resp), got.err)
	}
}

func testCallContext(t *testing.T, net Net) {
	a := node(t, net, alice, nil)
	node(t, net, bob, map[peer.Method]peer.Handler{peer.MethodReport: func(kv.NodeID, []byte, func([]byte, error)) {}})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(time.Millisecond, cancel)
	_, err := peer.Call(ctx, a, bob, peer.MethodReport, nil)
	if want(t, err, kv.CodeOutcomeUnknown, kv.OutcomeUnknown); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

// testSlowClassDoesNotDelayAnother: a handler of one class that hangs leaves the
// other classes alone.
func testSlowClassDoesNotDelayAnother(t *testing.T, net Net) {
	release := make(chan struct{})
	a := node(t, net, alice, nil)
	node(t, net, bob, map[peer.Method]peer.Handler{
		peer.MethodSnapshotChunk: func(_ kv.NodeID, _ []byte, reply func([]byte, error)) { <-release; reply(nil, nil) }})
	slow := ask(a, bob, peer.MethodSnapshotChunk, make([]byte, 1<<20), patience)
	for _, m := range []peer.Method{peer.MethodTerms, peer.MethodForwardRead, peer.MethodProbe} {
		if got := wait(t, "other class", ask(a, bob, m, nil, patience)); got.err != nil {
			t.Fatal(got.err)
		}
	}
	if len(slow) != 0 {
		t.Fatal("the slow one was answered first")
	}
	close(release)
	if got := wait(t, "slow class", slow); got.err != nil {
		t.Fatal(got.err)
	}
}
