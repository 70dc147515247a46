package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/quorate-db/quorate/internal/bench"
	"github.com/quorate-db/quorate/kv"
)

// benchRun runs a bench command line against a node over a map.
func benchRun(t *testing.T, n *node, line string) (code int, stdout, stderr string) {
	t.Helper()
	var out, talk strings.Builder
	root := newRoot(streams{strings.NewReader(""), &out, &talk}, func(name string) (string, bool) { return n.server.URL, name == "QUORATE_ENDPOINT" })
	code = execute(t.Context(), root, words("bench "+line), &talk)
	return code, out.String(), talk.String()
}

func TestBenchLoadsAndMeasures(t *testing.T) {
	n := startNode()
	defer n.server.Close()
	code, out, talk := benchRun(t, n, "load --keys 500 --clients 4")
	if code != exitOK || n.data.Len() != 500 || !strings.Contains(out, "insert") || !strings.Contains(talk, "closed loop") {
		t.Fatalf("exit %d, %d keys\n%s%s", code, n.data.Len(), out, talk)
	}
	for _, line := range []string{
		"a --no-load", "b --no-load --shards-aware", "c", "d --retry", "e --scan-items 5", "f --net-http",
		"put", "get", "stale-get", "scan --scan-items 7", "get --distribution latest",
	} {
		t.Run(line, func(t *testing.T) {
			code, out, talk := benchRun(t, n, line+" --keys 500 --clients 4 --ops 200 --duration 0s --warmup 0s -o json")
			var r bench.Report
			if err := json.Unmarshal([]byte(out), &r); err != nil || code != exitOK {
				t.Fatalf("exit %d, %v\n%s%s", code, err, out, talk)
			}
			if r.Ops != 200 || r.Failed != 0 || r.Missed != 0 || r.OpsPerSecond <= 0 || r.All.P50 <= 0 || r.All.Max < r.All.P999 {
				t.Errorf("report %+v", r)
			}
		})
	}
}

func TestBenchOfABrokenCluster(t *testing.T) {
	n := startNode()
	defer n.server.Close()
	n.data.Fail(&kv.Error{Code: kv.CodeUnavailable, Outcome: kv.OutcomeNotApplied, Detail: "told to fail"})
	code, out, talk := benchRun(t, n, "put --no-load --keys 10 --clients 2 --ops 20 --duration 0s --warmup 0s")
	if code != exitUnavailable || !strings.Contains(talk, "20× failed, outcome not-applied") || !strings.Contains(out, "20") {
		t.Fatalf("exit %d\n%s%s", code, out, talk)
	}
}
