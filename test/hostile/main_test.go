//go:build blackbox

// Package hostile attacks a cluster of real processes in every way that it knows, while a
// well-behaved client goes on: that one sees no error, no node exits, no shard elects,
// and afterwards no node holds much more memory than before.
//
// What is hostile comes from addresses of the loopback network that are not the
// client's, as it would on a network. QUORATE_SOAK multiplies how long each kind lasts.
//
// On a network those who attack also have processors of their own: what they compute
// takes nothing from the nodes, what the nodes compute for them does. So they are a
// process of their own, with one processor, in the lowest scheduling class, and in a
// session of its own with the lowest weight where the kernel weighs sessions: nodes and
// witness go first. It is no gift to the nodes, because the attackers still get what
// nodes and witness leave, and each kind has to strike so often to count. What is too
// kind: the loopback network's work for a packet is mostly its sender's, so attackers pay
// for some of what a node's network card would. What is too strict: three nodes and the
// witness share the cores, which each would have for itself. Three kinds attack
// nobody and only compute: they say what the attackers' processor time costs.
package hostile

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/test/proc"
)

var builder proc.Builder

func TestMain(m *testing.M) {
	if text := os.Getenv(ordersIn); text != "" {
		if err := obey(text); err != nil {
			fmt.Fprintln(os.Stderr, "army:", err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	builder.Remove()
	os.Exit(code)
}

const (
	// lasts is how long each kind of load lasts, enoughMax how much longer at most,
	// until it has struck often enough: a slow machine is no fault.
	lasts     = time.Second
	enoughMax = 20 * time.Second
	// The witness is alone for so long at first, and again before each kind.
	quietFirst   = 2 * time.Second
	quietBetween = 200 * time.Millisecond
	// growthMax is how much more memory than before a node may hold when a kind has
	// ended, settleMax how long the collector and the kernel have for it.
	growthMax = 64 << 20
	settleMax = 20 * time.Second
	// Under each kind the witness' slowest but one percent may take at most slowestTimes
	// as long as without, or slowestFloor, and under half of the kinds typicalTimes: what
	// docs/TESTING.md says is missed, and what a busy machine adds, has room in it.
	slowestTimes = 10
	slowestFloor = 50 * time.Millisecond
	typicalTimes = 2
	triesMax     = 3
	// aftermath is for how long after the machine stood still shards may elect: when all
	// of them do at once, votes are split, and each try takes a second or two.
	aftermath = 8 * time.Second
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
	// With a secret, who attacks the peer port would get no further than its TLS handshake.
	c := proc.Start(t, builder.Binary(t, false), proc.Shape{Nodes: 3, Shards: 4, Plain: true})
	off := false
	c.Configure(t, client.ConfigChange{AutoBalance: &off}) // a leader that moves is no election of interest
	c.Layout(t)
	fill(t, c)
	s := &siege{c: c, w: startWitness(t, c), m: proc.WatchMachine(t)}
	s.w.lap(warmUp)
	s.terms, s.before = termsOf(t, c), memory(t, c)
	s.quiet = s.w.lap(quietFirst)
	t.Logf("quiet: p99 %s of %d calls, %s", s.quiet.p99(), len(s.quiet), megabytes(s.before))
	for i := range kinds {
		t.Run(kinds[i].name, func(t *testing.T) { s.attack(t, i) })
	}
	s.w.stop()
	s.judgeTimes(t)
	if len(kinds) < 20 {
		t.Errorf("only %d kinds", len(kinds))
	}
}

// kind is one kind of hostile load. run is called by so many workers at once, and goes on
// until the attacker's context ends. Nodes may answer with the listed statuses, all
// of them refusals unless 200 is among them; none means that no answer is looked at.
type kind struct {
	name       string
	workers    int
	strikesMin int64 // fewer would be no attack
	run        func(*attacker)
	statuses   []int
}

// siege is what is known of the cluster under attack.
type siege struct {
	c       *proc.Cluster
	w       *witness
	m       *proc.Machine
	quiet   lap // of all times without an attack
	results []result
	terms   map[string]float64
	before  []int64 // resident bytes of each node
}

// result is what the witness saw of one kind.
type result struct {
	kind   *kind
	tries  int
	report report
	during lap
	most   []int64 // resident bytes of each node
	after  []int64
	stall  time.Duration // of the machine, not of the nodes
	faults []error       // elections and failed calls, which a machine that stalls causes too
}

func (r *result) excused() bool { return r.stall > proc.StallMax }

// attack carries a kind out. One under which the witness was too slow is carried out
// again: something else may have had the machine, but not each time. So is one in which
// shards elected or calls failed while the machine stood still.
func (s *siege) attack(t *testing.T, number int) {
	var best result
	for try := range triesMax {
		r := s.try(t, number)
		if try == 0 || len(best.faults) > 0 || r.during.p99() < best.during.p99() {
			best = r
		}
		best.tries = try + 1
		if len(r.faults) == 0 && r.during.p99() <= s.slowest() {
			break
		}
		for _, err := range r.faults {
			if !r.excused() {
				t.Error(err)
			}
		}
		if t.Failed() {
			break
		}
		t.Logf("try %d: p99 %s ms, the machine stood still for %s ms, %v", best.tries, ms(r.during.p99()), ms(r.stall), r.faults)
	}
	s.results = append(s.results, best)
}

func (s *siege) try(t *testing.T, number int) result {
	k, begin := &kinds[number], time.Now()
	army := muster(t, s.c, number)
	s.w.lap(0) // what was before is neither quiet nor of this kind
	s.quiet = append(s.quiet, s.w.lap(quietBetween)...)
	r := result{kind: k}
	ctx, ended := context.WithCancel(t.Context())
	peak := make(chan []int64, 1)
	go func() { peak <- worst(t, s.c, ctx) }()
	var err error
	r.report, err = army.fight()
	r.during = s.w.lap(0)
	ended()
	r.most = <-peak
	if err != nil {
		t.Fatal(err)
	}
	k.judge(t, &r.report)
	r.after = s.judge(t)
	r.faults = append(s.elections(t), s.w.failed()...)
	r.stall = s.m.LongestStall(begin.Add(-aftermath))
	return r
}

// judge looks at the nodes after a kind has ended.
func (s *siege) judge(t *testing.T) []int64 {
	t.Helper()
	for i := 1; i <= s.c.Size; i++ {
		if !s.c.Running(i) {
			t.Fatalf("node %d has exited: %v\n%s", i, s.c.ExitError(i), s.c.LogTail(i, 30))
		}
		if lines := s.c.Grep(i, "panic"); len(lines) > 0 {
			t.Errorf("node %d: %s", i, lines[0])
		}
	}
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
		t.Error(err)
	}
	return after
}

// elections gives those there were since it was called last.
func (s *siege) elections(t *testing.T) (errs []error) {
	now := termsOf(t, s.c)
	for shard, term := range s.terms {
		if now[shard] != term {
			errs = append(errs, fmt.Errorf("shard %s went from term %v to %v", shard, term, now[shard]))
		}
	}
	s.terms = now
	return errs
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

// termsOf gives the newest term of each shard.
func termsOf(t testing.TB, c *proc.Cluster) map[string]float64 {
	t.Helper()
	terms := map[string]float64{}
	for i := 1; i <= c.Size; i++ {
		a := proc.MustDo(t, "GET", c.Endpoint(i)+"/metrics", "", 5*time.Second)
		for line := range strings.Lines(a.Body) {
			rest, ok := strings.CutPrefix(line, `quorate_shard_term{shard="`)
			if !ok {
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
		t.Fatal("no terms of shards in /metrics")
	}
	return terms
}
