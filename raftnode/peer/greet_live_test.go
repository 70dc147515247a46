package peer

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
)

func inCluster(name string) func(*Options) {
	return func(o *Options) { o.ClusterID = func() string { return name } }
}

// TestRefusalsAreLoggedOnBothEnds: whoever is not let in is told why, and both
// ends say so.
func TestRefusalsAreLoggedOnBothEnds(t *testing.T) {
	for name, c := range map[string]struct {
		reason  string
		words   string
		cluster string
		wrongID bool
	}{
		"other cluster":   {"other_cluster", "is of cluster", "elsewhere", false},
		"unexpected node": {"unexpected_node", "this is node", "test", true},
	} {
		t.Run(name, func(t *testing.T) {
			var n, dialler Loopback
			var refused sync.Map
			n.started(t, 2, func(o *Options) { o.Hooks.Refused = func(r string) { refused.Store("listener "+r, true) } })
			dialler.setAddress(2, n.Address(2))
			to := kv.NodeID(2)
			if c.wrongID {
				to = 3
				dialler.setAddress(3, n.Address(2))
			}
			a := dialler.started(t, 1, inCluster(c.cluster),
				func(o *Options) { o.Hooks.Refused = func(r string) { refused.Store("dialler "+r, true) } })
			got := await(t, "refusal", ask(a, to, MethodTerms, nil, patience))
			wantErr(t, got.err, kv.CodeUnavailable, kv.OutcomeNotApplied)
			for _, end := range []string{"listener ", "dialler "} {
				eventually(t, end+"counts", func() bool { _, ok := refused.Load(end + c.reason); return ok })
			}
			eventually(t, "listener's log", func() bool { return n.Log.has("WARN", "refused a connection", c.reason, c.words) })
			eventually(t, "dialler's log", func() bool { return dialler.Log.has("WARN", "no connection", c.words) })
			// A stranger may still probe by address.
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if id, _, err := a.Dial(ctx, n.Address(2), MethodProbe, nil); id != 2 || err != nil {
				t.Fatalf("probe: %s, %v", id, err)
			}
		})
	}
}

func TestUnknownProtocolIsRefusedInWords(t *testing.T) {
	var n Loopback
	n.started(t, 1)
	c := rawDial(t, n.Address(1))
	answer := c.greet(t, func(g *greeting) { g.versionMin, g.versionMax = 50, 60 })
	if answer.kind != greetRefusal || answer.refusal != refuseVersion || answer.text == "" {
		t.Fatalf("got %+v", answer)
	}
	_ = c.ended(t)
	eventually(t, "log", func() bool { return n.Log.has("WARN", "protocol_version", "50 to 60") })
}

// TestStrangersMayOnlyKnock: a node without a cluster reaches only what is open
// to strangers, until it is given the cluster's id; likewise where the
// listener is the one without.
func TestStrangersMayOnlyKnock(t *testing.T) {
	for _, late := range []kv.NodeID{1, 2} {
		t.Run(fmt.Sprintf("node %d joins late", late), func(t *testing.T) {
			var n Loopback
			var joined atomic.Bool
			clusterOf := func(id kv.NodeID) func(*Options) {
				return func(o *Options) {
					o.ClusterID = func() string {
						if id == late && !joined.Load() {
							return ""
						}
						return "test"
					}
				}
			}
			n.started(t, 2, clusterOf(2))
			a := n.started(t, 1, clusterOf(1))
			if got := await(t, "probe", ask(a, 2, MethodProbe, nil, patience)); got.err != nil {
				t.Fatal(got.err)
			}
			wantErr(t, await(t, "terms", ask(a, 2, MethodTerms, nil, patience)).err, kv.CodeUnavailable, kv.OutcomeNotApplied)
			joined.Store(true)
			if got := await(t, "terms", ask(a, 2, MethodTerms, nil, patience)); got.err != nil {
				t.Fatal(got.err)
			}
		})
	}
}

func TestStrangersMaySendLittle(t *testing.T) {
	var n Loopback
	n.started(t, 1)
	c := rawDial(t, n.Address(1))
	c.greet(t, func(g *greeting) { g.cluster, g.class = "", ClassControl })
	h := frameHeader{kind: kindRequest, method: uint16(MethodProbe), id: 1}
	c.send(t, appendFrame(nil, h, make([]byte, frameStrangerMax))[:frameHeaderBytes])
	if bye := c.ended(t); bye == nil {
		t.Fatal("no goodbye")
	}
}

func TestPeersAreMadeKnown(t *testing.T) {
	var n Loopback
	met := make(chan PeerInfo, 8)
	hook := func(o *Options) { o.Hooks.Peer = func(p PeerInfo) { met <- p } }
	n.started(t, 2, hook, func(o *Options) { o.Advertise = "two.example:7101" })
	a := n.started(t, 1, hook, func(o *Options) { o.Advertise = "one.example:7101" })
	reach(t, a, 2)
	for range 2 {
		p := await(t, "hook", met)
		wantAddress := map[kv.NodeID]string{1: "one.example:7101", 2: "two.example:7101"}[p.ID]
		if p.Advertise != wantAddress || p.Cluster != "test" || p.Incoming != (p.ID == 1) || p.Skew.Abs() > patience {
			t.Fatalf("got %+v", p)
		}
	}
	// Strangers are not.
	rawDial(t, n.Address(2)).greet(t, func(g *greeting) { g.cluster, g.byAddress = "foreign", true })
	reach(t, a, 2)
	if len(met) != 0 {
		t.Fatalf("got %+v", <-met)
	}
}

// TestSlowGreetingsEnd: connections that do not greet are closed, and do not
// take more than their share meanwhile.
func TestSlowGreetingsEnd(t *testing.T) {
	var n Loopback
	n.started(t, 1, func(o *Options) {
		o.Timing.Handshake = 300 * time.Millisecond
		o.Limits.Handshakes = 3
	})
	hello := appendGreeting(nil, &greeting{kind: greetHello, versionMin: 1, versionMax: 1, self: 9})
	var slow []*rawConn
	for i := range 3 {
		c := rawDial(t, n.Address(1))
		c.send(t, hello[:i*5])
		slow = append(slow, c)
	}
	// The fourth is turned away at once.
	start := time.Now()
	_ = rawDial(t, n.Address(1)).ended(t)
	eventually(t, "log", func() bool { return n.Log.has("WARN", "reason=limit") })
	if took := time.Since(start); took > 250*time.Millisecond {
		t.Logf("turned away after %v; the machine is slow", took)
	}
	for _, c := range slow {
		_ = c.ended(t)
	}
	// Then there is room again.
	a := n.started(t, 2)
	reach(t, a, 1)
}

func TestIncomingConnectionsAreBounded(t *testing.T) {
	var n Loopback
	m := n.started(t, 1, func(o *Options) { o.Limits.Incoming = 5 })
	var conns []*rawConn
	for i := range 5 {
		c := rawDial(t, n.Address(1))
		c.greet(t, func(g *greeting) { g.self = kv.NodeID(50 + i) })
		conns = append(conns, c)
	}
	_ = rawDial(t, n.Address(1)).ended(t)
	// A dialler has its welcome a moment before the connection counts.
	eventually(t, "five connections", func() bool { return m.Stats()[ClassRaft].Incoming == 5 })
	_ = conns[0].Close()
	a := n.started(t, 2)
	reach(t, a, 1)
}

// TestNewerConnectionReplacesOlder: a peer has one connection per class, so that
// those of its former lives do not pile up.
func TestNewerConnectionReplacesOlder(t *testing.T) {
	var n Loopback
	m := n.TCP(t, 1)
	alarms := make(chan kv.NodeID, 4)
	m.OnUnreachable(func(id kv.NodeID) { alarms <- id })
	m.Handle(MethodTerms, echo)
	start(t, m)
	one := rawDial(t, n.Address(1))
	one.greet(t, nil)
	two := rawDial(t, n.Address(1))
	two.greet(t, nil)
	if bye := one.ended(t); bye == nil {
		t.Fatal("the older had no goodbye")
	}
	_ = one.Close()
	two.send(t, appendFrame(nil, frameHeader{kind: kindRequest, method: uint16(MethodTerms), id: 5}, []byte("x")))
	if h, _, err := readFrame(two.in, 1000); err != nil || h.kind != kindAnswer || h.id != 5 {
		t.Fatalf("got %+v, %v", h, err)
	}
	eventually(t, "one connection", func() bool { return m.Stats()[ClassRaft].Incoming == 1 })
	if len(alarms) != 0 {
		t.Fatal("an alarm about a peer that is there")
	}
	_ = two.Close()
	if id := await(t, "alarm", alarms); id != 99 {
		t.Fatalf("alarm about %s", id)
	}
}

func TestDialMindsItsContext(t *testing.T) {
	var n Loopback
	conns := mute(t, &n, 2)
	a := n.started(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 1)
	go func() {
		_, _, err := a.Dial(ctx, n.Address(2), MethodProbe, nil)
		errs <- err
	}()
	c := await(t, "connection", conns)
	if h, _, err := readFrame(c.in, 1000); err != nil || Method(h.method) != MethodProbe {
		t.Fatalf("got %+v, %v", h, err)
	}
	cancel()
	wantErr(t, await(t, "end", errs), kv.CodeOutcomeUnknown, kv.OutcomeUnknown)

	hung, err := net.Listen("tcp", "127.0.0.1:0") // never greets
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hung.Close() }()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err = a.Dial(short, hung.Addr().String(), MethodProbe, nil)
	wantErr(t, err, kv.CodeUnavailable, kv.OutcomeNotApplied)
	go func() {
		_, _, err := a.Dial(t.Context(), hung.Addr().String(), MethodProbe, nil)
		errs <- err
	}()
	a.Close()
	wantErr(t, await(t, "end", errs), kv.CodeUnavailable, kv.OutcomeNotApplied)
}
