//go:build blackbox

package hostile

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// army is those who carry out one kind of load, from an address of its own. It is the
// whole of its process.
type army struct {
	orders
	ctx     context.Context
	cancel  context.CancelFunc
	ip      string
	strikes atomic.Int64 // connections opened and requests sent
	good    atomic.Bool  // there was an answer, and not one for load

	mu       sync.Mutex
	statuses map[int]int
}

// lookEvery is how often an army looks whether it has done enough.
const lookEvery = 5 * time.Millisecond

func newArmy(o orders) *army {
	a := &army{orders: o, ip: fmt.Sprintf("127.0.1.%d", 1+o.Kind), statuses: map[int]int{}}
	a.ctx, a.cancel = context.WithTimeout(context.Background(), o.LastsMax)
	return a
}

// fight carries a kind out.
func (a *army) fight(k kind) {
	go a.watch(k)
	var workers sync.WaitGroup
	for i := range k.workers {
		workers.Go(func() { k.run(a.member(i)) })
	}
	workers.Wait()
	a.cancel()
}

// watch ends it when it has lasted long enough, with as many strikes as the kind is to
// have and its first answer.
func (a *army) watch(k kind) {
	begin := time.Now()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-a.ctx.Done():
			return
		case <-tick.C:
		}
		if time.Since(begin) >= a.Lasts && a.strikes.Load() >= k.strikesMin && (a.good.Load() || len(k.statuses) == 0) {
			a.cancel()
		}
	}
}

func (a *army) member(i int) *attacker { return &attacker{army: a, id: i, node: i % len(a.HTTP)} }

func (a *army) count(status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.statuses[status]++
	if status != http.StatusTooManyRequests {
		a.good.Store(true)
	}
}

// attacker is one worker of an army, which attacks one node.
type attacker struct {
	*army
	id, node int // node: its place among the addresses
}

func (a *attacker) on() bool { return a.ctx.Err() == nil }

// wait pauses, and tells whether to go on.
func (a *attacker) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-a.ctx.Done():
		return false
	}
}

// dial opens a connection that ends with the kind; nil if that is over or there is
// no room.
func (a *attacker) dial(address string) net.Conn {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(a.ip)}, Timeout: time.Second}
	conn, err := d.DialContext(a.ctx, "tcp", address)
	if err != nil {
		a.wait(5 * time.Millisecond) // refused, perhaps; not in a loop without end
		return nil
	}
	context.AfterFunc(a.ctx, func() { _ = conn.Close() })
	a.strikes.Add(1)
	return conn
}

func (a *attacker) http() net.Conn { return a.dial(a.HTTP[a.node]) }
func (a *attacker) peer() net.Conn { return a.dial(a.Peer[a.node]) }

// hold opens connections, does something on each, and keeps them.
func (a *attacker) hold(n int, dial func() net.Conn, do func(net.Conn)) {
	for range n {
		conn := dial()
		if !a.on() {
			return
		}
		if conn != nil {
			do(conn)
		}
	}
	<-a.ctx.Done()
}

// over writes to a connection until that fails, and counts the answer, if there is one.
func (a *attacker) over(conn net.Conn, head string, body io.Reader) {
	defer conn.Close()
	go func() { // the node may answer, and hang up, before it has all
		if _, err := io.WriteString(conn, head); err == nil && body != nil {
			_, _ = io.Copy(conn, body)
		}
	}()
	a.read(conn)
}

// read counts one answer.
func (a *attacker) read(conn net.Conn) {
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	a.count(resp.StatusCode)
}

// repeat sends the same over and over, a connection each.
func (a *attacker) repeat(head string, body func() io.Reader) {
	for a.on() {
		if conn := a.http(); conn != nil {
			var r io.Reader
			if body != nil {
				r = body()
			}
			a.over(conn, head, r)
		}
	}
}

// endless gives the same bytes without end.
type endless struct {
	text string
	at   int
}

// endlessBytes is about how long a text is for copying it to cost next to nothing.
const endlessBytes = 64 << 10

// forever gives readers of a text without end, and upTo readers of its first n bytes.
func forever(text string) func() io.Reader {
	long := strings.Repeat(text, 1+endlessBytes/len(text))
	return func() io.Reader { return &endless{text: long} }
}

func upTo(n int64, text string) func() io.Reader {
	all := forever(text)
	return func() io.Reader { return io.LimitReader(all(), n) }
}

// Read gives more of it.
func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.text[e.at:])
	e.at = (e.at + n) % len(e.text)
	return n, nil
}
