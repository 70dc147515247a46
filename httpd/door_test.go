package httpd

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// dialFrom opens a connection from an address of the loopback network.
func (r *rig) dialFrom(ip string) *conn {
	r.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: 5 * time.Second}
	c, err := d.Dial("tcp", r.addr)
	if err != nil {
		r.t.Skipf("no address but 127.0.0.1 on this system: %v", err)
	}
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return &conn{r.t, c, bufio.NewReader(c)}
}

const getK = "GET /v1/kv/k HTTP/1.1\r\nHost: x\r\n\r\n"

func get(target string) string { return "GET " + target + " HTTP/1.1\r\nHost: x\r\n\r\n" }

// One address takes its share of the connections and no more; others, and the
// control plane, find their place (door's invariants).
func TestConnectionsAreBoundedPerAddressAndInAll(t *testing.T) {
	r := newRig(t, func(o *Options) {
		o.Limits.Connections, o.Limits.ConnectionsPerClient, o.Limits.ConnectionsReserve = 6, 4, 8
	})
	for i := range 4 { // some stay fast, some become net/http's
		if a := r.dialFrom("127.0.0.2").write(get([]string{keyPrefix + "k", "/v1/limits"}[i%2])).answer("GET"); a.status != 404 && a.status != 200 {
			t.Fatalf("connection %d: %d", i, a.status)
		}
	}
	beyond := r.dialFrom("127.0.0.2").write(getK)
	a := beyond.answer("GET")
	if a.status != 429 || a.header.Get("Retry-After") == "" || a.header.Get("Connection") != "close" || !strings.Contains(a.body, `"overloaded"`) {
		t.Errorf("a request for a key from the reserve: %d %v %s", a.status, a.header, a.body)
	}
	beyond.closed()
	for _, target := range []string{"/livez", "/readyz", "/v1/cluster", "/v1/limits"} {
		c := r.dialFrom("127.0.0.2").write(get(target))
		if a := c.answer("GET"); a.status != 200 || a.header.Get("Connection") != "close" {
			t.Errorf("%s from the reserve: %d %v", target, a.status, a.header)
		}
		c.closed()
	}
	for range 2 { // another address
		if a := r.dialFrom("127.0.0.3").write(getK).answer("GET"); a.status != 404 {
			t.Errorf("another address: %d", a.status)
		}
	}
	if a := r.dialFrom("127.0.0.4").write(getK).answer("GET"); a.status != 429 {
		t.Errorf("a seventh connection for keys: %d", a.status)
	}
	if a := r.dialFrom("127.0.0.4").write(get("/livez")).answer("GET"); a.status != 200 {
		t.Errorf("a seventh connection for /livez: %d", a.status)
	}
}

// Places are given back however a connection ends: nothing is left in the door.
func TestPlacesAreGivenBack(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Limits.Connections, o.Limits.ConnectionsReserve = 5, 2 })
	for i := range 40 {
		c := r.dial()
		switch i % 5 {
		case 0:
		case 1:
			c.write(getK).answer("GET")
		case 2:
			c.write(get("/v1/limits")).answer("GET")
		case 3:
			c.write("garbage\r\n\r\n")
		case 4:
			c.write("PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nabc")
		}
		_ = c.Close()
		waitFor(t, func() bool { inside, _, _ := r.server.Connections(); return inside < 5 })
	}
	// A connection that was closed at once may not have come in yet, and nobody is left
	// in the door before it has. They come in in order: when this one is answered, all have.
	last := r.dial()
	last.write(getK).answer("GET")
	_ = last.Close()
	waitFor(t, func() bool { inside, reserved, _ := r.server.Connections(); return inside+reserved == 0 })
	r.server.door.mu.Lock()
	defer r.server.door.mu.Unlock()
	if n := len(r.server.door.places) + len(r.server.door.clients); n != 0 {
		t.Errorf("%d places and clients are left", n)
	}
}

// fakeConn is a connection from an address, which may be closed.
type fakeConn struct {
	net.Conn
	addr   net.Addr
	closed bool
}

func (c *fakeConn) RemoteAddr() net.Addr { return c.addr }

// Close notes it.
func (c *fakeConn) Close() error { c.closed = true; return nil }

func connFrom(ip string) *fakeConn {
	return &fakeConn{addr: &net.TCPAddr{IP: net.ParseIP(ip), Port: 9}}
}

// In the reserve the oldest gives way, but only after a while, and one address cannot
// push out others.
func TestReserveGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := Limits{Connections: 1, ConnectionsPerClient: 1, ConnectionsReserve: 8}
		l.setDefaults()
		d := door{limits: &l}
		mine := []*fakeConn{connFrom("10.0.0.1"), connFrom("10.0.0.1"), connFrom("10.0.0.1")}
		for i, c := range mine {
			if !d.admit(c) {
				t.Fatalf("connection %d was refused", i)
			}
		}
		other := connFrom("10.0.0.2")
		if !d.admit(other) {
			t.Fatal("another address was refused")
		}
		if d.admit(connFrom("10.0.0.1")) {
			t.Fatal("a third in the reserve")
		}
		time.Sleep(reserveLife) // virtual
		if !d.admit(connFrom("10.0.0.1")) || !mine[1].closed || mine[2].closed || mine[0].closed || other.closed {
			t.Errorf("the oldest of the reserve was to give way: %v %v %v %v", mine[0].closed, mine[1].closed, mine[2].closed, other.closed)
		}
		if inside, reserved, refused := d.figures(); inside != 1 || reserved != 3 || refused != 1 {
			t.Errorf("%d inside, %d reserved, %d refused", inside, reserved, refused)
		}
		d.leave(mine[1]) // again
		if inside, reserved, _ := d.figures(); inside != 1 || reserved != 3 {
			t.Errorf("%d inside, %d reserved", inside, reserved)
		}
	})
}

func TestNetworkOf(t *testing.T) {
	for ip, want := range map[string]string{
		"10.1.2.3": "10.1.2.3/32", "::ffff:10.1.2.3": "10.1.2.3/32", "2001:db8:1:2:3::4": "2001:db8:1:2::/64", "fe80::1": "fe80::/64",
	} {
		if got := networkOf(&net.TCPAddr{IP: net.ParseIP(ip), Zone: ""}); got.String() != want {
			t.Errorf("%s: %s, want %s", ip, got, want)
		}
	}
	if got := networkOf(&net.UnixAddr{Name: "x"}); got.IsValid() {
		t.Errorf("a socket in the file system: %s", got)
	}
}

// A connection that sends nothing at all ends as soon as one whose header trickles.
func TestSilentConnectionsEnd(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Limits.HeaderTimeout = 60 * time.Millisecond })
	if _, err := r.dial().r.ReadByte(); err != io.EOF {
		t.Errorf("%v", err)
	}
}

// One address has its share of the requests in flight; others find places.
func TestRequestsInFlightPerAddress(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Limits.DataPerClient, o.Limits.StreamsPerClient = 2, 1 })
	entered, release := make(chan struct{}, 10), make(chan struct{})
	r.data.fail = func(context.Context, string) error { entered <- struct{}{}; <-release; return nil }
	var held []*conn
	for _, target := range []string{keyPrefix + "k", "/v1/kv?limit=5"} { // fast, and net/http's
		held = append(held, r.dialFrom("127.0.0.2").write(get(target)))
		<-entered
	}
	for _, target := range []string{keyPrefix + "k", "/v1/kv?limit=5"} {
		if a := r.dialFrom("127.0.0.2").write(get(target)).answer("GET"); a.status != 429 {
			t.Errorf("%s: %d", target, a.status)
		}
	}
	if a := r.dialFrom("127.0.0.2").write(get("/v1/cluster")).answer("GET"); a.status != 200 {
		t.Errorf("the control plane: %d", a.status)
	}
	other := r.dialFrom("127.0.0.3").write(getK)
	<-entered
	close(release)
	for _, c := range append(held, other) {
		if a := c.answer("GET"); a.status != 200 && a.status != 404 {
			t.Errorf("%d", a.status)
		}
	}
	waitFor(t, func() bool { d, _, _ := r.server.InFlight(); return d == 0 })
	r.data.fail = nil
	if a := r.dialFrom("127.0.0.2").write(getK).answer("GET"); a.status != 404 {
		t.Errorf("afterwards: %d", a.status)
	}
}

// Bytes of bodies are bounded for one address too.
func TestBodyBytesPerAddress(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Limits.BodyBytesPerClient = 100 << 10 })
	r.want(r.do("PUT", keyPrefix+"k", strings.Repeat("v", 110<<10)), 429, "overloaded", "not-applied")
	r.want(r.do("PUT", keyPrefix+"k", strings.Repeat("v", 90<<10)), 201)
	waitFor(t, func() bool { return r.server.bodies.n.Load() == 0 })
}

// Who does not read large answers holds their bytes, and there are only so many.
func TestSlowReadersHoldBoundedBytes(t *testing.T) {
	const size = 4 << 20
	r := newRig(t, func(o *Options) { o.Limits.AnswerBytesPerClient = 3 * size })
	r.want(r.do("PUT", keyPrefix+"k", strings.Repeat("v", size)), 201)
	var slow []*conn
	for range 3 {
		slow = append(slow, r.dialFrom("127.0.0.2").write(getK))
	}
	waitFor(t, func() bool { return r.server.answers.n.Load() == 3*size })
	if a := r.dialFrom("127.0.0.2").write(getK).answer("GET"); a.status != 429 || !strings.Contains(a.body, "answers") {
		t.Errorf("a fourth: %d %.200s", a.status, a.body)
	}
	if a := r.dialFrom("127.0.0.3").write(getK).answer("GET"); a.status != 200 || len(a.body) != size {
		t.Errorf("another address: %d, %d bytes", a.status, len(a.body))
	}
	for _, c := range slow {
		if a := c.answer("GET"); a.status != 200 || len(a.body) != size {
			t.Errorf("a slow one: %d, %d bytes", a.status, len(a.body))
		}
		c.write(getK) // the connection is good for more
		_ = c.Close()
	}
	waitFor(t, func() bool { return r.server.answers.n.Load() == 0 })
}

// Pages get shorter as more of them are made at once, and then there are none.
func TestPagesShareWhatIsFree(t *testing.T) {
	s := New(Options{Data: newFakeData(), Cluster: &fakeCluster{}, Health: &fakeHealth{}, Limits: Limits{AnswerBytesInFlight: 16 << 20, AnswerBytesPerClient: 16 << 20}})
	x := &exchange{s: s}
	if n := x.takePage(kv.ScanBytesMax); n != 2<<20 {
		t.Fatalf("the first has %d bytes", n)
	}
	last := int64(2 << 20)
	for page := range 100 {
		n := x.takePage(kv.ScanBytesMax)
		if n > last || n < pageBytesLeast {
			t.Fatalf("page %d has %d bytes after one of %d", page, n, last)
		}
		last = n
	}
	if last != pageBytesLeast || x.share.answers > 16<<20 {
		t.Errorf("the last has %d bytes, of %d in all", last, x.share.answers)
	}
	if n := x.takePage(1000); n != 1000 {
		t.Errorf("a small one: %d", n)
	}
	if err := x.settlePage(0, 100); err != nil || x.share.answers != 100 || s.answers.n.Load() != 100 {
		t.Errorf("%v: %d bytes are held of a page of 100", err, x.share.answers)
	}
	if err := x.settlePage(100, 17<<20); kv.CodeOf(err) != kv.CodeOverloaded {
		t.Errorf("a page larger than all that there is: %v", err)
	}
	x.endShare()
	if n := s.answers.n.Load(); n != 0 {
		t.Errorf("%d bytes are still held", n)
	}
}

// The control plane's places do not suffice to keep probes out.
func TestProbesHavePlacesOfTheirOwn(t *testing.T) {
	entered, release := make(chan struct{}, 1), make(chan struct{})
	r := newRig(t, func(o *Options) {
		o.Limits.ControlInFlight = 1
		o.Admin = &waitingAdmin{entered: entered, release: release}
	})
	done := make(chan struct{})
	go func() { defer close(done); r.do("GET", "/v1/problems", "") }()
	<-entered
	r.want(r.do("GET", "/v1/cluster", ""), 429, "overloaded")
	r.want(r.do("GET", "/livez", ""), 200)
	r.want(r.do("GET", "/readyz", ""), 200)
	close(release)
	<-done
}

type waitingAdmin struct {
	Admin
	entered, release chan struct{}
}

// Problems waits.
func (a *waitingAdmin) Problems(context.Context) ([]kv.Problem, error) {
	a.entered <- struct{}{}
	<-a.release
	return nil, nil
}

// The lines of a batch are as many as its operations may be, whatever the body holds.
func TestBatchLinesAreCounted(t *testing.T) {
	line := `{"op":"delete","key":"k"}` + "\n"
	if _, err := parseBatch([]byte(strings.Repeat(line, kv.OpsMax)), true); err != nil {
		t.Fatal(err)
	}
	_, err := parseBatch([]byte(strings.Repeat(line, kv.OpsMax)+"nonsense that is not read"), true)
	if kv.CodeOf(err) != kv.CodeTooLarge {
		t.Errorf("%v", err)
	}
}

// A connection for which there is no place at all is told so.
func TestTurnedAway(t *testing.T) {
	r := newRig(t, func(o *Options) {
		o.Limits.Connections, o.Limits.ConnectionsPerClient, o.Limits.ConnectionsReserve = 1, 1, 1
	})
	one, two := r.dial(), r.dial()
	one.write(getK).answer("GET")
	waitFor(t, func() bool { _, reserved, _ := r.server.Connections(); return reserved == 1 })
	c := r.dial()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(body), `"code":"overloaded"`) {
		t.Errorf("%d %v %s %v", resp.StatusCode, resp.Header, body, err)
	}
	two.write(get("/livez"))
	if a := two.answer("GET"); a.status != 200 {
		t.Error(fmt.Sprint("the reserve: ", a.status))
	}
}
