package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// rawServer answers each request, whatever it is, by the next of its answers,
// byte for byte, and then closes the connection if the answer ends in "!close".
type rawServer struct {
	l        net.Listener
	answers  []string
	requests atomic.Int32
	conns    atomic.Int32
	wg       sync.WaitGroup
}

func newRawServer(t *testing.T, answers ...string) *rawServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &rawServer{l: l, answers: answers}
	s.wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			s.conns.Add(1)
			s.wg.Go(func() { s.serve(nc) })
		}
	})
	t.Cleanup(func() { l.Close(); s.wg.Wait() })
	return s
}

func (s *rawServer) serve(nc net.Conn) {
	defer nc.Close()
	in := bufio.NewReader(nc)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		io.Copy(io.Discard, r.Body)
		n := int(s.requests.Add(1)) - 1
		text, end := strings.CutSuffix(s.answers[min(n, len(s.answers)-1)], "!close")
		if _, err := io.WriteString(nc, text); err != nil || end {
			return
		}
	}
}

func leanTo(t *testing.T, address string, attempts int) *Client {
	t.Helper()
	c, err := New(Config{Endpoints: []string{address}, Lean: true, Timeout: 5 * time.Second,
		Retry: RetryPolicy{Attempts: attempts, BackoffMin: time.Millisecond, BackoffMax: time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestLeanReadsWhatServersSend(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	long := strings.Repeat("x", 10_000)
	cases := []struct {
		name, answer string
		body         string // wanted
		kept         bool   // the connection is used again
		fails        string // part of the error, if one is wanted
	}{
		{"length", ok + "Content-Length: 5\r\n\r\nhello", "hello", true, ""},
		{"long", ok + "content-length: 10000\r\n\r\n" + long, long, true, ""},
		{"empty", ok + "Content-Length: 0\r\n\r\n", "", true, ""},
		{"bare line feeds", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", "hello", true, ""},
		{"no reason", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "", true, ""},
		{"no content", "HTTP/1.1 204 No Content\r\n\r\n", "", true, ""},
		{"chunked", ok + "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;ext=1\r\nlo\r\n0\r\n\r\n", "hello", true, ""},
		{"trailer", ok + "Transfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n", "hello", true, ""},
		{"informational", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok + "Content-Length: 2\r\n\r\nhi", "hi", true, ""},
		{"until the end", ok + "\r\nhello!close", "hello", false, ""},
		{"to be closed", ok + "Connection: close\r\nContent-Length: 5\r\n\r\nhello", "hello", false, ""},
		{"old", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", false, ""},
		{"more than asked", ok + "Content-Length: 5\r\n\r\nhelloHTTP", "hello", false, ""},

		{"cut in the body", ok + "Content-Length: 9\r\n\r\nhello!close", "", false, "unexpected EOF"},
		{"cut in a chunk", ok + "Transfer-Encoding: chunked\r\n\r\n9\r\nhello!close", "", false, "unexpected EOF"},
		{"cut in the header", ok + "Content-Le!close", "", false, "EOF"},
		{"nothing", "!close", "", false, "EOF"},
		{"not HTTP", "SSH-2.0-OpenSSH_9\r\n!close", "", false, "not an answer of HTTP/1"},
		{"bad status", "HTTP/1.1 2x0 OK\r\n\r\n!close", "", false, "bad status"},
		{"low status", "HTTP/1.1 042 OK\r\n\r\n!close", "", false, "bad status"},
		{"switch", "HTTP/1.1 101 Switching\r\n\r\n!close", "", false, "switched"},
		{"bad length", ok + "Content-Length: -5\r\n\r\n!close", "", false, "Content-Length"},
		{"two lengths", ok + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!close", "", false, "Content-Length"},
		{"huge length", ok + "Content-Length: 99999999999\r\n\r\n!close", "", false, "ResponseBytesMax"},
		{"huge chunk", ok + "Transfer-Encoding: chunked\r\n\r\nfffffffffff\r\n!close", "", false, "ResponseBytesMax"},
		{"bad chunk", ok + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n!close", "", false, "chunk size"},
		{"long chunk", ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n!close", "", false, "does not end"},
		{"gzip", ok + "Transfer-Encoding: gzip\r\n\r\n!close", "", false, "transfer encoding"},
		{"length and chunks", ok + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n!close", "", false, "twice"},
		{"old with chunks", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n!close", "", false, "twice"},
		{"bad header", ok + "no colon\r\n\r\n!close", "", false, "bad header"},
		{"folded header", ok + "A: b\r\n c\r\n\r\n!close", "", false, "bad header"},
		{"long header line", ok + "A: " + long + "\r\n\r\n!close", "", false, "too long"},
		{"large header", ok + strings.Repeat("A: "+long[:1000]+"\r\n", 70) + "\r\n!close", "", false, "too large"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			s := newRawServer(t, tc.answer)
			c := leanTo(t, s.l.Addr().String(), 1)
			for range 2 {
				item, err := c.Get(t.Context(), "k", ReadOptions{})
				if tc.fails != "" {
					if err == nil || !strings.Contains(err.Error(), tc.fails) {
						t.Fatalf("error %v, want %q", err, tc.fails)
					}
					return
				}
				if err != nil || string(item.Value) != tc.body {
					t.Fatalf("%d bytes, %v", len(item.Value), err)
				}
			}
			if kept := s.conns.Load() == 1; kept != tc.kept {
				t.Errorf("%d connections for two requests", s.conns.Load())
			}
		})
	}
}

func TestLeanReadsHeaderFields(t *testing.T) {
	s := newRawServer(t, "HTTP/1.1 200 OK\r\netag: \"12\"\r\nQUORATE-VERSION: 18446744073709551615\r\nQuorate-Shard: 7\r\n"+
		"Quorate-Served-By:  abc \r\nQuorate-Consistency: stale\r\nContent-Type: text/x\r\nQuorate-Expires: 2030-01-02T03:04:05.006Z\r\n"+
		"X-Unknown-Is-Fine: y\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nETag: W/\"12\"\r\nContent-Length: 0\r\n\r\n")
	c := leanTo(t, s.l.Addr().String(), 1)
	item, err := c.Get(t.Context(), "k", ReadOptions{})
	want := Item{Key: "k", Value: []byte{}, Version: kv.Version(1<<64 - 1), ContentType: "text/x",
		Expires: time.Date(2030, 1, 2, 3, 4, 5, 6e6, time.UTC), Served: Served{7, "abc", kv.Stale}}
	if err != nil || !item.Expires.Equal(want.Expires) || item.Version != want.Version || item.ContentType != want.ContentType || item.Served != want.Served {
		t.Errorf("%+v, %v", item, err)
	}
	if item, err := c.Get(t.Context(), "k", ReadOptions{}); err != nil || item.Version != 12 || item.ContentType != "" {
		t.Errorf("%+v, %v", item, err)
	}
}

// TestLeanStaleConnection: a connection that the server has closed while it was
// idle is replaced without that being an attempt, if the request may be repeated.
func TestLeanStaleConnection(t *testing.T) {
	const ok = "HTTP/1.1 204 No Content\r\nQuorate-Version: 5\r\n\r\n"
	for _, tc := range []struct {
		name     string
		attempts int
		fails    bool
	}{{"with an idempotency key", 2, false}, {"without", 1, true}} {
		t.Run(tc.name, func(t *testing.T) {
			s := newRawServer(t, ok+"!close", ok)
			c := leanTo(t, s.l.Addr().String(), tc.attempts)
			if _, err := c.Put(t.Context(), "k", nil, PutOptions{}); err != nil {
				t.Fatal(err)
			}
			_, err := c.Put(t.Context(), "k", nil, PutOptions{})
			if tc.fails {
				// Nobody can say whether the server has seen it.
				if !IsOutcomeUnknown(err) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil || s.conns.Load() != 2 {
				t.Errorf("%v, %d connections", err, s.conns.Load())
			}
		})
	}
}

// TestLeanLooksBeforeItWrites: after a longer idle time a closed connection is
// noticed before anything is sent on it.
func TestLeanLooksBeforeItWrites(t *testing.T) {
	const ok = "HTTP/1.1 204 No Content\r\nQuorate-Version: 5\r\n\r\n"
	s := newRawServer(t, ok+"!close", ok)
	c := leanTo(t, s.l.Addr().String(), 1)
	if _, err := c.Put(t.Context(), "k", nil, PutOptions{}); err != nil {
		t.Fatal(err)
	}
	pool := &c.endpoints.given[0].conns
	conn := pool.idle[0]
	for conn.quiet() { // until the end of the connection has arrived
		time.Sleep(time.Millisecond)
	}
	conn.used = conn.used.Add(-2 * idleUnchecked)
	if _, err := c.Put(t.Context(), "k", nil, PutOptions{}); err != nil || s.conns.Load() != 2 {
		t.Errorf("%v, %d connections", err, s.conns.Load())
	}
	pool.idle[0].used = pool.idle[0].used.Add(-2 * idleUnchecked)
	if _, err := c.Put(t.Context(), "k", nil, PutOptions{}); err != nil || s.conns.Load() != 2 {
		t.Errorf("a good idle connection: %v, %d connections", err, s.conns.Load())
	}
}

func TestLeanPoolBounds(t *testing.T) {
	var p connPool
	now := time.Unix(1000, 0)
	ends := make([]net.Conn, 4)
	conns := make([]*leanConn, 4)
	for i := range conns {
		var nc net.Conn
		nc, ends[i] = net.Pipe()
		conns[i] = newLeanConn(nc)
		conns[i].used = now.Add(time.Duration(i) * time.Second)
		p.put(conns[i], 3)
	}
	closed := func(i int) bool {
		ends[i].SetReadDeadline(time.Now().Add(time.Millisecond))
		_, err := ends[i].Read(make([]byte, 1))
		return errors.Is(err, io.EOF)
	}
	if !closed(3) || closed(0) {
		t.Error("the bound is not kept")
	}
	if c := p.take(now.Add(3*time.Second), 2500*time.Millisecond); c != conns[2] || !closed(0) {
		t.Error("not the last used, or the oldest not closed")
	}
	if c := p.take(now.Add(time.Hour), time.Minute); c != nil || !closed(1) {
		t.Error("an expired connection was given")
	}
	p.put(conns[2], 3)
	p.close()
	if !closed(2) {
		t.Error("close leaves a connection open")
	}
	nc, end := net.Pipe()
	ends[0] = end
	p.put(newLeanConn(nc), 3)
	if !closed(0) {
		t.Error("a closed pool takes connections")
	}
}

func TestLeanDeadlineAndCancel(t *testing.T) {
	s := newRawServer(t, "") // reads and never answers
	c := leanTo(t, s.l.Addr().String(), 1)
	c.cfg.Timeout = 50 * time.Millisecond
	start := time.Now()
	_, err := c.Put(t.Context(), "k", nil, PutOptions{})
	if !IsOutcomeUnknown(err) || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 3*time.Second {
		t.Errorf("%v after %s", err, time.Since(start))
	}
	c.cfg.Timeout = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for s.requests.Load() < 2 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if _, err := c.Get(ctx, "k", ReadOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if n := len(c.endpoints.given[0].conns.idle); n != 0 {
		t.Errorf("%d connections were kept", n)
	}
}

// TestLeanRequestOnTheWire: what is sent, byte for byte.
func TestLeanRequestOnTheWire(t *testing.T) {
	lean := newLeanTransport(Config{UserAgent: "ua"})
	here, there := net.Pipe()
	defer there.Close()
	c := newLeanConn(here)
	defer here.Close()
	got := make(chan []byte, 1)
	go func() {
		b := make([]byte, 1000)
		n, _ := there.Read(b)
		got <- b[:n]
	}()
	req := &request{method: "PUT", target: "/v1/kv/a?ttl=1s", body: []byte("v"), contentType: "text/x", ifMatch: `"7"`, idempotencyKey: "id"}
	if err := c.write(lean.encode(c, newEndpoint("http", "h:1"), req, 1500*time.Millisecond), req.body); err != nil {
		t.Fatal(err)
	}
	want := "PUT /v1/kv/a?ttl=1s HTTP/1.1\r\nHost: h:1\r\nUser-Agent: ua\r\nQuorate-Timeout: 1500ms\r\nContent-Type: text/x\r\n" +
		"If-Match: \"7\"\r\nIdempotency-Key: id\r\nContent-Length: 1\r\n\r\nv"
	if b := <-got; string(b) != want {
		t.Errorf("sent %q\nwant %q", b, want)
	}
}

// readOnly is a connection that gives fixed bytes.
type readOnly struct {
	net.Conn
	io.Reader
}

func (r readOnly) Read(b []byte) (int, error) { return r.Reader.Read(b) }

// FuzzLeanRead: nothing that a server sends makes the reader panic or hold more
// than its limit, and what it accepts net/http reads the same.
func FuzzLeanRead(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 204 No Content\r\nETag: \"1\"\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", "HTTP/1.0 404 Not Found\r\n\r\nx",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 1 << 10
		c := newLeanConn(readOnly{Reader: bytes.NewReader(data)})
		resp, _, err := c.read(limit)
		if err != nil {
			return
		}
		if len(resp.body) > limit || resp.status < 200 {
			t.Fatalf("status %d, %d bytes", resp.status, len(resp.body))
		}
		theirs := bufio.NewReader(bytes.NewReader(data))
		for {
			a, err := http.ReadResponse(theirs, &http.Request{Method: "GET"})
			if err != nil {
				return // stricter than we are
			}
			if a.StatusCode < 200 {
				continue
			}
			body, err := io.ReadAll(a.Body)
			if err == nil && (a.StatusCode != resp.status || !bytes.Equal(body, resp.body)) {
				t.Fatalf("status %d, body %q; net/http reads %d, %q", resp.status, resp.body, a.StatusCode, body)
			}
			return
		}
	})
}

// A server that dies after it took a write leaves the connection broken and refuses the
// next one. The write may have been applied, whatever became of the attempt to send it
// again.
func TestServerDiesWithTheWrite(t *testing.T) {
	for _, lean := range []bool{true, false} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() {
			nc, err := l.Accept()
			if err != nil {
				served <- err
				return
			}
			in := bufio.NewReader(nc)
			if _, err = http.ReadRequest(in); err == nil {
				_, err = io.WriteString(nc, "HTTP/1.1 204 No Content\r\nQuorate-Version: 8\r\n\r\n")
			}
			var r *http.Request
			if err == nil {
				r, err = http.ReadRequest(in)
			}
			if err == nil {
				_, err = io.Copy(io.Discard, r.Body)
			}
			served <- errors.Join(err, l.Close(), nc.Close())
		}()
		c, err := New(Config{Endpoints: []string{l.Addr().String()}, Lean: lean, Timeout: 5 * time.Second,
			Retry: RetryPolicy{Attempts: 3, BackoffMin: time.Millisecond, BackoffMax: time.Millisecond}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Put(t.Context(), "k", []byte("v"), PutOptions{}); err != nil {
			t.Fatal(err)
		}
		_, err = c.Put(t.Context(), "k", []byte("w"), PutOptions{})
		if !IsOutcomeUnknown(err) || IsUnavailable(err) {
			t.Errorf("lean %t: %v (outcome %q), want an unknown outcome", lean, err, OutcomeOf(err))
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
