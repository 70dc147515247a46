//go:build docker

package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/test/history"
	"github.com/quorate-db/quorate/test/load"
	"github.com/quorate-db/quorate/test/proc"
)

// limit is the deadline of requests that may meet a failure.
const limit = 20 * time.Second

// TestCompose runs the compose file under load and does to its containers what the
// README says one may: nothing that was acknowledged is lost.
func TestCompose(t *testing.T) {
	c := up(t)
	t.Run("confinement", func(t *testing.T) { testConfinement(t, c) })
	t.Run("logs", func(t *testing.T) { testLogs(t, c) })
	t.Run("cluster", func(t *testing.T) { testCluster(t, c) })
	t.Run("tokens", func(t *testing.T) { testTokens(t, c) })

	h := history.NewRecorder()
	l := load.Start(t, load.Options{Endpoints: c.endpoints(), Token: c.token, Clients: 8, Rate: 300, Timeout: 10 * time.Second, Seed: 1}, h)
	for i, fault := range []struct {
		name       string
		begin, end []string
	}{
		{"kill", []string{"kill", "%c"}, []string{"start", "%c"}},
		{"pause", []string{"pause", "%c"}, []string{"unpause", "%c"}},
		{"stop", []string{"stop", "%c"}, []string{"start", "%c"}},
		{"network cut", []string{"network", "disconnect", "%p_cluster", "%c"}, []string{"network", "connect", "--alias", "node%n", "%p_cluster", "%c"}},
	} {
		t.Run(fault.name, func(t *testing.T) { testFault(t, c, l, 1+i%nodes, fault.begin, fault.end) })
	}
	l.Stop()
	t.Run("restart", func(t *testing.T) { testRestart(t, c) })
	t.Run("logs of all that", func(t *testing.T) { testLogs(t, c) })
	l.Finish(t)
	for _, err := range l.Failures() {
		t.Errorf("an answer that no client should get: %v", err)
	}
	report, err := history.Check(h.Ops(), 2*time.Minute)
	if err != nil {
		t.Error(err)
	}
	refused, unreachable := l.Refused()
	t.Logf("%s; %d refused by nodes for the time being, %d had no answer", report, refused, unreachable)
}

// testConfinement looks at what the engine was told and at what holds inside.
func testConfinement(t *testing.T, c *compose) {
	for i := 1; i <= nodes; i++ {
		got, err := c.inspect(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		if got.Config.User != "65532:65532" || !got.HostConfig.ReadonlyRootfs || got.HostConfig.Privileged ||
			!slices.Equal(got.HostConfig.CapDrop, []string{"ALL"}) || !slices.Contains(got.HostConfig.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s: user %q, %+v", c.container(i), got.Config.User, got.HostConfig)
		}
		slices.SortFunc(got.Mounts, func(a, b mount) int { return strings.Compare(a.Destination, b.Destination) })
		want := []mount{{"volume", "/data", true}, {"volume", "/secret", false}, {"volume", "/tokens", true}}
		if !slices.Equal(got.Mounts, want) {
			t.Errorf("%s: mounts %+v, want %+v", c.container(i), got.Mounts, want)
		}
		for _, env := range got.Config.Env {
			if strings.Contains(env, "qsec1_") || strings.Contains(env, "qrt_") || strings.HasPrefix(env, "QUORATE_INSECURE") {
				t.Errorf("%s: environment %q", c.container(i), env)
			}
		}
		checkMode(t, c.container(i), "/data", 0o700)
		for port, bindings := range got.NetworkSettings.Ports {
			for _, b := range bindings {
				if port != "7001/tcp" || b.HostIP != "127.0.0.1" {
					t.Errorf("%s publishes %s on %s", c.container(i), port, b.HostIP)
				}
			}
		}
	}
	top := strings.Split(strings.TrimSpace(c.docker(t, "top", c.container(1), "-eo", "uid,pid,args")), "\n")
	for _, row := range top[1:] {
		if uid, _, _ := strings.Cut(strings.TrimSpace(row), " "); uid != "65532" {
			t.Errorf("a process runs as user %s: %s", uid, row)
		}
	}
	checkMode(t, c.container(1), "/secret/cluster.secret", 0o600)
	checkMode(t, c.container(1), "/tokens/root.token", 0o600)
	_, err := command(t.Context(), "", nil, "docker", "exec", c.container(1), "/quorate", "serve",
		"--data-dir", "/elsewhere", "--http-listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0")
	if err == nil || !strings.Contains(err.Error(), "read-only file system") {
		t.Errorf("writing beside the volume: %v, want a read-only file system", err)
	}
	c.docker(t, "exec", c.container(2), "/quorate", "health")
}

// testLogs holds every line that the nodes log to being one JSON object without a
// key twice, which readers would disagree about.
func testLogs(t *testing.T, c *compose) {
	for i := 1; i <= nodes; i++ {
		out, err := command(t.Context(), "", nil, "sh", "-c", `docker logs "$1" 2>&1`, "sh", c.container(i))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(out), "\n")
		for _, line := range lines {
			if strings.Contains(line, "qrt_") || strings.Contains(line, "qsec1_") {
				t.Errorf("%s logs a secret", c.container(i))
			}
			if err := checkLogLine(line); err != nil {
				t.Errorf("%s logs %q: %v", c.container(i), line, err)
			}
		}
	}
}

func checkLogLine(line string) error {
	dec := json.NewDecoder(strings.NewReader(line))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return fmt.Errorf("no object: %v %w", open, err)
	}
	keys := map[string]bool{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		name := fmt.Sprint(key)
		if keys[name] {
			return fmt.Errorf("%q is there twice", name)
		}
		keys[name] = true
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return err
		}
	}
	for _, name := range []string{"time", "level", "msg"} {
		if !keys[name] {
			return fmt.Errorf("%q is not there", name)
		}
	}
	return nil
}

func testCluster(t *testing.T, c *compose) {
	admin, err := client.New(c.client())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	info, err := admin.Cluster(t.Context())
	if err != nil || info.Nodes != nodes || info.Shards != 8 || info.ReplicationFactor != 3 {
		t.Errorf("cluster %+v, %v", info, err)
	}
	for i := 1; i <= nodes; i++ {
		key := fmt.Sprintf("/v1/kv/m/from/%d", i)
		if a := c.do(t, i, http.MethodPut, key, "v"); a.Status != http.StatusCreated {
			t.Errorf("PUT at node %d: %d %s", i, a.Status, a.Body)
		}
		for k := 1; k <= nodes; k++ {
			if a := c.do(t, k, http.MethodGet, key, ""); a.Status != http.StatusOK || a.Body != "v" {
				t.Errorf("GET at node %d: %d %s", k, a.Status, a.Body)
			}
		}
	}
}

// testFault does something to node i, has the others serve all shards meanwhile,
// undoes it and waits until the node is well again and does not answer from the past.
func testFault(t *testing.T, c *compose, l *load.Load, i int, begin, end []string) {
	fill := strings.NewReplacer("%c", c.container(i), "%p", c.name, "%n", fmt.Sprint(i))
	do := func(args []string) {
		t.Helper()
		filled := make([]string, len(args))
		for k := range args {
			filled[k] = fill.Replace(args[k])
		}
		c.docker(t, filled...)
	}
	sent := l.Sent()
	do(begin)
	began := time.Now()
	for _, letter := range "0AKUZekz" {
		for k := 1; k <= nodes; k++ {
			if k == i {
				continue
			}
			path := fmt.Sprintf("/v1/kv/%c/fault", letter)
			value := fmt.Sprint(begin[0], k)
			if a := c.do(t, k, http.MethodPut, path, value); a.Status != http.StatusCreated && a.Status != http.StatusNoContent {
				t.Errorf("PUT at node %d while node %d was gone: %d %s", k, i, a.Status, a.Body)
			}
			if a := c.do(t, k, http.MethodGet, path, ""); a.Status != http.StatusOK || a.Body != value {
				t.Errorf("GET at node %d while node %d was gone: %d %s", k, i, a.Status, a.Body)
			}
		}
	}
	t.Logf("all shards written and read at all other nodes %s after it", time.Since(began).Round(time.Millisecond))
	do(end)
	proc.Eventually(t, healthyMax, "read at the node that returned", func(ctx context.Context) error {
		for _, letter := range "0AKUZekz" {
			a, err := proc.DoAs(ctx, c.token, http.MethodGet, fmt.Sprintf("%s/v1/kv/%c/fault", c.endpoint(i), letter), "", limit)
			switch last := fmt.Sprint(begin[0], lastBut(i)); {
			case err != nil:
				return err
			case a.Status == http.StatusOK && a.Body != last:
				t.Errorf("stale read: %q, want %q", a.Body, last)
			case a.Status != http.StatusOK:
				return fmt.Errorf("%d %s", a.Status, a.Body)
			}
		}
		return nil
	})
	c.waitHealthy(t)
	if l.Sent() == sent {
		t.Error("the load stood still")
	}
}

// lastBut gives the last node that is not i.
func lastBut(i int) int {
	if i == nodes {
		return nodes - 1
	}
	return nodes
}

// testRestart takes all containers away and makes new ones around the volumes.
func testRestart(t *testing.T, c *compose) {
	const path = "/v1/kv/m/kept"
	if a := c.do(t, 2, http.MethodPut, path, "v"); a.Status != http.StatusCreated {
		t.Fatalf("PUT: %d %s", a.Status, a.Body)
	}
	c.run(t, "down")
	c.run(t, "up", "-d", "--no-build")
	c.waitHealthy(t)
	if a := c.do(t, 2, http.MethodGet, path, ""); a.Status != http.StatusOK || a.Body != "v" {
		t.Errorf("GET after down and up: %d %s", a.Status, a.Body)
	}
}
