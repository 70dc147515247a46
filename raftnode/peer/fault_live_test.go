package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// TestMalformedBytesEndTheConnectionOnly: whatever a peer sends after its
// greeting, the connection ends with a reason and the mesh goes on.
func TestMalformedBytesEndTheConnectionOnly(t *testing.T) {
	var n Loopback
	n.started(t, 1)
	request := frameHeader{kind: kindRequest, method: uint16(MethodTerms), id: 1}
	flipped := appendFrame(nil, request, []byte("x"))
	flipped[22] ^= 1
	for name, data := range map[string][]byte{
		"checksum":             flipped,
		"huge":                 append(binary.LittleEndian.AppendUint32(nil, 0xfffffff0), make([]byte, 30)...),
		"an answer":            appendFrame(nil, frameHeader{kind: kindAnswer, id: 1}, nil),
		"a pong":               appendFrame(nil, frameHeader{kind: kindPong, id: 1}, nil),
		"a failure":            appendFrame(nil, frameHeader{kind: kindFailure, id: 1}, []byte{0xff}),
		"a second hello":       append(appendGreeting(nil, &greeting{kind: greetHello, self: 99}), make([]byte, 30)...),
		"sound, then unsound ": append(appendFrame(nil, request, nil), make([]byte, 30)...),
	} {
		c := rawDial(t, n.Address(1))
		c.greet(t, nil)
		c.send(t, data)
		if bye := c.ended(t); !errors.Is(bye, errPeerFault) {
			t.Errorf("%s: goodbye %v", name, bye)
		}
	}
	eventually(t, "log", func() bool { return n.Log.has("WARN", "reason=malformed", "frame checksum") })
	// Noise in place of a greeting, too.
	rng := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		c := rawDial(t, n.Address(1))
		noise := make([]byte, 1+rng.IntN(3000))
		for i := range noise {
			noise[i] = byte(rng.Uint32())
		}
		_, _ = c.Write(noise) // it may be closed before all is written
		_ = c.Conn.(*net.TCPConn).CloseWrite()
		_ = c.ended(t)
	}
	reach(t, n.started(t, 2), 1)
}

// TestMalformedAnswersEndTheConnection: the same at the dialler's end.
func TestMalformedAnswersEndTheConnection(t *testing.T) {
	var n Loopback
	conns := mute(t, &n, 2)
	a := n.started(t, 1, func(o *Options) { o.Timing.BackoffMax = time.Millisecond })
	for name, data := range map[string][]byte{
		"a request":   appendFrame(nil, frameHeader{kind: kindRequest, id: 1}, nil),
		"no failure":  appendFrame(nil, frameHeader{kind: kindFailure, id: 1}, []byte{0xff}),
		"no frame":    make([]byte, 40),
		"a cut frame": appendFrame(nil, frameHeader{kind: kindAnswer, id: 1}, nil)[:21],
	} {
		var ch <-chan outcome
		eventually(t, "dial", func() bool {
			ch = ask(a, 2, MethodTerms, nil, patience)
			return len(ch) == 0
		})
		c := await(t, "connection", conns)
		c.send(t, data)
		_ = c.Conn.(*net.TCPConn).CloseWrite()
		got := await(t, name, ch)
		wantErr(t, got.err, kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
		_ = c.Close()
	}
}

// TestSilentPeersAreGivenUp: neither end waits for ever for one that says
// nothing and closes nothing.
func TestSilentPeersAreGivenUp(t *testing.T) {
	var n Loopback
	conns := mute(t, &n, 2)
	closed := make(chan error, 8)
	a := n.started(t, 1, func(o *Options) {
		o.Timing.Ping, o.Timing.Dead = 30*time.Millisecond, 150*time.Millisecond
		o.Hooks.Closed = func(_ Class, _ bool, err error) { closed <- err }
	})
	ch := ask(a, 2, MethodTerms, nil, patience)
	c := await(t, "connection", conns)
	wantErr(t, await(t, "dialler gives up", ch).err, kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
	await(t, "hook", closed)
	pings := 0
	for {
		h, _, err := readFrame(c.in, 1000)
		if err != nil {
			break
		}
		if h.kind == kindPing {
			pings++
		}
	}
	if pings == 0 {
		t.Fatal("given up without a ping")
	}
	raw := rawDial(t, n.Address(1))
	raw.greet(t, nil)
	_ = raw.ended(t)
	await(t, "listener gives up", closed)
}

// TestIdleConnectionsStay: pings keep a quiet connection, and measure it.
func TestIdleConnectionsStay(t *testing.T) {
	var n Loopback
	var pongs, ends atomic.Int64
	quick := func(o *Options) {
		o.Timing.Ping, o.Timing.Dead = 10*time.Millisecond, 500*time.Millisecond
		o.Hooks.RoundTrip = func(to kv.NodeID, c Class, took time.Duration) {
			if to != 2 || c != ClassRaft || took <= 0 || took > patience {
				t.Errorf("round trip to %s of class %s took %v", to, c, took)
			}
			pongs.Add(1)
		}
		o.Hooks.Closed = func(Class, bool, error) { ends.Add(1) }
	}
	n.started(t, 2, quick)
	a := n.started(t, 1, quick)
	reach(t, a, 2)
	eventually(t, "100 pings", func() bool { return pongs.Load() >= 100 })
	if ends.Load() != 0 {
		t.Fatal("the connection ended")
	}
}

// TestWhoStoodStillHeardNothing: what this process did not hear or write while it stood
// still is not the peer's silence; what it did not before and after is.
func TestWhoStoodStillHeardNothing(t *testing.T) {
	const dead = time.Second
	for _, c := range []struct {
		silent, writing, stood time.Duration
		why                    string
	}{
		{silent: 900 * time.Millisecond},
		{silent: 10 * time.Second, stood: 9100 * time.Millisecond},
		{silent: 10 * time.Second, stood: 8900 * time.Millisecond, why: "nothing heard for 1.1s"},
		{silent: 10 * time.Second, why: "nothing heard for 10s"},
		{writing: 10 * time.Second, stood: 9100 * time.Millisecond},
		{writing: 10 * time.Second, stood: 8900 * time.Millisecond, why: "one write took 1.1s"},
		{writing: 2 * time.Second, silent: 2 * time.Second, why: "one write took 2s"},
		{stood: time.Hour},
	} {
		var n Loopback
		here, there := net.Pipe()
		w := n.TCP(t, 1).newWire(here)
		now := int64(2 * time.Hour)
		w.meter.last.Store(now - int64(c.silent))
		if c.writing > 0 {
			w.writeSince.Store(now - int64(c.writing))
		}
		w.check(now, c.stood, dead)
		if got := fmt.Sprint(w.reason()); got != c.why && (c.why != "" || w.reason() != nil) {
			t.Errorf("%+v: closed because of %s", c, got)
		}
		if w.meter.last.Load() > now {
			t.Errorf("%+v: heard in the future", c)
		}
		_, _ = here.Close(), there.Close()
	}
	// How late the keeper is tells of it, but for what a busy machine does.
	var n Loopback
	k := keeper{tcp: n.TCP(t, 1, func(o *Options) { o.Timing.Dead = dead })}
	for late, want := range map[time.Duration]time.Duration{0: 0, dead / 10: 0, dead / 5: dead / 5, time.Hour: time.Hour} {
		if got := k.stood(int64(late)); got != want {
			t.Errorf("%s late: stood for %s, want %s", late, got, want)
		}
	}
}

// TestResetRaisesTheAlarm: a connection that is torn down, as by a process that
// is killed with bytes unread, fails its calls at once.
func TestResetRaisesTheAlarm(t *testing.T) {
	var n Loopback
	conns := mute(t, &n, 2)
	a := n.TCP(t, 1)
	gone := make(chan kv.NodeID, 8)
	a.OnUnreachable(func(id kv.NodeID) { gone <- id })
	start(t, a)
	ch := ask(a, 2, MethodTerms, nil, patience)
	c := await(t, "connection", conns)
	if _, _, err := readFrame(c.in, 1000); err != nil {
		t.Fatal(err)
	}
	_ = c.Conn.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
	wantErr(t, await(t, "call", ch).err, kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
	if id := await(t, "alarm", gone); id != 2 {
		t.Fatalf("alarm about %s", id)
	}
}

// TestQueueOverflows: when a peer stops reading, requests are refused as not
// applied; those that were taken fail as unknown at their deadlines, and each is
// answered once.
func TestQueueOverflows(t *testing.T) {
	var n Loopback
	conns := mute(t, &n, 2)
	var hooked atomic.Int64
	a := n.started(t, 1, func(o *Options) {
		o.Limits.QueueBytes = 1 << 20
		o.Hooks.Overloaded = func(kv.NodeID, Class) { hooked.Add(1) }
	})
	var taken []<-chan outcome
	overloaded := 0
	for end := time.Now().Add(patience); overloaded < 100; {
		if time.Now().After(end) {
			t.Fatal("nothing overflows")
		}
		ch := ask(a, 2, MethodTerms, make([]byte, 100<<10), time.Second)
		select {
		case got := <-ch:
			if kv.CodeOf(got.err) == kv.CodeOutcomeUnknown {
				break // an early one met its deadline
			}
			wantErr(t, got.err, kv.CodeOverloaded, kv.OutcomeNotApplied)
			overloaded++
		default:
			taken = append(taken, ch)
		}
	}
	await(t, "connection", conns)
	if hooked.Load() < 100 {
		t.Fatalf("the hook was called %d times", hooked.Load())
	}
	if queued := a.Stats()[ClassRaft].QueueBytes; queued > 1<<20+200<<10 {
		t.Fatalf("%d bytes queued", queued)
	}
	for _, ch := range taken {
		wantErr(t, await(t, "deadline", ch).err, kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
	}
}

func TestCallsAreBounded(t *testing.T) {
	var n Loopback
	_ = mute(t, &n, 2)
	a := n.started(t, 1, func(o *Options) { o.Limits.Calls = 10 })
	for range 10 {
		if ch := ask(a, 2, MethodTerms, nil, patience); len(ch) != 0 {
			t.Fatal((<-ch).err)
		}
	}
	wantErr(t, await(t, "eleventh", ask(a, 2, MethodTerms, nil, patience)).err, kv.CodeOverloaded, kv.OutcomeNotApplied)
	if got := a.Stats()[ClassRaft].Calls; got != 10 {
		t.Fatalf("%d calls", got)
	}
}

// TestUnansweredRequestsAreForgotten: handlers that never answer do not block
// the connection for longer than their requests' deadlines.
func TestUnansweredRequestsAreForgotten(t *testing.T) {
	var n Loopback
	b := n.TCP(t, 2, func(o *Options) {
		o.Limits.InFlight = 2
		o.Timing.Grace = 10 * time.Millisecond
		o.Timing.Ping = 20 * time.Millisecond // so that it looks often
	})
	b.Handle(MethodReport, func(kv.NodeID, []byte, func([]byte, error)) {})
	b.Handle(MethodProbe, echo)
	start(t, b)
	a := n.started(t, 1)
	for range 5 {
		ask(a, 2, MethodReport, nil, 20*time.Millisecond)
	}
	if got := await(t, "probe", ask(a, 2, MethodProbe, nil, patience)); got.err != nil {
		t.Fatal(got.err)
	}
}

// TestDialPauses: while a peer refuses, few dials are made and requests fail at
// once; when it comes, it is found soon, and at once if it dials us.
func TestDialPauses(t *testing.T) {
	var n Loopback
	n.started(t, 2).Close() // to have an address where nobody listens
	var dials atomic.Int64
	a := n.started(t, 1, func(o *Options) {
		o.Hooks.Dialled = func(kv.NodeID, Class, time.Duration, error) { dials.Add(1) }
		o.Timing.BackoffMin, o.Timing.BackoffMax = 20*time.Millisecond, time.Hour
	})
	begin, sends := time.Now(), 0
	for ; time.Since(begin) < 300*time.Millisecond; sends++ {
		got := await(t, "refusal", ask(a, 2, MethodTerms, nil, patience))
		wantErr(t, got.err, kv.CodeUnavailable, kv.OutcomeNotApplied)
	}
	// 20, 40, 80, 160 ms, each at least half of it.
	if d := dials.Load(); d < 3 || d > 8 || sends < 100 {
		t.Fatalf("%d dials for %d requests", d, sends)
	}
	l := a.links[linkKey{2, ClassRaft}]
	l.mu.Lock()
	l.retryAt = a.clock() + int64(time.Hour)
	l.mu.Unlock()
	b := n.started(t, 2)
	reach(t, b, 1) // b dials a, which so learns that b is there
	eventually(t, "no pause", func() bool {
		return await(t, "answer", ask(a, 2, MethodTerms, nil, patience)).err == nil
	})
}

// TestWhileDialling: a request that meets its deadline before the connection
// stands was not applied, and is not sent afterwards; Close ends the dial.
func TestWhileDialling(t *testing.T) {
	var n Loopback
	var arrived atomic.Int64
	b := n.TCP(t, 2)
	b.Handle(MethodTerms, func(_ kv.NodeID, req []byte, reply func([]byte, error)) { arrived.Add(1); reply(req, nil) })
	start(t, b)
	release := make(chan struct{})
	a := n.started(t, 1, func(o *Options) {
		o.Timing.Dial = time.Minute
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-release:
				var d net.Dialer
				return d.DialContext(ctx, "tcp", address)
			}
		}
	})
	late, good := ask(a, 2, MethodTerms, nil, 20*time.Millisecond), ask(a, 2, MethodTerms, []byte("x"), patience)
	wantErr(t, await(t, "deadline", late).err, kv.CodeUnavailable, kv.OutcomeNotApplied)
	release <- struct{}{}
	if got := await(t, "answer", good); got.err != nil || string(got.resp) != "x" {
		t.Fatalf("got %q, %v", got.resp, got.err)
	}
	if arrived.Load() != 1 {
		t.Fatalf("%d requests arrived", arrived.Load())
	}
	other := ask(a, 2, MethodProbe, nil, patience) // another class: it has to dial
	a.Close()
	wantErr(t, await(t, "close", other).err, kv.CodeUnavailable, kv.OutcomeNotApplied)
}

// TestBrokenAndRemade tears connections down under load: every call is done
// exactly once, and the mesh heals.
func TestBrokenAndRemade(t *testing.T) {
	var n Loopback
	var mu sync.Mutex
	var conns []net.Conn
	n.started(t, 2)
	a := n.started(t, 1, func(o *Options) {
		o.Timing.BackoffMin, o.Timing.BackoffMax = time.Millisecond, 2*time.Millisecond
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", address)
			if err == nil {
				mu.Lock()
				conns = append(conns, c)
				mu.Unlock()
			}
			return c, err
		}
	})
	var done, good atomic.Int64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	const callers = 8
	var sent atomic.Int64
	for i := range callers {
		wg.Go(func() {
			for j := 0; ; j++ {
				select {
				case <-stop:
					return
				default:
				}
				sent.Add(1)
				ch := ask(a, 2, MethodTerms, fmt.Appendf(nil, "%d/%d", i, j), patience)
				got := <-ch
				done.Add(int64(1 + len(ch)))
				if got.err == nil {
					good.Add(1)
				}
			}
		})
	}
	for range 30 {
		before := good.Load()
		eventually(t, "progress", func() bool { return good.Load() > before+20 })
		mu.Lock()
		for _, c := range conns {
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		}
		conns = nil
		mu.Unlock()
	}
	close(stop)
	wg.Wait()
	if done.Load() != sent.Load() {
		t.Fatalf("%d calls, %d done", sent.Load(), done.Load())
	}
}

// TestDeadlinesAreKept: calls learn of their deadlines soon after, though the
// keeper looks at quiet connections only every second.
func TestDeadlinesAreKept(t *testing.T) {
	var n Loopback
	_ = mute(t, &n, 2)
	a := n.started(t, 1)
	const timeout, soon = 20 * time.Millisecond, 300 * time.Millisecond
	kept := 0
	for range 9 {
		begin := time.Now()
		_ = await(t, "deadline", ask(a, 2, MethodTerms, nil, timeout))
		took := time.Since(begin)
		if took < timeout {
			t.Fatalf("failed after %v", took)
		}
		if took < timeout+soon {
			kept++
		}
	}
	if kept < 7 { // a busy machine may be late, but not often
		t.Fatalf("%d of 9 deadlines were kept", kept)
	}
}
