package httpd

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"strings"
	"testing"

	"go/ast"

	"github.com/quorate-db/quorate/kv"
)

func TestClusterRoutes(t *testing.T) {
	cluster := &fakeCluster{}
	r := newRig(t, func(o *Options) { o.Cluster = cluster })
	for target, parts := range map[string][]string{
		"/v1/cluster":                     {`"id":"c1"`, `"nodes_alive":1`, `"meta_leader":"00000000000000a1"`},
		"/v1/nodes":                       {`"id":"00000000000000a1","name":"one","zone":"a"`, `"last_seen":"2023-11-14T22:13:20.123Z"`, `"id":"00000000000000a2"`},
		"/v1/nodes/a1":                    {`{"id":"00000000000000a1"`, `"disk_free":9,"bytes":5,"state":"active","reads_per_second":1.3,"writes_per_second":0`},
		"/v1/nodes/two":                   {`{"id":"00000000000000a2"`, `"state":"removing"`},
		"/v1/shards":                      {`{"id":2,"generation":1,"start":"","end":"m","leader":"00000000000000a1","term":3`, `"role":"leader","applied_index":9`, `{"id":3,"generation":2,"start":"m","end_b64":"//4="`, `{"id":4,"generation":2,"start_b64":"//4=","term"`},
		"/v1/shards?key=a":                {`{"shards":[{"id":2,`},
		"/v1/shards?key=m":                {`{"shards":[{"id":3,`},
		"/v1/shards?key=%ff%ff":           {`{"shards":[{"id":4,`},
		"/v1/shards?key=bQ&enc=base64url": {`{"shards":[{"id":3,`},
		"/v1/shards/3":                    {`{"id":3,`, `"change":{"kind":"move","from":"00000000000000a1","to":"00000000000000a2","operation":4,"detail":"catching up"}`},
		"/v1/version":                     {`"release":"test"`},
		"/livez":                          {`{"live":true}`},
		"/readyz":                         {`{"ready":true}`},
		"/readyz?verbose":                 {`{"ready":true,"checks":[{"name":"serving","ok":true}]}`},
		"/openapi.json":                   {`"openapi":"3.1.0"`},
	} {
		a := r.want(r.do("GET", target, ""), 200)
		for _, p := range parts {
			if !strings.Contains(a.body, p) {
				t.Errorf("%s: no %s in %.500s", target, p, a.body)
			}
		}
		r.want(r.do("HEAD", target, ""), 200)
		r.want(r.do("GET", target, "", "Accept", "text/html"), 406)
		sep := "?"
		if strings.Contains(target, "?") {
			sep = "&"
		}
		r.want(r.do("GET", target+sep+"typo=1", ""), 400)
	}
	for target, status := range map[string]int{"/v1/nodes/a3": 404, "/v1/nodes/xyz": 404, "/v1/nodes/0": 404, "/v1/nodes/one": 200, "/v1/shards/9": 404, "/v1/shards/x": 400, "/v1/shards?key=": 400,
		"/v1/shards?key=" + strings.Repeat("x", 4097): 414} {
		r.want(r.do("GET", target, ""), status)
	}
	cluster.err = kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "no meta leader")
	for _, target := range []string{"/v1/cluster", "/v1/nodes", "/v1/nodes/a1", "/v1/shards", "/v1/shards/2"} {
		r.want(r.do("GET", target, ""), 503, "unavailable")
	}
}

func TestHealth(t *testing.T) {
	r := newRig(t)
	r.health.checks = []kv.Check{{Name: "joined", OK: true}, {Name: "meta", Detail: "is behind"}}
	a := r.want(r.do("GET", "/readyz", ""), 503, "unavailable")
	if !strings.Contains(a.body, `"checks":[{"name":"meta","ok":false,"detail":"is behind"}]`) || a.header.Get("Retry-After") == "" {
		t.Errorf("%s", a.body)
	}
	a = r.want(r.do("GET", "/readyz?verbose=true", ""), 503)
	if !strings.Contains(a.body, `{"name":"joined","ok":true}`) {
		t.Errorf("%s", a.body)
	}
	r.health.live = errors.New("stuck")
	r.want(r.do("GET", "/livez", ""), 503, "unavailable")
}

func TestMetricsAreDelegated(t *testing.T) {
	r := newRig(t, func(o *Options) {
		o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, ok := r.Context().Deadline(); !ok {
				t.Error("no deadline")
			}
			w.Header().Set("Content-Type", "text/plain; version=0.0.4")
			if _, err := io.WriteString(w, "x 1\n"); err != nil {
				t.Error(err)
			}
		})
	})
	if a := r.want(r.do("GET", "/metrics", ""), 200); a.body != "x 1\n" {
		t.Errorf("%q", a.body)
	}
}

// TestLimitsAreAllServed holds that no limit of the vocabulary that a client can
// meet is left out; those between nodes are named here.
func TestLimitsAreAllServed(t *testing.T) {
	inside := map[string]bool{"EntryBytesMax": true, "EntryGroupBytesMax": true, "EntryCommandsMax": true, "EntriesPerAppendMax": true, "FrameBytesMax": true,
		"ChildStartIndex": true, "ChildStartTerm": true}
	f, err := parser.ParseFile(token.NewFileSet(), "../kv/limits.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	ast.Inspect(f, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			for _, name := range spec.Names {
				if !inside[name.Name] {
					names++
				}
			}
		}
		return true
	})
	r := newRig(t)
	var served map[string]int64
	if err := json.Unmarshal([]byte(r.want(r.do("GET", "/v1/limits", ""), 200).body), &served); err != nil {
		t.Fatal(err)
	}
	if own := 1; len(served) != names+own { // condition_tags_max is the edge's own
		t.Errorf("%d limits served, %d in kv", len(served), names)
	}
	if served["key_bytes_max"] != kv.KeyBytesMax || served["request_timeout_max_ms"] != 60000 {
		t.Errorf("%v", served)
	}
}
