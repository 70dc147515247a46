package peer_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// benchmarkCalls measures round trips of so many bytes over loopback, both ends in this
// process, by so many callers that each wait for their answer.
func benchmarkCalls(b *testing.B, callers, size int) {
	net := &peer.Loopback{}
	server := net.TCP(b, 2)
	server.Handle(peer.MethodTerms, func(_ kv.NodeID, req []byte, reply func([]byte, error)) { reply(req, nil) })
	client := net.TCP(b, 1)
	for _, m := range []*peer.TCP{server, client} {
		if err := m.Start(); err != nil {
			b.Fatal(err)
		}
	}
	req := make([]byte, size)
	if _, err := peer.Call(context.Background(), client, 2, peer.MethodTerms, req); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	var left, failed atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			ch := make(chan error, 1)
			done := func(_ []byte, err error) { ch <- err }
			for left.Add(-1) >= 0 {
				client.Send(2, peer.MethodTerms, req, time.Now().Add(10*time.Second), done)
				if <-ch != nil {
					failed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	if n := failed.Load(); n != 0 {
		b.Fatalf("%d calls failed", n)
	}
}

func BenchmarkCall1(b *testing.B)        { benchmarkCalls(b, 1, 100) }
func BenchmarkCall64(b *testing.B)       { benchmarkCalls(b, 64, 100) }
func BenchmarkCall512(b *testing.B)      { benchmarkCalls(b, 512, 100) }
func BenchmarkCall64Of4KiB(b *testing.B) { benchmarkCalls(b, 64, 4<<10) }
func BenchmarkCall16Of1MiB(b *testing.B) { benchmarkCalls(b, 16, 1<<20) }
