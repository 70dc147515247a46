package dashboards

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

func TestDashboardsAreTidy(t *testing.T) {
	uids := map[string]bool{}
	for _, d := range dashboards(t) {
		if d.UID == "" || uids[d.UID] || d.Title == "" || d.SchemaVersion < 39 {
			t.Errorf("%s: uid %q, title %q, schema %d: want a uid of its own, a title and a recent schema", d.file, d.UID, d.Title, d.SchemaVersion)
		}
		uids[d.UID] = true
		ids, taken := map[int]bool{}, map[[2]int]string{}
		for _, p := range d.Panels {
			where := fmt.Sprintf("%s, panel %q", d.file, p.Title)
			if p.ID == 0 || ids[p.ID] || p.Title == "" {
				t.Errorf("%s: id %d: want a title and an id of its own", where, p.ID)
			}
			ids[p.ID] = true
			checkPlace(t, where, p, taken)
			if p.Type != "row" {
				checkPanel(t, where, p)
			}
		}
	}
}

// checkPlace wants a panel within the 24 columns and on no other one.
func checkPlace(t *testing.T, where string, p panel, taken map[[2]int]string) {
	t.Helper()
	g := p.GridPos
	if g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > 24 {
		t.Errorf("%s: %+v is not within 24 columns", where, g)
	}
	for x := g.X; x < g.X+g.W; x++ {
		for y := g.Y; y < g.Y+g.H; y++ {
			if other := taken[[2]int{x, y}]; other != "" {
				t.Errorf("%s lies on %s", where, other)
				return
			}
			taken[[2]int{x, y}] = where
		}
	}
}

func checkPanel(t *testing.T, where string, p panel) {
	t.Helper()
	if p.Description == "" || len(p.Targets) == 0 {
		t.Errorf("%s: want a description and an expression", where)
	}
	if p.FieldConfig.Defaults.Unit == "" && p.Type != "state-timeline" {
		t.Errorf("%s: no unit", where)
	}
	refs := map[string]bool{}
	for _, target := range p.Targets {
		if refs[target.RefID] || target.Expr == "" || target.LegendFormat == "" && p.Type != "stat" {
			t.Errorf("%s, %s: want a letter of its own, an expression and a legend", where, target.RefID)
		}
		refs[target.RefID] = true
		if target.Datasource != p.Datasource || p.Datasource.UID != "prometheus" {
			t.Errorf("%s: data source %+v, %+v: want the one of deploy/grafana/provisioning", where, p.Datasource, target.Datasource)
		}
	}
}

// What the dashboards name is provisioned.
func TestProvisioning(t *testing.T) {
	if s := read(t, files(t, "grafana/provisioning/datasources/*.yml")[0]); !strings.Contains(s, "uid: prometheus ") {
		t.Errorf("the data source has not the uid that dashboards name:\n%s", s)
	}
	if s := read(t, files(t, "grafana/provisioning/dashboards/*.yml")[0]); !strings.Contains(s, "path: /etc/grafana/dashboards\n") {
		t.Errorf("dashboards are not read from where docker-compose.yml puts them:\n%s", s)
	}
}

// Every metric that is named anywhere in deploy/ exists, says docs/METRICS.md,
// which a test of package metrics holds to what is served.
func TestMetricsExist(t *testing.T) {
	root := files(t, "../docs/METRICS.md")[0]
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(quorate_[a-z_]+)` \\| ([a-z]+)").FindAllStringSubmatch(read(t, root), -1) {
		listed[m[1]] = true
		if m[2] == "histogram" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				listed[m[1]+suffix] = true
			}
		}
	}
	if len(listed) < 50 {
		t.Fatalf("docs/METRICS.md lists %d metrics; has its table another form now?", len(listed))
	}
	named := 0
	for _, pattern := range []string{"grafana/dashboards/*.json", "prometheus/rules/*.yml", "prometheus/tests/*.yml"} {
		for _, path := range files(t, pattern) {
			for _, name := range regexp.MustCompile(`\bquorate_[a-z_]+`).FindAllString(read(t, path), -1) {
				named++
				if !listed[name] {
					t.Errorf("%s names %s, which does not exist", path, name)
				}
			}
		}
	}
	if named < 100 {
		t.Errorf("only %d metrics are named in deploy/; does this test still find them?", named)
	}
}

// Every alert has the form, the annotations and the tests that it should.
func TestAlertsAreTidy(t *testing.T) {
	tests := ""
	for _, path := range files(t, "prometheus/tests/*.yml") {
		tests += read(t, path)
	}
	count := 0
	for _, path := range files(t, "prometheus/rules/*.yml") {
		for _, body := range strings.Split(read(t, path), "- alert: ")[1:] {
			count++
			name, _, _ := strings.Cut(body, "\n")
			for _, want := range []string{"expr: ", "labels: {severity: ", "summary: ", "description: ", "command: quorate "} {
				if !strings.Contains(body, want) {
					t.Errorf("%s has no %q", name, strings.TrimSpace(want))
				}
			}
			evals := strings.Split(tests, "alertname: "+name+"\n")[1:]
			fires, silent := false, false
			for _, e := range evals {
				silent = silent || strings.HasPrefix(strings.TrimSpace(e), "exp_alerts: []")
				fires = fires || strings.HasPrefix(strings.TrimSpace(e), "exp_alerts:\n")
			}
			if !fires || !silent {
				t.Errorf("%s: a test where it fires: %t, one where it does not: %t; want both", name, fires, silent)
			}
		}
	}
	if count < 10 {
		t.Errorf("only %d alerts found", count)
	}
}

func TestWithoutComparison(t *testing.T) {
	for query, want := range map[string]string{
		`up{job="quorate"} == 0`:         `up{job="quorate"}`,
		`sum(a{b=">= 3"}) / sum(c) > .5`: `sum(a{b=">= 3"}) / sum(c)`,
		`max(a) - max(b) >= -1`:          `max(a) - max(b)`,
		`a > b`:                          "",
		`sum(a > 3)`:                     "",
	} {
		got, err := withoutComparison(query)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", query, got, err, want)
		}
	}
}
