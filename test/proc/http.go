package proc

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Answer is an HTTP answer as it came, without retries or interpretation.
type Answer struct {
	Status int
	Header http.Header
	Body   string
	Took   time.Duration

	// Of a failure: what application/problem+json says.
	Code    string
	Outcome string
}

// answerWait is how much longer than the server's own limit Do waits.
const answerWait = 10 * time.Second

// Do sends one request and gives the answer; an error means that there was none.
// The server is given the time limit. A body that begins with { is sent as JSON.
func Do(ctx context.Context, method, url, body string, limit time.Duration) (Answer, error) {
	return DoAs(ctx, "", method, url, body, limit)
}

// DoAs is Do with a token, "" for none.
func DoAs(ctx context.Context, token, method, url, body string, limit time.Duration) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, limit+answerWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	req.Header.Set("Quorate-Timeout", limit.String())
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if strings.HasPrefix(body, "{") {
		req.Header.Set("Content-Type", "application/json")
	}
	begin := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return Answer{Took: time.Since(begin)}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	a := Answer{Status: resp.StatusCode, Header: resp.Header, Body: string(data), Took: time.Since(begin)}
	if resp.Header.Get("Content-Type") == "application/problem+json" {
		var p struct{ Code, Outcome string }
		if err := json.Unmarshal(data, &p); err != nil {
			return a, err
		}
		a.Code, a.Outcome = p.Code, p.Outcome
	}
	return a, err
}

// MustDo is Do where an answer has to come.
func MustDo(t testing.TB, method, url, body string, limit time.Duration) Answer {
	t.Helper()
	a, err := Do(t.Context(), method, url, body, limit)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return a
}
