package httpd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const paceRate = 1 << 20

// TestPace: whoever comes first is not held up, however much he takes; others wait until
// that is paid, one after the other, and go on when some of it is given back.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, begin := newPace(paceRate), time.Now()
		after := func(want time.Duration, bytes int64) {
			t.Helper()
			if err := p.enter(t.Context(), bytes); err != nil {
				t.Fatal(err)
			}
			if got := time.Since(begin).Round(time.Millisecond); got != want {
				t.Errorf("%d bytes were taken after %s, want %s", bytes, got, want)
			}
		}
		after(0, 1)
		after(0, paceCredit+2*paceRate-1)
		if c := p.credit(time.Now()); c != 0 {
			t.Errorf("credit %d in debt", c)
		}
		after(2*time.Second, 3*paceRate)
		time.Sleep(time.Second)
		go func() { time.Sleep(time.Second); p.add(-paceRate) }()
		after(4*time.Second, paceRate) // it would have been after 5
		time.Sleep(time.Hour)
		begin = time.Now()
		after(0, paceCredit) // an hour without saves no more than the credit

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		p.add(5 * paceRate)
		before := p.owes(time.Now())
		if err := p.enter(ctx, paceRate); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("whoever cannot wait: %v", err)
		}
		if owes := p.owes(time.Now()); owes != before-time.Second {
			t.Errorf("whoever did not get it took it: owes %s", owes)
		}
	})
}

// TestPaceInOrder: who waits goes on in the order of arrival, and at the rate.
func TestPaceInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, begin := newPace(paceRate), time.Now()
		p.add(paceCredit)
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				if err := p.enter(t.Context(), paceRate); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, i)
			})
			synctest.Wait()
		}
		wg.Wait()
		if !slices.IsSorted(order) || len(order) != 10 {
			t.Errorf("order %v", order)
		}
		if took := time.Since(begin).Round(10 * time.Millisecond); took != 9*time.Second {
			t.Errorf("10 MiB at 1 MiB/s took %s, want 9 s", took)
		}
	})
}

// TestPaceSurvivesConnections: a client that hangs up and comes back owes what it owed,
// and is forgotten when it has paid.
func TestPaceSurvivesConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := Limits{LargeBytesPerClient: paceRate}
		l.setDefaults()
		d := &door{limits: &l}
		come := func() (*fakeConn, *client) {
			conn := &fakeConn{addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}}
			if !d.admit(conn) {
				t.Fatal("refused")
			}
			return conn, d.places[conn].client
		}
		conn, first := come()
		first.pace.add(2 * paceRate)
		d.leave(conn)
		time.Sleep(time.Second)
		conn, second := come()
		if second != first {
			t.Error("a new connection is a new client")
		}
		d.leave(conn)
		time.Sleep(time.Second + time.Millisecond)
		synctest.Wait()
		d.mu.Lock()
		defer d.mu.Unlock()
		if len(d.clients) != 0 {
			t.Errorf("%d clients are kept that have paid", len(d.clients))
		}
	})
}

// TestLargeRequestsAreSlowedDown: beyond its credit a client's large bodies come later
// and are not refused.
func TestLargeRequestsAreSlowedDown(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Limits.LargeBytesPerClient = 10 << 20 })
	haveRival(r)
	body := strings.Repeat("v", 3<<20)
	begin := time.Now()
	for range 6 { // 18 MiB, of which the last waits for what is beyond the credit
		if a := r.do("PUT", keyPrefix+"large", body); a.status/100 != 2 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	if took := time.Since(begin); took < 500*time.Millisecond {
		t.Errorf("18 MiB at 10 MiB/s with a credit of 8 took %s", took)
	}
}

// TestInDebt: a client that owes minutes has its small requests served, its large ones
// refused when they cannot wait, and no other is the worse for it.
func TestInDebt(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Limits.LargeBytesPerClient = paceRate })
	haveRival(r)
	large := strings.Repeat("v", 100<<10)
	r.want(r.do("PUT", keyPrefix+"k", large), 201)
	r.server.door.mu.Lock()
	for _, c := range r.server.door.clients {
		c.pace.add(600 * paceRate)
	}
	r.server.door.mu.Unlock()
	r.want(r.do("PUT", keyPrefix+"small", "v"), 201)
	r.want(r.do("GET", keyPrefix+"k", ""), 200)
	r.want(r.do("PUT", keyPrefix+"k", large, "Quorate-Timeout", "10ms"), 429, "overloaded", "not-applied")
	r.want(r.do("GET", "/v1/kv?limit=1", "", "Quorate-Timeout", "10ms"), 429, "overloaded", "not-applied")
	r.want(r.do("GET", "/v1/kv", "", "Quorate-Timeout", "10ms", "Accept", "application/x-ndjson"), 429, "overloaded", "not-applied")
	r.want(r.do("GET", keyPrefix+"k", "", "Quorate-Timeout", "10ms"), 429, "overloaded")
	r.want(r.do("GET", keyPrefix+"small", "", "Quorate-Timeout", "5s"), 200)
	put := "PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: " + strconv.Itoa(len(large)) + "\r\n\r\n"
	if a := r.dialFrom("127.0.0.2").write(put + large).answer("PUT"); a.status != 204 {
		t.Errorf("another address: %d %s", a.status, a.body)
	}
}

// haveRival has somebody else ask for keys for an hour.
func haveRival(r *rig) {
	v := &r.server.door.rivals
	v.mu.Lock()
	defer v.mu.Unlock()
	v.newest, v.newestAt = netip.MustParsePrefix("10.9.9.9/32"), time.Now().Add(time.Hour)
}

// TestAlone: a client that nobody else is beside is not slowed down, and owes nothing for
// what it took when somebody comes.
func TestAlone(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Limits.LargeBytesPerClient = 1 << 10 })
	for range 4 { // 12 MiB, at the rate they would take an hour
		if a := r.do("PUT", keyPrefix+"large", strings.Repeat("v", 3<<20), "Quorate-Timeout", "5s"); a.status/100 != 2 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		r.want(r.do("GET", keyPrefix+"large", "", "Quorate-Timeout", "5s"), 200)
		r.want(r.do("GET", "/v1/kv", "", "Quorate-Timeout", "5s"), 200)
	}
	haveRival(r)
	r.want(r.do("GET", "/v1/kv", "", "Quorate-Timeout", "5s"), 200)
}

// TestRivals: a client is alone until another has come, and again some time after.
func TestRivals(t *testing.T) {
	client := func(network string) *client { return &client{network: netip.MustParsePrefix(network)} }
	a, b, again := client("10.0.0.1/32"), client("10.0.0.2/32"), client("10.0.0.1/32")
	var v rivals
	now := time.Unix(1, 0)
	want := func(forA, forB bool) {
		t.Helper()
		if v.alone(a, now) != forA || v.alone(b, now) != forB {
			t.Errorf("at %s: alone %t %t, want %t %t", now, v.alone(a, now), v.alone(b, now), forA, forB)
		}
	}
	want(true, true)
	v.saw(a, now)
	v.saw(again, now) // after it was forgotten
	want(true, false)
	now = now.Add(time.Second)
	v.saw(b, now)
	want(false, false)
	now = now.Add(time.Second + rivalEvery)
	v.saw(b, now)
	want(false, true) // b's own last is not a rival's, and a's is long ago
	now = now.Add(rivalFor + time.Millisecond)
	want(true, true)
}

// TestLargeKeys: a key is remembered while its value is large, and no other is taken for it.
func TestLargeKeys(t *testing.T) {
	var l largeKeys
	a, b := []byte("a"), []byte("b")
	l.note(a, paceFree)
	if n := l.size(a); n != 0 {
		t.Errorf("a small one: %d", n)
	}
	l.note(a, 4<<20)
	if l.size(a) != 4<<20 || l.size(b) != 0 {
		t.Errorf("%d %d", l.size(a), l.size(b))
	}
	l.note(b, 1)
	if l.size(a) != 4<<20 {
		t.Error("another small key pushed it out")
	}
	l.note(a, 1)
	if n := l.size(a); n != 0 {
		t.Errorf("it is small now: %d", n)
	}
}
