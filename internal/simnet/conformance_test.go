package simnet_test

import (
	"testing"
	"testing/synctest"

	"github.com/quorate-db/quorate/internal/simnet"
	"github.com/quorate-db/quorate/internal/simnet/meshtest"
	"github.com/quorate-db/quorate/kv"
)

type simNet struct{ *simnet.Network }

func (n simNet) Endpoint(_ testing.TB, id kv.NodeID) meshtest.Endpoint { return n.Node(id) }
func (n simNet) Address(id kv.NodeID) string                           { return simnet.AddressOf(id) }

func TestConformance(t *testing.T) {
	for name, test := range meshtest.Cases() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := simnet.New(1)
				t.Cleanup(net.Close)
				test(t, simNet{net})
			})
		})
	}
}
