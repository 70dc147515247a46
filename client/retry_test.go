package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// script is a transport that answers each attempt by the next of its steps, the
// last one over and over.
type script struct {
	mu    sync.Mutex
	steps []step
	seen  []attempt
}

type step func(r *http.Request) (*http.Response, error)

type attempt struct {
	host, method, target, id, timeout string
	at                                time.Time
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	n := len(s.seen)
	s.seen = append(s.seen, attempt{
		host: r.URL.Host, method: r.Method, target: r.URL.RequestURI(), id: r.Header.Get("Idempotency-Key"),
		timeout: r.Header.Get("Quorate-Timeout"), at: time.Now(),
	})
	s.mu.Unlock()
	return s.steps[min(n, len(s.steps)-1)](r)
}

func answer(status int, body string, header ...string) step {
	return func(r *http.Request) (*http.Response, error) {
		h := http.Header{}
		for i := 0; i+1 < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: r}, nil
	}
}

func refuse(status int, code kv.Code, outcome kv.Outcome, header ...string) step {
	retryable := (&kv.Error{Code: code}).Retryable()
	return answer(status, fmt.Sprintf(`{"title":"t","status":%d,"detail":"d","code":%q,"outcome":%q,"retryable":%t,"version":"7","limit":9}`,
		status, code, outcome, retryable), header...)
}

func unreachable(*http.Request) (*http.Response, error) {
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
}

func cut(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }

func hang(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

var (
	okPut       = answer(204, "", "Quorate-Version", "8")
	unavailable = refuse(503, kv.CodeUnavailable, kv.OutcomeNotApplied, "Retry-After", "1")
	unknown     = refuse(504, kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
)

func scripted(t *testing.T, endpoints int, change func(*Config), steps ...step) (*Client, *script) {
	t.Helper()
	s := &script{steps: steps}
	cfg := Config{Transport: s}
	for i := range endpoints {
		cfg.Endpoints = append(cfg.Endpoints, fmt.Sprintf("n%d:1", i))
	}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, s
}

func put(t *testing.T, c *Client) (PutResult, *Error) {
	t.Helper()
	res, err := c.Put(t.Context(), "k", []byte("v"), PutOptions{})
	return res, asError(t, err)
}

func get(t *testing.T, c *Client) *Error {
	t.Helper()
	_, err := c.Get(t.Context(), "k", ReadOptions{})
	return asError(t, err)
}

func asError(t *testing.T, err error) *Error {
	t.Helper()
	if err == nil {
		return nil
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%T is no *Error: %v", err, err)
	}
	return e
}

// TestOutcomes goes through what attempts may end with, and what the call then
// says (invariant 2).
func TestOutcomes(t *testing.T) {
	once := func(c *Config) { c.Retry.Attempts = 1 }
	cases := []struct {
		name    string
		change  func(*Config)
		steps   []step
		code    kv.Code
		outcome kv.Outcome
		tries   int
	}{
		{"success", nil, []step{okPut}, "", "", 1},
		{"refused, then success", nil, []step{unavailable, okPut}, "", "", 2},
		{"unknown, then success", nil, []step{unknown, okPut}, "", "", 2},
		{"cut off, then success", nil, []step{cut, okPut}, "", "", 2},
		{"cannot connect, then success", nil, []step{unreachable, okPut}, "", "", 2},
		{"refused for good", nil, []step{refuse(400, kv.CodeInvalid, kv.OutcomeNotApplied)}, kv.CodeInvalid, kv.OutcomeNotApplied, 1},
		{"a bug is not retried", nil, []step{refuse(500, kv.CodeInternal, kv.OutcomeUnknown)}, kv.CodeInternal, kv.OutcomeUnknown, 1},
		{"always refused", nil, []step{unavailable}, kv.CodeUnavailable, kv.OutcomeNotApplied, 10},
		{"never connected", nil, []step{unreachable}, kv.CodeUnavailable, kv.OutcomeNotApplied, 10},
		{"always unknown", nil, []step{unknown}, kv.CodeOutcomeUnknown, kv.OutcomeUnknown, 10},
		{"unknown, then refused", nil, []step{unknown, unavailable}, kv.CodeOutcomeUnknown, kv.OutcomeUnknown, 10},
		{"unknown, then invalid", nil, []step{unknown, refuse(400, kv.CodeInvalid, kv.OutcomeNotApplied)}, kv.CodeOutcomeUnknown, kv.OutcomeUnknown, 2},
		{"cut off, then never connected", nil, []step{cut, unreachable}, kv.CodeOutcomeUnknown, kv.OutcomeUnknown, 10},
		{"unknown, then the shard says no", nil, []step{unknown, refuse(412, kv.CodeConditionFailed, kv.OutcomeNotApplied)}, kv.CodeConditionFailed, kv.OutcomeNotApplied, 2},
		{"unknown, then the value does not fit", nil, []step{unknown, refuse(409, kv.CodeConflict, kv.OutcomeNotApplied)}, kv.CodeConflict, kv.OutcomeNotApplied, 2},
		{"one attempt, refused", once, []step{unavailable}, kv.CodeUnavailable, kv.OutcomeNotApplied, 1},
		{"one attempt, cut off", once, []step{cut}, kv.CodeOutcomeUnknown, kv.OutcomeUnknown, 1},
		{"a proxy's 502", once, []step{answer(502, "<html>")}, kv.CodeOutcomeUnknown, kv.OutcomeUnknown, 1},
		{"a proxy's 503", once, []step{answer(503, "<html>")}, kv.CodeUnavailable, kv.OutcomeNotApplied, 1},
		{"a redirect", once, []step{answer(307, "", "Location", "/")}, kv.CodeInvalid, kv.OutcomeUnknown, 1},
	}
	for _, tc := range cases {
		synctest.Test(t, func(t *testing.T) {
			c, s := scripted(t, 1, func(cfg *Config) {
				cfg.Timeout = time.Minute
				if tc.change != nil {
					tc.change(cfg)
				}
			}, tc.steps...)
			_, e := put(t, c)
			switch {
			case tc.code == "" && e != nil, tc.code != "" && (e == nil || e.Code != tc.code || e.Outcome != tc.outcome):
				t.Errorf("%s: error %+v, want %s, %s", tc.name, e, tc.code, tc.outcome)
			case len(s.seen) != tc.tries || (e != nil && e.Attempts != tc.tries):
				t.Errorf("%s: %d attempts, want %d", tc.name, len(s.seen), tc.tries)
			}
			for _, a := range s.seen {
				if tc.change == nil && (len(a.id) != 32 || a.id != s.seen[0].id) {
					t.Errorf("%s: idempotency keys %q and %q (invariant 1)", tc.name, s.seen[0].id, a.id)
				}
				if tc.change != nil && a.id != "" {
					t.Errorf("%s: an idempotency key although nothing is retried", tc.name)
				}
			}
		})
	}
}

func TestReadsHaveNoOutcome(t *testing.T) {
	for name, steps := range map[string][]step{
		"unavailable": {unavailable}, "timeout": {refuse(504, kv.CodeTimeout, "")}, "cut": {cut}, "unreachable": {unreachable},
		"not found": {refuse(404, kv.CodeNotFound, "")}, "bad gateway": {answer(502, "")},
	} {
		synctest.Test(t, func(t *testing.T) {
			c, s := scripted(t, 1, nil, steps...)
			e := get(t, c)
			if e == nil || e.Outcome != kv.OutcomeNone {
				t.Errorf("%s: %+v", name, e)
			}
			if want := name == "not found"; want != IsNotFound(e) || want != (len(s.seen) == 1) {
				t.Errorf("%s: %d attempts, %v", name, len(s.seen), e)
			}
			if s.seen[0].id != "" {
				t.Errorf("%s: a read with an idempotency key", name)
			}
		})
	}
}

func TestErrorSaysAll(t *testing.T) {
	c, _ := scripted(t, 1, nil, refuse(412, kv.CodeConditionFailed, kv.OutcomeNotApplied))
	_, e := put(t, c)
	if e.Status != 412 || e.Version != 7 || e.Limit != 9 || e.Detail != "d" || e.Retryable || e.Endpoint != "n0:1" || e.Attempts != 1 {
		t.Errorf("%+v", e)
	}
	if !IsConditionFailed(e) || IsNotFound(e) || IsUnavailable(e) || IsConflict(e) || IsOutcomeUnknown(e) || OutcomeOf(nil) != "" {
		t.Errorf("helpers disagree about %v", e)
	}
	if OutcomeOf(io.EOF) != kv.OutcomeUnknown || CodeOf(io.EOF) != "" {
		t.Error("an error of somebody else's")
	}
}

// TestDeadline: no call outlives its deadline (invariant 3), and the server is
// told to be done before.
func TestDeadline(t *testing.T) {
	for name, tc := range map[string]struct {
		step  step
		limit time.Duration
		ctx   time.Duration
	}{
		"hanging endpoints":      {hang, 3 * time.Second, 0},
		"refusing endpoints":     {unavailable, 3 * time.Second, 0},
		"unreachable endpoints":  {unreachable, 3 * time.Second, 0},
		"the context's deadline": {hang, 3 * time.Second, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			c, s := scripted(t, 2, func(cfg *Config) { cfg.Timeout = tc.limit; cfg.Retry.Attempts = 1000 }, tc.step)
			ctx, limit := t.Context(), tc.limit
			if tc.ctx != 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tc.ctx)
				defer cancel()
				limit = tc.ctx
			}
			start := time.Now()
			_, err := c.Put(ctx, "k", nil, PutOptions{})
			took := time.Since(start)
			if err == nil || took > limit {
				t.Errorf("%s: %v after %s", name, err, took)
			}
			if name == "hanging endpoints" && (!IsOutcomeUnknown(err) || len(s.seen) < 2) {
				t.Errorf("%s: %v after %d attempts", name, err, len(s.seen))
			}
			first, err := time.ParseDuration(s.seen[0].timeout)
			if err != nil || first <= 0 || first >= limit {
				t.Errorf("%s: Quorate-Timeout %q", name, s.seen[0].timeout)
			}
		})
	}
}

func TestCancelEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := scripted(t, 1, nil, unavailable)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		start := time.Now()
		_, err := c.Get(ctx, "k", ReadOptions{})
		if !errors.Is(err, context.Canceled) || time.Since(start) != 100*time.Millisecond {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		if _, err := c.Get(ctx, "k", ReadOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("a call with a context that has ended: %v", err)
		}
	})
}

func TestCloseEndsTheWaitAndRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, 1, nil, unavailable)
		time.AfterFunc(10*time.Millisecond, func() { c.Close() })
		start := time.Now()
		if e := get(t, c); e == nil || time.Since(start) != 10*time.Millisecond {
			t.Errorf("%v after %s", e, time.Since(start))
		}
		n := len(s.seen)
		if _, e := put(t, c); e == nil || e.Outcome != kv.OutcomeNotApplied || len(s.seen) != n {
			t.Errorf("after Close: %v, %d attempts", e, len(s.seen)-n)
		}
	})
}

func TestRetryAfterIsHeeded(t *testing.T) {
	busy := refuse(429, kv.CodeOverloaded, kv.OutcomeNotApplied, "Retry-After", "2")
	for _, tc := range []struct {
		endpoints int
		step      step
		least     time.Duration
		most      time.Duration
	}{
		{1, unavailable, time.Second, time.Second},
		{2, unavailable, 0, 30 * time.Millisecond}, // there is another to ask
		{2, busy, 2 * time.Second, 2 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			c, s := scripted(t, tc.endpoints, nil, tc.step, okPut)
			if _, e := put(t, c); e != nil {
				t.Fatal(e)
			}
			if wait := s.seen[1].at.Sub(s.seen[0].at); wait < tc.least || wait > tc.most {
				t.Errorf("waited %s, want %s to %s", wait, tc.least, tc.most)
			}
		})
	}
}

func TestBackoffGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, 1, func(cfg *Config) { cfg.Timeout = time.Minute; cfg.Retry.Attempts = 12 }, refuse(503, kv.CodeUnavailable, kv.OutcomeNotApplied))
		put(t, c)
		for i := 1; i < len(s.seen); i++ {
			wait, full := s.seen[i].at.Sub(s.seen[i-1].at), min(BackoffMinDefault<<(i-1), BackoffMaxDefault)
			if wait < full/2 || wait > full {
				t.Errorf("wait %d: %s, want %s to %s", i, wait, full/2, full)
			}
		}
	})
}

func TestFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := map[string]bool{"n0:1": true, "n1:1": true}
		c, s := scripted(t, 3, nil, func(r *http.Request) (*http.Response, error) {
			if dead[r.URL.Host] {
				return unreachable(r)
			}
			return okPut(r)
		})
		start := time.Now()
		for range 30 {
			if _, e := put(t, c); e != nil {
				t.Fatal(e)
			}
		}
		if time.Since(start) != 0 {
			t.Errorf("%s of waiting although one endpoint was there", time.Since(start))
		}
		if len(s.seen) != 32 {
			t.Errorf("%d attempts for 30 calls: the dead endpoints were not put aside", len(s.seen))
		}
		// They are back, and found to be after a while, by one request at first.
		clear(dead)
		time.Sleep(asideMax)
		s.seen = nil
		for range 30 {
			put(t, c)
		}
		hosts := map[string]int{}
		for _, a := range s.seen {
			hosts[a.host]++
		}
		if len(hosts) != 3 || hosts["n0:1"] < 9 {
			t.Errorf("requests by endpoint: %v", hosts)
		}
	})
}

func TestAsideEndpointIsTriedByOne(t *testing.T) {
	e, now := newEndpoint("http", "a:1"), time.Unix(100, 0)
	e.broken(now)
	if e.usable(now) {
		t.Error("usable at once")
	}
	now = now.Add(asideMin)
	for i := range 3 {
		if got := e.usable(now); got != (i == 0) {
			t.Errorf("caller %d: %t; exactly one may try", i, got)
		}
	}
	for range 20 {
		e.broken(now)
	}
	if e.usable(now.Add(asideMax-1)) || !e.usable(now.Add(asideMax)) {
		t.Error("not put aside for asideMax")
	}
	e.works()
	for range 2 {
		if !e.usable(now) {
			t.Error("not taken back")
		}
	}
}

func TestEverythingAsideIsStillTried(t *testing.T) {
	set, err := newEndpointSet([]string{"a:1", "b:1"})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(100, 0)
	for range 10 {
		if got := set.pick(now, set.given[0]); got != set.given[1] {
			t.Fatalf("picked %s, which was to be avoided", got.host)
		}
	}
	set.given[0].broken(now)
	set.given[1].broken(now.Add(-time.Millisecond))
	if got := set.pick(now, nil); got != set.given[1] {
		t.Errorf("picked %s, want the one that is due first", got.host)
	}
	if got := set.pick(now, set.given[1]); got != set.given[0] {
		t.Errorf("picked %s, want the one that is not to be avoided", got.host)
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Endpoints: []string{"a"}}
	if c, err := New(good); err != nil || c.endpoints.given[0].host != "a:80" {
		t.Fatalf("%v", err)
	}
	for name, change := range map[string]func(*Config){
		"no endpoints":    func(c *Config) { c.Endpoints = nil },
		"empty endpoint":  func(c *Config) { c.Endpoints = []string{""} },
		"path":            func(c *Config) { c.Endpoints = []string{"http://a/b"} },
		"user":            func(c *Config) { c.Endpoints = []string{"http://u:p@a"} },
		"scheme":          func(c *Config) { c.Endpoints = []string{"ftp://a"} },
		"timeout":         func(c *Config) { c.Timeout = time.Hour },
		"negative":        func(c *Config) { c.DialTimeout = -1 },
		"attempts":        func(c *Config) { c.Retry.Attempts = -1 },
		"backoff":         func(c *Config) { c.Retry.BackoffMin, c.Retry.BackoffMax = time.Second, time.Millisecond },
		"two transports":  func(c *Config) { c.Lean, c.Transport = true, http.DefaultTransport },
		"agent":           func(c *Config) { c.UserAgent = "a\r\nb: c" },
		"token":           func(c *Config) { c.Token = "a\r\nb: c" },
		"negative limits": func(c *Config) { c.ResponseBytesMax = -1 },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// dialHangs cannot connect before its time ends.
func dialHangs(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: r.Context().Err()}
}

// TestCutOffBeforeItWasSent: an attempt that the call's end cuts off before it was sent
// does not hide what came before.
func TestCutOffBeforeItWasSent(t *testing.T) {
	for _, first := range []struct {
		step step
		code kv.Code
		says string
	}{
		{unreachable, kv.CodeUnavailable, "connection refused"},
		{refuse(503, kv.CodeUnavailable, kv.OutcomeNotApplied), kv.CodeUnavailable, "d"},
		{dialHangs, kv.CodeUnavailable, "cannot connect: context deadline exceeded"},
	} {
		synctest.Test(t, func(t *testing.T) {
			c, s := scripted(t, 1, func(c *Config) { c.Timeout, c.Retry.AttemptTimeout = time.Second, time.Second }, first.step, dialHangs)
			_, e := put(t, c)
			if e == nil || e.Code != first.code || e.Outcome != kv.OutcomeNotApplied || !strings.Contains(e.Detail, first.says) || !errors.Is(e, context.DeadlineExceeded) && len(s.seen) > 1 {
				t.Errorf("%v after %d attempts, want %s", e, len(s.seen), first.says)
			}
		})
	}
}

// TestNoTimeToConnect: what never had a connection was not sent.
func TestNoTimeToConnect(t *testing.T) {
	tr := newNetTransport(Config{})
	defer tr.closeIdle()
	_, err := tr.roundTrip(t.Context(), newEndpoint("http", "127.0.0.1:1"), &request{method: http.MethodPut, target: "/v1/kv/k"}, schedule{deadline: time.Now()})
	var te *transportError
	if !errors.As(err, &te) || !te.unsent || !errors.Is(err, context.DeadlineExceeded) || te.Error() != "cannot connect: context deadline exceeded" {
		t.Errorf("%v", err)
	}
}
