package httpd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"
)

// fuzzRoutes are routes that take parameters, of the data and the control plane.
var fuzzRoutes = []struct{ method, path string }{
	{"GET", "/v1/kv"}, {"GET", keyPrefix + "k"}, {"PUT", keyPrefix + "k"}, {"POST", keyPrefix + "k"}, {"DELETE", keyPrefix + "k"}, {"DELETE", "/v1/kv"},
	{"GET", "/v1/shards"}, {"GET", "/readyz"}, {"GET", "/v1/limits"}, {"GET", "/v1/events"}, {"POST", "/v1/rebalance"}, {"POST", "/v1/batch"},
}

// FuzzParameters: any query and any headers on any route give an answer that the OpenAPI
// document knows, never one that means a bug.
func FuzzParameters(f *testing.F) {
	for i := range fuzzRoutes {
		for _, q := range []string{"", "prefix=a&limit=5&reverse&keys_only=true&delimiter=%2F", "start=a&end=b&enc=base64url", "ttl=5m", "op=add&delta=-3", "at=1&min_version=2",
			"consistency=stale&max_staleness=5s", "cursor=AA", "a=1&a=2", "%zz", ";", "after=1&limit=2&wait=0s", "dry_run=true", "verbose"} {
			f.Add(i, q, "If-Match", `"5", W/"6"`)
		}
		for _, h := range [][2]string{{"If-None-Match", "*"}, {"Quorate-Timeout", "1ns"}, {"Idempotency-Key", "a"}, {"Accept", "application/x-ndjson;q=0.5, */*"},
			{"Content-Type", "text/plain; charset=latin1"}, {"Content-Encoding", "gzip"}, {"Sec-Fetch-Site", "cross-site"}, {"Origin", "http://evil.example"}} {
			f.Add(i, "", h[0], h[1])
		}
	}
	d := newFakeData()
	s := New(Options{Data: d, Cluster: &fakeCluster{}, Health: &fakeHealth{}, Self: testNode})
	f.Fuzz(func(t *testing.T, which int, query, name, value string) {
		clear(d.items)
		route := fuzzRoutes[uint(which)%uint(len(fuzzRoutes))]
		req := httptest.NewRequest(route.method, route.path, strings.NewReader("1"))
		req.URL = &url.URL{Path: route.path, RawQuery: query}
		if name != "" {
			req.Header[http.CanonicalHeaderKey(name)] = []string{value}
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, req)
		if w.Code == http.StatusInternalServerError || w.Code < 200 {
			t.Fatalf("%s %s?%s, %s: %q: %d %s", route.method, route.path, query, name, value, w.Code, w.Body)
		}
		if w.Header().Get("Content-Type") == "application/x-ndjson" {
			return // the validator does not know it
		}
		valid := httptest.NewRequest(route.method, route.path, nil)
		if ok, errs := contract().ValidateHttpResponse(valid, w.Result()); !ok {
			t.Errorf("%s %s?%s, %s: %q: %d %s: %v", route.method, route.path, query, name, value, w.Code, w.Body, errs)
		}
	})
}

// FuzzConnection: any bytes on a connection, fast or net/http's, are answered with
// whole responses, none of which means a bug, and then the connection ends.
func FuzzConnection(f *testing.F) {
	for _, text := range []string{
		"GET /v1/kv/k HTTP/1.1\r\nHost: x\r\n\r\n", "PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET /v1/limits HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"ops\r\n0\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x02\x00\x01", "GET /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 9223372036854775807\r\n\r\n", "\r\n\r\n",
	} {
		f.Add([]byte(text))
	}
	s := New(Options{Data: newFakeData(), Cluster: &fakeCluster{}, Health: &fakeHealth{}, Self: testNode})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	f.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(s.Shutdown(ctx), <-served); err != nil {
			f.Error(err)
		}
		// net/http lingers on a connection whose request it could not read.
		for inside := 1; inside > 0 && ctx.Err() == nil; runtime.Gosched() {
			inside, _, _ = s.Connections()
		}
	})
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(data) // the server may have hung up
		_ = c.(*net.TCPConn).CloseWrite()
		all, err := io.ReadAll(c)
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			t.Fatalf("%q: the connection does not end", data)
		}
		if bytes.HasPrefix(all, []byte("HTTP/1.1 500")) || bytes.Contains(all, []byte("\r\nHTTP/1.1 500")) {
			t.Fatalf("%q: %s", data, all)
		}
		if len(all) > 0 && err == nil {
			if _, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(all)), nil); err != nil {
				t.Fatalf("%q: %q: %v", data, all, err)
			}
		}
	})
}
