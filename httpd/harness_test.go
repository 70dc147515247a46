package httpd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// contract validates traffic against the OpenAPI document. It is built once: the
// document does not change.
var contract = sync.OnceValue(func() validator.Validator {
	doc, err := libopenapi.NewDocument(openAPIDocument())
	if err != nil {
		panic(err)
	}
	v, errs := validator.NewValidator(doc)
	if len(errs) > 0 {
		panic(errs[0])
	}
	return v
})

// rig is a server on a real listener, and a client that holds every exchange to
// the contract.
type rig struct {
	t      *testing.T
	data   *fakeData
	health *fakeHealth
	server *Server
	addr   string
	client *http.Client
	infos  chan RequestInfo
}

func newRig(t *testing.T, change ...func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, data: newFakeData(), health: &fakeHealth{}, infos: make(chan RequestInfo, 1000)}
	opts := Options{Data: r.data, Cluster: &fakeCluster{}, Health: r.health, Self: testNode, Release: "test",
		Hooks: Hooks{Request: func(i RequestInfo) {
			select {
			case r.infos <- i:
			default:
			}
		}}}
	for _, c := range change {
		c(&opts)
	}
	r.server = New(opts)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- r.server.Serve(l) }()
	tr := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 8}
	r.client = &http.Client{Transport: tr, Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error {
		t.Error("a redirect: writes would be lost")
		return http.ErrUseLastResponse
	}}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		tr.CloseIdleConnections()
		if err := r.server.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return r
}

// answer is a response that was read to its end.
type answer struct {
	status int
	header http.Header
	body   string
}

// do sends a request; headers alternate name and value and may repeat. target is
// used as it stands.
func (r *rig) do(method, target, body string, headers ...string) answer {
	r.t.Helper()
	req, err := http.NewRequest(method, "http://"+r.addr+target, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	return r.send(req, body, headers...)
}

func (r *rig) send(req *http.Request, body string, headers ...string) answer {
	r.t.Helper()
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatalf("%s %.80s: %v", req.Method, req.URL, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatalf("%s %.80s: %v", req.Method, req.URL, err)
	}
	a := answer{resp.StatusCode, resp.Header, string(b)}
	r.validate(req, body, resp, b)
	return a
}

// refused are the statuses of requests that the contract need not allow.
var refused = []int{400, 401, 403, 404, 405, 406, 413, 414, 415, 429}

// validate holds a response to the contract, and the request too unless it was
// refused. What the contract has no words for is passed over: paths and methods
// that do not exist. The validator knows no NDJSON: its lines are put together to
// the JSON form of the same.
func (r *rig) validate(req *http.Request, body string, resp *http.Response, respBody []byte) {
	r.t.Helper()
	v := contract()
	vreq := req.Clone(context.Background())
	vreq.Body = io.NopCloser(strings.NewReader(body))
	path := vreq.URL.Path
	// The validator's {key} is one segment that it decodes itself; ours is any
	// bytes. Keys are the business of the key tests; here one that is plain stands
	// for all.
	if strings.HasPrefix(path, keyPrefix) && len(path) > len(keyPrefix) {
		vreq.URL.Path, vreq.URL.RawPath = keyPrefix+"k", ""
	}
	vresp := *resp
	vresp.Body = io.NopCloser(bytes.NewReader(respBody))
	if resp.Header.Get("Content-Type") == "application/problem+json" && (resp.StatusCode == 405 || strings.Contains(string(respBody), `"no_route"`)) || path == keyPrefix {
		vreq.Method, vreq.URL.Path, vreq.URL.RawPath = "GET", "/metrics", "" // any route: the problem's form is the same
	}
	if strings.HasPrefix(vreq.Header.Get("Content-Type"), "application/x-ndjson") {
		vreq.Header.Set("Content-Type", "application/json")
		body = `{"ops":[` + strings.Join(lines(body), ",") + `]}`
		vreq.Body, vreq.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/x-ndjson") {
		r.validateLines(vreq, &vresp, respBody)
		return
	}
	if !slices.Contains(refused, resp.StatusCode) {
		if ok, errs := v.ValidateHttpRequest(vreq); !ok {
			for _, e := range errs {
				r.t.Errorf("request %s %.80s was answered %d but breaks the contract: %s: %s", req.Method, req.URL, resp.StatusCode, e.Message, e.Reason)
			}
		}
		vreq.Body = io.NopCloser(strings.NewReader(body))
	}
	if ok, errs := v.ValidateHttpResponse(vreq, &vresp); !ok {
		for _, e := range errs {
			detail := ""
			for _, s := range e.SchemaValidationErrors {
				detail += fmt.Sprintf("\n  %s: %s", s.FieldPath, s.Reason)
			}
			r.t.Errorf("response %d to %s %.80s breaks the contract: %s: %s%s\n%.300s", resp.StatusCode, req.Method, req.URL, e.Message, e.Reason, detail, respBody)
		}
	}
	r.validateHeaders(vreq, &vresp)
}

// lines gives the lines of NDJSON that are not blank.
func lines(body string) (out []string) {
	for line := range strings.Lines(body) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

// want checks a status and, for errors, the code and outcome.
func (r *rig) want(a answer, status int, codeAndOutcome ...string) answer {
	r.t.Helper()
	if a.status != status {
		r.t.Fatalf("status %d, want %d: %.300s", a.status, status, a.body)
	}
	if len(codeAndOutcome) > 0 && !strings.Contains(a.body, `"code":"`+codeAndOutcome[0]+`"`) {
		r.t.Fatalf("want code %s: %.300s", codeAndOutcome[0], a.body)
	}
	if len(codeAndOutcome) > 1 {
		got := strings.Contains(a.body, `"outcome":"`+codeAndOutcome[1]+`"`)
		if codeAndOutcome[1] == "" {
			got = !strings.Contains(a.body, `"outcome"`)
		}
		if !got {
			r.t.Fatalf("want outcome %q: %.300s", codeAndOutcome[1], a.body)
		}
	}
	return a
}
