package pki

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate-db/quorate/raftnode/peer"
)

// BenchmarkCalls measures round trips of 100 bytes by 64 callers, plain and secured, both
// ends in this process.
func BenchmarkCalls(b *testing.B) {
	for name, s := range map[string]peer.Security{"plain": nil, "secured": security{ringOf(b, NewSecret())}} {
		for size, callers := range map[int]int{100: 64, 64 << 10: 16} {
			b.Run(name+"/"+map[bool]string{true: "64 of 100 B", false: "16 of 64 KiB"}[size == 100], func(b *testing.B) { benchmarkCalls(b, s, callers, size) })
		}
	}
}

func benchmarkCalls(b *testing.B, s peer.Security, callers, size int) {
	n := newNetwork()
	n.start(b, 2, s)
	m := n.start(b, 1, s)
	req := make([]byte, size)
	if err := call(b, m, 2, peer.MethodTerms, string(req)); err != nil {
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
			for left.Add(-1) >= 0 {
				m.Send(2, peer.MethodTerms, req, time.Now().Add(patience), func(_ []byte, err error) { ch <- err })
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

// BenchmarkHandshake measures one, both ends.
func BenchmarkHandshake(b *testing.B) {
	k := ringOf(b, NewSecret())
	n := newNetwork()
	n.start(b, 2, security{k})
	m := n.start(b, 1, security{k})
	for b.Loop() {
		if _, _, err := m.Dial(b.Context(), n.addresses[2], peer.MethodProbe, nil); err != nil {
			b.Fatal(err)
		}
	}
}
