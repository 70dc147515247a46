package peer_test

import (
	"testing"
	"time"

	"github.com/quorate-db/quorate/internal/simnet/meshtest"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

type tcpNet struct{ peer.Loopback }

// Endpoint gives connections time to open: to clear the memory of the largest payloads can
// stop a process with the race detector for as long as the two seconds that they have else.
func (n *tcpNet) Endpoint(t testing.TB, id kv.NodeID) meshtest.Endpoint {
	return n.TCP(t, id, func(o *peer.Options) { o.Timing.Dial = time.Minute })
}

func TestConformance(t *testing.T) {
	for name, test := range meshtest.Cases() {
		t.Run(name, func(t *testing.T) { test(t, &tcpNet{}) })
	}
}
