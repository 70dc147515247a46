package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/quorate-db/quorate/internal/pki"
)

// canary is what must not be found in anything that a node says, keeps or passes on: the
// secret parts of cluster secrets and tokens, or enough of them to tell.
type canary struct{ needles []string }

// needleBytes is how much of a secret tells it: 12 characters are 48 bits or more.
const needleBytes = 12

// add takes a secret or a token, whose last part is what nobody may see.
func (c *canary) add(secret string) {
	parts := strings.SplitN(strings.TrimSpace(secret), "_", 3) // qsec1_SECRET or qrt_ID_SECRET, which may have more of them
	last := parts[len(parts)-1]
	c.needles = append(c.needles, last[:needleBytes], last[len(last)-needleBytes:])
}

func (c *canary) look(t *testing.T, where string, text []byte) {
	t.Helper()
	for _, n := range c.needles {
		if bytes.Contains(text, []byte(n)) {
			t.Errorf("there is a secret in %s:\n%.2000q", where, text)
			return
		}
	}
}

// canaryNode is a whole node in this process, that logs all it can.
type canaryNode struct {
	canary
	dir, endpoint, rootFile string
	env                     map[string]string

	mu   sync.Mutex
	said bytes.Buffer
}

// Write takes what the node prints and logs.
func (n *canaryNode) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.said.Write(p)
}

// do runs a command line, looks at what it prints, and gives its exit code.
func (n *canaryNode) do(t *testing.T, env map[string]string, args ...string) int {
	t.Helper()
	code, out, talk := runWith(t, env, args...)
	n.look(t, strings.Join(args, " "), []byte(out+talk))
	return code
}

// startCanary starts the node, which ends when the test does, and waits for its root token
// and for the first write.
func startCanary(t *testing.T) *canaryNode {
	t.Helper()
	n := &canaryNode{dir: filepath.Join(t.TempDir(), "data"), rootFile: filepath.Join(t.TempDir(), "root")}
	used, accepted := pki.NewSecret().Reveal(), pki.NewSecret().Reveal()
	n.add(used)
	n.add(accepted)
	env := func(name string) (string, bool) { return used + "," + accepted, name == secretEnv }
	var ports [2]string
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ports[i] = l.Addr().String()
		_ = l.Close()
	}
	n.endpoint = "http://" + ports[0]
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"serve", "--data-dir", n.dir, "--http-listen", ports[0], "--peer-listen", ports[1], "--replication-factor", "1",
			"--auth", "--root-token-file", n.rootFile, "--log-level", "debug"}, streams{strings.NewReader(""), n, n}, env)
	}()
	t.Cleanup(func() {
		stop()
		if code := <-ended; code != exitOK {
			t.Errorf("the node ended with %d: %s", code, n.said.String())
		}
	})
	n.env = map[string]string{"QUORATE_ENDPOINT": n.endpoint, "QUORATE_TOKEN_FILE": n.rootFile}
	tick, late := time.NewTicker(50*time.Millisecond), time.NewTimer(30*time.Second)
	defer tick.Stop()
	defer late.Stop()
	for n.do(t, n.env, "put", "k", "v") != exitOK {
		select {
		case <-tick.C:
		case <-late.C:
			t.Fatal("no write within 30 s")
		}
	}
	n.add(string(n.file(t, n.rootFile)))
	return n
}

func (n *canaryNode) file(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// get sends a request with whatever is in the header, and looks at the answer.
func (n *canaryNode) get(t *testing.T, path, authorization string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.endpoint+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", authorization)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	n.look(t, "the answer to GET "+path, fmt.Appendf(body, "%v", resp.Header))
	return resp.StatusCode
}

// TestCanary: secrets and tokens that a node works with are in no line that it logs or
// prints, in no metric, answer or error, and in no file but those they were put into.
func TestCanary(t *testing.T) {
	n := startCanary(t)
	root := strings.TrimSpace(string(n.file(t, n.rootFile)))
	made := filepath.Join(t.TempDir(), "made")
	if code := n.do(t, n.env, "token", "create", "--role", "writer", "--name", "app", "--out", made); code != exitOK {
		t.Fatalf("token create: exit %d", code)
	}
	token := strings.TrimSpace(string(n.file(t, made)))
	n.add(token)
	asApp := with(n.env, "QUORATE_TOKEN_FILE", made)
	if n.do(t, asApp, "put", "app/k", "v") != exitOK || n.do(t, asApp, "drain", "nobody") != exitFailure || n.do(t, n.env, "token", "revoke", token) != exitUsage {
		t.Error("want a write, a denied act, and a refusal of a token for its id")
	}
	if n.do(t, n.env, "token", "revoke", token[4:20]) != exitOK || n.do(t, asApp, "get", "app/k") != exitFailure {
		t.Error("want a revoked token")
	}
	for _, path := range []string{"/metrics", "/readyz", "/v1/tokens", "/v1/tokens/self", "/v1/problems", "/v1/config", "/v1/events", "/v1/nodes", "/v1/cluster"} {
		if status := n.get(t, path, "Bearer "+root); status != http.StatusOK {
			t.Errorf("GET %s: %d", path, status)
		}
	}
	for _, authorization := range []string{"Bearer " + token, "Bearer " + root + "x", "bearer  " + root + " " + token, "Basic " + root, root, "Bearer " + root[:40]} {
		n.get(t, "/v1/kv/k", authorization)
	}
	n.badSecrets(t, root)

	n.mu.Lock()
	said := bytes.Clone(n.said.Bytes())
	n.mu.Unlock()
	if !bytes.Contains(said, []byte("root token was made")) || !bytes.Contains(said, []byte("peer traffic is secured")) {
		t.Errorf("the log is not there: %s", said)
	}
	n.look(t, "the log", said)
	err := filepath.WalkDir(n.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			n.look(t, path, n.file(t, path))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// badSecrets gives secrets and tokens that are almost right: the errors must not show them.
func (n *canaryNode) badSecrets(t *testing.T, root string) {
	dir := t.TempDir()
	secret := pki.NewSecret().Reveal()
	n.add(secret)
	file := func(name, text string, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	serve := []string{"serve", "--data-dir", filepath.Join(dir, "data")}
	cut, open := file("cut", secret[:len(secret)-1]+"\n", 0o600), file("open", secret+"\n", 0o644)
	for _, args := range [][]string{
		append(serve, "--cluster-secret-file", cut), append(serve, "--cluster-secret-file", open), append(serve, "--cluster-secret-file", filepath.Join(dir, "none")),
		{"secret", "id", cut}, {"cert", "--cluster-secret-file", cut}, {"secret", "new", "--out", open}, {"put", "k", "v", "--token", root},
		{"nodes", "--token-file", file("token", root+root, 0o600)},
	} {
		if n.do(t, n.env, args...) == exitOK {
			t.Errorf("%s is taken", args[0])
		}
	}
	for _, value := range []string{secret[1:], secret + "," + secret[:20], secret + secret} {
		if n.do(t, map[string]string{secretEnv: value}, serve...) == exitOK {
			t.Error("a bad secret in the environment is taken")
		}
	}
}

// TestNoFlagTakesASecret: whoever lists processes sees command lines, also those that dev
// starts its nodes with.
func TestNoFlagTakesASecret(t *testing.T) {
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			for _, word := range []string{"token", "secret", "password"} {
				if strings.Contains(f.Name, word) && !strings.HasSuffix(f.Name, "-file") {
					t.Errorf("%s --%s: give a file instead", cmd.CommandPath(), f.Name)
				}
			}
		})
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	env := func(string) (string, bool) { return "", false }
	walk(newRoot(streams{strings.NewReader(""), io.Discard, io.Discard}, env, serverCommands(env)...))

	dir := t.TempDir()
	d, err := newDevCluster(devOptions{nodes: 2, port: 20001, shards: 1, auth: true}, dir, "/nonexistent", io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(d.cluster.Args(2), " ")
	if strings.Contains(line, "qsec1_") || !strings.Contains(line, "--auth --root-token-file "+filepath.Join(dir, devTokenFile)) {
		t.Error(line)
	}
}
