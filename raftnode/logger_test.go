package raftnode

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// TestLibraryLinesHaveNoKeyTwice: as the server logs, and with the keys that the library
// has in common with it.
func TestLibraryLinesHaveNoKeyTwice(t *testing.T) {
	var out bytes.Buffer
	to := slog.New(slog.NewJSONHandler(&out, nil)).With("name", "node1", "node", "a", "shard", "7")
	l := newRaftLogger(to).Named("snapshot")
	l.Warn("rejecting vote request", "from", "b/7/1", "leader", "c")
	l.Warn("failed to contact", "server-id", "b/7/1", "time", 1500*time.Millisecond)
	l.With("node", "follower").Error("entering state", "name", "x", "level", 3, "msg", "y", "shard", 9, "suppressed", hclog.Fmt("%d", 4))
	text := out.String()
	for _, want := range []string{
		`"from":"raft.snapshot","raft-from":"b/7/1","leader":"c"}`, `"raft-time":"1.5s"}`,
		`"raft-node":"follower","raft-name":"x","raft-level":"3","raft-msg":"y","raft-shard":"9","raft-suppressed":"4"}`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	for line := range strings.Lines(text) {
		for _, key := range []string{"time", "level", "msg", "name", "node", "shard", "from", "suppressed"} {
			if n := strings.Count(line, `"`+key+`":`); n > 1 {
				t.Errorf("%s is there %d times in %s", key, n, line)
			}
		}
	}
}
