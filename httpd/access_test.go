package httpd

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/mux"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// routeCase is one way to use a route. Class says what it takes.
type routeCase struct{ class, method, route, target, body string }

// routeCases is the table of routes: TestEveryRouteHasACase holds it to be whole.
var routeCases = []routeCase{
	{"read", "GET", "/v1/kv/{key}", "/v1/kv/app/k", ""},
	{"read", "HEAD", "/v1/kv/{key}", "/v1/kv/app/k", ""},
	{"write", "PUT", "/v1/kv/{key}", "/v1/kv/app/k", canary},
	{"write", "DELETE", "/v1/kv/{key}", "/v1/kv/app/k", ""},
	{"write", "POST", "/v1/kv/{key}", "/v1/kv/app/n?op=add&delta=1", ""},
	{"read", "GET", "/v1/kv", "/v1/kv?prefix=app/", ""},
	{"read", "HEAD", "/v1/kv", "/v1/kv?prefix=app/", ""},
	{"whole", "GET", "/v1/kv", "/v1/kv", ""},
	{"write", "DELETE", "/v1/kv", "/v1/kv?prefix=app/", ""},
	{"read", "POST", "/v1/query", "/v1/query", `{"gets":[{"key":"app/k"}],"ranges":[{"prefix":"app/"}]}`},
	{"write", "POST", "/v1/batch", "/v1/batch", `{"ops":[{"op":"put","key":"app/k","value":"` + canary + `"}]}`},
	{"write", "POST", "/v1/txn", "/v1/txn", `{"if":[{"key":"app/k","exists":true}],"then":[{"op":"put","key":"app/k","value":"` + canary + `"}]}`},
	{"read", "POST", "/v1/txn", "/v1/txn", `{"then":[{"op":"get","key":"app/k"}]}`},
	{"view", "GET", "/v1/cluster", "/v1/cluster", ""}, {"view", "HEAD", "/v1/cluster", "/v1/cluster", ""},
	{"view", "GET", "/v1/nodes", "/v1/nodes", ""}, {"view", "HEAD", "/v1/nodes", "/v1/nodes", ""},
	{"view", "GET", "/v1/nodes/{id}", "/v1/nodes/one", ""}, {"view", "HEAD", "/v1/nodes/{id}", "/v1/nodes/one", ""},
	{"admin", "DELETE", "/v1/nodes/{id}", "/v1/nodes/two", ""},
	{"admin", "POST", "/v1/nodes/{id}/drain", "/v1/nodes/two/drain", ""},
	{"admin", "POST", "/v1/nodes/{id}/undrain", "/v1/nodes/two/undrain", ""},
	{"view", "GET", "/v1/shards", "/v1/shards", ""}, {"view", "HEAD", "/v1/shards", "/v1/shards", ""},
	{"view", "GET", "/v1/shards/{id}", "/v1/shards/2", ""}, {"view", "HEAD", "/v1/shards/{id}", "/v1/shards/2", ""},
	{"admin", "POST", "/v1/shards/{id}/split", "/v1/shards/2/split", ""},
	{"admin", "POST", "/v1/shards/{id}/merge", "/v1/shards/2/merge", ""},
	{"admin", "POST", "/v1/shards/{id}/move", "/v1/shards/2/move?from=one&to=two", ""},
	{"admin", "POST", "/v1/shards/{id}/transfer", "/v1/shards/2/transfer?to=two", ""},
	{"admin", "POST", "/v1/rebalance", "/v1/rebalance?dry_run", ""},
	{"view", "GET", "/v1/problems", "/v1/problems", ""}, {"view", "HEAD", "/v1/problems", "/v1/problems", ""},
	{"view", "GET", "/v1/events", "/v1/events", ""}, {"view", "HEAD", "/v1/events", "/v1/events", ""},
	{"view", "GET", "/v1/operations", "/v1/operations", ""}, {"view", "HEAD", "/v1/operations", "/v1/operations", ""},
	{"view", "GET", "/v1/operations/{id}", "/v1/operations/12", ""}, {"view", "HEAD", "/v1/operations/{id}", "/v1/operations/12", ""},
	{"admin", "DELETE", "/v1/operations/{id}", "/v1/operations/12", ""},
	{"view", "GET", "/v1/config", "/v1/config", ""}, {"view", "HEAD", "/v1/config", "/v1/config", ""},
	{"admin", "PUT", "/v1/config", "/v1/config", `{"replication_factor":3}`},
	{"admin", "PATCH", "/v1/config", "/v1/config", `{"replication_factor":3}`},
	{"admin", "GET", "/v1/tokens", "/v1/tokens", ""}, {"admin", "HEAD", "/v1/tokens", "/v1/tokens", ""},
	{"admin", "POST", "/v1/tokens", "/v1/tokens", `{"grants":[{"role":"reader"}]}`},
	{"token", "GET", "/v1/tokens/self", "/v1/tokens/self", ""}, {"token", "HEAD", "/v1/tokens/self", "/v1/tokens/self", ""},
	{"admin", "DELETE", "/v1/tokens/{id}", "/v1/tokens/0000000000000000", ""},
	{"admin", "GET", "/v1/audit", "/v1/audit", ""}, {"admin", "HEAD", "/v1/audit", "/v1/audit", ""},
	{"token", "GET", "/v1/limits", "/v1/limits", ""}, {"token", "HEAD", "/v1/limits", "/v1/limits", ""},
	{"token", "GET", "/v1/version", "/v1/version", ""}, {"token", "HEAD", "/v1/version", "/v1/version", ""},
	{"open", "GET", "/livez", "/livez", ""}, {"open", "HEAD", "/livez", "/livez", ""},
	{"open", "GET", "/readyz", "/readyz", ""}, {"open", "HEAD", "/readyz", "/readyz", ""},
	{"open", "GET", "/metrics", "/metrics", ""}, {"open", "HEAD", "/metrics", "/metrics", ""}, // from this machine
	{"token", "GET", "/metrics", "/metrics#proxied", ""}, {"token", "HEAD", "/metrics", "/metrics#proxied", ""},
	{"open", "GET", "/openapi.json", "/openapi.json", ""}, {"open", "HEAD", "/openapi.json", "/openapi.json", ""},
}

// mayUse is the table of roles: for each class, who gets in. Nobody else does.
var mayUse = map[string][]string{
	"read":  {"reader", "writer", "admin", "inside", "viewer"},
	"write": {"writer", "admin", "inside"},
	"whole": {"reader", "writer", "admin"},
	"view":  {"reader", "writer", "admin", "operator"},
	"admin": {"admin", "operator"},
	"token": {"reader", "writer", "admin", "inside", "viewer", "elsewhere", "operator"},
}

// nobodies are callers whose token does not count.
var nobodies = []string{"none", "wrong", "garbage", "half", "expired", "revoked", "basic", "twice"}

func TestEveryRouteHasACase(t *testing.T) {
	s := New(Options{})
	err := s.mux.Walk(func(route *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		e := route.GetHandler().(*endpoint)
		for _, m := range strings.Split(e.allow, ", ") {
			if !slices.ContainsFunc(routeCases, func(c routeCase) bool { return c.method == m && c.route == e.route }) {
				t.Errorf("%s %s is not in the table of routes: say there who may use it", m, e.route)
			}
			if e.find(m).needs == needUnsaid {
				t.Errorf("%s %s does not say what it needs", m, e.route)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// as sends a request in somebody's name.
func (g *guardedRig) as(who, method, target, body string, headers ...string) answer {
	g.t.Helper()
	target, proxied := strings.CutSuffix(target, "#proxied")
	if proxied {
		headers = append(headers, "X-Forwarded-For", "192.0.2.7")
	}
	if body != "" && !strings.HasPrefix(target, keyPrefix) {
		headers = append(headers, "Content-Type", "application/json")
	}
	switch who {
	case "none":
	case "basic":
		headers = append(headers, "Authorization", "Basic "+g.bearer["admin"])
	case "twice":
		headers = append(headers, "Authorization", "Bearer "+g.bearer["admin"], "Authorization", "Bearer "+g.bearer["admin"])
	default:
		headers = append(headers, "Authorization", "Bearer "+g.bearer[who])
	}
	return g.do(method, target, body, headers...)
}

// TestEveryRouteAndIdentity: who is not let in learns nothing, and nothing is done.
func TestEveryRouteAndIdentity(t *testing.T) {
	g := newGuardedRig(t)
	everybody := append(slices.Clone(nobodies), mayUse["token"]...)
	paths := map[string][]string{"fast": nil, "net/http": {"Pragma", "x"}} // of the two that serve keys
	for _, c := range routeCases {
		for _, who := range everybody {
			for path, headers := range paths {
				name := fmt.Sprintf("%s %s as %s (%s)", c.method, c.target, who, path)
				g.fill()
				g.took()
				g.audited()
				a := g.as(who, c.method, c.target, c.body, headers...)
				in := c.class == "open" || slices.Contains(mayUse[c.class], who)
				switch {
				case in && (a.status == 401 || a.status == 403 || a.status >= 500):
					t.Errorf("%s: %d %s", name, a.status, a.body)
				case in:
				case slices.Contains(nobodies, who):
					g.wantDenied(name, a, c, 401)
				default:
					g.wantDenied(name, a, c, 403)
				}
			}
		}
	}
}

func (g *guardedRig) wantDenied(name string, a answer, c routeCase, status int) {
	t := g.t
	t.Helper()
	if a.status != status {
		t.Errorf("%s: %d, want %d: %s", name, a.status, status, a.body)
		return
	}
	if challenge := a.header.Get("Www-Authenticate"); (challenge != "") != (status == 401) {
		t.Errorf("%s: challenge %q", name, challenge)
	}
	if got := g.took(); got != "" {
		t.Errorf("%s was denied, and yet did %s", name, got)
	}
	for _, secret := range []string{canary, "app/", testNode.String(), `"shard"`, `"version"`, "qrt_"} {
		if strings.Contains(a.body, secret) {
			t.Errorf("%s tells %s: %s", name, secret, a.body)
		}
	}
	for h := range a.header {
		if strings.HasPrefix(h, "Quorate-") || h == "Etag" {
			t.Errorf("%s has the header %s", name, h)
		}
	}
	if c.method != "HEAD" && !strings.Contains(a.body, `"outcome":"not-applied"`) {
		t.Errorf("%s: %s", name, a.body)
	}
	audits := g.audited()
	if len(audits) != 1 || audits[0].Route != c.route || audits[0].Method != c.method || audits[0].Status != status || !strings.HasPrefix(audits[0].From, "127.0.0.1:") {
		t.Errorf("%s: audited as %+v", name, audits)
	}
	if text := fmt.Sprintf("%+v", audits); strings.Contains(text, canary) || strings.Contains(text, "qrt_") {
		t.Errorf("%s: the audit has a value or a token: %s", name, text)
	}
}

// TestCompoundRequestsDoNotGetAround: one operation that is not allowed, wherever it
// hides, and nothing of the request is done.
func TestCompoundRequestsDoNotGetAround(t *testing.T) {
	g := newGuardedRig(t)
	fine := `{"op":"put","key":"app/a","value":"x"}`
	for name, c := range map[string][2]string{
		"a guard":                    {"/v1/txn", `{"if":[{"key":"other/k","exists":true}],"then":[` + fine + `]}`},
		"a guard on a value":         {"/v1/txn", `{"if":[{"key":"other/k","value":"x"}],"else":[` + fine + `]}`},
		"a get in then":              {"/v1/txn", `{"then":[` + fine + `,{"op":"get","key":"other/k"}]}`},
		"a put in else":              {"/v1/txn", `{"if":[{"key":"app/k","exists":true}],"then":[` + fine + `],"else":[{"op":"put","key":"other/k","value":"x"}]}`},
		"an add":                     {"/v1/txn", `{"then":[{"op":"add","key":"other/k","delta":"1"}]}`},
		"a delete in base64":         {"/v1/txn", `{"then":[{"op":"delete","key_b64":"b3RoZXIvaw=="}]}`},
		"the last of a batch":        {"/v1/batch", `{"ops":[` + fine + `,` + fine + `,{"op":"delete","key":"other/k"}]}`},
		"a condition in a batch":     {"/v1/batch", `{"ops":[{"op":"put","key":"other/k","value":"x","if_absent":true}]}`},
		"the last get":               {"/v1/query", `{"gets":[{"key":"app/k"},{"key":"other/k"}]}`},
		"a range that begins within": {"/v1/query", `{"ranges":[{"prefix":"app/"},{"start":"app/k","end":"apq"}]}`},
		"a range without an end":     {"/v1/query", `{"ranges":[{"start":"app/"}]}`},
		"a prefix too short":         {"/v1/query", `{"ranges":[{"prefix":"app"}]}`},
	} {
		g.fill()
		before := keysAndValues(g.data)
		g.took()
		g.want(g.as("inside", "POST", c[0], c[1]), 403, "forbidden", "not-applied")
		if got := strings.ReplaceAll(strings.ReplaceAll(g.took(), "Get", ""), "Scan", ""); strings.TrimSpace(got) != "" {
			t.Errorf("%s: %s", name, got)
		}
		if after := keysAndValues(g.data); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("%s: %v", name, after)
		}
	}
	g.fill()
	g.want(g.as("inside", "PUT", keyPrefix+"other/k", "x", "If-Match", `"1"`), 403)
	g.want(g.as("viewer", "PUT", keyPrefix+"app/k", "x", "If-Match", `"1"`), 403)
	g.want(g.as("inside", "GET", "/v1/kv?start=app/&end=apq", ""), 403)
	g.want(g.as("inside", "DELETE", "/v1/kv?start=app/", ""), 403)
	g.want(g.as("inside", "GET", "/v1/kv?start=z&end=a", ""), 200)
	cursor := encodeCursor(&kv.ScanRequest{Read: kv.ReadOptions{}}, []byte("app/"))
	g.want(g.as("inside", "GET", "/v1/kv?cursor="+cursor, ""), 403)
}

// TestReplaysAreOfOneToken: the same key of two callers names two requests.
func TestReplaysAreOfOneToken(t *testing.T) {
	g := newGuardedRig(t)
	for i, who := range []string{"writer", "inside", "writer"} {
		a := g.want(g.as(who, "PUT", keyPrefix+"app/k", "v", "Idempotency-Key", "same"), []int{201, 204, 201}[i])
		if replayed := a.header.Get("Quorate-Replayed") != ""; replayed != (i == 2) {
			t.Errorf("%s: replayed %v", who, replayed)
		}
	}
	g.want(g.as("viewer", "PUT", keyPrefix+"app/k", "v", "Idempotency-Key", "same"), 403)
}

func TestProbesShowNoTopologyWithoutAToken(t *testing.T) {
	g := newGuardedRig(t)
	g.health.checks = []kv.Check{{Name: "leaders", Detail: "2 local replicas know no leader"}, {Name: "fine", OK: true}}
	g.health.live = fmt.Errorf("replica r1 has stopped")
	for _, who := range []string{"none", "wrong"} {
		for _, target := range []string{"/readyz", "/readyz?verbose", "/livez"} {
			if a := g.want(g.as(who, "GET", target, ""), 503, "unavailable"); strings.Contains(a.body, "leader") || strings.Contains(a.body, "r1") || strings.Contains(a.body, "checks") {
				t.Errorf("%s %s: %s", who, target, a.body)
			}
		}
	}
	if a := g.want(g.as("elsewhere", "GET", "/readyz?verbose", ""), 503); !strings.Contains(a.body, "2 local replicas") {
		t.Error(a.body)
	}
	g.health.checks = nil
	if a := g.want(g.as("none", "GET", "/readyz?verbose", ""), 200); a.body != `{"ready":true}` {
		t.Error(a.body)
	}
}

func TestANodeThatMayBeOutOfDateRefuses(t *testing.T) {
	g := newGuardedRig(t)
	g.access.mu.Lock()
	g.access.err = &kv.Error{Code: kv.CodeUnavailable, Outcome: kv.OutcomeNotApplied, Detail: "silence"}
	g.access.mu.Unlock()
	for _, target := range []string{keyPrefix + "app/k", "/v1/nodes", "/v1/tokens"} {
		g.want(g.as("admin", "GET", target, ""), 503, "unavailable", "not-applied")
		g.want(g.as("none", "GET", target, ""), 401)
	}
	g.want(g.as("admin", "GET", "/readyz", ""), 200)
}

func TestRateOfAToken(t *testing.T) {
	g := newGuardedRig(t)
	g.bearer["slow"], _ = g.access.token(kv.TokenOrder{Grants: grants("reader"), Rate: 0.25})
	g.fill()
	g.want(g.as("slow", "GET", keyPrefix+"app/k", ""), 200)
	a := g.want(g.as("slow", "GET", keyPrefix+"app/k", ""), 429, "overloaded", "not-applied")
	if a.header.Get("Retry-After") != "4" {
		t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
	}
	g.want(g.as("reader", "GET", keyPrefix+"app/k", ""), 200) // the others are free
	g.bearer["next"], _ = g.access.token(kv.TokenOrder{Grants: grants("reader")})
	g.want(g.as("slow", "GET", keyPrefix+"app/k", ""), 429) // a new table is no new limit
	g.now.Add(4000)
	g.want(g.as("slow", "GET", keyPrefix+"app/k", ""), 200)
}

func TestTokensOverHTTP(t *testing.T) {
	g := newGuardedRig(t)
	a := g.want(g.as("admin", "POST", "/v1/tokens", `{"name":"app","grants":[{"role":"writer","prefix":"app/"},{"role":"reader","prefix_b64":"/w==","deny":true}],"ttl":"1h","rate":5}`), 201)
	text := a.body[strings.LastIndex(a.body, `"qrt_`)+1 : len(a.body)-2]
	id := text[4:20]
	if audits := g.audited(); len(audits) != 1 || audits[0].Target != id || audits[0].Name != "admin" || audits[0].Status != 201 {
		t.Errorf("%+v", audits)
	}
	g.now.Store(2)
	g.bearer["made"] = text
	g.fill()
	g.want(g.as("made", "GET", keyPrefix+"app/k", ""), 200)
	own := g.want(g.as("made", "GET", "/v1/tokens/self", ""), 200)
	if !strings.Contains(own.body, `"prefix_b64":"/w=="`) || strings.Contains(own.body, "qrt_") {
		t.Error(own.body)
	}
	if all := g.want(g.as("admin", "GET", "/v1/tokens", ""), 200); !strings.Contains(all.body, id) || strings.Contains(all.body, "qrt_") {
		t.Error(all.body)
	}
	g.want(g.as("admin", "DELETE", "/v1/tokens/"+id, ""), 200)
	g.want(g.as("made", "GET", keyPrefix+"app/k", ""), 401)
	g.want(g.as("admin", "DELETE", "/v1/tokens/"+id, ""), 404)
	g.audited()
	g.want(g.as("admin", "DELETE", "/v1/tokens/"+text, ""), 400, "invalid")
	if text := fmt.Sprintf("%+v", g.audited()); strings.Contains(text, "qrt_") {
		t.Error(text)
	}
	for _, bad := range []string{`{}`, `{"grants":[]}`, `{"grants":[{"prefix":"a"}]}`, `{"grants":[{"role":"root"}]}`, `{"grants":[{"role":"admin","prefix":"a"}]}`,
		`{"grants":[{"role":"reader"}],"ttl":"0s"}`, `{"grants":[{"role":"reader"}],"rate":-1}`, `{"grants":[{"role":"reader"}],"id":"1"}`, `{"grants":[{"role":"reader","prefix":"a","prefix_b64":"YQ=="}]}`} {
		g.want(g.as("admin", "POST", "/v1/tokens", bad), 400, "invalid", "not-applied")
	}
	g.want(g.as("admin", "POST", "/v1/tokens", `{"grants":[{"role":"reader"}]}`, "Idempotency-Key", "x"), 400)
}

// TestRevocationEndsAStream: a scan that has begun goes no further than its page.
func TestRevocationEndsAStream(t *testing.T) {
	g := newGuardedRig(t)
	for i := range streamPageItems + 10 {
		k := fmt.Sprintf("app/%05d", i)
		g.data.items[k] = &kvpb.Item{Key: []byte(k), Value: []byte("v"), Version: 1}
	}
	text, id := g.access.token(kv.TokenOrder{Grants: grants("reader app/")})
	g.data.fail = func(_ context.Context, method string) error {
		_, _ = g.access.RevokeToken(context.Background(), id) // while the first page is read
		return nil
	}
	req, _ := http.NewRequest("GET", "http://"+g.addr+"/v1/kv?prefix=app/", nil)
	req.Header.Set("Accept", "application/x-ndjson")
	req.Header.Set("Authorization", "Bearer "+text)
	resp, err := g.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	n, last := 0, ""
	for s := bufio.NewScanner(resp.Body); s.Scan(); n++ {
		last = s.Text()
	}
	if n != streamPageItems+1 || !strings.Contains(last, `"code":"unauthenticated"`) {
		t.Errorf("%d lines, the last %s", n, last)
	}
}

// TestRevocationEndsAWait: who waits for events is told within a look or two.
func TestRevocationEndsAWait(t *testing.T) {
	g := newGuardedRig(t)
	text, id := g.access.token(kv.TokenOrder{Grants: grants("reader")})
	g.bearer["waits"] = text
	g.admin.events = nil
	answers := make(chan answer, 1)
	go func() { answers <- g.as("waits", "GET", "/v1/events?wait=9s", "") }()
	waitFor(t, func() bool { _, _, streams := g.server.InFlight(); return streams == 1 })
	begun := time.Now()
	_, _ = g.access.RevokeToken(t.Context(), id)
	if a := <-answers; a.status != 401 || time.Since(begun) > 5*time.Second {
		t.Errorf("%d after %s", a.status, time.Since(begun))
	}
}

// TestOnlyGuardedReachesTheDataPlane holds invariant 7 by the source.
func TestOnlyGuardedReachesTheDataPlane(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := f.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || name == "guarded.go" {
			continue
		}
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(src), "opts.Data.") || strings.Contains(string(src), "opts.Data)") {
			t.Errorf("%s reaches the data plane beside guarded", name)
		}
	}
}
