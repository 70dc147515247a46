//go:build blackbox

package dashboards

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/test/proc"
)

// tool gives the path of one of Prometheus' programs. scripts/test.sh installs
// them from Debian's package.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed (Debian: prometheus)", name)
	}
	return path
}

// prometheus is a Prometheus on loopback.
type prometheus struct{ url string }

// targets finds the list of targets in deploy/prometheus/prometheus.yml, one in a
// line.
var targets = regexp.MustCompile(`(?m)(^ +- targets:\n)(?:^ +- node\d+:7001\n)+`)

// startPrometheus starts Prometheus with the configuration of deploy/, which it
// changes as little as it can: other targets, shorter intervals, and where the
// rules lie. It ends with the test.
func startPrometheus(t testing.TB, scrape []string) *prometheus {
	t.Helper()
	program := tool(t, "prometheus")
	source := files(t, "prometheus/prometheus.yml")[0]
	config := read(t, source)
	if n := strings.Count(config, ":7001\n"); n != 5 || !targets.MatchString(config) {
		t.Fatalf("%s has %d targets, want the five of docker-compose.yml, one in a line", source, n)
	}
	list := ""
	for _, address := range scrape {
		list += "          - " + address + "\n"
	}
	config = targets.ReplaceAllString(config, "${1}"+list)
	config = strings.ReplaceAll(config, "_interval: 10s", "_interval: 1s")
	config = strings.ReplaceAll(config, "- rules/", "- "+filepath.Dir(source)+"/rules/")
	dir := t.TempDir()
	token := filepath.Join(dir, "token") // the cluster under test asks for none, but Prometheus wants the file
	if n := strings.Count(config, " /prometheus/token\n"); n != 1 {
		t.Fatalf("%s names the file of the token %d times, want once, where docker-compose.yml has it", source, n)
	}
	config = strings.ReplaceAll(config, " /prometheus/token\n", " "+token+"\n")
	if err := os.WriteFile(token, []byte("qrt_\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", proc.FreePorts(t, 1, 0))
	cmd := exec.Command(program, "--config.file="+path, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
		if t.Failed() {
			t.Logf("Prometheus said:\n%s", read(t, log.Name()))
		}
	})
	p := &prometheus{url: "http://" + address}
	proc.Eventually(t, proc.WaitMax, "Prometheus is ready", func(ctx context.Context) error {
		_, err := get(ctx, p.url+"/-/ready")
		return err
	})
	return p
}

// get gives the body of a successful answer.
func get(ctx context.Context, address string) (string, error) {
	a, err := proc.Do(ctx, http.MethodGet, address, "", 5*time.Second)
	if err == nil && a.Status != http.StatusOK {
		err = fmt.Errorf("%s: %d %s", address, a.Status, a.Body)
	}
	return a.Body, err
}

// query gives the number of values that an expression has now.
func (p *prometheus) query(ctx context.Context, expr string) (int, error) {
	body, err := get(ctx, p.url+"/api/v1/query?query="+url.QueryEscape(expr))
	if err != nil {
		return 0, err
	}
	var answer struct {
		Data struct{ Result []json.RawMessage }
	}
	err = json.Unmarshal([]byte(body), &answer)
	return len(answer.Data.Result), err
}

// waitForData gives those expressions that have no data within the limit, each with
// the reason.
func (p *prometheus) waitForData(t testing.TB, limit time.Duration, all []expression) error {
	left := all
	var why error
	_ = proc.Await(t.Context(), limit, func(ctx context.Context) error {
		var still []expression
		var missing []error
		for _, e := range left {
			n, err := p.query(ctx, e.query)
			if ctx.Err() != nil {
				return ctx.Err() // what is known already says more
			}
			if err == nil && n == 0 {
				err = errors.New("no data")
			}
			if err != nil {
				still = append(still, e)
				missing = append(missing, fmt.Errorf("%s: %w: %s", e.where, err, e.query))
			}
		}
		left, why = still, errors.Join(missing...)
		return why
	})
	return why
}

// rule is one alert as Prometheus has read it.
type rule struct {
	Name        string
	Query       string
	Health      string
	LastError   string
	Annotations map[string]string
}

func (p *prometheus) rules(ctx context.Context) ([]rule, error) {
	body, err := get(ctx, p.url+"/api/v1/rules")
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data struct{ Groups []struct{ Rules []rule } }
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return nil, err
	}
	var all []rule
	for _, g := range answer.Data.Groups {
		all = append(all, g.Rules...)
	}
	return all, nil
}
