package httpd

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/quorate-db/quorate/kv"
)

// Codes of the edge alone: what HTTP can get wrong before there is a request to
// the database.
const (
	codeNoRoute          kv.Code = "no_route"
	codeMethodNotAllowed kv.Code = "method_not_allowed"
	codeNotAcceptable    kv.Code = "not_acceptable"
	codeUnsupportedMedia kv.Code = "unsupported_media_type"
	codeCrossOrigin      kv.Code = "cross_origin"
)

const problemTypePrefix = "urn:quorate:problem:"

// kind is what all problems of one code have in common.
type kind struct {
	status int
	title  string
}

// problemTable maps every code to its status (invariant 5).
var problemTable = map[kv.Code]kind{
	kv.CodeInvalid:             {http.StatusBadRequest, "The request is not valid"},
	kv.CodeKeyTooLong:          {http.StatusRequestURITooLong, "The key is too long"},
	kv.CodeTooLarge:            {http.StatusRequestEntityTooLarge, "The request is too large"},
	kv.CodeNotFound:            {http.StatusNotFound, "There is no such thing"},
	kv.CodeConditionFailed:     {http.StatusPreconditionFailed, "The condition is false"},
	kv.CodeConflict:            {http.StatusConflict, "The request conflicts with what is stored"},
	kv.CodeIdempotencyMismatch: {http.StatusUnprocessableEntity, "The idempotency key was used for another request"},
	kv.CodeCrossShardTxn:       {http.StatusUnprocessableEntity, "The keys of the transaction are in several shards"},
	kv.CodeVersionTooOld:       {http.StatusGone, "The version is no longer kept"},
	kv.CodeNotLeader:           {http.StatusServiceUnavailable, "The shard is changing its leader"},
	kv.CodeNoReplica:           {http.StatusServiceUnavailable, "The shard has no replica here"},
	kv.CodeWrongShard:          {http.StatusServiceUnavailable, "The key has moved to another shard"},
	kv.CodeUnavailable:         {http.StatusServiceUnavailable, "The shard is not available"},
	kv.CodeDraining:            {http.StatusServiceUnavailable, "The node is going out of service"},
	kv.CodeOverloaded:          {http.StatusTooManyRequests, "The node is busy"},
	kv.CodeTimeout:             {http.StatusGatewayTimeout, "There was no answer in time"},
	kv.CodeOutcomeUnknown:      {http.StatusGatewayTimeout, "The write may or may not be applied"},
	kv.CodeUnauthenticated:     {http.StatusUnauthorized, "A token is needed"},
	kv.CodeForbidden:           {http.StatusForbidden, "The token does not allow this"},
	kv.CodeStorageFull:         {http.StatusInsufficientStorage, "The storage is full"},
	kv.CodeCorrupt:             {http.StatusInternalServerError, "Stored data failed its checksum"},
	kv.CodeInternal:            {http.StatusInternalServerError, "Something went wrong inside"},

	codeNoRoute:          {http.StatusNotFound, "There is no such route"},
	codeMethodNotAllowed: {http.StatusMethodNotAllowed, "The method is not allowed here"},
	codeNotAcceptable:    {http.StatusNotAcceptable, "No accepted format can be served"},
	codeUnsupportedMedia: {http.StatusUnsupportedMediaType, "The format of the body is not supported"},
	codeCrossOrigin:      {http.StatusForbidden, "The request came from another origin"},
}

// kindOf gives a code's kind.
func kindOf(code kv.Code) kind { return problemTable[code] }

// problem is an error on its way out with what only the edge knows of it.
type problem struct {
	err     *kv.Error
	status  int    // 0 = by the table
	limit   int64  // the limit that was passed, 0 = none
	close   bool   // the connection cannot be used again
	guard   int    // 1 + the index of the guard that was false, 0 = none
	deleted int    // 1 + how many keys were deleted all the same, 0 = does not apply
	allow   string // 405
	invalid bool   // 401: there was a token, and it does not count
	seconds int    // 429, 503: to wait; 0 = 1
	checks  []kv.Check
}

// Error gives the text of the error within.
func (p *problem) Error() string { return p.err.Error() }

// Unwrap gives the error within.
func (p *problem) Unwrap() error { return p.err }

func invalid(detail string) *problem {
	return &problem{err: &kv.Error{Code: kv.CodeInvalid, Outcome: kv.OutcomeNotApplied, Detail: detail}}
}

func refusal(code kv.Code, detail string) *problem {
	return &problem{err: &kv.Error{Code: code, Outcome: kv.OutcomeNotApplied, Detail: detail}}
}

func tooLarge(detail string, limit int64) *problem {
	p := refusal(kv.CodeTooLarge, detail)
	p.limit = limit
	return p
}

// asProblem gives any error the form of a problem. A read cannot have been
// applied or not, so only edge refusals keep an outcome there.
func asProblem(err error, read bool) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	var e *kv.Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		e = &kv.Error{Code: kv.CodeOutcomeUnknown, Outcome: kv.OutcomeUnknown, Detail: "no answer in time", Cause: err}
		if read {
			e.Code = kv.CodeTimeout
		}
	default:
		e = &kv.Error{Code: kv.CodeInternal, Outcome: kv.OutcomeUnknown, Detail: "see the log of the node that answered", Cause: err}
	}
	if _, ok := problemTable[e.Code]; !ok {
		// A peer of a newer release invented it; clients were promised a closed set.
		e = &kv.Error{Code: kv.CodeInternal, Outcome: e.Outcome, Detail: string(e.Code) + ": " + e.Detail, Shard: e.Shard, Cause: err}
	}
	if read && e.Outcome == kv.OutcomeUnknown {
		c := *e
		c.Outcome = kv.OutcomeNone
		e = &c
	}
	return &problem{err: e}
}

func (p *problem) statusCode() int {
	if p.status != 0 {
		return p.status
	}
	return kindOf(p.err.Code).status
}

// appendJSON appends the problem as an object.
func (p *problem) appendJSON(b []byte) []byte {
	b = append(b, `{"type":"`...)
	b = append(b, problemTypePrefix...)
	b = append(b, p.err.Code...)
	b = append(b, `","title":`...)
	b = appendString(b, kindOf(p.err.Code).title)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(p.statusCode()), 10)
	b = p.appendMembers(b)
	if p.guard > 0 {
		b = append(b, `,"failed_guard":`...)
		b = strconv.AppendInt(b, int64(p.guard-1), 10)
	}
	if p.deleted > 0 {
		b = append(b, `,"deleted":`...)
		b = strconv.AppendInt(b, int64(p.deleted-1), 10)
	}
	if p.checks != nil {
		b = append(b, `,"checks":`...)
		b = appendChecks(b, p.checks)
	}
	return append(b, '}')
}

// appendMembers appends what a problem and a failed operation of a batch share.
func (p *problem) appendMembers(b []byte) []byte {
	e := p.err
	if e.Detail != "" {
		b = append(b, `,"detail":`...)
		b = appendString(b, e.Detail)
	}
	b = append(b, `,"code":`...)
	b = appendString(b, string(e.Code))
	if e.Outcome != kv.OutcomeNone {
		b = append(b, `,"outcome":`...)
		b = appendString(b, string(e.Outcome))
	}
	b = append(b, `,"retryable":`...)
	b = strconv.AppendBool(b, e.Retryable())
	if e.Code == kv.CodeConditionFailed {
		b = append(b, `,"version":"`...)
		b = strconv.AppendUint(b, uint64(e.Version), 10)
		b = append(b, '"')
	}
	if e.Shard != 0 {
		b = append(b, `,"shard":`...)
		b = strconv.AppendUint(b, uint64(e.Shard), 10)
	}
	if p.limit > 0 {
		b = append(b, `,"limit":`...)
		b = strconv.AppendInt(b, p.limit, 10)
	}
	return b
}

// fail answers with a problem. Nothing of the response was written before.
func (x *exchange) fail(err error) {
	read := x.method == http.MethodGet || x.method == http.MethodHead || x.readOnly
	p := asProblem(err, read)
	status := p.statusCode()
	x.code, x.outcome = p.err.Code, p.err.Outcome
	if status == http.StatusInternalServerError {
		x.s.log.Error("request failed", "method", x.method, "route", x.route, "code", string(p.err.Code), "error", err)
	}
	h := x.w.Header()
	// What the handler promised of a body it did not write.
	delete(h, "Content-Length")
	delete(h, "Content-Security-Policy")
	h["Content-Type"] = headerProblem
	h["Cache-Control"] = headerNoStore
	h["X-Content-Type-Options"] = headerNoSniff
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		h["Retry-After"] = headerRetryAfter
		if p.seconds > 1 {
			h["Retry-After"] = []string{strconv.Itoa(p.seconds)}
		}
	}
	if status == http.StatusUnauthorized {
		h["Www-Authenticate"] = headerChallenge
		if p.invalid {
			h["Www-Authenticate"] = headerInvalidToken
		}
	}
	if p.allow != "" {
		h["Allow"] = []string{p.allow}
	}
	if p.err.Shard != 0 {
		h["Quorate-Shard"] = []string{p.err.Shard.String()}
	}
	if p.err.Code == kv.CodeConditionFailed && p.err.Version != 0 {
		h["Etag"] = []string{`"` + p.err.Version.String() + `"`}
	}
	if p.close {
		h["Connection"] = headerClose
	}
	x.buf = p.appendJSON(x.buf[:0])
	x.WriteHeader(status)
	x.writeBody(x.buf)
}
