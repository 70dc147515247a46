package pki

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
	"github.com/quorate-db/quorate/test/tap"
)

// quick shortens what a rotation takes.
func quick(o *peer.Options) {
	o.Timing.Renew = 100 * time.Millisecond
	o.Timing.Ping = 20 * time.Millisecond // the keeper looks as often
}

// load asks without a pause until stop is called, which gives how many calls were
// made and the first that failed.
func load(t *testing.T, m peer.Mesh, to kv.NodeID) (made *atomic.Int64, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	made = new(atomic.Int64)
	failed := make(chan error, 1)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				text := fmt.Sprintf("%d/%d", w, made.Add(1))
				callCtx, end := context.WithTimeout(t.Context(), patience)
				got, err := peer.Call(callCtx, m, to, peer.MethodTerms, []byte(text))
				end()
				if err == nil && string(got) != text {
					err = fmt.Errorf("asked %s, was answered %q", text, got)
				}
				if err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			}
		})
	}
	return made, func() error {
		cancel()
		wg.Wait()
		select {
		case err := <-failed:
			return err
		default:
			return nil
		}
	}
}

// connections gives how many connections of a node have ended.
func (n *network) ended(id kv.NodeID) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closed[id]
}

// TestRotation replaces the secret of two nodes that talk without a pause, several
// times: no call fails, nobody is thought to be gone, and the old secret is of no use
// afterwards.
func TestRotation(t *testing.T) {
	old := NewSecret()
	rings := []*Keyring{ringOf(t, old), ringOf(t, old)}
	replaceWhileBusy(t, [2]peer.Security{security{rings[0]}, security{rings[1]}}, 3, func() change {
		next, before := NewSecret(), old
		old = next
		return func(step, i int) {
			if err := rings[i].Replace([][]Secret{{before, next}, {next, before}, {next}}[step]); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// change takes one of the two nodes a step on from what secures it to what is next: 0
// accepts both, 1 uses what is next, 2 forgets what was before.
type change func(step, node int)

// replaceWhileBusy takes two nodes that talk without a pause through changes, one step
// and one node at a time: no call fails, nobody is thought to be gone, and connections
// are replaced when a node uses what is next.
func replaceWhileBusy(t *testing.T, by [2]peer.Security, rounds int, next func() change) {
	t.Helper()
	n := newNetwork()
	a := n.start(t, 1, by[0], quick)
	b := n.start(t, 2, by[1], quick)
	made, stop := load(t, a, 2)
	_, stopBack := load(t, b, 1)
	defer func() {
		if t.Failed() {
			n.dump(t)
		}
	}()
	for range rounds {
		do := next()
		for step := range 3 {
			for i := range by {
				ended := n.ended(1)
				do(step, i)
				if step == 1 {
					eventually(t, "connections replaced", func() bool { return n.ended(1) > ended })
				}
				before := made.Load()
				eventually(t, "calls go on", func() bool { return made.Load() > before+50 })
			}
		}
	}
	for _, err := range []error{stop(), stopBack()} {
		if err != nil {
			t.Errorf("a call failed: %v", err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.alarms != 0 {
		t.Errorf("%d alarms of a node that is gone", n.alarms)
	}
}

// TestRemovedSecretEnds: a node that was not given the new secret is cut off, at both
// ends of what it had dialled and of what it had accepted.
func TestRemovedSecretEnds(t *testing.T) {
	secret := NewSecret()
	one := ringOf(t, secret)
	n := newNetwork()
	a := n.start(t, 1, security{one}, quick)
	b := n.start(t, 2, security{ringOf(t, secret)}, quick)
	for _, err := range []error{call(t, a, 2, peer.MethodTerms, "x"), call(t, b, 1, peer.MethodTerms, "x")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := one.Replace([]Secret{NewSecret()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both connections ended", func() bool { return n.ended(1) == 2 && n.ended(2) == 2 })
	for _, err := range []error{call(t, a, 2, peer.MethodTerms, "x"), call(t, b, 1, peer.MethodTerms, "x")} {
		if err == nil {
			t.Fatal("still let in")
		}
	}
}

// TestNothingIsReadableOnTheWire: a value, a node's id and the cluster's pass a tap
// and are not in what it kept; without security all of them are.
func TestNothingIsReadableOnTheWire(t *testing.T) {
	const canary = "canary-5f1d9a-value"
	s := security{ringOf(t, NewSecret())}
	for name, sec := range map[string]peer.Security{"secured": s, "plain": nil} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork()
			var p tap.Tap
			n.start(t, 2, sec, inClusterOf("canary-cluster"))
			direct := n.addresses[2]
			n.addresses[2] = p.Listen(t, func() string { return direct })
			a := n.start(t, 1, sec, inClusterOf("canary-cluster"))
			for _, size := range []int{1, 100, 5000, 100_000} {
				text := canary + string(bytes.Repeat([]byte("x"), size)) + canary
				if err := call(t, a, 2, peer.MethodTerms, text); err != nil {
					t.Fatal(err)
				}
			}
			a.Close() // whose connections go through the tap
			for _, text := range []string{canary, "canary-cluster"} {
				if p.Saw(text) != (sec == nil) {
					t.Errorf("%q was seen: %t", text, p.Saw(text))
				}
			}
		})
	}
}

// TestGoneIsSeenAtOnce: a peer whose process ends without a goodbye raises the alarm,
// as it does without TLS: elections wait for that.
func TestGoneIsSeenAtOnce(t *testing.T) {
	s := security{ringOf(t, NewSecret())}
	n := newNetwork()
	n.start(t, 2, s)
	var mu sync.Mutex
	var cut []net.Conn
	m := n.start(t, 1, s, func(o *peer.Options) {
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
			mu.Lock()
			defer mu.Unlock()
			cut = append(cut, c)
			return c, err
		}
	})
	if err := call(t, m, 2, peer.MethodTerms, "x"); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	for _, c := range cut {
		_ = c.(*net.TCPConn).CloseWrite() // node 2 sees what the end of node 1 looks like
	}
	mu.Unlock()
	eventually(t, "alarm", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.alarms > 0
	})
}
