package httpd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// conn is a connection on which a test writes bytes of its own.
type conn struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func (r *rig) dial() *conn {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return &conn{r.t, c, bufio.NewReader(c)}
}

// write sends bytes; the server may have hung up already.
func (c *conn) write(text string) *conn {
	_, _ = io.WriteString(c, text)
	return c
}

// answer reads one response.
func (c *conn) answer(method string) answer {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("no response: %v", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("response: %v", err)
	}
	if resp.Close {
		resp.Header.Set("Connection", "close")
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// closed checks that the server hung up.
func (c *conn) closed() {
	c.t.Helper()
	if n, err := c.r.Read(make([]byte, 1)); n > 0 || err == nil {
		c.t.Error("the connection is still open")
	}
}

// raw sends one request line and body over a connection of its own.
func (r *rig) raw(method, target, body string) answer {
	r.t.Helper()
	return r.dial().write(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", method, target, len(body), body)).answer(method)
}

func TestRawKeysPassUnchanged(t *testing.T) {
	r := newRig(t)
	for _, c := range append(oddKeys, []struct{ path, key string }{{"\xff\xfe", "\xff\xfe"}, {"\"<>\\^`{|}", "\"<>\\^`{|}"}, {"%e9", "\xe9"}, {"a%2fb", "a/b"}, {"a#b", "a#b"}}...) {
		if a := r.raw("PUT", keyPrefix+c.path, "v"); a.status != 201 {
			t.Errorf("PUT %.40q: %d %s", c.path, a.status, a.body)
		}
		if r.data.items[c.key] == nil {
			t.Errorf("PUT of path %.40q did not write key %.40q", c.path, c.key)
		}
		if a := r.raw("GET", keyPrefix+c.path, ""); a.status != 200 || a.body != "v" {
			t.Errorf("GET %.40q: %d %s", c.path, a.status, a.body)
		}
		delete(r.data.items, c.key)
	}
	// Paths that only look like the route when they are cleaned.
	for _, path := range []string{"/v1//kv/a", "//v1/kv/a", "/v1/./kv/a", "/x/../v1/kv/a", "/V1/kv/a", "/v1/kv%2Fa/../a/%", "/v1/kva"} {
		if a := r.raw("PUT", path, "v"); a.status != 404 && a.status != 400 {
			t.Errorf("%s: %d", path, a.status)
		}
	}
	if len(r.data.items) != 0 {
		t.Errorf("written: %v", r.data.items)
	}
	if a := r.raw("PUT", "http://elsewhere"+keyPrefix+"a//b", "v"); a.status != 201 || r.data.items["a//b"] == nil {
		t.Errorf("absolute form: %d", a.status)
	}
}

func TestRawMalformed(t *testing.T) {
	r := newRig(t)
	for _, head := range []string{"GET /v1/kv/%zz HTTP/1.1\r\nHost: x\r\n\r\n", "GET /v1/kv/% HTTP/1.1\r\nHost: x\r\n\r\n", "GET\r\n\r\n", "GET /v1/kv/a HTTP/1.1\r\n\r\n",
		"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
		"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n"} {
		if a := r.dial().write(head).answer("GET"); a.status != 400 {
			t.Errorf("%q: %d", head, a.status)
		}
	}
	if a := r.dial().write("PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").answer("PUT"); a.status != 400 {
		t.Errorf("bad chunk: %d %s", a.status, a.body)
	}
	if a := r.dial().write("GET /v1/kv/a HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", kv.HeaderBytesMax+8<<10) + "\r\n\r\n").answer("GET"); a.status != 431 {
		t.Errorf("large header: %d", a.status)
	}
	if len(r.data.items) != 0 {
		t.Errorf("written: %v", r.data.items)
	}
}

func TestValueLimits(t *testing.T) {
	r := newRig(t)
	exact := strings.Repeat("v", kv.ValueBytesMax)
	r.want(r.do("PUT", keyPrefix+"k", exact), 201)
	if a := r.want(r.do("GET", keyPrefix+"k", ""), 200); a.body != exact {
		t.Error("4 MiB came back changed")
	}
	// Declared too large: answered before any of it was sent, and the connection
	// cannot be used again.
	c := r.dial().write("PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: " + strconv.Itoa(kv.ValueBytesMax+1) + "\r\n\r\n")
	a := r.want(c.answer("PUT"), 413, "too_large", "not-applied")
	if !strings.Contains(a.body, `"limit":4194304`) || a.header.Get("Connection") != "close" {
		t.Errorf("413: %s %v", a.body, a.header)
	}
	c.closed()
	// With Expect: 100-continue nothing is asked for.
	c = r.dial().write("PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: " + strconv.Itoa(kv.ValueBytesMax+1) + "\r\n\r\n")
	r.want(c.answer("PUT"), 413)
	// Not declared: cut off at the limit.
	c = r.dial().write("PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
	chunk := fmt.Sprintf("%x\r\n%s\r\n", 1<<20, strings.Repeat("v", 1<<20))
	r.want(c.write(chunk+chunk+chunk+chunk+"1\r\nv\r\n0\r\n\r\n").answer("PUT"), 413, "too_large", "not-applied")
	// Chunked up to the limit is fine, and empty is too.
	r.want(r.dial().write("PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"+chunk+chunk+chunk+chunk+"0\r\n\r\n").answer("PUT"), 204)
	if string(r.data.items["k"].Value) != exact {
		t.Error("chunked 4 MiB came in changed")
	}
	r.want(r.dial().write("PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").answer("PUT"), 204)
	if len(r.data.items["k"].Value) != 0 {
		t.Error("chunked empty value")
	}
	if n := r.server.bodies.n.Load(); n != 0 {
		t.Errorf("%d bytes still held", n)
	}
}

func TestExpectContinue(t *testing.T) {
	r := newRig(t)
	c := r.dial().write("PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
	line, err := c.r.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 100 ") {
		t.Fatalf("%q %v", line, err)
	}
	if _, err := c.r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	r.want(c.write("v").answer("PUT"), 201)
	// What is refused by its header is never asked for its body.
	c = r.dial().write("PUT /v1/kv/k?ttl=x HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
	r.want(c.answer("PUT"), 400)
	c = r.dial().write("PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nExpect: magic\r\nContent-Length: 1\r\n\r\n")
	if a := c.answer("PUT"); a.status != 417 {
		t.Errorf("unknown expectation: %d", a.status)
	}
}

func TestKeepAliveAndPipelining(t *testing.T) {
	r := newRig(t)
	c := r.dial()
	for i := range 3 {
		c.write(fmt.Sprintf("PUT /v1/kv/k%d HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv", i))
	}
	c.write("GET /v1/kv/none HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/kv/k2 HTTP/1.1\r\nHost: x\r\n\r\n")
	for range 3 {
		r.want(c.answer("PUT"), 201)
	}
	r.want(c.answer("GET"), 404)
	r.want(c.answer("GET"), 200)
}

func TestBodyThatTricklesIsCutAtTheDeadline(t *testing.T) {
	r := newRig(t)
	c := r.dial().write("PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nQuorate-Timeout: 50ms\r\nContent-Length: 10\r\n\r\nabc")
	r.want(c.answer("PUT"), 504, "timeout", "not-applied")
	c.closed()
	// One that breaks off.
	c = r.dial().write("PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	r.want(c.answer("PUT"), 400, "invalid", "not-applied")
	if len(r.data.items) != 0 {
		t.Error("half a body was written")
	}
}

func TestAClientThatLeavesCancelsItsRequest(t *testing.T) {
	r := newRig(t)
	entered, left := make(chan struct{}), make(chan error, 1)
	r.data.fail = func(ctx context.Context, _ string) error {
		close(entered)
		<-ctx.Done()
		left <- ctx.Err()
		return ctx.Err()
	}
	c := r.dial().write("PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv")
	<-entered
	c.Close()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the request ended with %v", err)
	}
}

func TestHeaderThatTricklesIsCut(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Limits.HeaderTimeout = 50 * time.Millisecond })
	c := r.dial().write("GET /v1/kv/k HTTP/1.1\r\nHost: x\r\nX-Slow: ")
	if a, err := io.ReadAll(c.r); err != nil || len(a) > 0 && !strings.HasPrefix(string(a), "HTTP/1.1 408") {
		t.Errorf("%q %v", a, err)
	}
}

func TestADeclaredLengthAllocatesLittle(t *testing.T) {
	r := newRig(t)
	for range 20 {
		r.dial().write("PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 4194304\r\n\r\n")
	}
	waitFor(t, func() bool { d, _, _ := r.server.InFlight(); return d == 20 && r.server.bodies.n.Load() > 0 })
	if held := r.server.bodies.n.Load(); held > 20*bodyBytesFirst {
		t.Errorf("%d bytes held for bodies that never came", held)
	}
}

func TestBodyBudget(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Limits.BodyBytesInFlight = 100 << 10 })
	r.want(r.do("PUT", keyPrefix+"k", strings.Repeat("v", 90<<10)), 201)
	a := r.want(r.do("PUT", keyPrefix+"k", strings.Repeat("v", 110<<10)), 429, "overloaded", "not-applied")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	r.want(r.do("PUT", keyPrefix+"k", "v"), 204)
	if n := r.server.bodies.n.Load(); n != 0 {
		t.Errorf("%d bytes still held", n)
	}
}

// waitFor waits until a condition that other goroutines bring about holds.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("waited too long")
		}
	}
}
