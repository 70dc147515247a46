package raftnode

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/quorate-db/quorate/kv"
)

// Every error value that the library exports is in the table.
func TestErrorTableIsTotal(t *testing.T) {
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/hashicorp/raft").Output()
	if err != nil {
		t.Skipf("cannot find the library's source: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no source: %v", err)
	}
	exported := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			exported += exportedErrors(decl)
		}
	}
	inTable := map[error]bool{}
	for _, row := range raftErrors {
		inTable[row.err] = true
	}
	if exported != len(inTable) || len(inTable) != len(raftErrors) {
		t.Errorf("the library exports %d errors, the table has %d, %d of them different", exported, len(raftErrors), len(inTable))
	}
}

func exportedErrors(decl ast.Decl) int {
	n := 0
	if vars, ok := decl.(*ast.GenDecl); ok && vars.Tok == token.VAR {
		for _, spec := range vars.Specs {
			for _, name := range spec.(*ast.ValueSpec).Names {
				if strings.HasPrefix(name.Name, "Err") {
					n++
				}
			}
		}
	}
	return n
}

func TestErrorTable(t *testing.T) {
	id := testEnvelope.from
	for _, tc := range []struct {
		err     error
		index   uint64
		code    kv.Code
		outcome kv.Outcome
	}{
		{raft.ErrNotLeader, 0, kv.CodeNotLeader, kv.OutcomeNotApplied},
		{raft.ErrEnqueueTimeout, 0, kv.CodeTimeout, kv.OutcomeNotApplied},
		{raft.ErrLeadershipTransferInProgress, 0, kv.CodeUnavailable, kv.OutcomeNotApplied},
		{raft.ErrAbortedByRestore, 7, kv.CodeUnavailable, kv.OutcomeNotApplied},
		{raft.ErrLeadershipLost, 7, kv.CodeOutcomeUnknown, kv.OutcomeUnknown},
		{raft.ErrRaftShutdown, 0, kv.CodeUnavailable, kv.OutcomeNotApplied},
		{raft.ErrRaftShutdown, 7, kv.CodeOutcomeUnknown, kv.OutcomeUnknown},
		{errors.New("disk full"), 7, kv.CodeOutcomeUnknown, kv.OutcomeUnknown},
		{fmt.Errorf("wrapped: %w", raft.ErrNotLeader), 0, kv.CodeNotLeader, kv.OutcomeNotApplied},
	} {
		e := raftError(id, tc.err, tc.index)
		if e.Code != tc.code || e.Outcome != tc.outcome || e.Shard != id.Shard || !errors.Is(e, tc.err) {
			t.Errorf("%v at %d: got %s, %q, shard %s", tc.err, tc.index, e.Code, e.Outcome, e.Shard)
		}
	}
}

// Whatever the clock does and whichever entries are lost: the machine rejects none
// that follow what it has applied, and a version strays from the clock only where
// an earlier one already did.
func TestVersionsFitTheMachine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newTestMachine(nil)
		var v versions
		index, term, now := uint64(0), uint64(1), int64(1<<40)
		apply := func(s kv.Stamp, commands []kv.EntryCommand) bool {
			index++
			out, err := m.Apply([]kv.Entry{{Index: index, Term: term, Stamp: s, Commands: commands}})
			if err != nil {
				t.Fatal(err)
			}
			return !out[0].Rejected
		}
		begin := func() {
			apply(kv.Stamp{Term: term, Ceiling: kv.VersionAt(now) + ceilingWindow, NowMs: now}, nil)
			v = versions{}
			v.learn(term, m.Applied())
		}
		begin()
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			now = max(1, now+rapid.Int64Range(-10_000, 10_000).Draw(t, "clock"))
			if rapid.IntRange(0, 9).Draw(t, "leader") == 0 {
				term++
				begin()
				continue
			}
			n := rapid.Uint32Range(0, 5).Draw(t, "versions")
			before := m.Applied()
			s, raise := v.stamp(now, uint64(n))
			if raise != 0 {
				apply(kv.Stamp{Term: term, Ceiling: raise, NowMs: now}, nil)
			}
			if !apply(s, []kv.EntryCommand{{Data: []byte("a=b"), Versions: max(n, 1)}}) {
				t.Fatalf("rejected: stamp %+v, raise %d, machine %+v", s, raise, before)
			}
			if s.Version > max(kv.VersionAt(now), before.LastVersion+1, before.Ceiling+1) {
				t.Fatalf("version %d is ahead of the clock %d and of what was applied", s.Version, kv.VersionAt(now))
			}
		}
	})
}

func TestBoundedClock(t *testing.T) {
	for _, tc := range []struct {
		own    int64
		others []int64
		want   int64
	}{
		{100, nil, 100},                       // alone
		{5000, []int64{100, 110}, 1110},       // ahead: the median is 110
		{100, []int64{5000, 6000}, 100},       // behind
		{5000, []int64{100}, 1100},            // two: the lower one
		{5000, []int64{4900, 5100}, 5000},     // fine
		{100, []int64{9000, 100, 90, 1}, 100}, // one that is mad
	} {
		if got := boundedMs(tc.own, 1000, append([]int64{tc.own}, tc.others...)); got != tc.want {
			t.Errorf("own %d, others %v: got %d, want %d", tc.own, tc.others, got, tc.want)
		}
	}
}

func TestClockSamplesAge(t *testing.T) {
	c := clocks{samples: map[kv.NodeID]clockSample{}}
	start := time.Now()
	c.learn(2, 1000, start, start.Add(20*time.Millisecond))
	members := []kv.Member{
		{ID: kv.ServerID{Node: 1, Shard: 2, Incarnation: 1}, Voter: true},
		{ID: kv.ServerID{Node: 2, Shard: 2, Incarnation: 1}, Voter: true},
		{ID: kv.ServerID{Node: 3, Shard: 2, Incarnation: 1}, Voter: true},
	}
	if got := c.append(nil, 1, members, start.Add(510*time.Millisecond)); len(got) != 1 || got[0] != 1500 {
		t.Fatalf("got %v, want [1500]", got)
	}
	if got := c.append(nil, 1, members, start.Add(time.Minute)); len(got) != 0 {
		t.Fatalf("an old sample counts: %v", got)
	}
}

func TestQueueGroups(t *testing.T) {
	q := &queue{wake: make(chan struct{}, 1)}
	push := func(n, size int) {
		for range n {
			q.push(&proposal{command: kv.EntryCommand{Data: make([]byte, size)}, answer: make(chan proposed, 1)})
		}
	}
	push(kv.EntryCommandsMax+5, 1)
	if got := len(q.take()); got != kv.EntryCommandsMax {
		t.Fatalf("%d commands in an entry", got)
	}
	if got := q.take(); got != nil {
		t.Fatalf("%d commands go beside an entry in flight", len(got))
	}
	q.finish()
	if got := len(q.take()); got != 5 {
		t.Fatalf("%d commands in the second entry", got)
	}
	q.finish()
	push(3, kv.EntryGroupBytesMax-10)
	group := q.take()
	if len(group) != 1 {
		t.Fatalf("%d large commands share an entry", len(group))
	}
	if next := q.take(); len(next) != 1 { // enough waits for a second one
		t.Fatalf("%d in the second entry", len(next))
	}
	q.finish()
	group[0].state.Store(proposalLeft) // its caller has gone
	q.putBack(group)
	if len(q.waiting) != 1 {
		t.Fatalf("%d wait", len(q.waiting))
	}
	q.finish()
	q.failAll(errors.New("no"))
	if q.bytes != 0 || len(q.waiting) != 0 || q.inFlight != 0 {
		t.Fatalf("left: %d bytes, %d waiting, %d in flight", q.bytes, len(q.waiting), q.inFlight)
	}
}
