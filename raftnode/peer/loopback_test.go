package peer

import (
	"bufio"
	"bytes"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/quorate-db/quorate/kv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = time.Minute

// Loopback is a network of TCP meshes on this machine. A node that comes back
// has its former address.
type Loopback struct {
	mu        sync.Mutex
	addresses map[kv.NodeID]string
	Log       LogBuffer
}

// Address is where a node listens, "" if it never did.
func (n *Loopback) Address(id kv.NodeID) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addresses[id]
}

func (n *Loopback) setAddress(id kv.NodeID, address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.addresses == nil {
		n.addresses = make(map[kv.NodeID]string)
	}
	n.addresses[id] = address
}

// TCP makes a mesh, not started, closed at the end of the test. Each tune may
// change its options.
func (n *Loopback) TCP(t testing.TB, id kv.NodeID, tunes ...func(*Options)) *TCP {
	t.Helper()
	address := n.Address(id)
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	n.setAddress(id, listener.Addr().String())
	opts := Options{
		Self:      id,
		ClusterID: func() string { return "test" },
		Listener:  listener,
		Directory: func(id kv.NodeID) (string, bool) {
			a := n.Address(id)
			return a, a != ""
		},
		Logger: slog.New(slog.NewTextHandler(&n.Log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, tune := range tunes {
		tune(&opts)
	}
	m, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// started makes and starts a mesh that echoes Terms and Probe.
func (n *Loopback) started(t testing.TB, id kv.NodeID, tunes ...func(*Options)) *TCP {
	t.Helper()
	m := n.TCP(t, id, tunes...)
	m.Handle(MethodTerms, echo)
	m.Handle(MethodProbe, echo)
	start(t, m)
	return m
}

func start(t testing.TB, m *TCP) {
	t.Helper()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
}

func echo(_ kv.NodeID, req []byte, reply func([]byte, error)) { reply(req, nil) }

// LogBuffer keeps a log.
type LogBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write takes a line.
func (b *LogBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// has reports whether one line contains all of the words.
func (b *LogBuffer) has(words ...string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
lines:
	for line := range strings.Lines(b.buf.String()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		return true
	}
	return false
}

type outcome struct {
	resp []byte
	err  error
}

// ask sends and gives a channel of all answers, of which there must be one.
func ask(m Mesh, to kv.NodeID, method Method, req []byte, timeout time.Duration) <-chan outcome {
	ch := make(chan outcome, 4)
	m.Send(to, method, req, time.Now().Add(timeout), func(resp []byte, err error) { ch <- outcome{resp, err} })
	return ch
}

func await[T any](t testing.TB, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing happened", what)
		panic("unreachable")
	}
}

// eventually waits for a condition that something else brings about.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !cond(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not so after %v", what, patience)
		}
	}
}

// reach asks until there is an answer.
func reach(t testing.TB, m Mesh, to kv.NodeID) {
	t.Helper()
	eventually(t, "reaching "+to.String(), func() bool {
		return await(t, "answer", ask(m, to, MethodTerms, nil, patience)).err == nil
	})
}

func wantErr(t testing.TB, err error, code kv.Code, outcome kv.Outcome) {
	t.Helper()
	if kv.CodeOf(err) != code || kv.OutcomeOf(err) != outcome {
		t.Fatalf("got %v (%q, %q), want %q, %q", err, kv.CodeOf(err), kv.OutcomeOf(err), code, outcome)
	}
}

// rawConn is a hand-made end of a connection.
type rawConn struct {
	net.Conn
	in *bufio.Reader
}

func rawDial(t testing.TB, address string) *rawConn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return newRawConn(conn)
}

func (c *rawConn) send(t testing.TB, data []byte) {
	t.Helper()
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
}

// greet says hello as node 99 of the test cluster, unless change says otherwise.
func (c *rawConn) greet(t testing.TB, change func(*greeting)) *greeting {
	t.Helper()
	hello := &greeting{kind: greetHello, versionMin: protocolMin, versionMax: protocolMax, self: 99, cluster: "test"}
	if change != nil {
		change(hello)
	}
	c.send(t, appendGreeting(nil, hello))
	answer, err := readGreeting(c.in)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// ended reads until the connection ends and gives the goodbye, nil if there was none.
func (c *rawConn) ended(t testing.TB) error {
	t.Helper()
	var bye error
	for {
		h, payload, err := readFrame(c.in, kv.FrameBytesMax)
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Fatal("the connection does not end")
		}
		if err != nil {
			return bye
		}
		if h.kind == kindClose {
			bye = goodbye(h, payload)
		}
	}
}

// mute accepts connections as a node, greets, and then hands them over.
func mute(t testing.TB, n *Loopback, id kv.NodeID) <-chan *rawConn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.setAddress(id, listener.Addr().String())
	conns := make(chan *rawConn, 16)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c := &rawConn{conn, bufio.NewReader(conn)}
			if _, err := readGreeting(c.in); err != nil {
				_ = conn.Close()
				continue
			}
			g := &greeting{kind: greetWelcome, versionMin: 1, versionMax: 1, self: id, cluster: "test"}
			_, _ = conn.Write(appendGreeting(nil, g))
			conns <- c
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		wg.Wait()
		for len(conns) > 0 {
			_ = (<-conns).Close()
		}
	})
	return conns
}

func newRawConn(conn net.Conn) *rawConn { return &rawConn{conn, bufio.NewReader(conn)} }
