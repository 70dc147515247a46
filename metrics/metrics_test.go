package metrics

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
)

var rewrite = flag.Bool("rewrite", false, "rewrite testdata and docs/METRICS.md from what is served")

func newTest() *Metrics { return New(Options{Release: "v1", PeerClasses: classNames}) }

// compare compares with a file, or rewrites it.
func compare(t *testing.T, path, got string) {
	t.Helper()
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; look at it, then run the test with -rewrite. Now it would be:\n%s", path, got)
	}
}

// Every hook and every figure of a snapshot arrives in its own metric. The
// figures differ from one another, so that none can stand for another.
func TestEverythingArrives(t *testing.T) {
	m := newTest()
	everything(m, 2)
	m.Watch(standing(2))
	compare(t, "testdata/everything.txt", nonzero(series(t, m)))
}

func TestNoSourceNoStatus(t *testing.T) {
	m := newTest()
	all := series(t, m)
	for name := range all {
		if strings.HasPrefix(name, "quorate_ready") || strings.HasPrefix(name, "quorate_node_info") {
			t.Errorf("%s is served before anybody said how the node stands", name)
		}
	}
	if len(all) == 0 {
		t.Error("nothing is served")
	}
}

func TestOperations(t *testing.T) {
	for _, c := range []struct {
		r    Request
		want string // op and result; "" = not an operation on keys
	}{
		{Request{Route: "/v1/kv/{key}", Method: "GET", Status: 200}, "op=get,result=ok"},
		{Request{Route: "/v1/kv/{key}", Method: "HEAD", Status: 200}, "op=get,result=ok"},
		{Request{Route: "/v1/kv/{key}", Method: "GET", Status: 404, Code: kv.CodeNotFound}, "op=get,result=ok"},
		{Request{Route: "/v1/kv/{key}", Method: "GET", Status: 503, Code: kv.CodeUnavailable}, "op=get,result=failed"},
		{Request{Route: "/v1/kv/{key}", Method: "PUT", Status: 201}, "op=put,result=applied"},
		{Request{Route: "/v1/kv/{key}", Method: "PUT", Status: 412, Code: kv.CodeConditionFailed, Outcome: kv.OutcomeNotApplied}, "op=put,result=not-applied"},
		{Request{Route: "/v1/kv/{key}", Method: "PUT", Status: 504, Code: kv.CodeOutcomeUnknown, Outcome: kv.OutcomeUnknown}, "op=put,result=unknown"},
		{Request{Route: "/v1/kv/{key}", Method: "DELETE", Status: 500, Code: kv.CodeInternal, Outcome: kv.OutcomeApplied}, "op=delete,result=applied"},
		{Request{Route: "/v1/kv/{key}", Method: "POST", Status: 200}, "op=add,result=applied"},
		{Request{Route: "/v1/kv", Method: "GET", Status: 200}, "op=scan,result=ok"},
		{Request{Route: "/v1/kv", Method: "DELETE", Status: 200}, "op=delete-range,result=applied"},
		{Request{Route: "/v1/query", Method: "POST", Status: 200}, "op=query,result=ok"},
		{Request{Route: "/v1/batch", Method: "POST", Status: 200}, "op=batch,result=applied"},
		{Request{Route: "/v1/txn", Method: "POST", Status: 422, Code: kv.CodeCrossShardTxn, Outcome: kv.OutcomeNotApplied}, "op=txn,result=not-applied"},
		{Request{Route: "/v1/kv/{key}", Method: "PATCH", Status: 405, Code: "method_not_allowed"}, ""},
		{Request{Route: "/v1/nodes", Method: "GET", Status: 200}, ""},
		{Request{Method: "BREW", Status: 404, Code: "no_route"}, ""},
	} {
		m := newTest()
		before := series(t, m)
		m.Request(c.r)
		got := ""
		for name, v := range series(t, m) {
			if tag, ok := strings.CutPrefix(name, "quorate_operations_total"); ok && v != before[name] {
				got += strings.Trim(tag, "{}")
			}
		}
		if got != c.want {
			t.Errorf("%+v counts as %q, want %q", c.r, got, c.want)
		}
		if c.r.Code != "" && series(t, m)[fmt.Sprintf("quorate_http_problems_total{code=%s}", c.r.Code)] != 1 {
			t.Errorf("%+v: its code is not counted", c.r)
		}
	}
}

func TestLeadershipsCountOncePerTerm(t *testing.T) {
	m := newTest()
	for _, e := range []struct {
		term   uint64
		leader kv.NodeID
	}{{1, self}, {1, 0}, {1, self}, {2, 0xb2}, {3, self}} {
		m.LeaderChanged(server(9), e.term, e.leader)
	}
	if got := series(t, m)["quorate_shard_leaderships_total{shard=9}"]; got != 2 {
		t.Errorf("%g leaderships in terms 1 and 3, want 2", got)
	}
}

// M1: whatever clients and peers send, the number of series stays within bounds.
func TestLabelsAreBounded(t *testing.T) {
	m := newTest()
	var replicas []kv.ShardID
	for i := range 3 * shardsMax {
		m.Applied(server(kv.ShardID(i+1)), 1, time.Millisecond)
		replicas = append(replicas, kv.ShardID(i+1))
	}
	for i := range 2000 {
		odd := fmt.Sprint("odd", i)
		m.Request(Request{Route: "/v1/kv/{key}", Method: odd, Status: i, Code: kv.Code(odd)})
		m.PeerRefused(odd)
		m.PeerRoundTrip(kv.NodeID(i), uint8(i), time.Millisecond)
		m.Step(odd, time.Millisecond, nil)
		m.Liveness(odd)
		m.Forwarded(odd, time.Millisecond, nil)
		m.Retried(odd, kv.Code(odd))
	}
	m.Watch(standing(replicas...))
	count := map[string]int{}
	all := series(t, m)
	for name := range all {
		base, _, _ := strings.Cut(name, "{")
		count[base]++
	}
	for name, n := range count {
		// Two results of each shard, and "other".
		if n > 2*3*(shardsMax+1) {
			t.Errorf("%s has %d series", name, n)
		}
	}
	for name, want := range map[string]int{
		"quorate_shard_applied_entries_total":      shardsMax + 1,
		"quorate_shard_applied_index":              shardsMax,
		"quorate_http_problems_total":              codesMax + 1,
		"quorate_peer_handshakes_refused_total":    namesMax + 1,
		"quorate_placement_liveness_changes_total": namesMax + 1,
		"quorate_router_retries_total":             codesMax + 1,
		"quorate_http_request_bytes_total":         1, // every odd method is "other"
	} {
		if count[name] != want {
			t.Errorf("%s has %d series, want %d", name, count[name], want)
		}
	}
	if got := all["quorate_shard_applied_entries_total{shard=other}"]; got != 2*shardsMax {
		t.Errorf("%g entries are counted under other, want %d", got, 2*shardsMax)
	}
	if got := all["quorate_replicas_unlabelled{}"]; got != 2*shardsMax {
		t.Errorf("%g replicas without series, want %d", got, 2*shardsMax)
	}
}

// M4: what has left takes its series with it, and only that.
func TestWhatLeftIsForgotten(t *testing.T) {
	m := newTest()
	everything(m, 2)
	everything(m, 3)
	m.PeerRoundTrip(0xdead, 0, time.Second)
	m.Watch(standing(2, 3))
	of := func(tag string) (n int) {
		for name := range series(t, m) {
			if strings.Contains(name, tag) {
				n++
			}
		}
		return n
	}
	two, three := of("shard=2"), of("shard=3")
	if two == 0 || two != three {
		t.Fatalf("%d and %d series of the shards, want the same", two, three)
	}
	if of("peer=000000000000dead") != 0 || of("peer=00000000000000b2") != 1 {
		t.Error("want the round trip to a member and not that to a stranger")
	}
	m.Watch(standing(3))
	series(t, m) // the scrape that notices; what it has gathered already may still be in it
	if of("shard=2") != 0 || of("shard=3") != three {
		t.Errorf("%d and %d series after shard 2 left, want 0 and %d", of("shard=2"), of("shard=3"), three)
	}
}

// docs/METRICS.md promises how many series a replica has.
func TestSeriesPerReplica(t *testing.T) {
	families := func(shards ...kv.ShardID) int {
		m := newTest()
		for _, s := range shards {
			everything(m, s)
		}
		m.Watch(standing(shards...))
		out := httptest.NewRecorder()
		m.Handler().ServeHTTP(out, httptest.NewRequest("GET", "/metrics", nil))
		n := 0
		for line := range strings.Lines(out.Body.String()) {
			if !strings.HasPrefix(line, "#") {
				n++
			}
		}
		return n
	}
	if got := families(2, 3, 4) - families(2, 3); got != seriesPerReplica {
		t.Errorf("a replica adds %d series, docs/METRICS.md says %d", got, seriesPerReplica)
	}
}

// M2: hooks of the hot path allocate nothing.
func TestHotPathAllocatesNothing(t *testing.T) {
	m := newTest()
	everything(m, 1000) // a number that Go would have to box
	id, took := server(1000), time.Millisecond
	route := strings.Clone("/v1/kv/{key}")
	for name, f := range map[string]func(){
		"Request":      func() { m.Request(Request{Route: route, Method: "PUT", Status: 201, Duration: took}) },
		"Proposed":     func() { m.Proposed(id, 1, 1, took, true) },
		"Applied":      func() { m.Applied(id, 1, took) },
		"LogWritten":   func() { m.LogWritten(id, 1, 1, took) },
		"LogSync":      func() { m.LogSync(took) },
		"ReadRound":    func() { m.ReadRound(id, 1, took, true) },
		"PeerSent":     func() { m.PeerSent(0, 1, 1) },
		"PeerReceived": func() { m.PeerReceived(0, 1, 1) },
		"Forwarded":    func() { m.Forwarded("read", took, nil) },
		"Handled":      func() { m.Handled("write", took, nil) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s allocates %g times", name, n)
		}
	}
}

// Hooks come from everywhere while someone scrapes.
func TestScrapesBesideHooks(t *testing.T) {
	m := newTest()
	m.Watch(standing(2, 3))
	h := m.Handler()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 50 {
				everything(m, kv.ShardID(2+(g+i)%4))
			}
		})
	}
	for range 10 {
		out := httptest.NewRecorder()
		h.ServeHTTP(out, httptest.NewRequest("GET", "/metrics", nil))
		body, err := io.ReadAll(out.Body)
		if err != nil || out.Code != 200 || !strings.Contains(string(body), "quorate_build_info") {
			t.Fatalf("scrape: %d, %v", out.Code, err)
		}
	}
	wg.Wait()
}

// M3: two nodes in one process share nothing.
func TestTwoNodesShareNothing(t *testing.T) {
	a, b := newTest(), newTest()
	a.LogSync(time.Second)
	a.Forwarded("read", time.Second, errors.New("no"))
	if got := series(t, b)["quorate_log_sync_seconds_count{}"]; got != 0 {
		t.Errorf("the other node counted %g", got)
	}
}

func BenchmarkRequest(b *testing.B) {
	m := newTest()
	r := Request{Route: "/v1/kv/{key}", Method: "PUT", Status: 201, Duration: time.Millisecond, BytesIn: 100}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Request(r)
		}
	})
}
