package pki

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// security is what a server makes of a keyring.
type security struct{ ring *Keyring }

func (s security) Handshake(ctx context.Context, conn net.Conn, self peer.Claim, dialled bool) (peer.Secured, error) {
	c, err := s.ring.Handshake(ctx, conn, Name{Cluster: self.Cluster, Node: self.Node}, dialled)
	if err != nil {
		return nil, err
	}
	return secured{c}, nil
}

type secured struct{ *Conn }

func (s secured) Peer() peer.Claim {
	n := s.Conn.Peer()
	return peer.Claim{Node: n.Node, Cluster: n.Cluster}
}

func (s secured) Standing() peer.Standing { return peer.Standing(s.Conn.Standing()) }

// network is where meshes of a test find each other, and what they say.
type network struct {
	mu        sync.Mutex
	addresses map[kv.NodeID]string
	logs      map[kv.NodeID]*bytes.Buffer
	reasons   map[kv.NodeID][]string
	closed    map[kv.NodeID]int
	alarms    int
}

func newNetwork() *network {
	return &network{
		addresses: map[kv.NodeID]string{}, logs: map[kv.NodeID]*bytes.Buffer{}, reasons: map[kv.NodeID][]string{}, closed: map[kv.NodeID]int{},
	}
}

// logOf is where a node's log goes.
type logOf struct {
	n  *network
	id kv.NodeID
}

func (l logOf) Write(p []byte) (int, error) {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	return l.n.logs[l.id].Write(p)
}

// start starts a mesh that answers Terms and Probe, in the cluster "test" unless a
// tune says otherwise.
func (n *network) start(t testing.TB, id kv.NodeID, s peer.Security, tunes ...func(*peer.Options)) *peer.TCP {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	n.addresses[id], n.logs[id] = l.Addr().String(), &bytes.Buffer{}
	n.mu.Unlock()
	o := peer.Options{
		Self:      id,
		ClusterID: func() string { return "test" },
		Listener:  l,
		Security:  s,
		Directory: func(id kv.NodeID) (string, bool) {
			n.mu.Lock()
			defer n.mu.Unlock()
			a, ok := n.addresses[id]
			return a, ok
		},
		Logger: slog.New(slog.NewTextHandler(logOf{n, id}, nil)),
		Timing: peer.Timing{Handshake: 5 * time.Second, BackoffMax: 50 * time.Millisecond},
	}
	o.Hooks.Refused = func(reason string) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.reasons[id] = append(n.reasons[id], reason)
	}
	o.Hooks.Closed = func(peer.Class, bool, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.closed[id]++
	}
	for _, tune := range tunes {
		tune(&o)
	}
	m, err := peer.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	echo := func(_ kv.NodeID, req []byte, reply func([]byte, error)) { reply(req, nil) }
	m.Handle(peer.MethodTerms, echo)
	m.Handle(peer.MethodProbe, echo)
	m.OnUnreachable(func(kv.NodeID) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.alarms++
	})
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	return m
}

// says reports whether one line of a node's log holds all words.
func (n *network) says(id kv.NodeID, words ...string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
lines:
	for line := range strings.Lines(n.logs[id].String()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		return true
	}
	return false
}

func (n *network) counted(id kv.NodeID, reason string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.reasons[id] {
		if r == reason {
			return true
		}
	}
	return false
}

func (n *network) dump(t testing.TB) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, log := range n.logs {
		t.Logf("node %s, reasons %v:\n%s", id, n.reasons[id], log.String())
	}
}

func call(t testing.TB, m peer.Mesh, to kv.NodeID, method peer.Method, text string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got, err := peer.Call(ctx, m, to, method, []byte(text))
	if err == nil && string(got) != text {
		t.Fatalf("asked %q, was answered %q", text, got)
	}
	return err
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%s: not in time", what)
		}
	}
}

func ringOf(t testing.TB, secrets ...Secret) *Keyring {
	t.Helper()
	k, err := NewKeyring(secrets, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
