package main

import (
	"strings"
	"testing"

	"github.com/quorate-db/quorate/internal/bench/memdata"
)

// TestAuditPages: as many entries as were asked for, however many pages they take.
func TestAuditPages(t *testing.T) {
	n := startNode()
	defer n.server.Close()
	n.audit.Entries = memdata.NewAudit(0xa1, "north", 2500).Entries
	env := map[string]string{"QUORATE_ENDPOINT": n.server.URL}
	for line, want := range map[string]struct {
		lines int
		first string
	}{
		"audit -o plain":             {100, "\tnorth\t2401\t"},
		"audit -o plain --last 1500": {1500, "\tnorth\t1001\t"},
		"audit -o plain --last 2500": {2500, "\tnorth\t1\t"},
		"audit -o plain --last 0":    {2500, "\tnorth\t1\t"},
		"audit -o plain --last 9999": {2500, "\tnorth\t1\t"},
	} {
		got := wants(t, env, "", line, "exit 0")
		lines := strings.Split(got, "\n")
		if n := strings.Count(got, "\tnorth\t"); n != want.lines || !strings.Contains(lines[1], want.first) {
			t.Errorf("%s: %d lines, the first %s", line, n, lines[1])
		}
	}
}

// TestAuditNeedsALog: where nobody is asked for a token there is none, and that is said.
func TestAuditNeedsALog(t *testing.T) {
	env, root := guardedNode(t)
	wants(t, env, "", "audit", "exit 1", "unauthenticated")
	wants(t, with(env, "QUORATE_TOKEN", root), "", "audit", "exit 3", "there is no audit log: this node was started without --auth")
}
