package peer

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// rawDialFrom is rawDial from an address of the loopback network.
func rawDialFrom(t testing.TB, ip, address string) *rawConn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: patience}
	conn, err := d.Dial("tcp", address)
	if err != nil {
		t.Skipf("no address but 127.0.0.1 on this system: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return newRawConn(conn)
}

// TestOneAddressCannotTakeAllPlaces: neither of those that greet nor of those that
// have greeted.
func TestOneAddressCannotTakeAllPlaces(t *testing.T) {
	var n Loopback
	var limited atomic.Int32
	m := n.started(t, 1, func(o *Options) {
		o.Limits.HandshakesPerAddress, o.Limits.IncomingPerAddress = 3, 5
		o.Hooks.Refused = func(reason string) {
			if reason == "limit" {
				limited.Add(1)
			}
		}
	})
	turnedAway := func(times int32) { // and not only closed when its time to greet is over
		t.Helper()
		_ = rawDialFrom(t, "127.0.0.2", n.Address(1)).ended(t)
		if got := limited.Load(); got != times {
			t.Fatalf("%d were refused for the limit, want %d", got, times)
		}
	}
	var silent []*rawConn
	for range 3 {
		silent = append(silent, rawDialFrom(t, "127.0.0.2", n.Address(1)))
	}
	eventually(t, "three greet", func() bool { m.door.mu.Lock(); defer m.door.mu.Unlock(); return m.door.greeting == 3 })
	turnedAway(1)
	rawDialFrom(t, "127.0.0.3", n.Address(1)).greet(t, nil)
	for i, c := range silent {
		c.greet(t, func(g *greeting) { g.self = kv.NodeID(50 + i) })
	}
	for i := range 2 {
		rawDialFrom(t, "127.0.0.2", n.Address(1)).greet(t, func(g *greeting) { g.self = kv.NodeID(60 + i) })
	}
	eventually(t, "six connections", func() bool { return m.Stats()[ClassRaft].Incoming == 6 })
	turnedAway(2)
	reach(t, n.started(t, 2), 1)
	for _, c := range silent {
		_ = c.Close()
	}
	eventually(t, "places are given back", func() bool { return m.Stats()[ClassRaft].Incoming == 4 })
	rawDialFrom(t, "127.0.0.2", n.Address(1)).greet(t, func(g *greeting) { g.self = 70 })
}

// TestStrangersLeavePlacesToMembers: however many there are.
func TestStrangersLeavePlacesToMembers(t *testing.T) {
	var n Loopback
	var limited atomic.Int32
	m := n.started(t, 1, func(o *Options) {
		o.Limits.Strangers = 3
		o.Hooks.Refused = func(reason string) {
			if reason == "limit" {
				limited.Add(1)
			}
		}
	})
	stranger := func() *rawConn {
		c := rawDial(t, n.Address(1))
		c.greet(t, func(g *greeting) { g.cluster, g.byAddress = "", true })
		return c
	}
	for range 3 {
		stranger()
	}
	eventually(t, "three", func() bool { return m.Stats()[ClassRaft].Incoming == 3 })
	_ = stranger().ended(t)
	eventually(t, "the fourth is counted", func() bool { return limited.Load() == 1 })
	reach(t, n.started(t, 2), 1)
}

// TestPongsDoNotPileUp: a peer that pings and reads nothing is read no further.
func TestPongsDoNotPileUp(t *testing.T) {
	var n Loopback
	m := n.started(t, 1, func(o *Options) { o.Limits.AnswersPause = 1 << 20 })
	c := rawDial(t, n.Address(1))
	c.greet(t, nil) // a member: it is not held back by its pace
	var pings []byte
	for i := range 2000 {
		pings = appendFrame(pings, frameHeader{kind: kindPing, id: uint64(i)}, nil)
	}
	wrote := make(chan int, 1)
	go func() {
		total := 0
		for total < 64<<20 {
			k, err := c.Write(pings)
			if total += k; err != nil {
				break
			}
		}
		wrote <- total
	}()
	worst := 0
	eventually(t, "the reader waits", func() bool {
		worst = max(worst, m.Stats()[ClassRaft].QueueBytes)
		for _, in := range m.ins.all(nil) {
			in.mu.Lock()
			stalled := in.stalled
			in.mu.Unlock()
			if stalled {
				return true
			}
		}
		return len(wrote) > 0
	})
	_ = c.Close()
	if total := <-wrote; total >= 64<<20 {
		t.Errorf("%d bytes of pings were taken, %d of answers queued", total, worst)
	}
	if limit := m.opts.Limits.AnswersPause + 2*wireReadBytes; worst > limit {
		t.Errorf("%d bytes of answers were queued", worst)
	}
}

// TestStrangersReplaceNobody: who is not known to be a member cannot end a member's
// connection by saying its name.
func TestStrangersReplaceNobody(t *testing.T) {
	var n Loopback
	m := n.started(t, 1)
	member := rawDial(t, n.Address(1))
	member.greet(t, nil)
	eventually(t, "one", func() bool { return m.Stats()[ClassRaft].Incoming == 1 })
	rawDial(t, n.Address(1)).greet(t, func(g *greeting) { g.cluster = "" })
	eventually(t, "two", func() bool { return m.Stats()[ClassRaft].Incoming == 2 })
	member.send(t, appendFrame(nil, frameHeader{kind: kindRequest, method: uint16(MethodTerms), id: 5}, []byte("x")))
	if h, _, err := readFrame(member.in, 1000); err != nil || h.kind != kindAnswer || h.id != 5 {
		t.Fatalf("got %+v, %v", h, err)
	}
}

// TestPanicsOfHandlersEndConnections, and nothing else.
func TestPanicsOfHandlersEndConnections(t *testing.T) {
	var n Loopback
	m := n.TCP(t, 1)
	m.Handle(MethodTerms, func(_ kv.NodeID, req []byte, reply func([]byte, error)) {
		if strings.HasPrefix(string(req), "bad") {
			panic("not thought of")
		}
		reply(req, nil)
	})
	start(t, m)
	c := rawDial(t, n.Address(1))
	c.greet(t, nil)
	c.send(t, appendFrame(nil, frameHeader{kind: kindRequest, method: uint16(MethodTerms), id: 5}, []byte("bad")))
	if bye := c.ended(t); bye == nil {
		t.Error("no goodbye")
	}
	eventually(t, "log", func() bool { return n.Log.has("ERROR", "panic in the handler", "not thought of") })
	eventually(t, "counted", func() bool { return n.Log.has("WARN", "refused a connection", "malformed") })
	a := n.started(t, 2)
	reach(t, a, 1)
}

// TestStrangersHaveAPace: their frames are read at a bounded rate.
func TestStrangersHaveAPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := guest{door: &door{}}
		begin := time.Now()
		for range 3 * strangerFramesPerSecond {
			if err := g.stay(t.Context(), &Limits{Strangers: 1}); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin); took < 1900*time.Millisecond || took > 2100*time.Millisecond {
			t.Errorf("it took %s", took)
		}
		other := guest{door: g.door}
		if err := other.stay(t.Context(), &Limits{Strangers: 1}); err != errCrowded {
			t.Errorf("a second: %v", err)
		}
		other.leave()
		g.leave()
		g.leave()
		if g.door.strangers != 0 {
			t.Errorf("%d strangers", g.door.strangers)
		}
	})
}
