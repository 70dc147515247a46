package metrics

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// seriesPerReplica is what docs/METRICS.md says that each replica costs.
const seriesPerReplica = 116

const (
	docPath  = "../docs/METRICS.md"
	docBegin = "<!-- table: go test ./metrics -rewrite -->\n"
	docEnd   = "<!-- end of table -->\n"
)

// gathered gives a row for each metric of ours, by name.
func gathered(t *testing.T) map[string]string {
	t.Helper()
	m := newTest()
	everything(m, 2)
	m.Watch(standing(2))
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "quorate_") {
			continue
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		kind := strings.ToLower(f.GetType().String())
		rows[f.GetName()] = fmt.Sprintf("| `%s` | %s | %s | %s |\n", f.GetName(), kind, strings.Join(labels, " "), f.GetHelp())
	}
	return rows
}

// M5: docs/METRICS.md lists exactly what is served.
func TestDocumented(t *testing.T) {
	rows := gathered(t)
	names := make([]string, 0, len(rows))
	for name := range rows {
		names = append(names, name)
	}
	slices.Sort(names)
	table := "| metric | type | labels | what it says |\n|---|---|---|---|\n"
	for _, name := range names {
		table += rows[name]
	}
	doc, err := os.ReadFile(docPath)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(doc), docBegin)
	was, tail, ok2 := strings.Cut(rest, docEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no table between its two marks", docPath)
	}
	if *rewrite {
		if err := os.WriteFile(docPath, []byte(head+docBegin+table+docEnd+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if was != table {
		t.Errorf("the table of %s is not what is served; run the test with -rewrite. It should be:\n%s", docPath, table)
	}
	if said := fmt.Sprintf("%d series", seriesPerReplica); !strings.Contains(string(doc), said) {
		t.Errorf("%s does not say %q, which is what a replica costs", docPath, said)
	}
}

// M5: base units and suffixes.
func TestNames(t *testing.T) {
	for name, row := range gathered(t) {
		if !regexp.MustCompile(`^quorate_[a-z]+(_[a-z]+)*$`).MatchString(name) {
			t.Errorf("%s: want quorate_ and words in lower case", name)
		}
		if counter := strings.Contains(row, "| counter |"); counter != strings.HasSuffix(name, "_total") {
			t.Errorf("%s: counters, and only they, end in _total", name)
		}
		for _, unit := range []string{"_ms", "_millis", "_micros", "_kb", "_mb", "_percent"} {
			if strings.Contains(name, unit) {
				t.Errorf("%s is not in a base unit", name)
			}
		}
		if !strings.HasSuffix(row, ". |\n") {
			t.Errorf("%s: its help is not a sentence", name)
		}
	}
}
