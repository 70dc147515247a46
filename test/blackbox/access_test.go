//go:build blackbox

package blackbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/internal/audit"
	"github.com/quorate-db/quorate/internal/localcluster"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/test/proc"
)

// revokedWithin is the promise: on nodes that follow the meta leader.
const revokedWithin = time.Second

// guarded is a cluster that asks for tokens.
type guarded struct {
	*proc.Cluster
	rootFile string
	root     string
}

// startGuarded waits until there is a root token, and keys can be written with it.
func startGuarded(t *testing.T) *guarded {
	g := &guarded{rootFile: filepath.Join(t.TempDir(), "root")}
	g.Cluster = proc.Describe(t, binary(t), proc.Shape{Nodes: 3, Args: []string{"--auth", "--root-token-file", g.rootFile}})
	if err := g.StartAll(); err != nil {
		t.Fatal(err)
	}
	proc.Eventually(t, proc.WaitMax, "root token", func(context.Context) error {
		b, err := os.ReadFile(g.rootFile)
		g.root = strings.TrimSpace(string(b))
		return err
	})
	g.waitReady(t)
	return g
}

func (g *guarded) as(t *testing.T, node int, token string) *client.Client {
	return g.Client(t, client.Config{Endpoints: []string{g.Endpoint(node)}, Token: token})
}

func (g *guarded) waitReady(t *testing.T) {
	t.Helper()
	admin := g.Client(t, client.Config{Token: g.root})
	proc.Eventually(t, proc.WaitMax, "cluster ready", func(ctx context.Context) error {
		for i := 1; i <= g.Size; i++ {
			if err := admin.Ready(ctx, g.Endpoint(i)); err != nil {
				return err
			}
		}
		info, err := admin.Cluster(ctx)
		if err == nil && (info.NodesAlive < g.Size || info.ShardsWithLeader < info.Shards || info.Shards == 0) {
			err = fmt.Errorf("%+v", info)
		}
		return err
	})
}

// TestTokens: the first token, one that is made, used and revoked, on real nodes, and
// what is left of it after a restart.
func TestTokens(t *testing.T) {
	g := startGuarded(t)
	for i := 1; i <= g.Size; i++ {
		for _, path := range []string{"/v1/kv/app/k", "/v1/kv?prefix=app/", "/v1/cluster", "/v1/tokens"} {
			if a := proc.MustDo(t, http.MethodGet, g.Endpoint(i)+path, "", limit); a.Status != http.StatusUnauthorized || a.Code != "unauthenticated" || a.Outcome != "not-applied" {
				t.Errorf("GET %s at node %d without a token: %d %s", path, i, a.Status, a.Body)
			}
		}
	}
	made, err := g.as(t, 1, g.root).CreateToken(t.Context(), client.TokenOrder{Name: "app", Grants: []client.Grant{{Role: kv.RoleWriter, Prefix: "app/"}}})
	if err != nil {
		t.Fatal(err)
	}
	var apps []*client.Client
	for i := 1; i <= g.Size; i++ {
		app := g.as(t, i, made.Secret)
		apps = append(apps, app)
		if _, err := app.Put(t.Context(), fmt.Sprintf("app/%d", i), []byte("v"), client.PutOptions{}); err != nil {
			t.Errorf("node %d: %v", i, err)
		}
		if _, err := app.Put(t.Context(), "other", []byte("v"), client.PutOptions{}); client.CodeOf(err) != kv.CodeForbidden {
			t.Errorf("node %d: %v", i, err)
		}
	}
	if _, err := g.as(t, 2, g.root).RevokeToken(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	machine, revoked := proc.WatchMachine(t), time.Now()
	for i, app := range apps {
		proc.Eventually(t, proc.WaitMax, "revoked", func(ctx context.Context) error {
			if _, err := app.Get(ctx, "app/1", client.ReadOptions{}); client.CodeOf(err) != kv.CodeUnauthenticated {
				return fmt.Errorf("node %d: %w", i+1, errors.Join(err, errors.New("the token counts")))
			}
			return nil
		})
	}
	if took, stalled := time.Since(revoked), machine.Stalled(); took > revokedWithin+stallCosts*stalled {
		t.Errorf("a revoked token counted for %s, while the machine stood still for %s", took, stalled)
	} else {
		t.Logf("revoked everywhere within %s", took)
	}
	testRestartWithTokens(t, g)
	testAudit(t, g, made.ID)
	testAuditRoute(t, g, made.ID)
}

// testRestartWithTokens: the root token is made once, and counts after a restart.
func testRestartWithTokens(t *testing.T, g *guarded) {
	if err := os.Remove(g.rootFile); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= g.Size; i++ {
		if err := g.Kill(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.StartAll(); err != nil {
		t.Fatal(err)
	}
	g.waitReady(t)
	if _, err := os.Stat(g.rootFile); err == nil {
		t.Error("a second root token was made")
	}
	if all, err := g.as(t, 3, g.root).Tokens(t.Context()); err != nil || len(all) != 1 || !all[0].Root {
		t.Errorf("%+v, %v", all, err)
	}
}

// testAudit: what was denied and administered is in the logs, and no secret is.
func testAudit(t *testing.T, g *guarded, made string) {
	var all strings.Builder
	paths, err := filepath.Glob(filepath.Join(g.DataDir, "*", "audit.log"))
	if err != nil || len(paths) != g.Size {
		t.Fatalf("%q, %v", paths, err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
		var v audit.Verifier
		if err := v.File(strings.NewReader(string(text))); err != nil || v.Summary().Lines < 4 {
			t.Errorf("%s: %+v, %v", path, v.Summary(), err)
		}
	}
	text := all.String()
	for _, want := range []string{
		`"method":"POST","route":"/v1/tokens","target":"` + made + `"`, `"method":"DELETE","route":"/v1/tokens/{id}","target":"` + made + `"`,
		`"name":"app","method":"PUT","route":"/v1/kv/{key}"`, `"code":"forbidden"`, `"code":"unauthenticated"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the audit logs do not have %s", want)
		}
	}
	if strings.Contains(text, "qrt_") {
		t.Error("there is a token in an audit log")
	}
	for i := 1; i <= g.Size; i++ {
		if strings.Contains(g.LogTail(i, 1<<30), "qrt_") {
			t.Errorf("there is a token in the log of node %d", i)
		}
	}
}

// testAuditRoute: any node shows the entries of all, in order, and says whose are missing.
func testAuditRoute(t *testing.T, g *guarded, made string) {
	if err := os.WriteFile(g.rootFile, []byte(g.root), 0o600); err != nil {
		t.Fatal(err)
	}
	lines := 0
	for i := 1; i <= g.Size; i++ {
		text, err := os.ReadFile(filepath.Join(g.DataDir, localcluster.Name(i), "audit.log"))
		if err != nil {
			t.Fatal(err)
		}
		lines += strings.Count(string(text), "\n")
	}
	for i := 1; i <= g.Size; i++ {
		f := proc.Run(t, binary(t), "", "audit", "--last", "0", "-o", "json", "--endpoint", g.Endpoint(i), "--token-file", g.rootFile)
		var all []client.AuditEntry
		if err := json.Unmarshal([]byte(f.Stdout), &all); err != nil || f.Code != 0 || f.Stderr != "" || len(all) != lines {
			t.Fatalf("at node %d: %d entries, want %d, %v, exit code %d: %s", i, len(all), lines, err, f.Code, f.Stderr)
		}
		if !slices.IsSortedFunc(all, func(a, b client.AuditEntry) int { return a.Time.Compare(b.Time) }) {
			t.Errorf("at node %d they are not in order", i)
		}
		revoked := slices.IndexFunc(all, func(e client.AuditEntry) bool { return e.Method == http.MethodDelete && e.Target == made })
		if revoked < 0 || all[revoked].NodeName != "node2" || all[revoked].Status != http.StatusOK {
			t.Errorf("at node %d: the revocation at node 2 is not there", i)
		}
		if strings.Contains(f.Stdout, "qrt_") {
			t.Errorf("at node %d: there is a token in it", i)
		}
	}
	g.Pause(t, 2) // whatever it leads
	defer g.Resume(t, 2)
	f := proc.Run(t, binary(t), "", "audit", "-o", "plain", "--endpoint", g.Endpoint(1), "--token-file", g.rootFile)
	if f.Code != 0 || !strings.Contains(f.Stderr, "entries of node2 are missing") || !strings.Contains(f.Stdout, "\tnode3\t") || strings.Contains(f.Stdout, "\tnode2\t") {
		t.Errorf("without node 2: %+v", f)
	}
}

// TestANodeInTheDarkRefusesTokens takes longer than CI has.
func TestANodeInTheDarkRefusesTokens(t *testing.T) {
	if os.Getenv("QUORATE_SOAK") == "" {
		t.Skip("waits for " + kv.AccessStaleAfter.String() + ": QUORATE_SOAK")
	}
	g := startGuarded(t)
	for i := 2; i <= g.Size; i++ {
		g.Pause(t, i)
	}
	dark := time.Now()
	for {
		a := g.as(t, 1, g.root)
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		_, err := a.OwnToken(ctx)
		cancel()
		if took := time.Since(dark); client.CodeOf(err) == kv.CodeUnavailable && took > kv.AccessStaleAfter-5*time.Second {
			t.Logf("refused after %s", took)
			break
		} else if took > kv.AccessStaleAfter+5*time.Second {
			t.Fatalf("after %s: %v", took, err)
		}
	}
	for i := 2; i <= g.Size; i++ {
		g.Resume(t, i)
	}
	g.waitReady(t)
}
