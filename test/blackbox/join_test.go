//go:build blackbox

package blackbox

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quorate-db/quorate/internal/localcluster"
	"github.com/quorate-db/quorate/test/proc"
)

// TestRefusals starts nodes that must not become part of a cluster. Each has to end,
// with a reason that a person understands, and the cluster goes on.
func TestRefusals(t *testing.T) {
	c := proc.Start(t, binary(t), proc.Shape{Nodes: 3, Shards: 2})
	t.Run("a name that is taken", func(t *testing.T) {
		refused(t, newNode(t, c, t.TempDir(), "node2"), 1, `"node2"`)
	})
	t.Run("data of another cluster", func(t *testing.T) {
		other := proc.Start(t, binary(t), proc.Shape{Nodes: 3, Shards: 1})
		stopAll(t, other)
		refused(t, newNode(t, c, filepath.Join(other.DataDir, localcluster.Name(2)), "stranger"), 1, "but the node belongs to")
	})
	t.Run("data of another cluster, alone", func(t *testing.T) {
		other := proc.Start(t, binary(t), proc.Shape{Nodes: 1, Shards: 1})
		stopAll(t, other)
		refused(t, newNode(t, c, filepath.Join(other.DataDir, localcluster.Name(1)), "stranger"), 1, "but the node belongs to")
	})
	t.Run("data directory in use", func(t *testing.T) {
		refused(t, newNode(t, c, filepath.Join(c.DataDir, localcluster.Name(1)), "twin"), 1, "in use by another process")
	})
	t.Run("data of a newer release", func(t *testing.T) {
		dir := t.TempDir()
		identity, err := json.Marshal(map[string]any{"format": 1000, "node": "00000000000000aa"})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "node.json"), identity, 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, newNode(t, c, dir, "future"), 1, "format 1000")
	})
	t.Run("listening beyond loopback unsaid", func(t *testing.T) {
		refused(t, []string{"serve", "--data-dir", t.TempDir(), "--http-listen", "0.0.0.0:0"}, 2, "--insecure")
	})
	t.Run("port in use", func(t *testing.T) {
		args := newNode(t, c, t.TempDir(), "late")
		refused(t, append(args, "--http-listen", c.HTTPAddress(1)), 1, "address already in use")
	})
	c.WaitReady(t)
	c.WaitCaughtUp(t)
}

// newNode gives the command line of one more node for a cluster.
func newNode(t *testing.T, c *proc.Cluster, dir, name string) []string {
	port := proc.FreePorts(t, 2, 0)
	args := c.Args(1)
	for i, arg := range args {
		if i == 0 {
			continue
		}
		switch args[i-1] {
		case "--name":
			args[i] = name
		case "--data-dir":
			args[i] = dir
		case "--http-listen":
			args[i] = fmt.Sprintf("127.0.0.1:%d", port)
		case "--peer-listen":
			args[i] = fmt.Sprintf("127.0.0.1:%d", port+1)
		default:
			args[i] = arg
		}
	}
	return args
}

func refused(t *testing.T, args []string, code int, reason string) {
	t.Helper()
	got := proc.Run(t, binary(t), "", args...)
	if got.Code != code || !strings.Contains(lastLines(got.Stderr, 3), reason) {
		t.Errorf("exit code %d, want %d and a reason with %q:\n%s", got.Code, code, reason, lastLines(got.Stderr, 15))
	}
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
