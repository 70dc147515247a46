package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/internal/localcluster"
	"github.com/quorate-db/quorate/internal/pki"
	"github.com/quorate-db/quorate/kv"
)

// Shape says what a cluster of a test looks like. Zero values: 5 nodes, 8 shards,
// replication factor 3, a temporary folder, and a cluster secret in it.
type Shape struct {
	Nodes             int
	Shards            int
	ReplicationFactor int
	Spare             int // nodes that may be added later
	DataDir           string
	Plain             bool                             // no cluster secret
	Zones             []string                         // of node i: Zones[(i-1) % len]; empty = none
	Args              []string                         // for every node
	NodeArgs          func(c *Cluster, i int) []string // for node i
}

// Cluster is a cluster of real processes under test.
type Cluster struct {
	*localcluster.Cluster

	Size    int // nodes there have been so far
	DataDir string
	room    int // nodes that there are ports for
	admin   *client.Client

	mu      sync.Mutex
	stopped map[int]int // node → its process that SIGSTOP has stopped
}

// Describe prepares a cluster and starts nothing. When the test ends, all its
// processes do; if it failed, the ends of their logs are shown.
func Describe(t testing.TB, binary string, s Shape) *Cluster {
	t.Helper()
	if s.Nodes == 0 {
		s.Nodes = 5
	}
	if s.Shards == 0 {
		s.Shards = 8
	}
	if s.ReplicationFactor == 0 {
		s.ReplicationFactor = min(3, s.Nodes)
	}
	if s.DataDir == "" {
		s.DataDir = t.TempDir()
	}
	room := s.Nodes + s.Spare
	first := FreePorts(t, 2*room, 0)
	c := &Cluster{Size: s.Nodes, room: room, DataDir: s.DataDir, stopped: map[int]int{}}
	o := localcluster.Options{
		Binary: binary, Nodes: s.Nodes, HTTPPort: first, PeerPort: first + room, DataDir: s.DataDir,
		Shards: s.Shards, ReplicationFactor: s.ReplicationFactor, Zones: s.Zones, ExtraArgs: s.Args,
	}
	if !s.Plain {
		o.ExtraArgs = append([]string{"--cluster-secret-file", secretIn(t, s.DataDir)}, s.Args...)
	}
	if s.NodeArgs != nil {
		o.NodeArgs = func(i int) []string { return s.NodeArgs(c, i) }
	}
	c.Cluster = localcluster.New(o)
	c.admin = c.Client(t, client.Config{})
	t.Cleanup(func() { c.end(t) })
	return c
}

// secretIn gives the file of the cluster's secret, which is made if it is not there.
func secretIn(t testing.TB, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "cluster.secret")
	if err := pki.WriteSecret(path, pki.NewSecret()); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	return path
}

// Start starts a cluster and waits until it is ready.
func Start(t testing.TB, binary string, s Shape) *Cluster {
	t.Helper()
	c := Describe(t, binary, s)
	if err := c.StartAll(); err != nil {
		t.Fatal(err)
	}
	c.WaitReady(t)
	return c
}

// AddNode starts one more node, which finds the cluster by the founders' addresses,
// and gives its number. It does not wait until the node has joined.
func (c *Cluster) AddNode(t testing.TB, extra ...string) int {
	t.Helper()
	if c.Size == c.room {
		t.Fatalf("a node too many: Shape.Spare left room for %d", c.room)
	}
	c.Size = c.Add(extra...)
	if err := c.Cluster.Start(c.Size); err != nil {
		t.Fatal(err)
	}
	return c.Size
}

// Admin gives a client of the founders.
func (c *Cluster) Admin() *client.Client { return c.admin }

// logTailLines is how much is shown of each node's log when a test fails.
const logTailLines = 15

func (c *Cluster) end(t testing.TB) {
	// First what they say, or the others' complaints of the first one's death would be in it.
	for i := 1; t.Failed() && i <= c.Size; i++ {
		if c.PID(i) != 0 {
			t.Logf("%s, running %t, exit %v, last lines:\n%s", localcluster.Name(i), c.Running(i), c.ExitError(i), c.LogTail(i, logTailLines))
		}
	}
	for i := 1; i <= c.Size; i++ {
		if c.Running(i) {
			_ = c.Kill(i)
		}
	}
	if dir := os.Getenv(keepLogsIn); dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Error(err)
		}
		for i := 1; i <= c.Size; i++ {
			name := strings.ReplaceAll(t.Name(), "/", "-") + "-" + filepath.Base(c.LogPath(i))
			if err := os.WriteFile(filepath.Join(dir, name), []byte(c.LogTail(i, 1<<30)), 0o600); err != nil {
				t.Error(err)
			}
		}
	}
}

// keepLogsIn names a folder that the logs of all nodes are kept in after a test.
const keepLogsIn = "QUORATE_TEST_LOGS"

// Client makes a client of all nodes, or of those that cfg names, which is closed
// when the test ends.
func (c *Cluster) Client(t testing.TB, cfg client.Config) *client.Client {
	t.Helper()
	if len(cfg.Endpoints) == 0 {
		cfg.Endpoints = c.Endpoints()
	}
	made, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = made.Close() })
	return made
}

// Endpoint gives the base URL of node i.
func (c *Cluster) Endpoint(i int) string { return "http://" + c.HTTPAddress(i) }

// RunningNodes lists the nodes whose process runs and is not stopped by SIGSTOP.
func (c *Cluster) RunningNodes() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	var nodes []int
	for i := 1; i <= c.Size; i++ {
		if c.Running(i) && c.stopped[i] != c.PID(i) {
			nodes = append(nodes, i)
		}
	}
	return nodes
}

// Pause stops node i as SIGSTOP does; Resume lets it go on.
func (c *Cluster) Pause(t testing.TB, i int) { c.freeze(t, i, syscall.SIGSTOP, c.PID(i)) }

// Resume ends a Pause.
func (c *Cluster) Resume(t testing.TB, i int) { c.freeze(t, i, syscall.SIGCONT, 0) }

func (c *Cluster) freeze(t testing.TB, i int, sig syscall.Signal, stopped int) {
	t.Helper()
	if err := c.Signal(i, sig); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped[i] = stopped
}

// WaitReady waits until every node that runs is ready and knows a leader of every
// shard, and all of them are alive in the eyes of the cluster.
func (c *Cluster) WaitReady(t testing.TB) {
	t.Helper()
	Eventually(t, WaitMax, "cluster ready", c.ready)
}

func (c *Cluster) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	running := c.RunningNodes()
	for _, i := range running {
		if err := c.admin.Ready(ctx, c.Endpoint(i)); err != nil {
			return fmt.Errorf("%s: %w", localcluster.Name(i), err)
		}
	}
	info, err := c.admin.Cluster(ctx)
	if err != nil {
		return err
	}
	if info.NodesAlive < len(running) || info.Shards == 0 || info.ShardsWithLeader < info.Shards {
		return fmt.Errorf("%+v", info)
	}
	return nil
}

// Layout is who holds what, by the numbers of nodes.
type Layout struct {
	Shards []client.Shard
	names  map[string]int // node id → number
}

// Layout asks the cluster. Every shard in it has a leader.
func (c *Cluster) Layout(t testing.TB) Layout {
	t.Helper()
	var l Layout
	Eventually(t, WaitMax, "layout", func(ctx context.Context) error {
		var err error
		l, err = c.layout(ctx)
		return err
	})
	return l
}

func (c *Cluster) layout(ctx context.Context) (Layout, error) {
	nodes, err := c.admin.Nodes(ctx)
	if err != nil {
		return Layout{}, err
	}
	l := Layout{names: map[string]int{}}
	for _, n := range nodes {
		var i int
		if _, err := fmt.Sscanf(n.Name, "node%d", &i); err != nil {
			return l, fmt.Errorf("node %q: %w", n.Name, err)
		}
		l.names[n.ID] = i
	}
	shards, err := c.admin.Shards(ctx)
	if err != nil {
		return l, err
	}
	l.Shards = slices.DeleteFunc(shards, func(s client.Shard) bool { return s.ID == kv.MetaShard })
	for i := range l.Shards {
		if l.LeaderOf(&l.Shards[i]) == 0 {
			return l, fmt.Errorf("shard %s has no leader", l.Shards[i].ID)
		}
	}
	return l, nil
}

// settledFor is how long leaders have to stay where they are to count as settled:
// they are spread over the nodes for a while after a start.
const settledFor = 3 * time.Second

// WaitSettled waits until leadership of no shard moves any more.
func (c *Cluster) WaitSettled(t testing.TB) Layout {
	t.Helper()
	l, since := c.Layout(t), time.Now()
	Eventually(t, WaitMax, "leaders settled", func(ctx context.Context) error {
		now, err := c.layout(ctx)
		if err != nil {
			return err
		}
		for i := range now.Shards {
			if i >= len(l.Shards) || now.Shards[i].Leader != l.Shards[i].Leader || now.Shards[i].Term != l.Shards[i].Term {
				l, since = now, time.Now()
				return fmt.Errorf("shard %s has just changed its leader", now.Shards[i].ID)
			}
		}
		if wait := settledFor - time.Since(since); wait > 0 {
			return fmt.Errorf("%s to go", wait)
		}
		return nil
	})
	return l
}

// LeaderOf gives the number of the node that leads a shard.
func (l *Layout) LeaderOf(s *client.Shard) int { return l.names[s.Leader] }

// ReplicasOf gives the numbers of the nodes that hold a shard.
func (l *Layout) ReplicasOf(s *client.Shard) []int {
	var nodes []int
	for _, r := range s.Replicas {
		nodes = append(nodes, l.names[r.Node])
	}
	return nodes
}

// KeyIn gives a key of a shard; different names give different keys.
func KeyIn(s *client.Shard, name string) string { return s.Start + "!" + name }

// WaitCaughtUp waits until all replicas of every shard have applied the same index.
func (c *Cluster) WaitCaughtUp(t testing.TB) {
	t.Helper()
	Eventually(t, WaitMax, "replicas caught up", func(ctx context.Context) error {
		shards, err := c.admin.Shards(ctx)
		if err != nil {
			return err
		}
		for _, s := range shards {
			for _, r := range s.Replicas {
				if r.Role == "" || r.Failure != "" || r.AppliedIndex == 0 || r.AppliedIndex != s.Replicas[0].AppliedIndex {
					return fmt.Errorf("shard %s: %+v", s.ID, s.Replicas)
				}
			}
		}
		return nil
	})
}

// Grep gives the lines of node i's log that hold a text.
func (c *Cluster) Grep(i int, text string) []string {
	var found []string
	for line := range strings.SplitSeq(c.LogTail(i, 1<<30), "\n") {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}
