package server

import (
	"testing"

	"github.com/quorate-db/quorate/kv"
)

func TestLimitsOfClients(t *testing.T) {
	for _, c := range []struct {
		name                         string
		clients                      Clients
		connections, each, data, put int64
	}{
		{"as they are", Clients{}, 0, 0, 0, 0},
		{"few", Clients{Connections: 100}, 100, 25, 0, 0},
		{"behind a proxy", Clients{BehindProxy: true}, 0, kv.ConnectionsMax, kv.RequestsInFlightMax, kv.BodyBytesInFlightMax},
		{"many behind a proxy", Clients{Connections: 10_000, BehindProxy: true}, 10_000, 10_000, kv.RequestsInFlightMax, kv.BodyBytesInFlightMax},
	} {
		l := c.clients.limits()
		if int64(l.Connections) != c.connections || int64(l.ConnectionsPerClient) != c.each || int64(l.DataPerClient) != c.data || l.BodyBytesPerClient != c.put {
			t.Errorf("%s: %+v", c.name, l)
		}
		if free := l.LargeBytesPerClient < 0; free != c.clients.BehindProxy {
			t.Errorf("%s: %d large bytes a second", c.name, l.LargeBytesPerClient)
		}
	}
	for n, ok := range map[int]bool{0: true, 16: true, 15: false, -1: false} {
		if err := (Clients{Connections: n}).validate(); (err == nil) != ok {
			t.Errorf("%d connections: %v", n, err)
		}
	}
}
