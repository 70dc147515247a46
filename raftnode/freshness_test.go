package raftnode

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
)

// A heartbeat says nothing of the entries that a follower lacks. The simulator
// found restarted, empty replicas that answered stale reads as if they were fresh.
func TestFreshnessIsNotTheHeartbeats(t *testing.T) {
	var f freshness
	start := time.Now()
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	term := uint64(1)
	state := func(applied uint64) kv.Applied { return kv.Applied{Index: applied, Term: 1 + applied/20} }
	hear := func(s int, commit, applied uint64) {
		f.hear(&raft.AppendEntriesRequest{Term: term, PrevLogEntry: 1, LeaderCommitIndex: commit}, at(s), state(applied))
	}
	expect := func(applied uint64, want int) {
		t.Helper()
		got, known := f.asOf(state(applied))
		if want < 0 != !known || known && !got.Equal(at(want)) {
			t.Fatalf("applied %d: as of %v, %t; want second %d", applied, got.Sub(start), known, want)
		}
	}
	f.hear(&raft.AppendEntriesRequest{}, at(1), state(0))
	expect(0, -1)
	hear(2, 10, 4)
	expect(9, -1) // has not what was committed
	hear(3, 12, 9)
	hear(4, 14, 9)
	hear(5, 16, 9)
	expect(9, -1)
	expect(10, 2)
	expect(15, 2) // 3 and 4 were passed over
	f.hear(&raft.AppendEntriesRequest{}, at(6), state(16))
	expect(16, 5)
	hear(7, 16, 16)
	expect(16, 7)
	// A new leader does not know yet what is committed.
	term = 2
	hear(8, 0, 16)
	expect(19, 7)
	expect(20, 8)
}
