package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// Error is what every call of this package fails with, apart from a mistake in
// its arguments that could not be sent.
type Error struct {
	// Code is why, Outcome what became of a write (kv.OutcomeNone for reads).
	Code    kv.Code
	Outcome kv.Outcome

	// Retryable: the same call may succeed later. Under kv.OutcomeUnknown that is
	// only safe with the same idempotency key, or if it does not matter that the
	// write may be applied twice.
	Retryable bool

	Status     int           // of HTTP; 0 if no answer came
	Detail     string        // in words
	Version    kv.Version    // kv.CodeConditionFailed: the key's current version, 0 if there is none
	Limit      int64         // the limit that was exceeded, if one was
	RetryAfter time.Duration // what the server asks to wait
	Endpoint   string        // who answered or failed to, "host:port"
	Attempts   int           // how many were made
	Cause      error         // the failure of the connection, or the context's error

	body []byte // of the answer
}

// Error gives the detail with what a person needs to judge it.
func (e *Error) Error() string {
	text := string(e.Code)
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	if e.Outcome == kv.OutcomeUnknown {
		text += " (the write may or may not have been applied)"
	}
	if e.Endpoint != "" && e.Status == 0 {
		text += " [" + e.Endpoint + "]"
	}
	return text
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// CodeOf gives the code of err, "" if it is nil or not an *Error.
func CodeOf(err error) kv.Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// OutcomeOf says what became of the write that failed with err.
func OutcomeOf(err error) kv.Outcome {
	var e *Error
	switch {
	case err == nil:
		return kv.OutcomeNone
	case errors.As(err, &e):
		return e.Outcome
	default:
		return kv.OutcomeUnknown
	}
}

// IsNotFound: there is no such key (or shard, or node).
func IsNotFound(err error) bool { return CodeOf(err) == kv.CodeNotFound }

// IsConditionFailed: the condition of a write was false; Error.Version has the
// current version.
func IsConditionFailed(err error) bool { return CodeOf(err) == kv.CodeConditionFailed }

// IsConflict: the operation does not fit the stored value, or met another one.
func IsConflict(err error) bool { return CodeOf(err) == kv.CodeConflict }

// IsDenied: no token was given, it does not count, or it does not allow this.
func IsDenied(err error) bool {
	return CodeOf(err) == kv.CodeUnauthenticated || CodeOf(err) == kv.CodeForbidden
}

// IsOutcomeUnknown: nobody can say whether the write was applied.
func IsOutcomeUnknown(err error) bool { return err != nil && OutcomeOf(err) == kv.OutcomeUnknown }

// IsUnavailable: nobody could serve the request in time, and it was certainly
// not applied.
func IsUnavailable(err error) bool {
	switch CodeOf(err) {
	case kv.CodeUnavailable, kv.CodeDraining, kv.CodeOverloaded, kv.CodeTimeout,
		kv.CodeNotLeader, kv.CodeNoReplica, kv.CodeWrongShard:
		return !IsOutcomeUnknown(err)
	}
	return false
}

// problem is the body of a failure, application/problem+json (RFC 9457).
type problem struct {
	problemFields
	Version decimal `json:"version"` // 0: the key is absent
}

type problemFields struct {
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Code      string `json:"code"`
	Outcome   string `json:"outcome"`
	Retryable *bool  `json:"retryable"`
	Limit     int64  `json:"limit"`
}

// decodeProblem makes an Error of an answer that is not a success. Answers that
// are not of Quorate's own making (a proxy, another server) are judged by status.
func decodeProblem(status int, body []byte, read bool) *Error {
	var p problem
	if err := json.Unmarshal(body, &p); err != nil || p.Code == "" {
		return foreignProblem(status, read)
	}
	e := p.toError(status, read)
	e.Version = kv.Version(p.Version)
	return e
}

func (p *problemFields) toError(status int, read bool) *Error {
	e := &Error{
		Code:    kv.Code(p.Code),
		Outcome: kv.Outcome(p.Outcome),
		Status:  status,
		Detail:  p.Detail,
		Limit:   p.Limit,
	}
	if e.Detail == "" {
		e.Detail = p.Title
	}
	if read {
		e.Outcome = kv.OutcomeNone
	} else if e.Outcome == kv.OutcomeNone {
		e.Outcome = outcomeOfStatus(status)
	}
	if p.Retryable != nil {
		e.Retryable = *p.Retryable
	} else {
		e.Retryable = (&kv.Error{Code: e.Code}).Retryable()
	}
	return e
}

func foreignProblem(status int, read bool) *Error {
	e := &Error{
		Code:    codeOfStatus(status, read),
		Status:  status,
		Outcome: outcomeOfStatus(status),
		Detail:  fmt.Sprintf("answered %d %s without saying why", status, http.StatusText(status)),
	}
	if read {
		e.Outcome = kv.OutcomeNone
	}
	e.Retryable = (&kv.Error{Code: e.Code}).Retryable()
	return e
}

// outcomeOfStatus is for answers that do not name an outcome. Only statuses by
// which a request was turned down count as not applied.
func outcomeOfStatus(status int) kv.Outcome {
	switch {
	case status >= 400 && status < 500 && status != http.StatusRequestTimeout, status == http.StatusServiceUnavailable,
		status == http.StatusInsufficientStorage:
		return kv.OutcomeNotApplied
	default:
		return kv.OutcomeUnknown
	}
}

func codeOfStatus(status int, read bool) kv.Code {
	switch status {
	case http.StatusUnauthorized:
		return kv.CodeUnauthenticated
	case http.StatusForbidden:
		return kv.CodeForbidden
	case http.StatusNotFound:
		return kv.CodeNotFound
	case http.StatusConflict:
		return kv.CodeConflict
	case http.StatusGone:
		return kv.CodeVersionTooOld
	case http.StatusPreconditionFailed:
		return kv.CodeConditionFailed
	case http.StatusRequestEntityTooLarge:
		return kv.CodeTooLarge
	case http.StatusRequestURITooLong:
		return kv.CodeKeyTooLong
	case http.StatusUnprocessableEntity:
		return kv.CodeIdempotencyMismatch
	case http.StatusTooManyRequests:
		return kv.CodeOverloaded
	case http.StatusServiceUnavailable:
		return kv.CodeUnavailable
	case http.StatusInsufficientStorage:
		return kv.CodeStorageFull
	case http.StatusBadGateway, http.StatusGatewayTimeout, http.StatusRequestTimeout:
		if read {
			return kv.CodeTimeout
		}
		return kv.CodeOutcomeUnknown
	}
	if status >= 500 {
		return kv.CodeInternal
	}
	return kv.CodeInvalid
}
