package metrics

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quorate-db/quorate/kv"
)

// Request describes one HTTP request that was answered. It has the fields of
// httpd's RequestInfo, in their order.
type Request struct {
	Route    string // the pattern, "" where none matched
	Method   string
	Status   int
	Code     kv.Code    // of the problem, "" for a success
	Outcome  kv.Outcome // of the problem
	Duration time.Duration
	BytesIn  int64
	BytesOut int64
}

// requests counts HTTP requests, and the operations on keys that they are.
type requests struct {
	table *table[requestKey, *request]
	codes *table[kv.Code, prometheus.Counter]

	seconds, opSeconds         *prometheus.HistogramVec
	bytesIn, bytesOut, results *prometheus.CounterVec
}

// requestKey has strings of the edge's tables and of net/http: looking it up
// copies nothing.
type requestKey struct {
	route, method string
	class         int // status / 100
}

// request holds the children of one requestKey.
type request struct {
	seconds           prometheus.Observer
	bytesIn, bytesOut prometheus.Counter
	op                *operation // nil for what is not an operation on keys
}

// operation holds the children of one kind of operation.
type operation struct {
	seconds                                  prometheus.Observer
	read                                     bool
	ok, failed, applied, notApplied, unknown prometheus.Counter // ok and failed for reads, the others for writes
}

func newRequests(r maker) *requests {
	q := &requests{
		seconds:   r.histogram("quorate_http_request_seconds", "Time from reading a request's header until its response was written.", requestBuckets(), "route", "method", "class"),
		bytesIn:   r.counter("quorate_http_request_bytes_total", "Bytes of request bodies that were read.", "route", "method"),
		bytesOut:  r.counter("quorate_http_response_bytes_total", "Bytes of response bodies that were written.", "route", "method"),
		opSeconds: r.histogram("quorate_operation_seconds", "Time of operations on keys, whatever came of them.", requestBuckets(), "op"),
		results:   r.counter("quorate_operations_total", "Operations on keys: reads are ok or failed, writes applied, not-applied or unknown.", "op", "result"),
	}
	problems := r.counter("quorate_http_problems_total", "Requests that were answered with a problem, by its code.", "code")
	q.codes = newTable(codesMax,
		func(c kv.Code) prometheus.Counter { return problems.WithLabelValues(string(c)) },
		func() prometheus.Counter { return problems.WithLabelValues(labelOther) }, nil)
	// Those that alerts and panels ask for exist from the start: of a counter that
	// appears with its first event, that event is not seen.
	for _, c := range []kv.Code{
		kv.CodeUnavailable, kv.CodeTimeout, kv.CodeOutcomeUnknown, kv.CodeOverloaded, kv.CodeStorageFull, kv.CodeCorrupt, kv.CodeInternal,
		kv.CodeUnauthenticated, kv.CodeForbidden,
	} {
		q.codes.get(c)
	}
	ops := map[string]*operation{}
	for _, name := range []string{"get", "put", "delete", "add", "scan", "delete-range", "query", "batch", "txn"} {
		ops[name] = q.operation(name)
	}
	q.table = newTable(requestsMax,
		func(k requestKey) *request { return q.resolve(k, ops[opOf(k.route, k.method)]) },
		func() *request { return q.resolve(requestKey{labelOther, labelOther, 0}, nil) }, nil)
	return q
}

func (q *requests) operation(name string) *operation {
	op := &operation{seconds: q.opSeconds.WithLabelValues(name), read: name == "get" || name == "scan" || name == "query"}
	count := func(result string) prometheus.Counter { return q.results.WithLabelValues(name, result) }
	if op.read {
		op.ok, op.failed = count("ok"), count("failed")
	} else {
		op.applied, op.notApplied, op.unknown = count("applied"), count("not-applied"), count("unknown")
	}
	return op
}

func (q *requests) resolve(k requestKey, op *operation) *request {
	route, class := k.route, labelOther
	if route == "" {
		route = "none"
	}
	if k.class >= 1 && k.class <= 5 {
		class = strconv.Itoa(k.class) + "xx"
	}
	return &request{
		seconds:  q.seconds.WithLabelValues(route, k.method, class),
		bytesIn:  q.bytesIn.WithLabelValues(route, k.method),
		bytesOut: q.bytesOut.WithLabelValues(route, k.method),
		op:       op,
	}
}

// methodOf gives the methods that HTTP has, and "other" for what a client made up
// (M1).
func methodOf(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete,
		http.MethodPatch, http.MethodOptions:
		return method
	default:
		return labelOther
	}
}

// opOf names the operation on keys that a request is, "" for none.
func opOf(route, method string) string {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	switch method + " " + route {
	case "GET /v1/kv/{key}":
		return "get"
	case "PUT /v1/kv/{key}":
		return "put"
	case "DELETE /v1/kv/{key}":
		return "delete"
	case "POST /v1/kv/{key}":
		return "add"
	case "GET /v1/kv":
		return "scan"
	case "DELETE /v1/kv":
		return "delete-range"
	case "POST /v1/query":
		return "query"
	case "POST /v1/batch":
		return "batch"
	case "POST /v1/txn":
		return "txn"
	default:
		return ""
	}
}

// Request counts an HTTP request.
func (m *Metrics) Request(r Request) {
	q := m.requests
	c := q.table.get(requestKey{r.Route, methodOf(r.Method), r.Status / 100})
	took := r.Duration.Seconds()
	c.seconds.Observe(took)
	c.bytesIn.Add(float64(r.BytesIn))
	c.bytesOut.Add(float64(r.BytesOut))
	if r.Code != "" {
		q.codes.get(r.Code).Inc()
	}
	if c.op != nil {
		c.op.seconds.Observe(took)
		c.op.result(r).Inc()
	}
}

// result says what came of an operation. That a key is not there is a good answer
// to a read.
func (o *operation) result(r Request) prometheus.Counter {
	switch {
	case o.read && (r.Code == "" || r.Code == kv.CodeNotFound):
		return o.ok
	case o.read:
		return o.failed
	case r.Code == "" || r.Outcome == kv.OutcomeApplied:
		return o.applied
	case r.Outcome == kv.OutcomeUnknown:
		return o.unknown
	default:
		return o.notApplied
	}
}
