package peer_test

import (
	"testing"

	"github.com/quorate-db/quorate/internal/simnet/meshtest"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

type tcpNet struct{ peer.Loopback }

func (n *tcpNet) Endpoint(t testing.TB, id kv.NodeID) meshtest.Endpoint { return n.TCP(t, id) }

func TestConformance(t *testing.T) {
	for name, test := range meshtest.Cases() {
		t.Run(name, func(t *testing.T) { test(t, &tcpNet{}) })
	}
}
