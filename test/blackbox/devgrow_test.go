//go:build blackbox

package blackbox

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/test/proc"
)

// addNode has the running dev add a node, which has to be number i.
func (d *devRun) addNode(t *testing.T, i int) {
	t.Helper()
	cmd := exec.Command(binary(t), "dev", "add-node", "--port", strconv.Itoa(d.port), "-o", "plain")
	cmd.Env = append(os.Environ(), "TMPDIR="+d.temp)
	out, err := cmd.CombinedOutput()
	words := strings.Split(string(out), "\t")
	if err != nil || len(words) < 2 || words[0] != fmt.Sprintf("node%d", i) {
		t.Fatalf("%v: %s", err, out)
	}
	pid, err := strconv.Atoi(words[1])
	if err != nil {
		t.Fatalf("%s", out)
	}
	d.pids = append(d.pids, pid)
}

// devGrown is a cluster of dev that asks for tokens, and what its clients need.
type devGrown struct {
	*devRun
	dir   string
	flags []string // of every command
	args  []string // of dev, after the first start
}

// TestDevGrowsWithAuth: a node that is added to a dev with tokens, over HTTP and HTTPS,
// takes replicas and serves like the others, also after a restart. One that was removed
// is no reason not to start again, though dev was stopped before it noticed.
func TestDevGrowsWithAuth(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			d := startDevGrown(t, scheme)
			d.want(t, 0, "v", 1, "put", "k", "v")
			d.addNode(t, 2)
			d.waitReplicas(t, 2, 2)
			d.want(t, 0, "v", 2, "get", "k")
			d.want(t, 0, "", 2, "put", "k", "w")
			d.want(t, 0, "node2\t", 2, "nodes", "-o", "plain")
			d.want(t, 0, "", 2, "problems")
			d.testStrangers(t)
			d.want(t, 0, "node2\t1\t-", 1, "audit", "-o", "plain")

			if scheme == "http" {
				return // the rest has nothing to do with it
			}
			d.addNode(t, 3)
			d.want(t, 0, "", 1, "nodes", "remove", "node3")
			d.restart(t, 2)
			d.want(t, 0, "w", 2, "get", "k")
		})
	}
}

func startDevGrown(t *testing.T, scheme string) *devGrown {
	d := &devGrown{dir: filepath.Join(t.TempDir(), "data")}
	d.args = []string{"--auth", "--data-dir", d.dir}
	d.flags = []string{"--token-file", filepath.Join(d.dir, "root.token")}
	if scheme == "https" {
		d.args = append(d.args, "--tls")
	}
	d.devRun = startDev(t, proc.FreePorts(t, 3, devPeerOffset), append(d.args, "--nodes", "1", "--shards", "4", "--replication-factor", "1")...)
	d.waitReady(t, 1, 4, 1)
	if scheme == "https" {
		f := proc.Run(t, binary(t), "", "cert", "--cluster-secret-file", filepath.Join(d.dir, "cluster.secret"))
		ca := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(ca, []byte(f.Stdout), 0o600); err != nil || f.Code != 0 {
			t.Fatalf("%+v, %v", f, err)
		}
		d.flags = append(d.flags, "--ca-file", ca)
	}
	return d
}

// run runs a command against a node.
func (d *devGrown) run(t *testing.T, node int, args ...string) proc.Finished {
	t.Helper()
	return proc.Run(t, binary(t), "", append(append(args, "--endpoint", d.url(node, "")), d.flags...)...)
}

// want runs a command against a node, and looks for what it prints.
func (d *devGrown) want(t *testing.T, code int, part string, node int, args ...string) {
	t.Helper()
	if f := d.run(t, node, args...); f.Code != code || args[0] != "put" && !strings.Contains(f.Stdout, part) {
		t.Errorf("%q at node %d: %+v, want %d and %q\n%s", args, node, f, code, part, d.said())
	}
}

// waitReplicas waits until a node has that many replicas.
func (d *devGrown) waitReplicas(t *testing.T, node, replicas int) {
	t.Helper()
	proc.Eventually(t, balanceMax, "the new node takes replicas", func(context.Context) error {
		f := d.run(t, 1, "nodes", "-o", "json")
		var nodes []client.Node
		if err := json.Unmarshal([]byte(f.Stdout), &nodes); err != nil {
			return fmt.Errorf("%+v: %w", f, err)
		}
		for _, n := range nodes {
			if n.Name == fmt.Sprintf("node%d", node) && n.Replicas >= replicas {
				return nil
			}
		}
		return fmt.Errorf("%s", f.Stdout)
	})
}

// testStrangers: the node that was added lets in nobody whom the others do not.
func (d *devGrown) testStrangers(t *testing.T) {
	t.Helper()
	without := append([]string{"get", "k", "--endpoint", d.url(2, "")}, d.flags[2:]...)
	if f := proc.Run(t, binary(t), "", without...); f.Code != 1 || !strings.Contains(f.Stderr, "unauthenticated") {
		t.Errorf("without a token: %+v", f)
	}
	if !d.https {
		return
	}
	plain := "http" + strings.TrimPrefix(d.url(2, "/v1/kv/k"), "https")
	if a, err := proc.Do(t.Context(), http.MethodGet, plain, "", limit); err != nil || a.Status != http.StatusBadRequest {
		t.Errorf("without TLS: %+v, %v", a, err)
	}
}

// restart stops dev and starts it again, as if it had not noticed that any node was
// removed: so many are left.
func (d *devGrown) restart(t *testing.T, left int) {
	t.Helper()
	if code := d.stop(t); code != 0 {
		t.Fatalf("exit code %d: %s", code, d.said())
	}
	record := filepath.Join(d.dir, "dev.json")
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(record, []byte(strings.ReplaceAll(string(text), `"removed": true`, `"removed": false`)), 0o600); err != nil {
		t.Fatal(err)
	}
	d.devRun = startDev(t, d.port, d.args...)
	ready := fmt.Sprintf("cluster ready: %d nodes, 4 shards, replication factor 1, %s", left, d.url(1, ""))
	for line := d.line(t); line != ready; line = d.line(t) {
		if !strings.HasPrefix(line, "node") && !strings.HasPrefix(line, "NODE") {
			t.Fatalf("dev says %q, want %q: %s", line, ready, d.said())
		}
		if words := strings.Fields(line); words[0] != "NODE" {
			pid, err := strconv.Atoi(words[1])
			if err != nil {
				t.Fatalf("%q", line)
			}
			d.pids = append(d.pids, pid)
		}
	}
}
