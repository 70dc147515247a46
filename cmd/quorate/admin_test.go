package main

import (
	"context"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/quorate-db/quorate/kv"
)

// started is a command line that runs until it is interrupted.
type started struct {
	out, talk *watched
	interrupt context.CancelFunc
	code      chan int
}

// watched is a stream whose lines a test waits for.
type watched struct {
	lines chan string
	mu    sync.Mutex
	part  string
	all   strings.Builder
}

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all.Write(b)
	w.part += string(b)
	for {
		line, rest, ok := strings.Cut(w.part, "\n")
		if !ok {
			return len(b), nil
		}
		w.part = rest
		w.lines <- line
	}
}

// await reads lines up to one that has a part.
func (w *watched) await(t *testing.T, part string) {
	t.Helper()
	for {
		select {
		case line := <-w.lines:
			if strings.Contains(line, part) {
				return
			}
		case <-t.Context().Done():
			t.Fatalf("no line with %q", part)
		}
	}
}

func (n *node) start(t *testing.T, line string) *started {
	t.Helper()
	ctx, interrupt := context.WithCancel(t.Context())
	s := &started{out: &watched{lines: make(chan string, 1000)}, talk: &watched{lines: make(chan string, 1000)}, interrupt: interrupt, code: make(chan int, 1)}
	root := newRoot(streams{strings.NewReader(""), s.out, s.talk}, func(name string) (string, bool) { return n.server.URL, name == "QUORATE_ENDPOINT" })
	go func() { s.code <- execute(ctx, root, words(line), s.talk) }()
	return s
}

func (s *started) stop() int {
	s.interrupt()
	return <-s.code
}

func TestInterruptedOperationGoesOn(t *testing.T) {
	n := startNode()
	defer n.server.Close()
	n.admin.Stall(true)
	s := n.start(t, "nodes remove south")
	s.talk.await(t, "remove-node node 00000000000000b2: waiting for its turn (0/3)")
	if code := s.stop(); code != exitFailure {
		t.Errorf("exit %d", code)
	}
	s.talk.await(t, "operation 1 goes on: 'quorate operations wait 1' follows it, 'quorate operations cancel 1' ends it")
	if all, err := n.admin.Operations(t.Context()); err != nil || all[0].State != kv.OperationRunning {
		t.Errorf("%+v, %v", all, err)
	}
	if got := transcript("operations cancel 1", "", n.env()); !strings.Contains(got, "cancelled by an operator") || !strings.HasPrefix(got, "exit 0") {
		t.Error(got)
	}
	if got := transcript("operations wait 1", "", n.env()); !strings.Contains(got, "! quorate: operation 1 cancelled: cancelled by an operator") || !strings.HasPrefix(got, "exit 1") {
		t.Error(got)
	}
}

// TestFollowOutlivesSilence: nobody leads the meta shard for longer than a request
// takes with all its retries.
func TestFollowOutlivesSilence(t *testing.T) {
	n := startNode()
	defer n.server.Close()
	n.admin.Stall(true)
	s := n.start(t, "shards merge 2 --timeout 100ms")
	s.talk.await(t, "merge shard 2: waiting for its turn (0/3)")
	n.admin.Fail(&kv.Error{Code: kv.CodeUnavailable, Detail: "no meta leader"}, 1<<30)
	s.talk.await(t, "no answer (unavailable: no meta leader); the operation goes on")
	n.admin.Fail(nil, 0)
	n.admin.Stall(false)
	if code := <-s.code; code != exitOK {
		t.Errorf("exit %d", code)
	}
	s.out.await(t, "done")
}

func TestEventsAreFollowed(t *testing.T) {
	n := startNode()
	defer n.server.Close()
	n.admin.Happen("node-joined", "one")
	n.admin.Happen("node-joined", "two")
	table, lines := n.start(t, "events --follow --last 1"), n.start(t, "events --follow --after 1 -o json")
	table.out.await(t, "SEQ")
	table.out.await(t, "two")
	lines.out.await(t, `{"seq":2,`)
	n.admin.Happen("shard-split", "three")
	table.out.await(t, "three")
	lines.out.await(t, `"kind":"shard-split","detail":"three"}`)
	for _, s := range []*started{table, lines} {
		if code := s.stop(); code != exitOK {
			t.Errorf("exit %d", code)
		}
	}
	if strings.Count(table.out.all.String(), "SEQ") != 1 || strings.Contains(table.out.all.String(), "one") {
		t.Errorf("%s", table.out.all.String())
	}
}

func (n *node) env() map[string]string { return map[string]string{"QUORATE_ENDPOINT": n.server.URL} }

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "1": 1, "256MiB": 256 << 20, "256mib": 256 << 20, "2g": 2 << 30, "2GB": 2e9, "1.5 KiB": 1536, "7b": 7, "1t": 1 << 40, "9223372036854775807": 1<<63 - 1} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1", "x", "1x", "1 2", "9223372036854775808", "8388608t", "inf", "nan", "0x1p4", "1e300", "MiB", "-1k", "+inf"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Min(0).Draw(t, "n") << rapid.IntRange(0, 40).Draw(t, "shift") & (1<<62 - 1)
		if got, err := parseSize(sizeShown(n)); err != nil || got != n {
			t.Fatalf("%d is shown as %s and read as %d, %v", n, sizeShown(n), got, err)
		}
	})
}
