package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorate-db/quorate/internal/audit"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// trails are nodes that reach each other, as far as they are not cut off.
type trails struct {
	t     *testing.T
	nodes []kv.NodeInfo
	all   map[kv.NodeID]*trail
	cut   map[kv.NodeID]bool
	now   time.Time
}

// trailMesh is the mesh of one of them.
type trailMesh struct {
	peer.Mesh
	self kv.NodeID
	net  *trails
}

func (m trailMesh) Self() kv.NodeID { return m.self }

func (m trailMesh) Send(to kv.NodeID, method peer.Method, req []byte, _ time.Time, done func([]byte, error)) {
	other := m.net.all[to]
	if other == nil || m.net.cut[to] || method != peer.MethodAudit {
		done(nil, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "node %s does not answer", to))
		return
	}
	go other.onAsked(m.self, slices.Clone(req), done)
}

// newTrails starts nodes 1 to n, of which the last keeps no log.
func newTrails(t *testing.T, n int) *trails {
	net := &trails{t: t, all: map[kv.NodeID]*trail{}, cut: map[kv.NodeID]bool{}, now: time.Unix(1_700_000_000, 0)}
	for i := 1; i <= n; i++ {
		id := kv.NodeID(i)
		net.nodes = append(net.nodes, kv.NodeInfo{ID: id, Name: fmt.Sprintf("node%d", i)})
		tr := newTrail()
		tr.self, tr.mesh = id, trailMesh{self: id, net: net}
		tr.nodes = func() []kv.NodeInfo { return slices.Clone(net.nodes) }
		net.all[id] = tr
		t.Cleanup(tr.close)
		if i == n {
			continue
		}
		log, err := audit.Open(audit.Options{Path: filepath.Join(t.TempDir(), "audit.log"), Now: func() time.Time { net.now = net.now.Add(time.Second); return net.now }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = log.Close() })
		tr.log.Store(log)
	}
	return net
}

// record notes an entry at a node, a second after the one before.
func (net *trails) record(id kv.NodeID, target string) {
	net.t.Helper()
	if err := net.all[id].log.Load().Record(audit.Entry{Node: id.String(), Name: "app", Method: "POST", Route: "/v1/rebalance", Target: target, Status: 202}); err != nil {
		net.t.Fatal(err)
	}
}

func (net *trails) at(id kv.NodeID, q kv.AuditQuery) (kv.AuditPage, string) {
	net.t.Helper()
	page, err := net.all[id].Audit(net.t.Context(), q)
	if err != nil {
		net.t.Fatal(err)
	}
	var words []string
	for _, e := range page.Entries {
		words = append(words, e.NodeName+"/"+e.Target)
	}
	return page, strings.Join(words, " ")
}

func TestTrailPutsNodesTogether(t *testing.T) {
	net := newTrails(t, 4)
	for i := range 9 {
		net.record(kv.NodeID(i%3+1), fmt.Sprint(i))
	}
	const last = "node3/8 node2/7 node1/6 node3/5"
	for id := range kv.NodeID(4) {
		page, got := net.at(id+1, kv.AuditQuery{Limit: 4})
		if got != last || !page.More || len(page.Missing) != 1 || page.Missing[0].Name != "node4" || !strings.Contains(page.Missing[0].Why, "--auth") {
			t.Errorf("at node %d: %s, %+v", id+1, got, page)
		}
	}
	page, got := net.at(1, kv.AuditQuery{Limit: 100})
	if want := last + " node2/4 node1/3 node3/2 node2/1 node1/0"; got != want || page.More {
		t.Errorf("%s, more %t", got, page.More)
	}
	e := page.Entries[8]
	if e.Node != 1 || e.Seq != 1 || e.TokenName != "app" || e.Method != "POST" || e.Route != "/v1/rebalance" || e.Status != 202 || len(e.Hash) != 64 {
		t.Errorf("%+v", e)
	}
	if page, got := net.at(1, kv.AuditQuery{Limit: 100, Node: 2}); got != "node2/7 node2/4 node2/1" || len(page.Missing) != 0 {
		t.Errorf("of one node: %s, %+v", got, page.Missing)
	}
	net.cut[3] = true
	page, got = net.at(1, kv.AuditQuery{Limit: 2})
	if got != "node2/7 node1/6" || len(page.Missing) != 2 || page.Missing[0].Name != "node3" || page.Missing[0].Node != 3 || !strings.Contains(page.Missing[0].Why, "does not answer") {
		t.Errorf("without a node: %s, %+v", got, page.Missing)
	}
	for _, node := range []kv.NodeID{3, 4, 9} {
		if _, err := net.all[1].Audit(t.Context(), kv.AuditQuery{Limit: 1, Node: node}); kv.CodeOf(err) != kv.CodeUnavailable {
			t.Errorf("of node %d alone: %v", node, err)
		}
	}
}

// TestTrailPagesMissNothing: whatever nodes hold, however uneven, and where a node's page
// is cut by its size: all pages together are all entries, each once, in order.
func TestTrailPagesMissNothing(t *testing.T) {
	net := newTrails(t, 4)
	long := strings.Repeat("l", 50_000) // 20 of them are a node's page
	for i := range 150 {
		switch {
		case i%3 == 0:
			net.record(1, fmt.Sprint(i, long))
		case i < 100:
			net.record(2, fmt.Sprint(i))
		default:
			net.record(3, fmt.Sprint(i))
		}
	}
	for _, limit := range []int{7, 40, 1000} {
		next := 149
		for q := (kv.AuditQuery{Limit: limit}); ; {
			page, _ := net.at(2, q)
			for _, e := range page.Entries {
				if got := strings.TrimRight(e.Target, "l"); got != fmt.Sprint(next) {
					t.Fatalf("limit %d: entry %q, want %d", limit, got, next)
				}
				next--
			}
			if !page.More {
				break
			}
			q.Before = page.Entries[len(page.Entries)-1].Time
		}
		if next != -1 {
			t.Errorf("limit %d: the pages end before entry %d", limit, next)
		}
	}
}

func TestTrailRefusesPeers(t *testing.T) {
	net := newTrails(t, 2)
	net.record(1, "x")
	ask := func(req string) error {
		answer := make(chan error, 1)
		net.all[1].onAsked(2, []byte(req), func(_ []byte, err error) { answer <- err })
		return <-answer
	}
	for _, req := range []string{"", "{}", `{"limit":0}`, `{"limit":-1}`, fmt.Sprintf(`{"limit":%d}`, kv.AuditMax+1), `{"limit":1,"since":"x"}`} {
		if err := ask(req); kv.CodeOf(err) != kv.CodeInvalid {
			t.Errorf("%s: %v", req, err)
		}
	}
	if err := ask(`{"limit":1}`); err != nil {
		t.Error(err)
	}
	// The slot of the last is given back after its answer.
	for range auditReadsMax {
		net.all[1].reads <- struct{}{}
	}
	if err := ask(`{"limit":1}`); kv.CodeOf(err) != kv.CodeOverloaded {
		t.Errorf("too many at once: %v", err)
	}
	for range auditReadsMax {
		<-net.all[1].reads
	}
	net.all[1].cancel()
	if err := ask(`{"limit":1}`); !errors.Is(err, context.Canceled) {
		t.Errorf("of a node that stops: %v", err)
	}
	net.all[1].close()
	if err := ask(`{"limit":1}`); kv.CodeOf(err) != kv.CodeDraining {
		t.Errorf("of a node that has stopped: %v", err)
	}
}

// TestTrailDoesNotWaitForEver: a node that says nothing is a gap in the page.
func TestTrailDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTrails(t, 3)
		net.record(1, "x")
		net.all[1].mesh = silentMesh{}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		page, err := net.all[1].Audit(ctx, kv.AuditQuery{Limit: 1})
		if err != nil || len(page.Entries) != 1 || len(page.Missing) != 2 || ctx.Err() != nil {
			t.Errorf("%+v, %v, %v", page, err, ctx.Err())
		}
	})
}

// silentMesh answers at the deadline, as meshes do.
type silentMesh struct{ peer.Mesh }

func (silentMesh) Send(_ kv.NodeID, _ peer.Method, _ []byte, deadline time.Time, done func([]byte, error)) {
	time.AfterFunc(time.Until(deadline), func() { done(nil, kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown, "no answer")) })
}

func TestTrailKnowsTheMembers(t *testing.T) {
	if got := members(newMetaLog(t).m.State()); len(got) != 1 || got[0].ID != 1 || got[0].Name != "n" {
		t.Errorf("%+v", got)
	}
}
