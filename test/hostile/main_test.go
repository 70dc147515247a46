//go:build blackbox

// Package hostile attacks a cluster of real processes in every way that it knows, while a
// well-behaved client goes on: that one sees no error, no node exits, no shard elects,
// and afterwards no node holds much more memory than before.
//
// What is hostile comes from addresses of the loopback network that are not the
// client's, as it would on a network. QUORATE_SOAK multiplies how long each kind lasts.
package hostile

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/test/proc"
)

var builder proc.Builder

func TestMain(m *testing.M) {
	code := m.Run()
	builder.Remove()
	os.Exit(code)
}

const (
	// lasts is how long each kind of load lasts.
	lasts = 200 * time.Millisecond
	// growthMax is how much more memory than before a node may hold when a kind has
	// ended, settleMax how long the collector and the kernel have for it.
	growthMax = 64 << 20
	settleMax = 20 * time.Second
	// slowest bounds the slowest but one percent of the well-behaved client's calls. It is
	// very generous: what is measured shares two cores with what attacks.
	slowest = 3 * time.Second
)

// duration gives how long a kind lasts in this run.
func duration(t testing.TB) time.Duration {
	text := os.Getenv("QUORATE_SOAK")
	if text == "" {
		return lasts
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("QUORATE_SOAK=%q: want a number from 1", text)
	}
	return time.Duration(n) * lasts
}

// TestHostileLoad is all kinds, one after the other, on one cluster.
func TestHostileLoad(t *testing.T) {
	// The attackers have the nodes' two cores: that somebody waits for one for a second is
	// no fault of the nodes. With a secret, who attacks the peer port would get no further
	// than its TLS handshake.
	c := proc.Start(t, builder.Binary(t, false), proc.Shape{Nodes: 3, Shards: 4, Plain: true, Args: []string{"--heartbeat-timeout", "2s", "--election-timeout", "2s"}})
	off := false
	c.Configure(t, client.ConfigChange{AutoBalance: &off}) // a leader that moves is no election of interest
	c.Layout(t)
	fill(t, c)
	w := startWitness(t, c)
	w.lap(t, 500*time.Millisecond)
	quiet := w.lap(t, 500*time.Millisecond)
	s := &siege{c: c, terms: termsOf(t, c), before: memory(t, c)}
	t.Logf("quiet: p99 %s of %d calls, %s", quiet.p99, quiet.calls, megabytes(s.before))
	for i, k := range kinds {
		s.attack(t, w, quiet, i, k)
	}
	w.stop()
	if len(kinds) < 20 {
		t.Errorf("only %d kinds", len(kinds))
	}
}

// kind is one kind of hostile load. run is called by so many workers at once, and goes on
// until the attacker's context ends. Nodes may answer with the listed statuses, all
// of them refusals unless 200 is among them; none means that no answer is looked at.
type kind struct {
	name     string
	workers  int
	run      func(*attacker)
	statuses []int
}

// siege is what is known of the cluster under attack.
type siege struct {
	c      *proc.Cluster
	terms  map[string]float64
	before []int64 // resident bytes of each node
}

func (s *siege) attack(t *testing.T, w *witness, quiet lap, number int, k kind) {
	t.Helper()
	begin := time.Now()
	w.lap(t, 0)
	a := newArmy(s.c, number, duration(t), len(k.statuses) > 0)
	peak := make(chan []int64, 1)
	go func() { peak <- worst(t, s.c, a.ctx) }()
	var workers sync.WaitGroup
	for i := range k.workers {
		workers.Go(func() { k.run(a.member(i)) })
	}
	workers.Wait()
	a.cancel()
	during := w.lap(t, 0)
	most := <-peak
	if a.strikes.Load() == 0 {
		t.Errorf("%s: nothing was done", k.name)
	}
	a.judge(t, k)
	after := s.judge(t, k.name)
	if during.p99 > slowest {
		t.Errorf("%s: p99 of the well-behaved client is %s", k.name, during.p99)
	}
	t.Logf("%-26s %7d strikes, answers %v; p99 %s (%.1f times) of %d; %s, at worst %s; %s", k.name, a.strikes.Load(), a.answers(),
		during.p99, float64(during.p99)/float64(max(1, quiet.p99)), during.calls, megabytes(after), megabytes(most), time.Since(begin).Round(time.Millisecond))
}

// judge looks at the nodes after a kind has ended.
func (s *siege) judge(t *testing.T, name string) []int64 {
	t.Helper()
	for i := 1; i <= s.c.Size; i++ {
		if !s.c.Running(i) {
			t.Fatalf("%s: node %d has exited: %v\n%s", name, i, s.c.ExitError(i), s.c.LogTail(i, 30))
		}
		if lines := s.c.Grep(i, "panic"); len(lines) > 0 {
			t.Errorf("%s: node %d: %s", name, i, lines[0])
		}
	}
	now := termsOf(t, s.c)
	for shard, term := range s.terms {
		if now[shard] != term {
			t.Errorf("%s: shard %s went from term %v to %v", name, shard, term, now[shard])
		}
	}
	s.terms = now
	var after []int64
	err := proc.Await(t.Context(), settleMax, func(context.Context) error {
		after = memory(t, s.c)
		for i := range after {
			if grown := after[i] - s.before[i]; grown > growthMax {
				// Nothing else may give the collector a reason for minutes.
				for range 10 {
					proc.MustDo(t, "GET", s.c.Endpoint(i+1)+"/v1/kv?limit=200", "", 5*time.Second)
				}
				return fmt.Errorf("node %d holds %d MiB more than before", i+1, grown>>20)
			}
		}
		return nil
	})
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return after
}

// memory gives the resident bytes of each node.
func memory(t testing.TB, c *proc.Cluster) []int64 {
	t.Helper()
	var all []int64
	for i := 1; i <= c.Size; i++ {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.PID(i)))
		if err != nil {
			t.Skipf("no /proc: %v", err)
		}
		_, rest, _ := strings.Cut(string(status), "VmRSS:")
		var kib int64
		if _, err := fmt.Sscan(rest, &kib); err != nil {
			t.Errorf("VmRSS of node %d: %v", i, err)
		}
		all = append(all, kib<<10)
	}
	return all
}

// worst looks at the memory of the nodes until ctx ends, and gives the most of each.
func worst(t testing.TB, c *proc.Cluster, ctx context.Context) []int64 {
	most := memory(t, c)
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return most
		case <-tick.C:
		}
		for i, n := range memory(t, c) {
			most[i] = max(most[i], n)
		}
	}
}

func megabytes(all []int64) string {
	var text []string
	for _, n := range all {
		text = append(text, strconv.FormatInt(n>>20, 10))
	}
	return strings.Join(text, "/") + " MiB"
}

// termsOf gives the newest term of each data shard.
func termsOf(t testing.TB, c *proc.Cluster) map[string]float64 {
	t.Helper()
	terms := map[string]float64{}
	for i := 1; i <= c.Size; i++ {
		a := proc.MustDo(t, "GET", c.Endpoint(i)+"/metrics", "", 5*time.Second)
		for line := range strings.Lines(a.Body) {
			rest, ok := strings.CutPrefix(line, `quorate_shard_term{shard="`)
			if !ok || strings.HasPrefix(rest, `1"`) {
				continue
			}
			shard, value, _ := strings.Cut(rest, `"} `)
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			terms[shard] = max(terms[shard], n)
		}
	}
	if len(terms) == 0 {
		t.Fatal("no terms of data shards in /metrics")
	}
	return terms
}
