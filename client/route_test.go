package client

import (
	"net/url"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// threeNodes are three edges, each over a map of its own, so that it shows which
// one was asked. The shards are below and from "m".
type threeNodes struct {
	a, b, c *edge
	nodes   []kv.NodeInfo
}

func newThreeNodes(t *testing.T) *threeNodes {
	n := &threeNodes{a: newEdge(t, 0xa), b: newEdge(t, 0xb), c: newEdge(t, 0xc)}
	for i, e := range []*edge{n.a, n.b, n.c} {
		n.nodes = append(n.nodes, kv.NodeInfo{ID: kv.NodeID(0xa + i), HTTPAddress: e.address(), Alive: true})
	}
	return n
}

// leaders says who leads the shards, 0 = nobody.
func (n *threeNodes) leaders(low, high kv.NodeID) {
	shards := []kv.ShardInfo{
		{Descriptor: &kvpb.ShardDescriptor{Shard: uint64(kv.MetaShard)}, Leader: 0xc},
		{Descriptor: &kvpb.ShardDescriptor{Shard: 3, Start: []byte("m")}, Leader: high},
		{Descriptor: &kvpb.ShardDescriptor{Shard: 2, End: []byte("m")}, Leader: low},
	}
	for _, e := range []*edge{n.a, n.b, n.c} {
		e.cluster.Set(n.nodes, shards)
	}
}

// routed gives a client that was told of c only and knows the leaders.
func (n *threeNodes) routed(t *testing.T) *Client {
	t.Helper()
	c, err := New(Config{Endpoints: []string{n.c.address()}, RouteToLeader: true, Lean: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	mustPut(t, c, "first")
	waitFor(t, func() bool { return c.routes.table.Load() != nil })
	return c
}

func mustPut(t *testing.T, c *Client, key string) {
	t.Helper()
	if _, err := c.Put(t.Context(), key, nil, PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func waitFor(t *testing.T, what func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !what(); {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestRouteToLeader(t *testing.T) {
	n := newThreeNodes(t)
	n.leaders(0xa, 0xb)
	c := n.routed(t)
	for _, key := range []string{"a", "l", "lzzz", "\x00"} {
		mustPut(t, c, key)
	}
	for _, key := range []string{"m", "n", "\xff"} {
		mustPut(t, c, key)
	}
	if n.a.data.Len() != 4 || n.b.data.Len() != 3 || n.c.data.Len() != 1 {
		t.Errorf("keys on the nodes: %d, %d, %d; want 4, 3, 1", n.a.data.Len(), n.b.data.Len(), n.c.data.Len())
	}
	// Stale reads go to anybody, here the only endpoint that was given.
	if _, err := c.Get(t.Context(), "first", ReadOptions{Consistency: kv.Stale}); err != nil {
		t.Error(err)
	}
	// The leader's own "no" is no reason to distrust the map.
	old := c.routes.table.Load()
	c.routes.mu.Lock()
	c.routes.last = time.Time{} // a refresh would be allowed
	c.routes.mu.Unlock()
	if _, err := c.Get(t.Context(), "missing below m", ReadOptions{}); !IsNotFound(err) {
		t.Error(err)
	}
	if _, err := c.Put(t.Context(), "a", nil, PutOptions{IfAbsent: true}); !IsConditionFailed(err) {
		t.Error(err)
	}
	c.routes.mu.Lock()
	if !c.routes.last.IsZero() || c.routes.table.Load() != old {
		t.Error("the map was fetched again without need")
	}
	c.routes.mu.Unlock()
	if got, err := c.Get(t.Context(), "a", ReadOptions{}); err != nil || got.Served.Node != kv.NodeID(0xa).String() {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestRouteFollowsTheLeader: an answer by another node than expected is the sign
// that the map is out of date.
func TestRouteFollowsTheLeader(t *testing.T) {
	n := newThreeNodes(t)
	n.leaders(0xa, 0xb)
	c := n.routed(t)
	n.leaders(0xb, 0xb)
	n.a.data.Node = 0xb // a is still asked, and forwards
	old := c.routes.table.Load()
	waitFor(t, func() bool {
		mustPut(t, c, "a")
		return c.routes.table.Load() != old
	})
	before := n.b.data.Len()
	mustPut(t, c, "new")
	if n.b.data.Len() != before+1 {
		t.Error("the new leader was not asked")
	}
}

// TestRouteFallsBack: without a leader that can be reached, the endpoints that
// were given are asked, and no call fails.
func TestRouteFallsBack(t *testing.T) {
	n := newThreeNodes(t)
	n.leaders(0xa, 0)
	c := n.routed(t)
	n.a.server.Close()
	for _, key := range []string{"a", "b", "x", "y"} {
		mustPut(t, c, key)
	}
	if n.c.data.Len() != 5 {
		t.Errorf("%d keys on the node that was given, want 5", n.c.data.Len())
	}
}

func TestRouteForgetsNodes(t *testing.T) {
	n := newThreeNodes(t)
	n.leaders(0xa, 0xb)
	c := n.routed(t)
	if got := len(c.endpoints.learned); got != 2 {
		t.Errorf("%d nodes learned, want 2", got)
	}
	table := c.routeTable([]Node{{ID: "x", HTTPAddress: n.a.address()}}, nil)
	if len(c.endpoints.learned) != 1 || table.find("k").ep != nil {
		t.Errorf("learned %v", c.endpoints.learned)
	}
	for range routesNodesMax + 5 {
		c.endpoints.at(time.Now().String(), 3)
	}
	if len(c.endpoints.learned) != 3 {
		t.Errorf("%d nodes, want no more than the limit", len(c.endpoints.learned))
	}
}

// TestKeyTarget: whatever the key, the server reads the same out of the URL, and
// nothing on the way has segments to normalise.
func TestKeyTarget(t *testing.T) {
	for key, want := range map[string]string{
		"a": "/v1/kv/a", "a/b.c~d": "/v1/kv/a/b.c~d", "a b+c": "/v1/kv/a%20b%2Bc", "a%2F": "/v1/kv/a%252F",
		"a//b": "/v1/kv/YS8vYg?enc=base64url&x=1", "..": "/v1/kv/Li4?enc=base64url&x=1", "/": "/v1/kv/Lw?enc=base64url&x=1",
		"\xff\xfe": "/v1/kv/__4?enc=base64url&x=1", "": "/v1/kv/",
	} {
		query := ""
		if len(want) > 5 && want[len(want)-3:] == "x=1" {
			query = "x=1"
		}
		if got := keyTarget(key, query); got != want {
			t.Errorf("target of %q: %s, want %s", key, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		key := string(rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(t, "key"))
		u, err := url.ParseRequestURI(keyTarget(key, ""))
		if err != nil {
			t.Fatal(err)
		}
		if u.Query().Get("enc") == "" && u.Path != "/v1/kv/"+key {
			t.Fatalf("path %q of key %q", u.Path, key)
		}
		if u.JoinPath().Path != u.Path {
			t.Fatalf("path %q of key %q would be normalised", u.Path, key)
		}
	})
}
