package client

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The benchmark's server is this test binary, run again with serverVariable
// set, so that the processor time of the client can be told from the server's.
const serverVariable = "QUORATE_CLIENT_BENCH_SERVER"

// benchServer answers as a node would and does nothing else. It ends when its
// standard input does.
func benchServer() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	value := make([]byte, 100)
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["Etag"] = []string{`"1846382012833726464"`}
		h["Quorate-Version"] = []string{"1846382012833726464"}
		h["Quorate-Shard"] = []string{"12"}
		h["Quorate-Served-By"] = []string{"00112233445566ff"}
		if r.Method == http.MethodPut {
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusNoContent)
			return
		}
		h["Quorate-Consistency"] = []string{"linearizable"}
		h["Content-Type"] = []string{"application/octet-stream"}
		h["Cache-Control"] = []string{"no-store"}
		h["X-Content-Type-Options"] = []string{"nosniff"}
		h["Content-Security-Policy"] = []string{"sandbox"}
		h["Content-Length"] = []string{"100"}
		w.Write(value)
	}))
	fmt.Println(l.Addr())
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func startBenchServer(b *testing.B) string {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverVariable+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// readResponseTransport is the middle way that was considered: a connection of
// our own, but answers read by net/http.
type readResponseTransport struct{ lean *leanTransport }

func (t *readResponseTransport) closeIdle() {}

func (t *readResponseTransport) roundTrip(ctx context.Context, ep *endpoint, req *request, at schedule) (response, error) {
	c := ep.conns.take(at.start, t.lean.idleTime)
	if c == nil {
		var err error
		if c, err = t.lean.connect(ctx, ep, at.deadline); err != nil {
			return response{}, err
		}
	}
	if err := c.nc.SetDeadline(at.deadline); err != nil {
		return response{}, err
	}
	if err := c.write(t.lean.encode(c, ep, req, at.server), req.body); err != nil {
		return response{}, err
	}
	answer, err := http.ReadResponse(c.in, &http.Request{Method: req.method})
	if err != nil {
		return response{}, err
	}
	resp := responseFrom(answer)
	if resp.body, err = readBody(answer, t.lean.bodyMax); err != nil {
		return response{}, err
	}
	c.used = at.start
	ep.conns.put(c, t.lean.idleMax)
	return resp, nil
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkTransport compares the transports: cpu-µs/op is the client's
// processor time alone.
func BenchmarkTransport(b *testing.B) {
	address := startBenchServer(b)
	for _, kind := range []string{"nethttp", "readresponse", "lean"} {
		for _, clients := range []int{1, 64} {
			for _, op := range []string{"get", "put"} {
				b.Run(fmt.Sprintf("%s/clients=%d/%s", kind, clients, op), func(b *testing.B) {
					c, err := New(Config{Endpoints: []string{address}, Lean: kind != "nethttp", Retry: RetryPolicy{Attempts: 1}})
					if err != nil {
						b.Fatal(err)
					}
					defer c.Close()
					if kind == "readresponse" {
						c.transport = &readResponseTransport{c.transport.(*leanTransport)}
					}
					benchOps(b, c, clients, op)
				})
			}
		}
	}
}

func benchOps(b *testing.B, c *Client, clients int, op string) {
	ctx, value := context.Background(), make([]byte, 100)
	var left atomic.Int64
	left.Store(int64(b.N))
	failed := make(chan error, clients)
	b.ReportAllocs()
	b.ResetTimer()
	before := processorTime(b)
	for range clients {
		go func() {
			var err error
			for err == nil && left.Add(-1) >= 0 {
				if op == "get" {
					_, err = c.Get(ctx, "user1234567890", ReadOptions{})
				} else {
					_, err = c.Put(ctx, "user1234567890", value, PutOptions{})
				}
			}
			failed <- err
		}()
	}
	for range clients {
		if err := <-failed; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}
