package httpd

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// plainRig serves a rig's handlers by net/http alone, and gives the address.
func plainRig(t *testing.T) (*rig, string) {
	r := newRig(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = r.server.http.Serve(l) }() // until the rig is shut down
	return r, l.Addr().String()
}

// script makes the bytes of a few requests, and gives their methods: most are plain,
// some are odd in one way.
func script(rnd *rand.Rand) (text []byte, methods []string) {
	pick := func(of ...string) string { return of[rnd.IntN(len(of))] }
	var b bytes.Buffer
	for range 1 + rnd.IntN(6) {
		method, body, length := pick("GET", "GET", "PUT", "PUT", "HEAD", "DELETE", "POST"), "", ""
		target := keyPrefix + pick("a", "b", "a/b", "a//b", "%41", "%2f%00", "a%2Fb", "k.~_-", "a+b", "sp%20ce") + pick("", "", "", "?ttl=5m", "?op=add&delta=3", "?", "?nonsense=1")
		if method == "PUT" || rnd.IntN(12) == 0 {
			body = strings.Repeat("v", rnd.IntN(3)*rnd.IntN(40))
			length = fmt.Sprintf("Content-Length: %d\r\n", len(body))
		}
		fields := "Host: " + pick("x", "127.0.0.1:7001", "[::1]:80") + "\r\n"
		for range rnd.IntN(4) {
			fields += pick("If-Match: \"5\"", "if-none-match: *", "If-Match: *", "Content-Type: text/plain", "content-type:application/json ", "Quorate-Timeout: 2s",
				"Quorate-Timeout: nonsense", "X-Any:  thing\t", "x-aNy: other", "Idempotency-Key: a", "Accept: application/json", "Sec-Fetch-Site: cross-site",
				"Connection: keep-alive") + "\r\n"
		}
		proto := "HTTP/1.1"
		switch rnd.IntN(24) { // what is not plain
		case 0:
			fields += pick("Expect: 100-continue", "Expect: nonsense", "Upgrade: h2c", "Connection: close", "Connection: upgrade", "Pragma: no-cache", "Te: trailers") + "\r\n"
		case 1:
			fields += pick("Bad Name: x", "No-Colon", ": empty", " folded: x", "Ctl: \x01", "High: \xff", "Cr: a\rb", "Host: y") + "\r\n"
		case 2:
			body, length = "3\r\nabc\r\n0\r\n\r\n", "Transfer-Encoding: chunked\r\n"
		case 3:
			length = pick("Content-Length: -1", "Content-Length: +0", "Content-Length: 0x1", "Content-Length: ", "Content-Length: 0\r\nContent-Length: 0",
				"Content-Length: 99999999999999999999", "Content-Length: 0\r\nTransfer-Encoding: chunked") + "\r\n"
			body = ""
		case 4:
			target = pick("/v1/limits", "/v1/kv", "/nowhere", "*", "http://x"+target, keyPrefix, keyPrefix+"%zz", keyPrefix+"a b", keyPrefix+"\x7f", keyPrefix+"a#b", keyPrefix+"\xc3\xa4")
		case 5:
			proto = pick("HTTP/1.0", "HTTP/1.2", "http/1.1", "HTTP/1.1 ", "")
		case 6:
			method = pick("PATCH", "get", "G T", "", "OPTIONS")
		case 7:
			fields = strings.ReplaceAll(fields, "\r\n", "\n")
		case 8:
			fields = ""
		}
		methods = append(methods, method)
		b.WriteString(method + " " + target + " " + proto + "\r\n" + fields + length + "\r\n" + body)
	}
	// The last: whatever was not answered is answered or refused before the end.
	b.WriteString("GET /v1/limits HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	return b.Bytes(), methods
}

// exchangeBytes writes a script, cut into pieces, and gives all answers.
func exchangeBytes(t *testing.T, addr string, text []byte, methods []string, cuts []int) []string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return exchangeOn(t, c, text, methods, cuts)
}

// exchangeOn is exchangeBytes on a connection, which it closes.
func exchangeOn(t *testing.T, c net.Conn, text []byte, methods []string, cuts []int) []string {
	t.Helper()
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	go func() { // the server may hang up before it has all
		from := 0
		for _, to := range append(cuts, len(text)) {
			_, _ = c.Write(text[from:to])
			from = to
		}
	}()
	var answers []string
	in := bufio.NewReader(c)
	for {
		method := "GET"
		if len(methods) > 0 {
			method = methods[0]
		}
		resp, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			return answers
		}
		if resp.StatusCode >= 200 && len(methods) > 0 {
			methods = methods[1:]
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.Close {
			err = nil // what the server did not read any more may reset the connection
		}
		resp.Header.Del("Date")
		names := slices.Sorted(maps.Keys(resp.Header))
		text := fmt.Sprint(resp.StatusCode, resp.Close, resp.ContentLength, string(body), err)
		for _, n := range names {
			text += fmt.Sprintf("\n%s: %q", n, resp.Header[n])
		}
		answers = append(answers, text)
		if resp.Close {
			return answers
		}
	}
}

// The dumb twin of the fast connections is net/http: whatever is sent, however it is
// cut into packets, both give the same answers and have the same effect.
func TestFastConnectionsAnswerLikeNetHTTP(t *testing.T) {
	fast := newRig(t)
	plain, addr := plainRig(t)
	whole := 0
	for seed := range uint64(600) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		text, methods := script(rnd)
		var cuts []int
		for range rnd.IntN(3) {
			cuts = append(cuts, rnd.IntN(len(text)))
		}
		slices.Sort(cuts)
		got, want := exchangeBytes(t, fast.addr, text, methods, cuts), exchangeBytes(t, addr, text, methods, nil)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d\n%q\nfast: %q\nnet/http: %q", seed, text, got, want)
		}
		req := fastRequest{http: &http.Request{Header: http.Header{}}}
		if _, v := req.parse(text); v == fastWhole {
			whole++
		}
	}
	if whole < 300 {
		t.Errorf("only %d of 600 scripts begin with a request that is served fast", whole)
	}
	if !reflect.DeepEqual(keysAndValues(fast.data), keysAndValues(plain.data)) {
		t.Errorf("fast: %v, net/http: %v", keysAndValues(fast.data), keysAndValues(plain.data))
	}
}

func keysAndValues(d *fakeData) map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[string]string{}
	for k, it := range d.items {
		out[k] = fmt.Sprint(it.Version, string(it.Value), it.ContentType)
	}
	return out
}

// Whatever comes, the parser does not panic, and does not wait for more of what can
// never become whole: a full buffer is whole, or not for it.
func FuzzFastParse(f *testing.F) {
	for seed := range uint64(50) {
		text, _ := script(rand.New(rand.NewPCG(seed, 2)))
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := fastRequest{http: &http.Request{Header: http.Header{}}}
		n, v := r.parse(b)
		if v == fastWhole && (n <= 0 || n > len(b) || n > fastBufferMax) {
			t.Errorf("a request of %d bytes in %d", n, len(b))
		}
		if v == fastPartial && len(b) >= fastBufferMax {
			t.Errorf("%d bytes are not enough", len(b))
		}
		if v == fastWhole {
			first, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
			if err != nil {
				t.Fatalf("net/http: %v", err)
			}
			body, err := io.ReadAll(first.Body)
			mine, _ := io.ReadAll(r.http.Body)
			if err != nil || !bytes.Equal(body, mine) || first.Method != r.http.Method || first.Host != r.http.Host ||
				first.URL.String() != r.http.URL.String() || first.ContentLength != r.http.ContentLength {
				t.Errorf("net/http reads %s %s %d, %v", first.Method, first.URL, first.ContentLength, err)
			}
			got := r.http.Header.Clone()
			if !reflect.DeepEqual(got, first.Header) {
				t.Errorf("header %v, net/http reads %v", got, first.Header)
			}
		}
	})
}

// What fills the buffer and is not whole goes to net/http: large heads, large bodies.
func TestLargeRequestsGoToNetHTTP(t *testing.T) {
	r := newRig(t)
	for _, size := range []int{fastBodyMax - 1, fastBodyMax, fastBodyMax + 1, 200_000} {
		value := strings.Repeat("x", size)
		c := r.dial()
		c.write(fmt.Sprintf("PUT /v1/kv/k%d HTTP/1.1\r\nHost: x\r\nX-Pad: %s\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("p", 5000), size, value))
		if a := c.answer("PUT"); a.status != 201 {
			t.Fatalf("%d bytes: %d %s", size, a.status, a.body)
		}
		if a := c.write(fmt.Sprintf("GET /v1/kv/k%d HTTP/1.1\r\nHost: x\r\n\r\n", size)).answer("GET"); a.body != value {
			t.Errorf("%d bytes: %d, %d bytes came back", size, a.status, len(a.body))
		}
	}
	c := r.dial().write("GET /v1/kv/none HTTP/1.1\r\nHost: x\r\nX-Pad: " + strings.Repeat("p", fastHeadMax) + "\r\n\r\n")
	if a := c.answer("GET"); a.status != 404 {
		t.Errorf("large head: %d", a.status)
	}
}

// Shutdown ends connections that are served fast: idle ones at once, busy ones with
// their answer, which says so.
func TestShutdownEndsFastConnections(t *testing.T) {
	r := newRig(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	var gets atomic.Int32
	r.data.fail = func(context.Context, string) error {
		if gets.Add(1) == 2 {
			close(entered)
			<-leave
		}
		return nil
	}
	idle, busy := r.dial(), r.dial()
	idle.write("GET /v1/kv/k HTTP/1.1\r\nHost: x\r\n\r\n").answer("GET")
	busy.write("GET /v1/kv/k HTTP/1.1\r\nHost: x\r\n\r\n")
	<-entered
	done := make(chan error, 1)
	go func() { done <- r.server.Shutdown(t.Context()) }()
	idle.closed()
	select {
	case err := <-done:
		t.Fatalf("shutdown did not wait: %v", err)
	default:
	}
	close(leave)
	if a := busy.answer("GET"); a.status != 404 || a.header.Get("Connection") != "close" {
		t.Errorf("the busy one: %d %v", a.status, a.header)
	}
	busy.closed()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A header's value cannot end its line, and Date is the second that it is.
func TestFastResponseHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &fastResponse{header: http.Header{}}
		for range 2 {
			w.reset("GET")
			w.Header()["X"] = []string{"a\r\nb: c"}
			w.WriteHeader(200)
			want := "Date: " + time.Now().UTC().Format(http.TimeFormat) + "\r\n"
			if text := string(w.out); !strings.Contains(text, "X: a  b: c\r\n") || !strings.Contains(text, want) {
				t.Errorf("%q", text)
			}
			time.Sleep(1500 * time.Millisecond) // virtual
		}
	})
}
