//go:build blackbox

package hostile

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

func request(method, target string, fields ...string) string {
	head := method + " " + target + " HTTP/1.1\r\nHost: x\r\n"
	for _, f := range fields {
		head += f + "\r\n"
	}
	return head + "\r\n"
}

const asJSON = "Content-Type: application/json"

// kinds are all there are. Three of them attack nobody: their attackers only compute,
// and what the witness sees of that is no fault of the nodes.
var kinds = []kind{
	{"none, at first", 3, 3, compute, nil},
	{"half-open TCP", 6, 300, halfOpen, nil},
	{"slow headers", 6, 180, slowHeaders, nil},
	{"slow bodies", 6, 180, slowBodies, nil},
	{"endless chunks", 6, 15, endlessChunks, []int{413}},
	{"a length of 2^63-1", 6, 100, claimedLength, []int{413}},
	{"a length beyond any", 3, 100, beyondLength, []int{400}},
	{"a huge header", 3, 20, hugeHeader, []int{431}},
	{"ten thousand headers", 3, 50, manyHeaders, []int{431}},
	{"deep JSON", 3, 10, deepJSON, []int{400, 413}},
	{"a million keys in an object", 3, 6, millionKeys, []int{400, 413}},
	{"many connections", 6, 200, manyConnections, []int{200, 404}},
	{"pipelined, answers not read", 6, 24, pipelined, nil},
	{"slow reading of scans", 40, 100, slowScans, nil},
	{"slow reading of large values", 40, 60, slowValues, nil},
	{"none, in between", 3, 3, compute, nil},
	{"bad cursors", 6, 200, badCursors, []int{400}},
	{"a huge batch", 6, 6, hugeBatch, []int{413}},
	{"a huge batch in lines", 6, 6, hugeLines, []int{413}},
	{"many bodies at once", 60, 40, manyBodies, nil},
	{"streams that abort", 12, 30, abortedStreams, nil},
	{"HTTP/2 without TLS", 3, 100, plainHTTP2, nil},
	{"garbage", 6, 100, garbage, []int{400}},
	{"half-open TLS", 6, 180, halfOpenTLS, nil},
	{"scans of everything", 24, 30, scanAll, []int{200}},
	{"deleting ranges", 12, 60, deleteRanges, []int{200, 409}},
	{"half-open peers", 6, 120, halfOpenPeers, nil},
	{"garbage from peers", 6, 18, garbagePeers, nil},
	{"frames of 4 GiB", 6, 100, hugeFrames, nil},
	{"frames that never end", 6, 60, endlessFrames, nil},
	{"pings without end", 6, 40, pingFlood, nil},
	{"TLS at the peer port", 3, 90, peerTLS, nil},
	{"none, at last", 3, 3, compute, nil},
}

// compute attacks nobody.
func compute(a *attacker) {
	a.strikes.Add(1)
	for text := []byte{1}; a.on(); {
		sum := sha256.Sum256(text)
		text = sum[:]
	}
}

func halfOpen(a *attacker) { a.hold(100, a.http, func(net.Conn) {}) }

func slowHeaders(a *attacker) {
	var conns []net.Conn
	for range 60 {
		if conn := a.http(); conn != nil {
			_, _ = io.WriteString(conn, "GET /v1/kv/k HTTP/1.1\r\nHost: x\r\nX-Slow: ")
			conns = append(conns, conn)
		}
	}
	for a.wait(20 * time.Millisecond) {
		for _, conn := range conns {
			_, _ = io.WriteString(conn, "y")
		}
	}
}

func slowBodies(a *attacker) {
	a.hold(60, a.http, func(conn net.Conn) {
		_, _ = io.WriteString(conn, request("PUT", "/v1/kv/k", "Content-Length: 4194304")+strings.Repeat("v", 70<<10))
	})
}

func endlessChunks(a *attacker) {
	a.repeat(request("PUT", "/v1/kv/k", "Transfer-Encoding: chunked"), forever("1000\r\n"+strings.Repeat("v", 4096)+"\r\n"))
}

func claimedLength(a *attacker) {
	a.repeat(request("POST", "/v1/batch", asJSON, "Content-Length: 9223372036854775807"), nil)
}

func beyondLength(a *attacker) {
	a.repeat(request("PUT", "/v1/kv/k", "Content-Length: 99999999999999999999"), nil)
}

func hugeHeader(a *attacker) {
	a.repeat("GET /v1/kv/k HTTP/1.1\r\nHost: x\r\nX-Huge: ", forever("y"))
}

func manyHeaders(a *attacker) {
	a.repeat("GET /v1/kv/k HTTP/1.1\r\nHost: x\r\n", upTo(16*10_000, "X-Some-Name: y\r\n"))
}

// post sends JSON of which a part repeats.
func (a *attacker) post(target, media, before, repeated string, times int) {
	n := len(before) + len(repeated)*times
	head := request("POST", target, "Content-Type: "+media, fmt.Sprintf("Content-Length: %d", n)) + before
	a.repeat(head, upTo(int64(n-len(before)), repeated))
}

func deepJSON(a *attacker) { a.post("/v1/txn", "application/json", `{"then":`, "[", 4<<20) }

func millionKeys(a *attacker) {
	a.post("/v1/txn", "application/json", `{"if":[],`, `"key":[],`, 1_000_000)
}

// manyConnections comes from an address for each worker, so that it meets the limits of
// the node too, and not only those of one address.
func manyConnections(a *attacker) {
	a.ip = fmt.Sprintf("127.0.2.%d", 1+a.id)
	for i := 0; a.on(); i++ {
		if conn := a.http(); conn != nil {
			_, _ = io.WriteString(conn, request("GET", "/v1/kv/none"))
			if i%50 == 0 {
				a.read(conn)
			}
		}
	}
}

func pipelined(a *attacker) {
	text := strings.Repeat(request("GET", "/v1/kv/large"), 1000)
	a.hold(4, a.http, func(conn net.Conn) { go func() { _, _ = io.WriteString(conn, text) }() })
}

func slowScans(a *attacker) {
	a.hold(5, a.http, func(conn net.Conn) {
		_, _ = io.WriteString(conn, request("GET", "/v1/kv?limit=10000", "Accept: application/x-ndjson"))
	})
}

func slowValues(a *attacker) {
	a.hold(2, a.http, func(conn net.Conn) { _, _ = io.WriteString(conn, request("GET", "/v1/kv/large")) })
}

func badCursors(a *attacker) {
	conn := a.http()
	if conn == nil {
		return
	}
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr}
	for i := 0; a.on(); i++ {
		resp, err := c.Get(fmt.Sprintf("http://%s/v1/kv?prefix=a&cursor=%s%d", a.HTTP[a.node], strings.Repeat("AbC-", i%2000), i))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		a.count(resp.StatusCode)
		a.strikes.Add(1)
	}
}

const oneOp = `{"op":"delete","key":"hostile"}`

func hugeBatch(a *attacker) { a.post("/v1/batch", "application/json", `{"ops":[`, oneOp+",", 300_000) }

func hugeLines(a *attacker) { a.post("/v1/batch", "application/x-ndjson", "", oneOp+"\n", 300_000) }

// manyBodies leaves out the last byte of each.
func manyBodies(a *attacker) {
	body := upTo(4_000_000, "v")
	a.hold(4, a.http, func(conn net.Conn) {
		head := request("PUT", "/v1/kv/k", "Content-Length: 4000001")
		go func() {
			_, _ = io.Copy(conn, io.MultiReader(strings.NewReader(head), body()))
		}()
	})
}

func abortedStreams(a *attacker) {
	for a.on() {
		conn := a.http()
		if conn == nil {
			continue
		}
		_, _ = io.WriteString(conn, request("GET", "/v1/kv?", "Accept: application/x-ndjson"))
		_, _ = conn.Read(make([]byte, 512))
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
}

func plainHTTP2(a *attacker) {
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	for a.on() {
		if conn := a.http(); conn != nil {
			_, _ = io.WriteString(conn, preface+strings.Repeat("\x00\x00\x00\x04\x00\x00\x00\x00\x00", 1000))
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
	}
}

func garbage(a *attacker) {
	for i := byte(0); a.on(); i++ {
		if conn := a.http(); conn != nil {
			a.over(conn, string([]byte{i, 0xff, i * 7, '\r', '\n', i, 0, '\r', '\n', '\r', '\n'}), nil)
		}
	}
}

// clientHello is how a TLS connection begins: a record that claims more than comes.
const clientHello = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"

func halfOpenTLS(a *attacker) {
	a.hold(60, a.http, func(conn net.Conn) { _, _ = io.WriteString(conn, clientHello) })
}

func scanAll(a *attacker) { a.repeat(request("GET", "/v1/kv?limit=10000"), nil) }

func deleteRanges(a *attacker) { a.repeat(request("DELETE", "/v1/kv?prefix=hostile"), nil) }
