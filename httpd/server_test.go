package httpd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// codesOf reads the values of all kv.Code constants of a source file.
func codesOf(t *testing.T, file, typeName string) (codes []kv.Code) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || fmt.Sprint(spec.Type) != typeName {
			return true
		}
		for _, v := range spec.Values {
			s, err := strconv.Unquote(v.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			codes = append(codes, kv.Code(s))
		}
		return true
	})
	return codes
}

func TestProblemTableIsTotal(t *testing.T) {
	codes := codesOf(t, "../kv/errors.go", "Code")
	if len(codes) < 20 {
		t.Fatalf("only %d codes found: the test reads the wrong thing", len(codes))
	}
	for _, c := range codes {
		if k, ok := problemTable[c]; !ok || k.title == "" || k.status < 400 {
			t.Errorf("%s has no place in problemTable", c)
		}
	}
	if extra := len(problemTable) - len(codes); extra != 5 {
		t.Errorf("%d codes of the edge's own, want 5", extra)
	}
}

func TestEveryCodeReachesTheClient(t *testing.T) {
	r := newRig(t)
	for _, code := range codesOf(t, "../kv/errors.go", "Code") {
		for _, outcome := range []kv.Outcome{kv.OutcomeNotApplied, kv.OutcomeUnknown} {
			e := &kv.Error{Code: code, Outcome: outcome, Detail: "d\"\n\xff", Shard: 7, Version: 9}
			r.data.fail = func(context.Context, string) error { return fmt.Errorf("wrapped: %w", e) }
			a := r.do("PUT", keyPrefix+"k", "v")
			var p map[string]any
			if err := json.Unmarshal([]byte(a.body), &p); err != nil {
				t.Fatalf("%s: %v: %s", code, err, a.body)
			}
			want := problemTable[code].status
			if a.status != want || p["status"] != float64(want) || p["code"] != string(code) || p["outcome"] != string(outcome) || p["retryable"] != e.Retryable() ||
				p["type"] != "urn:quorate:problem:"+string(code) || p["detail"] != "d\"\n\ufffd" || a.header.Get("Quorate-Shard") != "7" {
				t.Errorf("%s: %d %s", code, a.status, a.body)
			}
			if retry := a.header.Get("Retry-After") != ""; retry != (want == 429 || want == 503) {
				t.Errorf("%s: Retry-After %v", code, retry)
			}
			if a.header.Get("Content-Type") != "application/problem+json" || a.header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %v", code, a.header)
			}
			b := r.want(r.do("POST", "/v1/batch", `{"ops":[{"op":"delete","key":"k"}]}`, asJSON...), 200)
			if !strings.HasPrefix(b.body, `{"results":[{"status":`+strconv.Itoa(want)+`,"detail":`) {
				t.Errorf("%s in a batch: %s", code, b.body)
			}
		}
		// A read was neither applied nor not.
		r.data.fail = func(context.Context, string) error {
			return &kv.Error{Code: code, Outcome: kv.OutcomeUnknown}
		}
		r.want(r.do("GET", keyPrefix+"k", ""), problemTable[code].status, string(code), "")
		r.want(r.do("POST", "/v1/query", `{"gets":[{"key":"k"}]}`, asJSON...), problemTable[code].status, string(code), "")
	}
}

func TestOtherErrors(t *testing.T) {
	var log bytes.Buffer
	r := newRig(t, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	r.data.fail = func(context.Context, string) error { return errors.New("secret path /x") }
	a := r.want(r.do("PUT", keyPrefix+"k", "v"), 500, "internal", "unknown")
	if strings.Contains(a.body, "secret") || !strings.Contains(log.String(), "secret path") {
		t.Errorf("the cause belongs in the log, not in the answer: %s", a.body)
	}
	r.want(r.do("GET", keyPrefix+"k", ""), 500, "internal", "")
	r.data.fail = func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
	r.want(r.do("PUT", keyPrefix+"k", "v", "Quorate-Timeout", "5ms"), 504, "outcome_unknown", "unknown")
	r.want(r.do("GET", keyPrefix+"k", "", "Quorate-Timeout", "5ms"), 504, "timeout", "")
	r.data.fail = func(context.Context, string) error { return kv.Errorf("invented_later", kv.OutcomeUnknown, "x") }
	r.want(r.do("PUT", keyPrefix+"k", "v"), 500, "internal", "unknown")
}

func TestPanicIsAProblem(t *testing.T) {
	r := newRig(t)
	r.data.fail = func(context.Context, string) error { panic("boom") }
	a := r.want(r.do("PUT", keyPrefix+"k", "v"), 500, "internal", "unknown")
	if strings.Contains(a.body, "boom") {
		t.Errorf("%s", a.body)
	}
	r.data.fail = nil
	r.want(r.do("PUT", keyPrefix+"k", "v"), 201)
	if d, _, _ := r.server.InFlight(); d != 0 {
		t.Errorf("%d requests in flight after a panic", d)
	}
}

func TestTimeoutHeader(t *testing.T) {
	r := newRig(t)
	var left time.Duration
	r.data.fail = func(ctx context.Context, _ string) error {
		d, ok := ctx.Deadline()
		if !ok {
			t.Error("no deadline")
		}
		left = time.Until(d)
		return nil
	}
	r.do("GET", keyPrefix+"k", "")
	if left > kv.RequestTimeoutDefault || left < kv.RequestTimeoutDefault-2*time.Second {
		t.Errorf("default: %s", left)
	}
	r.do("GET", keyPrefix+"k", "", "Quorate-Timeout", "1m")
	if left < 55*time.Second {
		t.Errorf("1m: %s", left)
	}
	for _, bad := range []string{"", "5", "0s", "-1s", "61s", "x"} {
		r.want(r.do("GET", keyPrefix+"k", "", "Quorate-Timeout", bad), 400, "invalid")
	}
	r.want(r.do("GET", keyPrefix+"k", "", "Quorate-Timeout", "1s", "Quorate-Timeout", "2s"), 400, "invalid")
}

func TestMethodsAndRoutes(t *testing.T) {
	r := newRig(t)
	for route, allow := range map[string]string{"/v1/kv/a": "GET, HEAD, PUT, DELETE, POST", "/v1/kv": "GET, HEAD, DELETE", "/v1/txn": "POST", "/v1/nodes": "GET, HEAD", "/v1/nodes/a1/drain": "POST", "/livez": "GET, HEAD"} {
		for _, method := range []string{"PATCH", "OPTIONS", "TRACE", "FOO", "get"} {
			a := r.want(r.do(method, route, ""), 405, "method_not_allowed", "not-applied")
			if a.header.Get("Allow") != allow {
				t.Errorf("%s %s: Allow %q, want %q", method, route, a.header.Get("Allow"), allow)
			}
		}
	}
	r.want(r.do("GET", "/v1/txn", ""), 405)
	for _, route := range []string{"/", "/v1", "/v1/", "/v1/watch", "/v1/locks/a", "/v1/export", "/v1/tokens/", "/v1/audit/", "/ui/",
		"/v1/nodes/", "/v1/nodes//drain", "/v1/nodes/1/drain/x", "/v1/operations/", "/v1/shards/2/grow", "/v1/kvs", "/v2/kv/a", "/v1/txn/", "/readyz/x", "/metrics"} {
		r.want(r.do("GET", route, ""), 404, "no_route", "not-applied")
	}
	r.want(r.do("PUT", keyPrefix+"a", "v", "Sec-Fetch-Site", "cross-site"), 403, "cross_origin", "not-applied")
	r.want(r.do("POST", keyPrefix+"a?op=add&delta=1", "", "Origin", "http://evil.example"), 403, "cross_origin")
	r.want(r.do("GET", keyPrefix+"a", "", "Origin", "http://evil.example"), 404)
}

func TestInFlightBounds(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Limits.DataInFlight = 2; o.Limits.StreamsInFlight = 1 })
	enter, release := make(chan struct{}, 10), make(chan struct{})
	r.data.fail = func(context.Context, string) error { enter <- struct{}{}; <-release; return nil }
	done := make(chan int, 2)
	hold := func(target string, headers ...string) {
		go func() { done <- r.do("GET", target, "", headers...).status }()
		<-enter
	}
	hold("/v1/kv", "Accept", "application/x-ndjson")
	a := r.want(r.do("GET", "/v1/kv", "", "Accept", "application/x-ndjson"), 429, "overloaded", "not-applied")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	hold(keyPrefix + "k")
	r.want(r.do("GET", keyPrefix+"k", ""), 429, "overloaded", "not-applied")
	r.want(r.do("PUT", keyPrefix+"k", "v"), 429)
	// The control plane has a budget of its own.
	r.want(r.do("GET", "/livez", ""), 200)
	r.want(r.do("GET", "/v1/cluster", ""), 200)
	close(release)
	for range 2 {
		if s := <-done; s != 200 && s != 404 {
			t.Errorf("status %d", s)
		}
	}
	r.data.fail = nil
	waitFor(t, func() bool { d, c, s := r.server.InFlight(); return d+c+s == 0 })
	r.want(r.do("GET", keyPrefix+"k", ""), 404)
}

func TestHooksSeeEveryRequest(t *testing.T) {
	r := newRig(t)
	r.do("PUT", keyPrefix+"k", "value")
	r.do("GET", keyPrefix+"k", "")
	r.do("GET", "/nowhere", "")
	r.do("GET", "/v1/kv?bad", "")
	for _, want := range []RequestInfo{
		{Route: "/v1/kv/{key}", Method: "PUT", Status: 201, BytesIn: 5},
		{Route: "/v1/kv/{key}", Method: "GET", Status: 200, BytesOut: 5},
		{Route: "", Method: "GET", Status: 404, Code: codeNoRoute, Outcome: kv.OutcomeNotApplied},
		{Route: "/v1/kv", Method: "GET", Status: 400, Code: kv.CodeInvalid, Outcome: kv.OutcomeNotApplied},
	} {
		got := <-r.infos
		if got.Duration <= 0 {
			t.Errorf("%+v took no time", got)
		}
		got.Duration = 0
		if want.Code != "" {
			want.BytesOut = got.BytesOut
		}
		if got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
}

func TestShutdownSaysSoThenDrains(t *testing.T) {
	r := newRig(t, func(o *Options) { o.DrainDelay = time.Hour })
	enter, release := make(chan struct{}), make(chan struct{})
	r.data.fail = func(context.Context, string) error { enter <- struct{}{}; <-release; return nil }
	got := make(chan int, 1)
	go func() { got <- r.do("PUT", keyPrefix+"k", "v").status }()
	<-enter
	ctx, cancel := context.WithCancel(context.Background())
	down := make(chan error, 1)
	go func() { down <- r.server.Shutdown(ctx) }()
	waitFor(t, r.server.draining.Load)
	// In the delay it still serves, and says that it is going.
	a := r.want(r.do("GET", "/readyz", ""), 503, "draining")
	if a.header.Get("Retry-After") == "" {
		t.Errorf("%v", a.header)
	}
	r.want(r.do("GET", "/livez", ""), 200)
	close(release)
	if s := <-got; s != 201 {
		t.Errorf("the request in flight: %d", s)
	}
	cancel() // ends the delay; nothing is in flight, but ctx is over
	if err := <-down; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("shutdown: %v", err)
	}
}

func TestShutdownAnswersWhatIsInFlight(t *testing.T) {
	r := newRig(t)
	enter, release := make(chan struct{}), make(chan struct{})
	r.data.fail = func(context.Context, string) error { enter <- struct{}{}; <-release; return nil }
	got := make(chan int, 1)
	go func() { got <- r.do("PUT", keyPrefix+"k", "v").status }()
	<-enter
	down := make(chan error, 1)
	go func() { down <- r.server.Shutdown(context.Background()) }()
	waitFor(t, func() bool {
		c, err := net.Dial("tcp", r.addr)
		if err == nil {
			c.Close()
		}
		return err != nil // the door is closed
	})
	close(release)
	if s := <-got; s != 201 {
		t.Errorf("the request in flight: %d", s)
	}
	if err := <-down; err != nil {
		t.Errorf("shutdown: %v", err)
	}
}
