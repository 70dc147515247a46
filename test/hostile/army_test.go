//go:build blackbox

package hostile

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate-db/quorate/test/proc"
)

// army is those who carry out one kind of load, from an address of its own.
type army struct {
	ctx     context.Context
	cancel  context.CancelFunc
	cluster *proc.Cluster
	ip      string
	strikes atomic.Int64 // connections opened and requests sent
	enough  atomic.Bool  // it has lasted as long as it was to
	good    atomic.Bool  // there was an answer, and not one for load

	mu       sync.Mutex
	statuses map[int]int
}

// firstAnswer is how much longer a kind lasts, at most, until the first answer is there
// that it is to have: a slow machine is no fault.
const firstAnswer = 20 * time.Second

func newArmy(c *proc.Cluster, number int, lasts time.Duration, answers bool) *army {
	a := &army{cluster: c, ip: fmt.Sprintf("127.0.1.%d", 1+number), statuses: map[int]int{}}
	a.ctx, a.cancel = context.WithTimeout(context.Background(), lasts+firstAnswer)
	time.AfterFunc(lasts, func() {
		if a.enough.Store(true); !answers || a.good.Load() {
			a.cancel()
		}
	})
	return a
}

func (a *army) member(i int) *attacker { return &attacker{army: a, id: i, node: 1 + i%a.cluster.Size} }

func (a *army) count(status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.statuses[status]++
	if status != http.StatusTooManyRequests {
		a.good.Store(true)
		if a.enough.Load() {
			a.cancel()
		}
	}
}

// answers gives how many there were of each status.
func (a *army) answers() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.TrimPrefix(fmt.Sprint(a.statuses), "map")
}

// judge looks at what was answered.
func (a *army) judge(t *testing.T, k kind) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	good := 0
	for status, n := range a.statuses {
		if slices.Contains(k.statuses, status) || status == http.StatusTooManyRequests {
			good += n
		} else {
			t.Errorf("%s: %d answers of status %d", k.name, n, status)
		}
	}
	if good == 0 && len(k.statuses) > 0 {
		t.Errorf("%s: not one answer", k.name)
	}
}

// attacker is one worker of an army, which attacks one node.
type attacker struct {
	*army
	id, node int
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

func (a *attacker) http() net.Conn { return a.dial(a.cluster.HTTPAddress(a.node)) }
func (a *attacker) peer() net.Conn { return a.dial(a.cluster.PeerAddress(a.node)) }

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

// Read gives more of it.
func (e *endless) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		k := copy(p[n:], e.text[e.at:])
		n += k
		e.at = (e.at + k) % len(e.text)
	}
	return n, nil
}
