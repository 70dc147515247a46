package main

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/quorate-db/quorate/internal/access"
	"github.com/quorate-db/quorate/kv"
)

// TestFoundingFlags: what the flags say is what a cluster is founded with, and what
// dev hands on to serve means the same there.
func TestFoundingFlags(t *testing.T) {
	parse := func(line string) (kv.ClusterConfig, []string, error) {
		var o foundingFlags
		f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
		o.addTo(f)
		if err := f.Parse(words(line)); err != nil {
			return kv.ClusterConfig{}, nil, err
		}
		c, err := o.settings(f)
		return c, o.args(f), err
	}
	d := kv.DefaultClusterConfig()
	d.ReplicationFactor, d.AutoBalance = 0, false
	for line, change := range map[string]func(*kv.ClusterConfig){
		"":                    func(*kv.ClusterConfig) {},
		"--dead-grace 10s":    func(c *kv.ClusterConfig) { c.DeadGrace = 10 * time.Second },
		"--split-size 1MiB":   func(c *kv.ClusterConfig) { c.SplitBytes, c.MergeBytes = 1<<20, 1<<18 },
		"--split-size 0":      func(c *kv.ClusterConfig) { c.SplitBytes = -1 },
		"--merge-size 0":      func(c *kv.ClusterConfig) { c.MergeBytes = -1 },
		"--split-load 0":      func(c *kv.ClusterConfig) { c.SplitLoad = -1 },
		"--snapshot-rate 0":   func(c *kv.ClusterConfig) { c.SnapshotRate = -1 },
		"--leader-zone a":     func(c *kv.ClusterConfig) { c.LeaderZone = "a" },
		"--moves-per-node 5":  func(c *kv.ClusterConfig) { c.MovesPerNode = 5 },
		"--snapshot-rate 1MB": func(c *kv.ClusterConfig) { c.SnapshotRate = 1e6 },
	} {
		want := d
		change(&want)
		c, args, err := parse(line)
		if err != nil || c != want {
			t.Errorf("%q: %+v, %v, want %+v", line, c, err, want)
		}
		again, _, err := parse(strings.Join(args, " "))
		if err != nil || again != want {
			t.Errorf("%q, handed on as %q: %+v, %v", line, args, again, err)
		}
	}
	for _, line := range []string{"--dead-grace 1ms", "--split-size 1", "--split-size x", "--split-size 1MiB --merge-size 1MiB", "--split-load -1", "--moves-per-cluster 0"} {
		if c, _, err := parse(line); err == nil {
			t.Errorf("%q: %+v", line, c)
		}
	}
}

// TestDevRemembersItsNodes: those that were added come back, those that were removed
// do not.
func TestDevRemembersItsNodes(t *testing.T) {
	dir := t.TempDir()
	o := devOptions{nodes: 3, port: 20001, shards: 1, zones: []string{"a", "b"}}
	open := func(o devOptions) *devCluster {
		t.Helper()
		d, err := newDevCluster(o, dir, "/nonexistent", os.Stdout, &strings.Builder{})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := open(o)
	d.addNode("")
	d.addNode("x")
	d.cluster.Retire(2)
	if err := d.remember(); err != nil {
		t.Fatal(err)
	}
	founded := d.cluster.Args(1)
	for _, o := range []devOptions{o, {nodes: 2, nodesGiven: true, port: o.port, shards: 1, zones: o.zones}, {nodes: 5, nodesGiven: true, port: o.port, shards: 1, zones: o.zones}} {
		d = open(o)
		if !slices.Equal(d.live(), []int{1, 3, 4, 5}) || d.zone(4) != "b" || d.zone(5) != "x" {
			t.Errorf("live %v, zones %q %q", d.live(), d.zone(4), d.zone(5))
		}
		if !slices.Equal(d.cluster.Args(1), founded) {
			t.Errorf("%q\n%q", d.cluster.Args(1), founded)
		}
	}
	if args := strings.Join(d.cluster.Args(5), " "); !strings.Contains(args, "--expect 3") || !strings.HasSuffix(args, "--zone x") || !strings.Contains(args, "--join 127.0.0.1:20101,127.0.0.1:20102,127.0.0.1:20103 ") {
		t.Error(args)
	}
	d = open(devOptions{nodes: 6, nodesGiven: true, port: o.port, shards: 1})
	if !slices.Equal(d.live(), []int{1, 3, 4, 5, 6}) {
		t.Errorf("live %v", d.live())
	}
	if err := d.cluster.StartAll(); err == nil {
		t.Error("started what is not there")
	}
	for _, text := range []string{"", "{}", `{"founders":3,"nodes":[{}]}`, `{"founders":-1,"nodes":[{}]}`} {
		if err := os.WriteFile(filepath.Join(dir, "dev.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := newDevCluster(o, dir, "", os.Stdout, &strings.Builder{}); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestAddNodeWithoutDev(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	root := newRoot(streams{strings.NewReader(""), &strings.Builder{}, &strings.Builder{}}, os.LookupEnv, serverCommands(os.LookupEnv)...)
	var talk strings.Builder
	if code := execute(t.Context(), root, []string{"dev", "add-node"}, &talk); code != exitUnavailable || !strings.Contains(talk.String(), "no 'quorate dev' with --port 7001") {
		t.Errorf("exit %d: %s", code, talk.String())
	}
}

// TestDevControl asks over the socket. The binary does not exist, so the answer is why
// no node could be started, and its number is not used again.
func TestDevControl(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	d, err := newDevCluster(devOptions{nodes: 1, port: 20001, shards: 1}, t.TempDir(), "/nonexistent", &strings.Builder{}, &strings.Builder{})
	if err != nil {
		t.Fatal(err)
	}
	control, err := d.listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	control.serve()
	if _, err := askForNode(t.Context(), 20001, "z"); err == nil || !strings.Contains(err.Error(), "/nonexistent") {
		t.Errorf("%v", err)
	}
	if !d.cluster.Retired(2) || d.zone(2) != "z" {
		t.Errorf("node2 is not retired, zone %q", d.zone(2))
	}
	var record devRecord
	if data, err := os.ReadFile(d.recordPath()); err != nil || json.Unmarshal(data, &record) != nil || !record.Nodes[1].Removed {
		t.Errorf("%+v, %v", record, err)
	}
	if _, err := d.listen(t.Context()); err == nil || !strings.Contains(err.Error(), "another 'quorate dev'") {
		t.Errorf("%v", err)
	}
	control.close()
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	// One that was killed left its socket.
	path, err := devSocket(20001, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if control, err = d.listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	control.close()
}

// TestShellWords: what dev prints for a shell is read by it as it was meant.
func TestShellWords(t *testing.T) {
	for want, in := range map[string][]string{
		"quorate serve --data-dir /a/b-1": {"quorate", "serve", "--data-dir", "/a/b-1"},
		`'a b' '' 'it'\''s' '$HOME'`:      {"a b", "", "it's", "$HOME"},
	} {
		if got := shellWords(in...); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// TestDevSaysThatItsTokenIsRefused: who has revoked the root token is told, and soon.
func TestDevSaysThatItsTokenIsRefused(t *testing.T) {
	env, _ := guardedNode(t)
	_, text, _ := net.SplitHostPort(strings.TrimPrefix(env["QUORATE_ENDPOINT"], "http://"))
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	d, err := newDevCluster(devOptions{nodes: 1, port: port, shards: 1, auth: true}, dir, "/nonexistent", os.Stdout, &strings.Builder{})
	if err != nil {
		t.Fatal(err)
	}
	d.token.wait = time.Millisecond
	other, _, _ := access.Mint()
	if err := os.WriteFile(d.tokenPath(), []byte(other+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = d.waitReady(ctx)
	if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "the token in "+d.tokenPath()+" is refused") || strings.Contains(err.Error(), other) {
		t.Errorf("%v, %v", err, ctx.Err())
	}
}
