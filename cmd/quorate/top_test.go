package main

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/kv"
)

func TestTopPrintsAFrame(t *testing.T) {
	n := startNode()
	defer n.server.Close()
	n.admin.Set([]kv.Problem{{Code: "node-dead", Severity: kv.SeverityCritical, Summary: "south is dead", Help: "start it"}}, nil)
	if _, err := n.admin.RemoveNode(t.Context(), 0xb2); err != nil {
		t.Fatal(err)
	}
	got := transcript("top --once --interval 100ms", "", n.env())
	for _, part := range []string{"exit 0", "nodes 1/2 alive  shards 2, 1 led  copies 1", "NODE", "north *", "dead", "critical", "south is dead", "remove-node", "move north to south: catching up", "none"} {
		if !strings.Contains(got, part) {
			t.Errorf("no %q in\n%s", part, got)
		}
	}
	if leaderless, changing := strings.Index(got, "none"), strings.Index(got, "catching up"); leaderless > changing {
		t.Errorf("a shard without a leader does not come first:\n%s", got)
	}
	var frame topFrame
	out := transcript("top --interval 100ms -o json", "", n.env())
	if err := json.Unmarshal([]byte(strings.TrimPrefix(out, "exit 0\n")), &frame); err != nil || len(frame.Nodes) != 2 || len(frame.Operations) != 1 {
		t.Errorf("%v: %s", err, out)
	}
	if got := transcript("top --interval 1ms", "", n.env()); !strings.HasPrefix(got, "exit 2") {
		t.Error(got)
	}
	n.server.Close()
	if got := transcript("top --once --timeout 100ms", "", n.env()); !strings.HasPrefix(got, "exit 5") {
		t.Error(got)
	}
}

func TestTopFitsTheTerminal(t *testing.T) {
	top := &top{colours: true, last: topFrame{Time: time.Unix(0, 0)}}
	for i := range 100 {
		top.last.Shards = append(top.last.Shards, client.Shard{ID: kv.ShardID(i + 2), Leader: "x", WritesPerSecond: float64(i)})
	}
	lines := top.draw(12)
	if len(lines) > 12 || !strings.HasPrefix(lines[3], "101 ") {
		t.Errorf("%d lines:\n%s", len(lines), strings.Join(lines, "\n"))
	}
	for in, want := range map[string]string{"abc": "ab", "a": "a", "": "", "grün": "gr", "\x1b[31mabc\x1b[0mdef": "\x1b[31mab\x1b[0m"} {
		if got := cut(in, 2); got != want {
			t.Errorf("%q is cut to %q, want %q", in, got, want)
		}
	}
}

func TestMeters(t *testing.T) {
	read := func(at int, counts ...int) meter {
		var b strings.Builder
		b.WriteString("# HELP x y\nother_bucket{le=\"1\"} 7\n")
		for i, le := range []string{"0.001", "0.01", "+Inf"} {
			fmt.Fprintf(&b, "quorate_operation_seconds_bucket{op=\"get\",le=%q} %d\n", le, counts[i])
			fmt.Fprintf(&b, "quorate_operation_seconds_bucket{op=\"put\",le=%q} %d\n", le, counts[i])
		}
		b.WriteString("quorate_operation_seconds_bucket{op\nquorate_operation_seconds_bucket{le=\"x\"} 1\nquorate_operation_seconds_bucket{le=\"1\"}\n")
		m, err := readMeter(strings.NewReader(b.String()))
		if err != nil {
			t.Fatal(err)
		}
		m.at = time.Unix(int64(at), 0)
		return m
	}
	first := read(10, 5, 5, 5)
	got := read(12, 55, 105, 105).since(first)
	if got.PerSecond != 100 || got.P50 != 0.001 || math.Abs(got.P99-0.00982) > 1e-9 {
		t.Errorf("%+v", got)
	}
	if got := read(12, 5, 5, 105).since(first); got.P50 != 0.01 || got.P99 != 0.01 {
		t.Errorf("beyond the last bound: %+v", got)
	}
	if got := read(12, 5, 5, 5).since(first); got != (traffic{}) {
		t.Errorf("nothing: %+v", got)
	}
	if got := read(12, 1, 1, 1).since(first); got != (traffic{}) {
		t.Errorf("restarted: %+v", got)
	}
	if got := (meter{}).since(meter{}); got != (traffic{}) {
		t.Errorf("empty: %+v", got)
	}
}
