package peer_test

import (
	"log/slog"
	"net"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/quorate-db/quorate/internal/simnet/meshtest"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// loopback is a network of TCP meshes. A node that comes back finds its address
// again.
type loopback struct {
	mu        sync.Mutex
	addresses map[kv.NodeID]string
	logs      slog.Handler
	tune      func(*peer.Options)
}

func (n *loopback) Address(id kv.NodeID) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addresses[id]
}

func (n *loopback) Endpoint(t testing.TB, id kv.NodeID) meshtest.Endpoint { return n.tcp(t, id, nil) }

func (n *loopback) tcp(t testing.TB, id kv.NodeID, tune func(*peer.Options)) *peer.TCP {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	address := n.addresses[id]
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if n.addresses == nil {
		n.addresses = make(map[kv.NodeID]string)
	}
	n.addresses[id] = listener.Addr().String()
	opts := peer.Options{
		Self:      id,
		ClusterID: func() string { return "test" },
		Listener:  listener,
		Directory: func(id kv.NodeID) (string, bool) {
			a := n.Address(id)
			return a, a != ""
		},
	}
	if n.logs != nil {
		opts.Logger = slog.New(n.logs)
	}
	if n.tune != nil {
		n.tune(&opts)
	}
	if tune != nil {
		tune(&opts)
	}
	m, err := peer.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func TestConformance(t *testing.T) {
	for name, test := range meshtest.Cases() {
		t.Run(name, func(t *testing.T) { test(t, &loopback{}) })
	}
}
