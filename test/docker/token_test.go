//go:build docker

package docker

import (
	"archive/tar"
	"context"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quorate-db/quorate/test/proc"
)

// owner is the user that the image runs as.
const owner = 65532

// checkMode looks at a file or folder in a container, which has no programs that would
// show it: the engine copies it out as a tar archive.
func checkMode(t *testing.T, container, path string, mode fs.FileMode) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", "cp", container+":"+path, "-")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	head, err := tar.NewReader(out).Next()
	cancel() // the rest of it is not wanted
	_ = cmd.Wait()
	if err != nil {
		t.Errorf("%s in %s: %v", path, container, err)
		return
	}
	if got := head.FileInfo().Mode().Perm(); got != mode || head.Uid != owner {
		t.Errorf("%s in %s: mode %o of user %d, want %o of %d", path, container, got, head.Uid, mode, owner)
	}
}

// testTokens does what docker-compose.yml says one does with tokens: commands in the
// containers have the root token, others get one there, and Prometheus has one that
// reads metrics and nothing else.
func testTokens(t *testing.T, c *compose) {
	for _, path := range []string{"/v1/kv/m/from/1", "/v1/cluster", "/metrics"} {
		if a := proc.MustDo(t, http.MethodGet, c.endpoint(1)+path, "", limit); a.Status != http.StatusUnauthorized {
			t.Errorf("GET %s without a token: %d %s", path, a.Status, a.Body)
		}
	}
	if out := c.docker(t, "exec", c.container(2), "/quorate", "nodes"); !strings.Contains(out, "node5") {
		t.Errorf("nodes, in a container: %s", out)
	}
	made := strings.TrimSpace(c.docker(t, "exec", c.container(3), "/quorate", "token", "create", "--role", "writer", "--name", "me"))
	if a, err := proc.DoAs(t.Context(), made, http.MethodPut, c.endpoint(4)+"/v1/kv/m/token", "v", limit); err != nil || a.Status != http.StatusCreated {
		t.Errorf("PUT with a token of one's own: %d %s, %v", a.Status, a.Body, err)
	}
	token := c.prometheusToken(t)
	for path, want := range map[string]int{"/metrics": http.StatusOK, "/v1/kv/m/token": http.StatusForbidden, "/v1/tokens": http.StatusForbidden} {
		if a, err := proc.DoAs(t.Context(), token, http.MethodGet, c.endpoint(5)+path, "", limit); err != nil || a.Status != want {
			t.Errorf("GET %s with the token of Prometheus: %d, %v, want %d", path, a.Status, err, want)
		}
	}
}

// prometheusToken has the compose file make the token for Prometheus, twice, as the next
// `up` does, and gives it.
func (c *compose) prometheusToken(t *testing.T) string {
	t.Helper()
	name := c.name + "-prometheus-token"
	t.Cleanup(func() { // here, because `down` may leave alone what belongs to a profile
		ctx, cancel := context.WithTimeout(context.Background(), commandMax)
		defer cancel()
		for _, args := range [][]string{{"docker", "rm", "-f", name}, {"docker", "volume", "rm", "-f", c.name + "_prometheus-data"}} {
			if _, err := command(ctx, "", nil, args...); err != nil {
				t.Errorf("clean up: %v", err)
			}
		}
	})
	var made [2]string
	for i := range made {
		c.run(t, "--profile", "observability", "up", "-d", "--no-build", "--no-deps", "--force-recreate", "prometheus-token")
		if code := strings.TrimSpace(c.docker(t, "wait", name)); code != "0" {
			t.Fatalf("making the token for Prometheus ended with %s: %s", code, c.docker(t, "logs", name))
		}
		checkMode(t, name, "/data/token", 0o600)
		checkMode(t, name, "/data", 0o755) // where Prometheus, the same user, keeps its data too
		path := filepath.Join(t.TempDir(), "token")
		c.docker(t, "cp", name+":/data/token", path)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		made[i] = strings.TrimSpace(string(text))
	}
	if made[0] != made[1] {
		t.Error("a second token was made")
	}
	return made[0]
}
