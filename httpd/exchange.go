package httpd

import (
	"context"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/gorilla/mux"

	"github.com/quorate-db/quorate/kv"
)

// Header values that never change, shared by all responses: net/http does not
// write into them.
var (
	headerProblem    = []string{"application/problem+json"}
	headerJSON       = []string{"application/json"}
	headerNDJSON     = []string{"application/x-ndjson"}
	headerOctets     = []string{"application/octet-stream"}
	headerNoStore    = []string{"no-store"}
	headerNoSniff    = []string{"nosniff"}
	headerSandbox    = []string{"sandbox"}
	headerRetryAfter = []string{"1"}
	headerClose      = []string{"close"}
	headerTrue       = []string{"true"}
	headerZero       = []string{"0"}
	headerOne        = []string{"1"}
)

// exchange is one request and its response while they are handled. It comes
// from a pool: nothing may keep it, or its buf, after the handler returned.
type exchange struct {
	s      *Server
	w      http.ResponseWriter
	r      *http.Request
	ctx    context.Context // with the request's deadline
	method string
	route  string

	match mux.RouteMatch
	query query
	buf   []byte // scratch for what is written

	timeout  time.Duration
	deadline time.Time
	readOnly bool // a POST that changes nothing
	share    share
	caller   caller

	success  int // the status of a JSON answer; 0 = 200
	status   int // 0 = nothing written yet
	code     kv.Code
	outcome  kv.Outcome
	bytesIn  int64
	bytesOut int64
}

// bufBytesKept bounds the scratch buffer that goes back to the pool.
const bufBytesKept = 64 << 10

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	x := s.pool.Get().(*exchange)
	x.w, x.r, x.method = w, r, r.Method
	defer s.finish(x, started)
	// mux only finds the route. Its own ServeHTTP would copy the request twice to
	// hang route and variables on its context.
	if s.mux.Match(r, &x.match) {
		if e, ok := x.match.Handler.(*endpoint); ok {
			x.route = e.route
			e.serve(x, started)
			return
		}
	}
	x.fail(refusal(codeNoRoute, "no route matches this path"))
}

// finish recovers a handler's panic, reports the request and recycles x.
func (s *Server) finish(x *exchange, started time.Time) {
	if v := recover(); v != nil {
		if v != http.ErrAbortHandler {
			s.log.Error("panic in handler", "route", x.route, "panic", v, "stack", string(debug.Stack()))
		}
		if v == http.ErrAbortHandler || x.status != 0 {
			x.status = max(x.status, http.StatusInternalServerError)
			defer panic(http.ErrAbortHandler) // the response cannot be finished
		} else {
			x.fail(&kv.Error{Code: kv.CodeInternal, Outcome: kv.OutcomeUnknown, Detail: "see the log of the node that answered"})
		}
	}
	x.endShare()
	if f := s.opts.Hooks.Request; f != nil {
		f(RequestInfo{
			Route: x.route, Method: x.method, Status: x.status, Code: x.code, Outcome: x.outcome,
			Duration: time.Since(started), BytesIn: x.bytesIn, BytesOut: x.bytesOut,
		})
	}
	x.audit()
	vars, buf, ops := x.match.Vars, x.buf, x.caller.ops
	clear(vars)
	clear(ops) // keys of the request's
	if cap(buf) > bufBytesKept {
		buf = nil
	}
	*x = exchange{s: s, buf: buf[:0], match: mux.RouteMatch{Vars: vars}, caller: caller{ops: ops[:0]}}
	s.pool.Put(x)
}

// Header, WriteHeader, Write and Unwrap make an exchange the ResponseWriter of
// handlers that are not ours (metrics).

// Header gives the response's headers.
func (x *exchange) Header() http.Header { return x.w.Header() }

// WriteHeader sends the status; only the first call counts.
func (x *exchange) WriteHeader(status int) {
	if x.status == 0 {
		x.status = status
		x.w.WriteHeader(status)
	}
}

// Write sends a part of the body.
func (x *exchange) Write(b []byte) (int, error) {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	n, err := x.w.Write(b)
	x.bytesOut += int64(n)
	return n, err
}

// Unwrap gives http.ResponseController the writer beneath.
func (x *exchange) Unwrap() http.ResponseWriter { return x.w }

// writeBody writes the body of a response whose header is sent. Its error means
// that the client is gone, and then there is nobody to tell.
func (x *exchange) writeBody(b []byte) {
	if x.method == http.MethodHead {
		return
	}
	n, err := x.w.Write(b)
	x.bytesOut += int64(n)
	if err != nil && x.outcome == kv.OutcomeNone {
		x.s.log.Debug("response not delivered", "route", x.route, "error", err)
	}
}

// replyJSON answers 200, or the success that was set, with an encoded document.
func (x *exchange) replyJSON(b []byte) {
	h := x.w.Header()
	h["Content-Type"] = headerJSON
	h["Cache-Control"] = headerNoStore
	h["X-Content-Type-Options"] = headerNoSniff
	h["Content-Length"] = []string{strconv.Itoa(len(b))}
	x.WriteHeader(max(x.success, http.StatusOK))
	x.writeBody(b)
}
