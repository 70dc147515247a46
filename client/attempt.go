package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// transport carries one attempt to one endpoint and reads the answer whole. A
// failure is a *transportError.
type transport interface {
	// roundTrip returns by the deadline, or when ctx ends.
	roundTrip(ctx context.Context, ep *endpoint, req *request, at schedule) (response, error)
	closeIdle()
}

// schedule is the time that an attempt may take.
type schedule struct {
	start    time.Time
	deadline time.Time
	server   time.Duration // for Quorate-Timeout; ends before the deadline
}

// transportError is a failure to get an answer.
type transportError struct {
	err error
	// unsent: the request certainly did not reach the server's application.
	unsent bool
	// tooLarge: the answer came and is over ResponseBytesMax.
	tooLarge bool
}

func (e *transportError) Error() string { return e.err.Error() }
func (e *transportError) Unwrap() error { return e.err }

// call is the state of one call between its attempts.
type call struct {
	req         *request
	deadline    time.Time
	attempts    int
	attemptsMax int
	refused     int       // endpoints in a row that could not be reached at all
	unknown     bool      // some attempt may have been applied (invariant 2)
	avoid       *endpoint // the endpoint of the last failure
	lastError   *Error
}

// do makes attempts of req until there is an answer to give.
func (c *Client) do(ctx context.Context, req *request) (response, error) {
	if c.closed.Load() {
		return response{}, c.refusal(req, kv.CodeUnavailable, "the client is closed", nil)
	}
	if err := ctx.Err(); err != nil {
		return response{}, c.refusal(req, kv.CodeTimeout, "the context had ended before the call", err)
	}
	if !req.read && !req.control && req.idempotencyKey == "" && c.cfg.Retry.Attempts > 1 {
		req.idempotencyKey = newIdempotencyKey()
	}
	now := time.Now()
	st := call{req: req, deadline: now.Add(c.cfg.Timeout), attemptsMax: c.cfg.Retry.Attempts}
	if req.pinned != nil {
		st.attemptsMax = 1
	}
	if d, ok := ctx.Deadline(); ok && d.Before(st.deadline) {
		st.deadline = d
	}
	for {
		ep, routed := c.choose(&st, now)
		st.attempts++
		resp, err := c.transport.roundTrip(ctx, ep, req, c.schedule(&st, now))
		if routed {
			c.routes.observe(ep, &resp, err, now)
		}
		if err == nil && resp.ok() {
			ep.works()
			return resp, nil
		}
		now = time.Now()
		again := false
		if err == nil {
			again = c.answered(&st, ep, &resp, now)
		} else {
			again = c.unanswered(ctx, &st, ep, err, now)
		}
		if !again || !c.wait(ctx, &st, now) {
			return response{}, st.final()
		}
		now = time.Now()
	}
}

func (c *Client) refusal(req *request, code kv.Code, detail string, cause error) *Error {
	e := &Error{Code: code, Outcome: kv.OutcomeNotApplied, Detail: detail, Cause: cause}
	if req.read {
		e.Outcome = kv.OutcomeNone
	}
	return e
}

// choose gives the endpoint of the next attempt: the leader's node on the first
// one if it is known, else the next in turn.
func (c *Client) choose(st *call, now time.Time) (ep *endpoint, routed bool) {
	if st.req.pinned != nil {
		return st.req.pinned, false
	}
	if st.req.route && c.routes != nil {
		if ep := c.routes.leader(st.req.key, now); ep != nil && ep != st.avoid && ep.usable(now) {
			return ep, true
		}
	}
	return c.endpoints.pick(now, st.avoid), false
}

// schedule leaves the server a little less than the attempt's time, so that its
// own account of what happened arrives before we hang up.
func (c *Client) schedule(st *call, now time.Time) schedule {
	left := st.deadline.Sub(now)
	if st.attempts < st.attemptsMax && st.req.repeatable() {
		left = min(left, c.cfg.Retry.AttemptTimeout)
	}
	server := left - min(left/10, 200*time.Millisecond)
	return schedule{start: now, deadline: now.Add(left), server: max(server, time.Millisecond)}
}

// answered handles an answer that is not a success and reports whether to try again.
func (c *Client) answered(st *call, ep *endpoint, resp *response, now time.Time) bool {
	e := decodeProblem(resp.status, resp.body, st.req.read)
	if e.Version == 0 && e.Code == kv.CodeConditionFailed {
		e.Version = resp.version
	}
	e.RetryAfter, e.Endpoint, e.body = resp.retryAfter, ep.host, resp.body
	if e.Code == kv.CodeDraining {
		ep.broken(now)
	} else {
		ep.works()
	}
	st.refused = 0
	st.failed(ep, e)
	switch {
	case st.attempts >= st.attemptsMax || !e.Retryable:
		return false
	case e.Outcome == kv.OutcomeUnknown:
		return st.req.repeatable()
	default:
		return true
	}
}

// unanswered does the same for an attempt without an answer.
func (c *Client) unanswered(ctx context.Context, st *call, ep *endpoint, err error, now time.Time) bool {
	var te *transportError
	if !errors.As(err, &te) {
		te = &transportError{err: err}
	}
	e := &Error{Code: kv.CodeUnavailable, Outcome: kv.OutcomeNotApplied, Retryable: true, Detail: te.Error(), Endpoint: ep.host, Cause: te.err}
	switch {
	case te.tooLarge:
		e.Code, e.Retryable, e.Limit = kv.CodeTooLarge, false, c.cfg.ResponseBytesMax
		e.Outcome = kv.OutcomeUnknown
	case te.unsent:
	case st.req.read:
		e.Code = kv.CodeTimeout
	default:
		e.Code, e.Outcome = kv.CodeOutcomeUnknown, kv.OutcomeUnknown
	}
	if st.req.read {
		e.Outcome = kv.OutcomeNone
	}
	if cause := ctx.Err(); cause != nil {
		e.Cause = cause
	} else if !te.tooLarge {
		ep.broken(now)
	}
	if te.unsent {
		st.refused++
	} else {
		st.refused = 0
	}
	if te.unsent && st.lastError != nil && !now.Before(st.deadline) {
		// Cut off by the call's end before it was sent: what came before says more.
		st.lastError.Cause = e.Cause
	} else {
		st.failed(ep, e)
	}
	if st.attempts >= st.attemptsMax || ctx.Err() != nil || !e.Retryable {
		return false
	}
	return te.unsent || st.req.repeatable()
}

func (st *call) failed(ep *endpoint, e *Error) {
	st.avoid, st.lastError = ep, e
	if e.Outcome == kv.OutcomeUnknown {
		st.unknown = true
	}
}

// lastAttempt is the least time that is left to an attempt after the first. One
// that can hardly be answered in time would only put in doubt what is known.
const lastAttempt = 50 * time.Millisecond

// wait lets the time between two attempts pass. It reports false if the call
// ends instead: its deadline would come too soon, or ctx is done.
func (c *Client) wait(ctx context.Context, st *call, now time.Time) bool {
	d := c.backoff(st)
	if st.deadline.Sub(now.Add(d)) < lastAttempt {
		return false
	}
	if d == 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		st.lastError.Cause = ctx.Err()
		return false
	case <-c.life.Done():
		return false
	}
}

// backoff gives how long to wait. While there are endpoints that were not
// tried, one that could not even be reached is not waited for.
func (c *Client) backoff(st *call) time.Duration {
	if st.refused > 0 && st.refused < len(c.endpoints.given) {
		return 0
	}
	full := c.cfg.Retry.BackoffMax
	if n := st.attempts - 1; n < 20 {
		full = min(c.cfg.Retry.BackoffMin<<n, full)
	}
	d := full/2 + rand.N(full/2+1)
	// 429 is about load everywhere; with other endpoints to go to, a 503's
	// Retry-After is not waited for.
	if e := st.lastError; e.RetryAfter > d && (e.Code == kv.CodeOverloaded || len(c.endpoints.given) == 1) {
		d = e.RetryAfter
	}
	return d
}

// final gives the call's error (invariant 2): the last attempt's, except that a
// refusal does not settle what an earlier attempt did.
func (st *call) final() error {
	e := st.lastError
	e.Attempts = st.attempts
	if !st.unknown || e.Outcome == kv.OutcomeUnknown || definite(e) {
		return e
	}
	e.Detail = fmt.Sprintf("an earlier attempt may have been applied; the last one: %s: %s", e.Code, e.Detail)
	e.Code, e.Outcome, e.Retryable = kv.CodeOutcomeUnknown, kv.OutcomeUnknown, true
	return e
}

// definite reports whether the error is the shard's own verdict on the write,
// which under the idempotency key covers every earlier attempt.
func definite(e *Error) bool {
	switch e.Code {
	case kv.CodeConditionFailed:
		return true
	case kv.CodeConflict:
		return !e.Retryable
	}
	return e.Outcome == kv.OutcomeApplied
}
