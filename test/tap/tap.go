// Package tap listens in on connections.
package tap

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
)

// Tap listens in front of an address and keeps every byte that passes, either way.
type Tap struct {
	mu   sync.Mutex
	seen bytes.Buffer
}

// tapBytesMax bounds what a Tap keeps.
const tapBytesMax = 256 << 20

// Write keeps bytes.
func (p *Tap) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen.Len()+len(b) > tapBytesMax {
		return 0, io.ErrShortBuffer
	}
	return p.seen.Write(b)
}

// Bytes gives how many bytes have passed.
func (p *Tap) Bytes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.Len()
}

// Saw reports whether a text was among them.
func (p *Tap) Saw(text string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Contains(p.seen.Bytes(), []byte(text))
}

// Listen passes on to an address what comes to the one it gives, until the test ends.
// By then what passed has to be over: listen before whatever speaks through the tap starts.
func (p *Tap) Listen(t testing.TB, to func() string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to())
			if err != nil {
				_ = in.Close()
				continue
			}
			wg.Go(func() { p.pass(in, out) })
			wg.Go(func() { p.pass(out, in) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().String()
}

func (p *Tap) pass(to, from net.Conn) {
	_, _ = io.Copy(to, io.TeeReader(from, p))
	_ = to.Close()
	_ = from.Close()
}
