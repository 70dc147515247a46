package sim

import (
	"log/slog"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
)

// inBubble runs f on virtual time. Every goroutine has to have ended with it, but
// those that the Raft library is known to leave behind.
func inBubble(t *testing.T, f func()) {
	t.Helper()
	var bubble string
	defer func() {
		problem := recover()
		if problem == nil {
			return
		}
		left := goroutinesOf(bubble)
		for _, g := range left {
			if !leakOfLibrary(g) {
				t.Errorf("%v; the first:\n%s", problem, g)
				return
			}
		}
		t.Logf("%d goroutines of stuck leadership transfers are left behind by the Raft library", len(left))
	}()
	synctest.Test(t, func(*testing.T) {
		bubble = bubbleName()
		f()
	})
}

// leakOfLibrary recognises a leadership transfer that waits for a replication which
// has ended (hashicorp/raft #696): the library has no way to stop it.
func leakOfLibrary(goroutine string) bool {
	return strings.Contains(goroutine, "raft.(*Raft).leadershipTransfer(") || strings.Contains(goroutine, "raft.(*Raft).leaderLoop.func2()")
}

var bubblePattern = regexp.MustCompile(`synctest bubble \d+\]`)

// bubbleName gives how stack traces name the bubble of the caller.
func bubbleName() string {
	buf := make([]byte, 4096)
	return bubblePattern.FindString(string(buf[:runtime.Stack(buf, false)]))
}

// goroutinesOf gives the traces of a bubble's goroutines.
func goroutinesOf(bubble string) []string {
	buf := make([]byte, 64<<20)
	var out []string
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if head, _, _ := strings.Cut(g, "\n"); strings.Contains(head, bubble) {
			out = append(out, g)
		}
	}
	return out
}

// logged gives a configuration whose nodes log if QUORATE_SIM_LOG is set, and whose
// schedule is shown while it happens if QUORATE_SIM_TRACE is.
func logged(config Config) Config {
	if os.Getenv("QUORATE_SIM_TRACE") != "" {
		config.Trace = os.Stderr
	}
	if os.Getenv("QUORATE_SIM_LOG") != "" {
		config.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return config
}

// runInBubble runs a configuration on virtual time and checks it.
func runInBubble(t *testing.T, config Config) (*Result, []string) {
	t.Helper()
	var result *Result
	inBubble(t, func() { result = Run(logged(config)) })
	if result == nil {
		t.Fatal("the run did not come to its end")
	}
	return result, result.Check()
}
