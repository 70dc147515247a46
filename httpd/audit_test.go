package httpd

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// fakeAudit is two nodes' audit logs.
type fakeAudit struct {
	mu      sync.Mutex
	queries []kv.AuditQuery
	page    kv.AuditPage
	err     error
}

func (f *fakeAudit) Audit(_ context.Context, q kv.AuditQuery) (kv.AuditPage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queries = append(f.queries, q)
	return f.page, f.err
}

// take tells what was asked since the last time.
func (f *fakeAudit) take() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for _, q := range f.queries {
		fmt.Fprintf(&b, "audit %x %d", uint64(q.Node), q.Limit)
		for _, at := range []time.Time{q.Since, q.Before} {
			if !at.IsZero() {
				b.WriteString(" " + at.UTC().Format(time.RFC3339Nano))
			}
		}
	}
	f.queries = nil
	return b.String()
}

func TestAuditOverHTTP(t *testing.T) {
	g := newGuardedRig(t)
	for target, want := range map[string]string{
		"":                               "audit 0 100",
		"?limit=1":                       "audit 0 1",
		"?limit=1000&node=two":           "audit a2 1000",
		"?node=" + testNode.String():     fmt.Sprintf("audit %x 100", uint64(testNode)),
		"?since=2026-11-29T15:00:00Z":    "audit 0 100 2026-11-29T15:00:00Z",
		"?before=2026-11-29T15:00:00.5Z": "audit 0 100 2026-11-29T15:00:00.5Z",
		"?since=2026-11-29T16:00:00%2b01:00&before=2026-11-30T00:00:00Z": "audit 0 100 2026-11-29T15:00:00Z 2026-11-30T00:00:00Z",
	} {
		a := g.want(g.as("admin", "GET", "/v1/audit"+target, ""), 200)
		if got := g.took(); got != want || a.body != `{"entries":[],"missing":[]}` {
			t.Errorf("%q: %s, want %s: %s", target, got, want, a.body)
		}
	}
	for target, status := range map[string]int{
		"?limit=0": 400, "?limit=1001": 400, "?limit=x": 400, "?node=": 400, "?node=nobody": 404, "?since=1h": 400, "?before=now": 400, "?until=x": 400, "?limit=1&limit=2": 400,
	} {
		g.want(g.as("admin", "GET", "/v1/audit"+target, ""), status)
		if got := g.took(); got != "" {
			t.Errorf("%q: %s", target, got)
		}
	}
	at := time.Unix(1_700_000_000, 5)
	g.trail.page = kv.AuditPage{More: true, Missing: []kv.AuditGap{{Node: 0xa2, Name: "two", Why: "no answer"}}, Entries: []kv.AuditEntry{
		{Node: testNode, NodeName: "one", Seq: 9, Time: at.Add(time.Hour), Unlogged: 3, Method: "GET", Route: "/v1/kv/{key}", From: "127.0.0.1:9", Status: 401,
			Code: "unauthenticated", Outcome: "not-applied", Hash: strings.Repeat("0", 64)},
		{Node: 0xa2, NodeName: "two", Seq: 7, Time: at, Token: "0123456789abcdef", TokenName: "app", Method: "POST", Route: "/v1/tokens", Target: "fedcba9876543210",
			From: "127.0.0.1:8", Status: 201, Hash: strings.Repeat("f", 64)}}}
	a := g.want(g.as("operator", "GET", "/v1/audit", ""), 200)
	for _, part := range []string{
		`{"node":"` + testNode.String() + `","node_name":"one","seq":9,"time":"2023-11-14T23:13:20.000000005Z","unlogged":3,"method":"GET","route":"/v1/kv/{key}","from":"127.0.0.1:9","status":401,"code":"unauthenticated","outcome":"not-applied","hash":"000`,
		`"token":"0123456789abcdef","token_name":"app","method":"POST","route":"/v1/tokens","target":"fedcba9876543210"`,
		`"missing":[{"node":"00000000000000a2","name":"two","why":"no answer"}],"next":"2023-11-14T22:13:20.000000005Z"}`,
	} {
		if !strings.Contains(a.body, part) {
			t.Errorf("want %s in\n%s", part, a.body)
		}
	}
	g.trail.err = kv.Errorf(kv.CodeUnavailable, kv.OutcomeNone, "no answer")
	g.want(g.as("admin", "GET", "/v1/audit?node=two", ""), 503, "unavailable")
}

// TestNoAuditLog: a node without --auth has none, and shows nobody those of others.
func TestNoAuditLog(t *testing.T) {
	r := newRig(t)
	if a := r.want(r.do("GET", "/v1/audit", ""), 404, "not_found"); !strings.Contains(a.body, "--auth") {
		t.Error(a.body)
	}
}
