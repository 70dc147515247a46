//go:build blackbox

package blackbox

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/internal/localcluster"
	"github.com/quorate-db/quorate/internal/pki"
	"github.com/quorate-db/quorate/test/proc"
	"github.com/quorate-db/quorate/test/tap"
)

// removedMax bounds how long a secret that was removed may still be of use.
const removedMax = 15 * time.Second

// leaseNearly is how long the machine has to stand still to excuse an election: a leader
// that nobody answers for half a second steps down.
const leaseNearly = 400 * time.Millisecond

// canary is in every value that TestRotation writes.
const canary = "canary-value-77f1c0"

// secretFiles is a cluster each node of which has a file of secrets of its own.
type secretFiles struct {
	*proc.Cluster
	dir   string
	tap   tap.Tap // before node 2's peer port, once nodes know where that is
	lines int     // that each node has logged about changes
}

func startWithSecret(t *testing.T, secrets ...pki.Secret) *secretFiles {
	t.Helper()
	f := &secretFiles{dir: t.TempDir()}
	for i := 1; i <= 4; i++ {
		f.write(t, i, secrets...)
	}
	tapped := f.tap.Listen(t, func() string { return f.PeerAddress(2) })
	f.Cluster = proc.Describe(t, binary(t), proc.Shape{Nodes: 3, Shards: 1, Spare: 1, NodeArgs: func(_ *proc.Cluster, i int) []string {
		args := []string{"--cluster-secret-file", f.path(i)}
		if i == 2 {
			args = append(args, "--peer-advertise", tapped)
		}
		return args
	}})
	if err := f.StartAll(); err != nil {
		t.Fatal(err)
	}
	f.WaitReady(t)
	return f
}

func (f *secretFiles) path(i int) string { return filepath.Join(f.dir, fmt.Sprintf("secret%d", i)) }

// write replaces node i's file as a careful person does: whole or not at all.
func (f *secretFiles) write(t *testing.T, i int, secrets ...pki.Secret) {
	t.Helper()
	var text strings.Builder
	for _, s := range secrets {
		fmt.Fprintln(&text, s.Reveal())
	}
	part := f.path(i) + ".part"
	if err := os.WriteFile(part, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(part, f.path(i)); err != nil {
		t.Fatal(err)
	}
}

// change gives the secrets to one running node after the other. hurry sends SIGHUP
// instead of waiting for the node to look.
func (f *secretFiles) change(t *testing.T, hurry bool, secrets ...pki.Secret) {
	t.Helper()
	f.lines++
	for i := 1; i <= 3; i++ {
		f.write(t, i, secrets...)
	}
	waitChanged(t, f.Cluster, hurry, "cluster secrets changed", f.lines)
}

// waitChanged waits until each of three nodes has logged so many changes of its files.
// hurry sends SIGHUP instead of waiting for it to look.
func waitChanged(t *testing.T, c *proc.Cluster, hurry bool, words string, times int) {
	t.Helper()
	for i := 1; i <= 3 && hurry; i++ {
		if err := c.Signal(i, syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	for i := 1; i <= 3; i++ {
		proc.Eventually(t, removedMax, words, func(context.Context) error {
			if n := len(c.Grep(i, words)); n != times {
				return fmt.Errorf("node %d has logged %d changes, want %d", i, n, times)
			}
			return nil
		})
	}
}

// impatient are clients that never ask twice: each talks to one node.
type impatient struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu     sync.Mutex
	calls  int
	failed []error
}

func startImpatient(t *testing.T, c *proc.Cluster) *impatient {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p := &impatient{stop: cancel}
	for i := range 6 {
		cl := c.Client(t, client.Config{Endpoints: []string{c.Endpoint(1 + i%3)}, Retry: client.RetryPolicy{Attempts: 1}})
		p.done.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key := fmt.Sprintf("%c~rotate%d", "0Aaz"[n%4], i)
				_, err := cl.Put(t.Context(), key, fmt.Appendf(nil, "%s %d", canary, n), client.PutOptions{})
				if err == nil {
					_, err = cl.Get(t.Context(), key, client.ReadOptions{})
				}
				p.count(err)
			}
		})
	}
	t.Cleanup(func() { cancel(); p.done.Wait() })
	return p
}

func (p *impatient) count(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls++
	if err != nil && len(p.failed) < 10 {
		p.failed = append(p.failed, err)
	}
}

// end ends them, and is an error of the test if a request failed.
func (p *impatient) end(t *testing.T) (calls int) {
	t.Helper()
	p.stop()
	p.done.Wait()
	for _, err := range p.failed {
		t.Errorf("a request failed: %v", err)
	}
	if p.calls < 100 {
		t.Errorf("%d requests only", p.calls)
	}
	return p.calls
}

func terms(t *testing.T, c *proc.Cluster) map[string]string {
	t.Helper()
	shards, err := c.Admin().Shards(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, s := range shards {
		out[s.ID.String()] = fmt.Sprint(s.Leader, " in term ", s.Term)
	}
	return out
}

// TestSecretRotation replaces the cluster secret under load, node by node: A, A and B, B and A,
// B. No request fails, no shard has an election, and A is of no use afterwards. What was
// written is in none of the bytes that pass the peer port.
func TestSecretRotation(t *testing.T) {
	old, begin := pki.NewSecret(), time.Now()
	c := startWithSecret(t, old)
	machine := proc.WatchMachine(t)
	c.WaitSettled(t)
	before := terms(t, c.Cluster)
	t.Logf("ready and settled after %s", time.Since(begin).Round(time.Millisecond))
	load := startImpatient(t, c.Cluster)
	for round := range scaled(t, 2) {
		next := pki.NewSecret()
		c.change(t, round > 0, old, next) // the first time without a word
		c.change(t, true, next, old)
		c.change(t, true, next)
		removed := time.Now()
		if round == 0 {
			c.refusesStray(t, removed, old)
		}
		waitReplaced(t, c.Cluster, removed, 2*(round+1))
		old = next
	}
	calls := load.end(t)
	stall, after := machine.LongestStall(begin), terms(t, c.Cluster)
	for shard, was := range before {
		switch now := after[shard]; {
		case now == was:
		case stall > leaseNearly:
			t.Logf("shard %s: was led by %s, now by %s, but the machine stood still for %s", shard, was, now, stall)
		default:
			t.Errorf("shard %s: was led by %s, now by %s", shard, was, now)
		}
	}
	if seen := c.tap.Bytes(); seen < 100_000 || c.tap.Saw(canary) || c.tap.Saw("rotate1") {
		t.Errorf("%d bytes passed node 2's peer port; the value is in them: %t", seen, c.tap.Saw(canary))
	}
	t.Logf("%d requests, %d bytes at the tap", calls, c.tap.Bytes())
}

// closedConnections counts what a node had dialled and has ended.
var closedConnections = regexp.MustCompile(`quorate_peer_connections_closed_total\{class="(?:raft|data|control)",dialled="here"\} (\d+)`)

// waitReplaced waits until every node has ended so many connections that it had dialled.
func waitReplaced(t *testing.T, c *proc.Cluster, removed time.Time, want int) {
	t.Helper()
	for i := 1; i <= 3; i++ {
		proc.Eventually(t, removedMax-time.Since(removed), "connections by what was removed have ended", func(ctx context.Context) error {
			a, err := proc.Do(ctx, http.MethodGet, c.Endpoint(i)+"/metrics", "", limit)
			if err != nil {
				return err
			}
			closed := 0
			for _, m := range closedConnections.FindAllStringSubmatch(a.Body, -1) {
				n, _ := strconv.Atoi(m[1])
				closed += n
			}
			if closed < want {
				return fmt.Errorf("node %d has ended %d connections, want %d", i, closed, want)
			}
			return nil
		})
	}
}

// refusesStray starts a node that has a secret which was removed: it gets nowhere, and
// both ends say why.
func (f *secretFiles) refusesStray(t *testing.T, removed time.Time, old pki.Secret) {
	t.Helper()
	f.write(t, 4, old)
	i := f.AddNode(t)
	proc.Eventually(t, removedMax-time.Since(removed), "refusal", func(context.Context) error {
		if len(f.Grep(1, "reason=certificate_refused")) == 0 {
			return fmt.Errorf("node 1 has not said that it refuses")
		}
		if len(f.Grep(i, "another cluster secret")) == 0 {
			return fmt.Errorf("%s does not say why", localcluster.Name(i))
		}
		return nil
	})
	if nodes, err := f.Admin().Nodes(t.Context()); err != nil || len(nodes) != 3 {
		t.Errorf("the cluster has %d nodes, want 3 (%v)", len(nodes), err)
	}
	if err := f.Kill(i); err != nil {
		t.Fatal(err)
	}
}
