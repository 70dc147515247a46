package httpd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// fakeAdmin writes down what it is asked and answers with fixed facts. Its settings
// are kept as the control plane keeps them.
type fakeAdmin struct {
	mu     sync.Mutex
	calls  []string
	err    error
	config kv.ClusterConfig
	events []kv.Event
	// beforeSet runs before settings are replaced: somebody else comes first.
	beforeSet func(*kv.ClusterConfig)
}

func newFakeAdmin() *fakeAdmin {
	a := &fakeAdmin{config: kv.DefaultClusterConfig()}
	a.config.Revision = 7
	return a
}

func (a *fakeAdmin) called(format string, args ...any) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, fmt.Sprintf(format, args...))
	return a.err
}

func (a *fakeAdmin) take() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := strings.Join(a.calls, "; ")
	a.calls = nil
	return out
}

func (a *fakeAdmin) operation(kind kv.OperationKind) kv.Operation {
	return kv.Operation{ID: 12, Kind: kind, State: kv.OperationRunning, Target: "node two", Node: 0xa2, Shard: 3,
		StartedMs: 1700000000123, UpdatedMs: 1700000001123, Done: 2, Total: 5, Detail: "moving", Cancellable: true}
}

func (a *fakeAdmin) Drain(_ context.Context, n kv.NodeID, on bool) error {
	return a.called("drain %s %t", n, on)
}

func (a *fakeAdmin) RemoveNode(_ context.Context, n kv.NodeID) (kv.Operation, error) {
	return a.operation(kv.OperationRemoveNode), a.called("remove %s", n)
}

func (a *fakeAdmin) Split(_ context.Context, s kv.ShardID, key []byte) (kv.Operation, error) {
	return a.operation(kv.OperationSplit), a.called("split %s %q", s, key)
}

func (a *fakeAdmin) Merge(_ context.Context, s kv.ShardID) (kv.Operation, error) {
	return a.operation(kv.OperationMerge), a.called("merge %s", s)
}

func (a *fakeAdmin) Move(_ context.Context, s kv.ShardID, from, to kv.NodeID) (kv.Operation, error) {
	return a.operation(kv.OperationMove), a.called("move %s %s %s", s, from, to)
}

func (a *fakeAdmin) TransferLeader(_ context.Context, s kv.ShardID, to kv.NodeID) error {
	return a.called("transfer %s %s", s, to)
}

func (a *fakeAdmin) Rebalance(_ context.Context, dryRun bool) ([]kv.PlannedStep, kv.Operation, error) {
	steps := []kv.PlannedStep{{Kind: "move-replica", Shard: 3, From: testNode, To: 0xa2, Bytes: 100, Reason: "even"}, {Kind: "split", Shard: 2, Reason: "large"}}
	var o kv.Operation
	if !dryRun {
		o = a.operation(kv.OperationRebalance)
	}
	return steps, o, a.called("rebalance %t", dryRun)
}

func (a *fakeAdmin) Problems(context.Context) ([]kv.Problem, error) {
	return []kv.Problem{
		{Code: "node-dead", Severity: kv.SeverityWarning, Summary: "node two is dead", Help: "start it", Node: 0xa2, SinceMs: 1700000000123},
		{Code: "x", Severity: kv.SeverityInfo, Shard: 3},
	}, a.called("problems")
}

func (a *fakeAdmin) Events(_ context.Context, after uint64, limit int) ([]kv.Event, error) {
	err := a.called("events %d %d", after, limit)
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []kv.Event
	for _, e := range a.events {
		if e.Seq > after && len(out) < limit {
			out = append(out, e)
		}
	}
	return out, err
}

func (a *fakeAdmin) Operations(context.Context) ([]kv.Operation, error) {
	return []kv.Operation{a.operation(kv.OperationMove), {ID: 1, Kind: kv.OperationSplit, State: kv.OperationFailed, Error: "no"}}, a.called("operations")
}

func (a *fakeAdmin) Operation(_ context.Context, id uint64) (kv.Operation, error) {
	return a.operation(kv.OperationMove), a.called("operation %d", id)
}

func (a *fakeAdmin) Cancel(_ context.Context, id uint64) (kv.Operation, error) {
	return a.operation(kv.OperationMove), a.called("cancel %d", id)
}

func (a *fakeAdmin) Config(context.Context) (kv.ClusterConfig, error) {
	err := a.called("config")
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.config, err
}

func (a *fakeAdmin) SetConfig(_ context.Context, c kv.ClusterConfig) (kv.ClusterConfig, error) {
	err := a.called("set %d", c.Revision)
	a.mu.Lock()
	defer a.mu.Unlock()
	if f := a.beforeSet; f != nil {
		a.beforeSet = nil
		f(&a.config)
	}
	if err != nil {
		return kv.ClusterConfig{}, err
	}
	if c.Revision != a.config.Revision {
		return a.config, &kv.Error{Code: kv.CodeConditionFailed, Outcome: kv.OutcomeNotApplied, Version: kv.Version(a.config.Revision)}
	}
	c.Revision++
	a.config = c
	return c, nil
}

func newAdminRig(t *testing.T) (*rig, *fakeAdmin) {
	a := newFakeAdmin()
	return newRig(t, func(o *Options) { o.Admin = a }), a
}

const operationText = `{"id":12,"kind":"%s","state":"running","target":"node two","node":"00000000000000a2","shard":3,"started":"2023-11-14T22:13:20.123Z",` +
	`"updated":"2023-11-14T22:13:21.123Z","done":2,"total":5,"detail":"moving","cancellable":true}`

func TestAdminRoutes(t *testing.T) {
	r, a := newAdminRig(t)
	for _, c := range []struct {
		line   string
		status int
		calls  string
		body   string
	}{
		{"POST /v1/nodes/two/drain", 200, "drain 00000000000000a2 true", `{"node":"00000000000000a2","name":"two","draining":true}`},
		{"POST /v1/nodes/a1/undrain", 200, "drain 00000000000000a1 false", `"name":"one","draining":false`},
		{"DELETE /v1/nodes/00000000000000a2", 202, "remove 00000000000000a2", fmt.Sprintf(operationText, "remove-node")},
		{"POST /v1/shards/3/split", 202, `split 3 ""`, fmt.Sprintf(operationText, "split")},
		{"POST /v1/shards/3/split?key=q%00", 202, `split 3 "q\x00"`, `"kind":"split"`},
		{"POST /v1/shards/3/split?key=_w&enc=base64url", 202, `split 3 "\xff"`, `"kind":"split"`},
		{"POST /v1/shards/2/merge", 202, "merge 2", `"kind":"merge"`},
		{"POST /v1/shards/2/move?from=one&to=a2", 202, "move 2 00000000000000a1 00000000000000a2", `"kind":"move"`},
		{"POST /v1/shards/2/transfer?to=two", 200, "transfer 2 00000000000000a2", `{"shard":2,"leader":"00000000000000a2"}`},
		{"POST /v1/rebalance?dry_run=true", 200, "rebalance true", `{"dry_run":true,"steps":[{"kind":"move-replica","shard":3,"from":"00000000000000a1","to":"00000000000000a2","bytes":100,"reason":"even"},{"kind":"split","shard":2,"bytes":0,"reason":"large"}]}`},
		{"POST /v1/rebalance", 202, "rebalance false", `"operation":{"id":12,`},
		{"GET /v1/problems", 200, "problems", `{"problems":[{"code":"node-dead","severity":"warning","summary":"node two is dead","help":"start it","node":"00000000000000a2","since":"2023-11-14T22:13:20.123Z"},{"code":"x"`},
		{"GET /v1/operations", 200, "operations", `"state":"failed","target":"","started":"1970-01-01T00:00:00.000Z"`},
		{"GET /v1/operations/12", 200, "operation 12", fmt.Sprintf(operationText, "move")},
		{"DELETE /v1/operations/12", 200, "cancel 12", fmt.Sprintf(operationText, "move")},
		{"GET /v1/events", 200, "events 0 100", `{"events":[],"next":0}`},
		{"GET /v1/config", 200, "config", `{"revision":7,"replication_factor":3,"dead_grace":"5m","split_bytes":268435456,"split_load":5000,"merge_bytes":16777216,"auto_balance":true,"leader_zone":"","snapshot_rate":67108864,"moves_per_node":2,"moves_per_cluster":8}`},
	} {
		method, target, _ := strings.Cut(c.line, " ")
		got := r.want(r.do(method, target, ""), c.status)
		if calls := a.take(); calls != c.calls {
			t.Errorf("%s: called %q, want %q", c.line, calls, c.calls)
		}
		if !strings.Contains(got.body, c.body) {
			t.Errorf("%s: no %s in %s", c.line, c.body, got.body)
		}
		if location := got.header.Get("Location"); (c.status == 202) != (location == "/v1/operations/12") {
			t.Errorf("%s: Location %q", c.line, location)
		}
		sep := "?"
		if strings.Contains(target, "?") {
			sep = "&"
		}
		r.want(r.do(method, target+sep+"typo=1", ""), 400, "invalid", "not-applied")
		r.want(r.do(method, target, "", "Accept", "text/html"), 406)
		if method != "GET" {
			r.want(r.do(method, target, "{}", "Content-Type", "application/json"), 400, "invalid", "not-applied")
			r.want(r.do(method, target, "", "Idempotency-Key", "a"), 400, "invalid", "not-applied")
			r.want(r.do(method, target, "", "Origin", "http://evil.example"), 403)
		}
		if calls := a.take(); calls != "" {
			t.Errorf("%s: a bad request called %q", c.line, calls)
		}
	}
}

func TestAdminRefusesBadRequests(t *testing.T) {
	r, a := newAdminRig(t)
	for line, status := range map[string]int{
		"POST /v1/nodes/nobody/drain":                              404,
		"POST /v1/nodes/00000000000000a9/drain":                    404,
		"DELETE /v1/nodes/nobody":                                  404,
		"POST /v1/shards/x/split":                                  400,
		"POST /v1/shards/0/split":                                  400,
		"POST /v1/shards/1/split":                                  409,
		"POST /v1/shards/1/merge":                                  409,
		"POST /v1/shards/3/split?key=":                             400,
		"POST /v1/shards/3/split?key=%zz":                          400,
		"POST /v1/shards/3/split?key=" + strings.Repeat("k", 4097): 414,
		"POST /v1/shards/2/move":                                   400,
		"POST /v1/shards/2/move?from=one":                          400,
		"POST /v1/shards/2/move?from=one&to=":                      400,
		"POST /v1/shards/2/move?from=one&to=nobody":                404,
		"POST /v1/shards/2/move?from=one&to=a1":                    400,
		"POST /v1/shards/2/transfer":                               400,
		"POST /v1/rebalance?dry_run=maybe":                         400,
		"GET /v1/operations/x":                                     400,
		"DELETE /v1/operations/0":                                  400,
		"GET /v1/events?after=-1":                                  400,
		"GET /v1/events?limit=0":                                   400,
		fmt.Sprintf("GET /v1/events?limit=%d", kv.EventsMax+1):     400,
		"GET /v1/events?wait=soon":                                 400,
		"GET /v1/events?wait=61s":                                  400,
		"PUT /v1/shards/2/split":                                   405,
		"GET /v1/rebalance":                                        405,
		"DELETE /v1/config":                                        405,
	} {
		method, target, _ := strings.Cut(line, " ")
		r.want(r.do(method, target, ""), status)
		if calls := a.take(); calls != "" {
			t.Errorf("%s: called %q", line, calls)
		}
	}
}

func TestAdminErrorsAreProblems(t *testing.T) {
	r, a := newAdminRig(t)
	lines := []string{"POST /v1/nodes/one/drain", "DELETE /v1/nodes/one", "POST /v1/shards/2/split", "POST /v1/shards/2/merge", "POST /v1/shards/2/move?from=one&to=two",
		"POST /v1/shards/2/transfer?to=one", "POST /v1/rebalance", "GET /v1/problems", "GET /v1/events", "GET /v1/operations", "GET /v1/operations/1", "DELETE /v1/operations/1", "GET /v1/config"}
	for _, e := range []struct {
		err    *kv.Error
		status int
	}{
		{&kv.Error{Code: kv.CodeConflict, Outcome: kv.OutcomeNotApplied, Detail: "only two nodes would be left"}, 409},
		{&kv.Error{Code: kv.CodeNotFound}, 404},
		{&kv.Error{Code: kv.CodeUnavailable, Outcome: kv.OutcomeNotApplied}, 503},
		{&kv.Error{Code: kv.CodeOutcomeUnknown, Outcome: kv.OutcomeUnknown}, 504},
	} {
		for _, line := range lines {
			a.err = e.err
			method, target, _ := strings.Cut(line, " ")
			r.want(r.do(method, target, ""), e.status, string(e.err.Code))
		}
	}
	none := newRig(t)
	for _, line := range lines {
		method, target, _ := strings.Cut(line, " ")
		none.want(none.do(method, target, ""), 503, "unavailable")
	}
}

func TestConfigChanges(t *testing.T) {
	r, a := newAdminRig(t)
	const json = "application/json"
	tag := r.want(r.do("GET", "/v1/config", ""), 200).header.Get("ETag")
	if tag != `"7"` {
		t.Fatalf("ETag %s", tag)
	}
	got := r.want(r.do("PATCH", "/v1/config", `{"replication_factor":5,"dead_grace":"90s","auto_balance":false,"split_load":1.5e3}`, "Content-Type", json, "If-Match", tag), 200)
	if got.header.Get("ETag") != `"8"` || a.config.ReplicationFactor != 5 || a.config.DeadGrace != 90*time.Second || a.config.AutoBalance || a.config.SplitLoad != 1500 || a.config.MergeBytes != 16<<20 {
		t.Errorf("%s %+v", got.body, a.config)
	}
	r.want(r.do("PATCH", "/v1/config", `{"replication_factor":3}`, "Content-Type", json, "If-Match", tag), 412, "condition_failed", "not-applied")
	r.want(r.do("PATCH", "/v1/config", `{"replication_factor":3,"revision":7}`, "Content-Type", json), 412)
	r.want(r.do("PATCH", "/v1/config", `{"replication_factor":3,"revision":8}`, "Content-Type", json, "If-Match", tag), 400)
	got = r.want(r.do("PATCH", "/v1/config", `{"replication_factor":4}`, "Content-Type", "application/merge-patch+json", "If-Match", "*"), 200)
	// What GET gave can be sent back, and names its revision.
	whole := strings.Replace(got.body, `"leader_zone":""`, `"leader_zone":"z1"`, 1)
	r.want(r.do("PUT", "/v1/config", whole, "Content-Type", json), 200)
	r.want(r.do("PUT", "/v1/config", whole, "Content-Type", json), 412, "condition_failed", "not-applied")
	if a.config.LeaderZone != "z1" || a.config.Revision != 10 {
		t.Errorf("%+v", a.config)
	}
	// Somebody else comes first: without a condition the change goes onto theirs.
	a.beforeSet = func(c *kv.ClusterConfig) { c.Revision++; c.LeaderZone = "z2" }
	r.want(r.do("PATCH", "/v1/config", `{"moves_per_node":9}`, "Content-Type", json), 200)
	if a.config.LeaderZone != "z2" || a.config.MovesPerNode != 9 || a.config.Revision != 12 {
		t.Errorf("%+v", a.config)
	}
	a.beforeSet = func(c *kv.ClusterConfig) { c.Revision++ }
	r.want(r.do("PATCH", "/v1/config", `{"moves_per_node":8}`, "Content-Type", json, "If-Match", `"12"`), 412)
	before := a.config
	for body, status := range map[string]int{
		``: 400, `[]`: 400, `{`: 400, `{"x":1}`: 400, `{"replication_factor":8}`: 400, `{"replication_factor":0}`: 400, `{"replication_factor":"3"}`: 400, `{"replication_factor":3.5}`: 400,
		`{"replication_factor":3}x`: 400, `{"replication_factor":3,"replication_factor":3}`: 400, `{"dead_grace":300}`: 400, `{"dead_grace":"soon"}`: 400, `{"dead_grace":"-5m"}`: 400,
		`{"split_bytes":-1}`: 400, `{"split_bytes":1}`: 400, `{"split_bytes":01}`: 400, `{"split_bytes":9007199254740993}`: 400, `{"split_load":-1}`: 400, `{"split_load":1e999}`: 400, `{"split_load":.5}`: 400, `{"split_load":5.}`: 400,
		`{"split_load":NaN}`: 400, `{"split_load":0x10}`: 400, `{"auto_balance":1}`: 400, `{"leader_zone":null}`: 400, strings.Repeat(" ", configBodyMax+1): 413,
	} {
		r.want(r.do("PATCH", "/v1/config", body, "Content-Type", json), status)
	}
	r.want(r.do("PUT", "/v1/config", `{"replication_factor":3}`, "Content-Type", json), 400)
	r.want(r.do("PUT", "/v1/config", whole, "Content-Type", "text/plain"), 415)
	r.want(r.do("PUT", "/v1/config", whole, "Content-Type", "application/merge-patch+json"), 415)
	r.want(r.do("PATCH", "/v1/config", `{}`, "Content-Type", json, "If-Match", "7"), 400)
	r.want(r.do("PATCH", "/v1/config", `{}`, "Content-Type", json, "Idempotency-Key", "a"), 400)
	if a.config != before {
		t.Errorf("bad requests changed %+v to %+v", before, a.config)
	}
}

func TestEventsPages(t *testing.T) {
	r, a := newAdminRig(t)
	for i := range 5 {
		a.events = append(a.events, kv.Event{Seq: uint64(i + 3), TimeMs: 1700000000123, Kind: "node-joined", Node: testNode, Detail: "one has joined"})
	}
	first := r.want(r.do("GET", "/v1/events?limit=2", ""), 200)
	if want := `{"seq":3,"time":"2023-11-14T22:13:20.123Z","kind":"node-joined","node":"00000000000000a1","detail":"one has joined"}`; !strings.Contains(first.body, want) || !strings.Contains(first.body, `"next":4}`) {
		t.Errorf("%s", first.body)
	}
	if rest := r.want(r.do("GET", "/v1/events?after=4&wait=5s", ""), 200); strings.Count(rest.body, `"seq"`) != 3 || !strings.Contains(rest.body, `"next":7}`) {
		t.Errorf("%s", rest.body)
	}
}

// TestEventsAreWaitedFor runs on virtual time, without a connection.
func TestEventsAreWaitedFor(t *testing.T) {
	ask := func(s *Server, target string, headers ...string) (int, string) {
		req := httptest.NewRequest("GET", target, http.NoBody)
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, req)
		return w.Code, w.Body.String()
	}
	synctest.Test(t, func(t *testing.T) {
		a := newFakeAdmin()
		s := New(Options{Admin: a, Cluster: &fakeCluster{}, Limits: Limits{StreamsInFlight: 1}})
		start := time.Now()
		if code, body := ask(s, "/v1/events?after=9&wait=3s"); code != 200 || body != `{"events":[],"next":9}` || time.Since(start) != 3*time.Second {
			t.Errorf("nothing came: %d %s after %s", code, body, time.Since(start))
		}
		start = time.Now()
		if code, body := ask(s, "/v1/events?wait=30s", "Quorate-Timeout", "2s"); code != 200 || time.Since(start) != 2*time.Second-answerMargin {
			t.Errorf("the deadline: %d %s after %s", code, body, time.Since(start))
		}
		go func() {
			time.Sleep(1100 * time.Millisecond) // virtual
			a.mu.Lock()
			a.events = []kv.Event{{Seq: 1, Kind: "x"}}
			a.mu.Unlock()
		}()
		answered := make(chan string)
		start = time.Now()
		go func() {
			_, body := ask(s, "/v1/events?wait=10s")
			answered <- body
		}()
		synctest.Wait()
		if code, body := ask(s, "/v1/events?wait=10s"); code != 429 {
			t.Errorf("one more than may wait: %d %s", code, body)
		}
		if body := <-answered; !strings.Contains(body, `"next":1`) || time.Since(start) != 1250*time.Millisecond {
			t.Errorf("%s after %s", body, time.Since(start))
		}
		// A server that stops lets go of who waits.
		start = time.Now()
		go func() { _, body := ask(s, "/v1/events?after=1&wait=10s"); answered <- body }()
		synctest.Wait()
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if <-answered; time.Since(start) != 0 {
			t.Errorf("waited %s", time.Since(start))
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add(`{"replication_factor":5,"dead_grace":"90s","auto_balance":false,"split_load":1.5e3,"leader_zone":"\u00fc"}`)
	f.Add(`{"revision":1,"moves_per_node":-0}`)
	f.Fuzz(func(t *testing.T, body string) {
		got, err := parseConfig([]byte(body))
		if err != nil {
			return
		}
		// Whatever is taken, encoding/json reads the same from it.
		var want configJSON
		if err := json.Unmarshal([]byte(body), &want); err != nil {
			t.Fatalf("taken, but no JSON: %q: %v", body, err)
		}
		c := asConfigJSON(&got.config)
		if want.DeadGrace = c.DeadGrace; c != want {
			t.Fatalf("%q: %+v, encoding/json: %+v", body, c, want)
		}
	})
}
