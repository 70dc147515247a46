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

func TestBenchFillsAndVerifies(t *testing.T) {
	n := startNode()
	defer n.server.Close()
	const line = "load --bytes 100KiB --value-size 1013 --clients 4 -o json"
	var r bench.FillReport
	run := func(line string, want int) string {
		t.Helper()
		code, out, talk := benchRun(t, n, line)
		r = bench.FillReport{}
		if err := json.Unmarshal([]byte(out), &r); code != want || err != nil {
			t.Fatalf("%s: exit %d, %v\n%s%s", line, code, err, out, talk)
		}
		return talk
	}
	run(line, exitOK)
	if r.Ops != 100 || r.Bytes != 100<<10 || n.data.Len() != 100 || r.Next != 100 {
		t.Fatalf("%+v", r)
	}
	run(line+" --verify", exitOK)
	if r.Ops != 100 || r.Wrong+r.Missed != 0 || r.Bytes != 100<<10 {
		t.Fatalf("%+v", r)
	}
	if talk := run(line+" --verify --seed 2 --from 50", exitFailure); r.Wrong != 50 || r.Ops != 50 || !strings.Contains(talk, "0 keys are missing and 50 wrong") {
		t.Errorf("%+v %s", r, talk)
	}
	if talk := run(line+" --verify --key-prefix other/", exitFailure); r.Missed == 0 || !strings.Contains(talk, "are missing and 0 wrong") {
		t.Errorf("%+v %s", r, talk)
	}
	n.data.Fail(&kv.Error{Code: kv.CodeStorageFull, Outcome: kv.OutcomeNotApplied, Detail: "told to fail"})
	if talk := run(line+" --clients 1", exitFailure); r.Next != 0 || !strings.Contains(talk, "go on with --from 0") {
		t.Errorf("%+v %s", r, talk)
	}
	for _, line := range []string{"load --verify", "load --from 3", "load --bytes 1k --keys 3", "load --bytes 1k --from 99", "load --bytes x", "load --bytes 1k --value-size 0", "load --bytes 1k --clients 0"} {
		if code, out, talk := benchRun(t, n, line); code != exitUsage {
			t.Errorf("%s: exit %d\n%s%s", line, code, out, talk)
		}
	}
}
