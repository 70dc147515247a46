//go:build blackbox

package dashboards

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/test/operator"
	"github.com/quorate-db/quorate/test/proc"
)

var builder proc.Builder

func TestMain(m *testing.M) {
	code := m.Run()
	builder.Remove()
	os.Exit(code)
}

func TestPromtool(t *testing.T) {
	promtool := tool(t, "promtool")
	for _, args := range [][]string{
		append([]string{"check", "config", "--syntax-only"}, files(t, "prometheus/prometheus.yml")...), // the token's file is not here
		append([]string{"check", "rules"}, files(t, "prometheus/rules/*.yml")...),
		append([]string{"test", "rules"}, files(t, "prometheus/tests/*.yml")...),
	} {
		ctx, cancel := context.WithTimeout(t.Context(), proc.WaitMax)
		defer cancel()
		if out, err := exec.CommandContext(ctx, promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args[:2], " "), err, out)
		}
	}
}

// Every expression of every panel and of every alert has data on a cluster that
// has seen traffic and failures; an alert's without its comparison.
func TestEveryExpressionHasData(t *testing.T) {
	tool(t, "prometheus")
	binary := builder.Binary(t, false)
	files := operatorFiles(t, "1", "2", "3")
	c := proc.Start(t, binary, proc.Shape{Nodes: 3, Shards: 4, Plain: true, NodeArgs: func(_ *proc.Cluster, i int) []string {
		return files.Args(strconv.Itoa(i))
	}})
	var addresses []string
	for i := 1; i <= c.Size; i++ {
		addresses = append(addresses, c.HTTPAddress(i))
	}
	p := startPrometheus(t, addresses)
	proc.Eventually(t, proc.WaitMax, "all nodes are scraped", func(ctx context.Context) error {
		if n, err := p.query(ctx, `up{job="quorate"} == 1`); err != nil || n != c.Size {
			return fmt.Errorf("%d nodes, %w", n, err)
		}
		return nil
	})
	traffic(t, c)
	outage(t, c, p)
	traffic(t, c)

	all := expressions(t)
	var rules []rule
	proc.Eventually(t, proc.WaitMax, "rules are evaluated", func(ctx context.Context) error {
		var err error
		if rules, err = p.rules(ctx); err != nil {
			return err
		}
		for _, r := range rules {
			if r.Health != "ok" {
				err = errors.Join(err, fmt.Errorf("%s: %s %s", r.Name, r.Health, r.LastError))
			}
		}
		return err
	})
	if len(rules) < 10 || len(all) < 50 {
		t.Fatalf("%d rules and %d expressions of panels: too few to be all", len(rules), len(all))
	}
	for _, r := range rules {
		vector, err := withoutComparison(r.Query)
		if err != nil {
			t.Errorf("%s: %v", r.Name, err)
		}
		all = append(all, expression{"alert " + r.Name, vector})
		checkCommand(t, binary, r)
	}
	if err := p.waitForData(t, proc.WaitMax, all); err != nil {
		t.Errorf("expressions without data:\n%v", err)
	}
	for _, d := range dashboards(t) {
		for _, a := range d.Annotations.List {
			if _, err := p.query(t.Context(), a.Expr); err != nil {
				t.Errorf("%s, annotation: %v", d.file, err)
			}
		}
		for _, v := range d.Templating.List {
			checkVariable(t, p, d.file, v)
		}
	}
	t.Logf("%d expressions, %d of them of alerts", len(all), len(rules))
}

// operatorFiles are certificates of one's own, which have metrics that a cluster secret
// has not.
func operatorFiles(t *testing.T, nodes ...string) operator.Files {
	t.Helper()
	f, o := operator.Files{Dir: t.TempDir()}, operator.New(t, "operator", operator.Life/2)
	for _, node := range nodes {
		f.Trust(t, node, o)
		f.Issue(t, node, "quorate://dashboards/node", o, operator.Life/2)
	}
	return f
}

// checkCommand wants that the command which an alert names exists.
func checkCommand(t *testing.T, binary string, r rule) {
	t.Helper()
	words := strings.Fields(r.Annotations["command"])
	if len(words) < 2 || words[0] != "quorate" {
		t.Errorf("%s names the command %q", r.Name, r.Annotations["command"])
		return
	}
	// With --help behind it a command line is read, and nothing else.
	var args []string
	for _, w := range words[1:] {
		if !strings.Contains(w, "{{") && !strings.Contains(w, "}}") {
			args = append(args, w)
			continue
		}
		if strings.HasPrefix(w, "http://") || w == "{{" {
			args = append(args, "http://127.0.0.1:7001")
		}
	}
	got := proc.Run(t, binary, "", append(args, "--help")...)
	if usage := "Usage:\n  quorate " + args[0] + " "; got.Code != 0 || !strings.Contains(got.Stdout, usage) {
		t.Errorf("%s names %q, which this binary does not know: %s%s", r.Name, r.Annotations["command"], got.Stdout, got.Stderr)
	}
}

// checkVariable wants that what a dashboard chooses from is there.
func checkVariable(t *testing.T, p *prometheus, file string, v variable) {
	t.Helper()
	inside, ok := strings.CutPrefix(v.Query.Query, "label_values(")
	metric, label, ok2 := strings.Cut(strings.TrimSuffix(inside, ")"), ", ")
	if !ok || !ok2 || v.Definition != v.Query.Query {
		t.Errorf("%s, variable %s: %q is not label_values(metric, label)", file, v.Name, v.Query.Query)
		return
	}
	if n, err := p.query(t.Context(), fmt.Sprintf("count by (%s) (%s)", label, metric)); err != nil || n < 3 {
		t.Errorf("%s, variable %s has %d values, %v", file, v.Name, n, err)
	}
}

// traffic uses every operation once or more at every node.
func traffic(t *testing.T, c *proc.Cluster) {
	t.Helper()
	for i := 1; i <= c.Size; i++ {
		one := c.Client(t, client.Config{Endpoints: []string{c.Endpoint(i)}})
		for n := range 40 {
			key := fmt.Sprintf("%c/%d/%d", "0AZaz"[n%5], i, n)
			if _, err := one.Put(t.Context(), key, []byte("value"), client.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, err := one.Get(t.Context(), key, client.ReadOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		operations(t, one, fmt.Sprintf("traffic/%d/", i))
	}
}

func operations(t *testing.T, one *client.Client, prefix string) {
	t.Helper()
	ctx := t.Context()
	_, addErr := one.Add(ctx, prefix+"n", 1, client.AddOptions{})
	_, batchErr := one.Batch(ctx, []client.Op{client.PutOp(prefix+"a", []byte("1")), client.PutOp(prefix+"b", []byte("2"))})
	_, txnErr := one.Txn(ctx, client.Txn{If: []client.Guard{client.IfExists(prefix + "a")}, Then: []client.Op{client.DeleteOp(prefix + "b")}})
	_, queryErr := one.Query(ctx, client.Query{Gets: []string{prefix + "a", prefix + "b"}})
	_, staleErr := one.Get(ctx, prefix+"a", client.ReadOptions{Consistency: kv.Stale})
	_, deleteErr := one.Delete(ctx, prefix+"a", client.DeleteOptions{})
	_, rangeErr := one.DeletePrefix(ctx, prefix)
	if err := errors.Join(addErr, batchErr, txnErr, queryErr, deleteErr, rangeErr); err != nil {
		t.Fatal(err)
	}
	if staleErr != nil && !client.IsNotFound(staleErr) {
		t.Fatal(staleErr)
	}
	if _, err := one.Put(ctx, prefix+"x", nil, client.PutOptions{IfMatch: 1}); !client.IsConditionFailed(err) {
		t.Fatalf("a put whose condition is false: %v", err)
	}
	for _, err := range one.Scan(ctx, client.Range{}) {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// outage takes the majority away, until alerts notice and requests have failed, and
// gives it back.
func outage(t *testing.T, c *proc.Cluster, p *prometheus) {
	t.Helper()
	for _, i := range []int{2, 3} {
		if err := c.Kill(i); err != nil {
			t.Fatal(err)
		}
	}
	for _, method := range []string{http.MethodGet, http.MethodPut} {
		a := proc.MustDo(t, method, c.Endpoint(1)+"/v1/kv/any", "x", time.Second)
		if a.Status < 500 {
			t.Fatalf("%s without a majority: %d", method, a.Status)
		}
	}
	for _, alert := range []string{"QuorateNodeDown", "QuorateMetaWithoutLeader", "QuorateShardWithoutLeader", "QuorateShardUnderReplicated"} {
		proc.Eventually(t, proc.WaitMax, alert+" has noticed", func(ctx context.Context) error {
			n, err := p.query(ctx, fmt.Sprintf("ALERTS{alertname=%q}", alert))
			if err == nil && n == 0 {
				err = errors.New("it is neither pending nor firing")
			}
			return err
		})
	}
	if err := c.StartAll(); err != nil {
		t.Fatal(err)
	}
	c.WaitReady(t)
}
