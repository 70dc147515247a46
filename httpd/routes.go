package httpd

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/quorate-db/quorate/kv"
)

// keyPrefix is what stands before a key in a path.
const keyPrefix = "/v1/kv/"

// endpoint is one route: its methods and the budget that its requests count on.
type endpoint struct {
	route   string
	budget  *budget
	methods []method
	allow   string
}

// method is one method of a route, and what a caller needs to use it. GET serves HEAD
// too.
type method struct {
	name   string
	needs  need
	handle func(x *exchange) error
}

// ServeHTTP makes an endpoint a handler that mux can carry; the server calls
// serve instead.
func (e *endpoint) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "not reached", http.StatusInternalServerError)
}

// routes registers every route of api.md that is built. The pattern of the key
// takes any bytes, and SkipClean keeps paths as they came: by default mux answers
// `a//b` with a redirect that turns a PUT into a GET (invariant 4).
func (s *Server) routes() *mux.Router {
	m := mux.NewRouter().SkipClean(true)
	add := func(path string, b *budget, methods ...method) {
		e := &endpoint{route: strings.Replace(path, ":(?s:.*)", "", 1), budget: b, methods: methods}
		var names []string
		for _, me := range methods {
			names = append(names, me.name)
			if me.name == http.MethodGet {
				names = append(names, http.MethodHead)
			}
		}
		e.allow = strings.Join(names, ", ")
		m.Handle(path, e)
	}
	// Whoever may look at the cluster reads it, whoever administers it changes it.
	get := func(h func(*exchange) error) method { return method{http.MethodGet, needView, h} }
	post := func(h func(*exchange) error) method { return method{http.MethodPost, needAdmin, h} }
	other := func(name string, h func(*exchange) error) method { return method{name, needAdmin, h} }
	read := func(n need, h func(*exchange) error) method { return method{http.MethodGet, n, h} }
	keys := func(name string, h func(*exchange) error) method { return method{name, needKeys, h} }

	// The hottest first: mux tries them in order.
	add(keyPrefix+`{key:(?s:.*)}`, &s.data, keys(http.MethodGet, s.getKey), keys(http.MethodPut, s.putKey),
		keys(http.MethodDelete, s.deleteKey), keys(http.MethodPost, s.addKey))
	add("/v1/kv", &s.data, keys(http.MethodGet, s.scan), keys(http.MethodDelete, s.deleteRange))
	add("/v1/query", &s.data, keys(http.MethodPost, s.runQuery))
	add("/v1/batch", &s.data, keys(http.MethodPost, s.runBatch))
	add("/v1/txn", &s.data, keys(http.MethodPost, s.runTxn))

	add("/v1/cluster", &s.control, get(s.getCluster))
	add("/v1/nodes", &s.control, get(s.getNodes))
	add("/v1/nodes/{id}", &s.control, get(s.getNode), other(http.MethodDelete, s.removeNode))
	add("/v1/nodes/{id}/drain", &s.control, post(s.drainNode(true)))
	add("/v1/nodes/{id}/undrain", &s.control, post(s.drainNode(false)))
	add("/v1/shards", &s.control, get(s.getShards))
	add("/v1/shards/{id}", &s.control, get(s.getShard))
	add("/v1/shards/{id}/split", &s.control, post(s.splitShard))
	add("/v1/shards/{id}/merge", &s.control, post(s.mergeShard))
	add("/v1/shards/{id}/move", &s.control, post(s.moveReplica))
	add("/v1/shards/{id}/transfer", &s.control, post(s.transferLeader))
	add("/v1/rebalance", &s.control, post(s.rebalance))
	add("/v1/problems", &s.control, get(s.getProblems))
	add("/v1/events", &s.control, get(s.getEvents))
	add("/v1/operations", &s.control, get(s.getOperations))
	add("/v1/operations/{id}", &s.control, get(s.getOperation), other(http.MethodDelete, s.cancelOperation))
	add("/v1/config", &s.control, get(s.getConfig), other(http.MethodPut, s.putConfig), other(http.MethodPatch, s.patchConfig))
	add("/v1/tokens", &s.control, read(needAdmin, s.getTokens), post(s.createToken))
	add("/v1/tokens/self", &s.control, read(needToken, s.getOwnToken))
	add("/v1/tokens/{id}", &s.control, other(http.MethodDelete, s.revokeToken))
	add("/v1/audit", &s.control, read(needAdmin, s.getAudit))
	add("/v1/limits", &s.control, read(needToken, s.getLimits))
	add("/v1/version", &s.control, read(needToken, s.getVersion))
	add("/livez", &s.probes, read(needNothing, s.getLive))
	add("/readyz", &s.probes, read(needNothing, s.getReady))
	add("/metrics", &s.probes, read(needMetrics, s.getMetrics))
	add("/openapi.json", &s.control, read(needNothing, s.getOpenAPI))
	return m
}

// find gives a method, nil if there is none.
func (e *endpoint) find(name string) *method {
	if name == http.MethodHead {
		name = http.MethodGet
	}
	for i := range e.methods {
		if e.methods[i].name == name {
			return &e.methods[i]
		}
	}
	return nil
}

// serve checks what can be checked without the body, who sent it too (invariant 7),
// gives the request its place and its deadline (invariant 2) and calls its handler.
func (e *endpoint) serve(x *exchange, started time.Time) {
	m := e.find(x.method)
	if m == nil {
		p := refusal(codeMethodNotAllowed, "this route takes "+e.allow)
		p.allow = e.allow
		x.fail(p)
		return
	}
	// A page of another origin may make a browser send simple requests here.
	if err := x.s.origin.Check(x.r); err != nil {
		x.fail(refusal(codeCrossOrigin, "requests that write are not taken from pages of other origins"))
		return
	}
	if err := x.enter(e.budget); err != nil {
		x.fail(err)
		return
	}
	defer x.leave(e.budget)
	if err := x.authorize(m.needs); err != nil {
		x.fail(err)
		return
	}
	if err := x.begin(started); err != nil {
		x.fail(err)
		return
	}
	ctx, cancel := context.WithDeadline(x.r.Context(), x.deadline)
	defer cancel()
	x.ctx = ctx
	if err := m.handle(x); err != nil {
		x.fail(err)
	}
}

// begin reads what every route understands: query and Quorate-Timeout.
func (x *exchange) begin(started time.Time) error {
	x.timeout = kv.RequestTimeoutDefault
	if v, ok, err := x.header("Quorate-Timeout"); err != nil {
		return err
	} else if ok {
		d, err := time.ParseDuration(v)
		if err != nil || d <= 0 || d > kv.RequestTimeoutMax {
			p := invalid("Quorate-Timeout: want a duration like 2s, above 0 and at most " + kv.RequestTimeoutMax.String())
			return p
		}
		x.timeout = d
	}
	x.deadline = started.Add(x.timeout)
	if x.r.URL.RawQuery == "" {
		return nil
	}
	return x.query.parse(x.r.URL.RawQuery)
}

// header gives the only value of a header; name is in canonical form.
func (x *exchange) header(name string) (value string, ok bool, err error) {
	vs := x.r.Header[name]
	switch len(vs) {
	case 0:
		return "", false, nil
	case 1:
		return vs[0], true, nil
	default:
		return "", false, invalid("the header " + name + " is given more than once")
	}
}
