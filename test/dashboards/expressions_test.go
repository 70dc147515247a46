// Package dashboards tests what deploy/ brings for Prometheus and Grafana: the
// files by themselves, and with the tag blackbox every expression in them against
// a live cluster that a live Prometheus scrapes.
package dashboards

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/quorate-db/quorate/test/proc"
)

// dashboard is what this test wants to know of a Grafana dashboard.
type dashboard struct {
	file string

	UID           string
	Title         string
	SchemaVersion int
	Panels        []panel
	Templating    struct{ List []variable }
	Annotations   struct{ List []struct{ Expr string } }
}

type panel struct {
	ID          int
	Type        string
	Title       string
	Description string
	Datasource  source
	GridPos     struct{ X, Y, W, H int }
	Targets     []target
	FieldConfig struct{ Defaults struct{ Unit string } }
}

type source struct{ Type, UID string }

type target struct {
	RefID        string
	Datasource   source
	Expr         string
	LegendFormat string
}

type variable struct {
	Name       string
	Definition string
	Query      struct{ Query string }
}

func files(t testing.TB, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(proc.Root(t), "deploy", pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("deploy/%s: %d files, %v", pattern, len(found), err)
	}
	return found
}

func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func dashboards(t testing.TB) []dashboard {
	t.Helper()
	var all []dashboard
	for _, path := range files(t, "grafana/dashboards/*.json") {
		d := dashboard{file: filepath.Base(path)}
		if err := json.Unmarshal([]byte(read(t, path)), &d); err != nil {
			t.Fatalf("%s: %v", d.file, err)
		}
		all = append(all, d)
	}
	return all
}

// expression is one PromQL expression and where it stands.
type expression struct{ where, query string }

// expressions lists the expressions of all panels, with Grafana's variables
// replaced as Grafana would with everything selected.
func expressions(t testing.TB) []expression {
	t.Helper()
	fill := strings.NewReplacer("$instance", ".+", "$shard", ".+", "$__rate_interval", "2m", "$__range", "2m", "$__interval", "5s")
	var all []expression
	for _, d := range dashboards(t) {
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				all = append(all, expression{fmt.Sprintf("%s, panel %q, %s", d.file, p.Title, target.RefID), fill.Replace(target.Expr)})
			}
		}
	}
	return all
}

// Alerts end in one comparison with a number (deploy/prometheus/rules).
var comparison = regexp.MustCompile(` (==|!=|<=|>=|<|>) -?[0-9.]+$`)

// withoutComparison gives the vector that an alert looks at.
func withoutComparison(query string) (string, error) {
	at := comparison.FindStringIndex(query)
	if at == nil {
		return "", fmt.Errorf("%q does not end in a comparison with a number", query)
	}
	return query[:at[0]], nil
}
