package main

import (
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/goleak"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/httpd"
	"github.com/quorate-db/quorate/internal/bench/memdata"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is the HTTP edge over a map.
type node struct {
	data    *memdata.Store
	cluster *memdata.Cluster
	admin   *memdata.Admin
	audit   *memdata.Audit
	server  *httptest.Server
}

func startNode() *node {
	n := &node{data: memdata.New(0xa1, 7), cluster: &memdata.Cluster{}}
	n.admin, n.audit = memdata.NewAdmin(n.cluster), memdata.NewAudit(0xa1, "north", 3)
	n.audit.Missing = []kv.AuditGap{{Node: 0xb2, Name: "south", Why: "no answer"}}
	edge := httpd.New(httpd.Options{Data: n.data, Cluster: n.cluster, Admin: n.admin, Audit: n.audit, Health: n.cluster, Release: "v9", Self: 0xa1})
	n.server = httptest.NewServer(edge.Handler())
	n.cluster.Set([]kv.NodeInfo{
		{ID: 0xa1, Name: "north", Zone: "z1", HTTPAddress: n.server.Listener.Addr().String(), PeerAddress: "127.0.0.1:9", Alive: true,
			MetaRole: kv.RoleLeader, Replicas: 1, Leaders: 1, DiskBytes: 3 << 20, DiskFree: 5 << 30, Bytes: 2 << 20, Reads: 1234.56, Writes: 7.25, Release: "v9"},
		{ID: 0xb2, Name: "south", HTTPAddress: "127.0.0.1:9", PeerAddress: "127.0.0.1:9"},
	}, []kv.ShardInfo{
		{Descriptor: &kvpb.ShardDescriptor{Shard: 2, Generation: 1, End: []byte("m"), Replicas: []*kvpb.ReplicaDescriptor{{Node: 0xa1, Role: kvpb.ReplicaRole_ROLE_VOTER}}}, Leader: 0xa1, Term: 3, Keys: 10, Bytes: 2048,
			Reads: 1234.5, Change: kv.ShardChange{Kind: kv.OperationMove, From: 0xa1, To: 0xb2, Operation: 1, Detail: "catching up"}},
		{Descriptor: &kvpb.ShardDescriptor{Shard: 3, Generation: 1, Start: []byte("m")}, Term: 4},
	})
	n.cluster.SetHealth(true, kv.Check{Name: "joined", OK: true})
	return n
}

// TestTranscripts runs the command lines in testdata against a node over a map
// and compares everything that they print. `go test -rewrite` writes what
// they print now; read the difference before keeping it.
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		if strings.HasPrefix(path, filepath.Join("testdata", "fuzz")) {
			return // the fuzzer's
		}
		n := startNode()
		defer n.server.Close()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "two-lines"), []byte("one\ntwo\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		hide := strings.NewReplacer(n.server.URL, "$NODE", strings.TrimPrefix(n.server.URL, "http://"), "$NODE",
			dir, "$DIR")
		put := strings.NewReplacer("$NODE", n.server.URL, "$DIR", dir)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "break" {
				n.fail(d)
				return ""
			}
			env, stdin := map[string]string{"QUORATE_ENDPOINT": n.server.URL}, ""
			for _, arg := range d.CmdArgs {
				if arg.Key == "stdin" {
					stdin = strings.Join(arg.Vals, ", ")
				} else {
					env[arg.Key] = strings.Join(arg.Vals, "")
				}
			}
			var out strings.Builder
			for line := range strings.Lines(d.Input) {
				out.WriteString(hide.Replace(transcript(put.Replace(line), stdin, env)))
			}
			return out.String()
		})
	})
}

// transcript runs one command line and tells what it printed and ended with.
func transcript(line, stdin string, env map[string]string) string {
	var stdout, stderr, b strings.Builder
	args := words(line)
	root := newRoot(streams{strings.NewReader(stdin), &stdout, &stderr}, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	code := execute(context.Background(), root, args, &stderr)
	fmt.Fprintf(&b, "exit %d\n", code)
	for text := range strings.Lines(stdout.String()) {
		b.WriteString("  " + strings.TrimSuffix(text, "\n") + "\n")
	}
	for text := range strings.Lines(stderr.String()) {
		b.WriteString("! " + strings.TrimSuffix(text, "\n") + "\n")
	}
	return b.String()
}

// words splits a command line at blanks that are not within single quotes.
func words(line string) []string {
	var out []string
	quoted, open := false, false
	word := ""
	for _, r := range strings.TrimSpace(line) {
		switch {
		case r == '\'':
			quoted, open = !quoted, true
		case r == ' ' && !quoted:
			if word != "" || open {
				out = append(out, word)
			}
			word, open = "", false
		default:
			word += string(r)
		}
	}
	if word != "" || open {
		out = append(out, word)
	}
	return out
}

// fail makes the node fail: break CODE OUTCOME, break health, break off, break admin
// CODE OUTCOME TIMES; break critical and break uneven give it problems.
func (n *node) fail(d *datadriven.TestData) {
	switch d.CmdArgs[0].Key {
	case "health":
		n.cluster.SetHealth(false, kv.Check{Name: "joined", OK: true}, kv.Check{Name: "caught up", Detail: "shard 3 is behind"})
	case "off":
		n.data.Fail(nil)
	case "admin":
		times, _ := strconv.Atoi(d.CmdArgs[3].Key)
		n.admin.Fail(&kv.Error{Code: kv.Code(d.CmdArgs[1].Key), Outcome: kv.Outcome(d.CmdArgs[2].Key), Detail: "told to fail"}, times)
	case "critical":
		n.admin.Set([]kv.Problem{
			{Code: "shard-leaderless", Severity: kv.SeverityCritical, Summary: "shard 3 has no leader", Help: "quorate shards --key m", Shard: 3, SinceMs: 1_700_000_000_000},
			{Code: "node-dead", Severity: kv.SeverityWarning, Summary: "node \x1b[2Jsouth is dead", Help: "start it", Node: 0xb2},
		}, nil)
	case "uneven":
		n.admin.Set([]kv.Problem{{Code: "uneven", Severity: kv.SeverityInfo, Summary: "replicas are uneven"}},
			[]kv.PlannedStep{{Kind: "move-replica", Shard: 2, From: 0xa1, To: 0xb2, Bytes: 2048, Reason: "south has none"}})
	default:
		n.data.Fail(&kv.Error{Code: kv.Code(d.CmdArgs[0].Key), Outcome: kv.Outcome(d.CmdArgs[1].Key), Detail: "told to fail"})
	}
}

func TestExitCodeIsTotal(t *testing.T) {
	cases := map[string]struct {
		err  error
		want int
	}{
		"nil":                  {nil, exitOK},
		"plain":                {io.ErrUnexpectedEOF, exitFailure},
		"usage":                {fmt.Errorf("x: %w", usagef("y")), exitUsage},
		"own":                  {exitError{42, ""}, 42},
		"not found":            {&client.Error{Code: kv.CodeNotFound}, exitNotFound},
		"condition":            {&client.Error{Code: kv.CodeConditionFailed, Outcome: kv.OutcomeNotApplied}, exitCondition},
		"unavailable":          {&client.Error{Code: kv.CodeUnavailable, Outcome: kv.OutcomeNotApplied}, exitUnavailable},
		"draining":             {&client.Error{Code: kv.CodeDraining}, exitUnavailable},
		"overloaded":           {&client.Error{Code: kv.CodeOverloaded}, exitUnavailable},
		"read timed out":       {&client.Error{Code: kv.CodeTimeout}, exitUnavailable},
		"unknown":              {&client.Error{Code: kv.CodeOutcomeUnknown, Outcome: kv.OutcomeUnknown}, exitUnknown},
		"unavailable, unknown": {&client.Error{Code: kv.CodeUnavailable, Outcome: kv.OutcomeUnknown}, exitUnknown},
		"conflict":             {&client.Error{Code: kv.CodeConflict, Outcome: kv.OutcomeNotApplied}, exitFailure},
		"invalid":              {&client.Error{Code: kv.CodeInvalid, Outcome: kv.OutcomeNotApplied}, exitFailure},
	}
	for name, c := range cases {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%s: exit code %d, want %d", name, got, c.want)
		}
	}
}

func TestShownIsSafeToPrint(t *testing.T) {
	for in, want := range map[string]string{
		"plain/key": "plain/key", "grün": "grün", "": "", "a b": "a b",
		"\x1b[2J": `"\x1b[2J"`, "a\tb": `"a\tb"`, "\xff": `"\xff"`, `"x"`: `"\"x\""`, "a\u202eb": `"a\u202eb"`,
	} {
		if got := shown(in); got != want {
			t.Errorf("shown(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestTableAligns(t *testing.T) {
	tab := table{heading: []string{"NAME", "N"}}
	tab.add(cell{text: "grün", colour: green}, number(5))
	tab.add(text("x"), number(12345))
	var b strings.Builder
	if err := tab.print(&b, formatTable, true); err != nil {
		t.Fatal(err)
	}
	want := "NAME      N\n\x1b[32mgrün\x1b[0m      5\nx     12345\n"
	if b.String() != want {
		t.Errorf("got %q\nwant %q", b.String(), want)
	}
}

func TestNoColor(t *testing.T) {
	env := func(name string) (string, bool) { return "1", name == "NO_COLOR" }
	if colours(os.Stdout, env) {
		t.Error("colours although NO_COLOR is set")
	}
	if colours(&strings.Builder{}, func(string) (string, bool) { return "", false }) {
		t.Error("colours although it is no terminal")
	}
}

func TestVersion(t *testing.T) {
	n := startNode()
	defer n.server.Close()
	env := map[string]string{"QUORATE_ENDPOINT": n.server.URL}
	if got := transcript("version", "", env); !strings.HasPrefix(got, "exit 0\n  quorate ") || !strings.Contains(got, runtime.Version()) {
		t.Errorf("version: %s", got)
	}
	got := transcript("version --server -o json", "", env)
	if !strings.Contains(got, `"server": "v9"`) || !strings.Contains(got, `"release": "`) {
		t.Errorf("version --server: %s", got)
	}
	got = transcript("completion bash", "", env)
	if !strings.Contains(got, "exit 0") || !strings.Contains(got, "__start_quorate") {
		t.Errorf("completion: %.200s", got)
	}
}
