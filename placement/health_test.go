package placement

import (
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

// TestLivenessHasHysteresis: a node is dead after DeadAfter without a report, and
// needs AliveAfter reports in a row to be alive again.
func TestLivenessHasHysteresis(t *testing.T) {
	state := founded(t).m.State()
	var told []Liveness
	tr := newTracker(Tuning{}.withDefaults(), Hooks{OnLiveness: func(node kv.NodeID, now Liveness) {
		if node == 2 {
			told = append(told, now)
		}
	}})
	now := time.UnixMilli(1e12)
	if _, _, ok := tr.view(state, now); ok {
		t.Fatal("a view without leading")
	}
	tr.setLeading(true, now)
	see := func(want Liveness) {
		t.Helper()
		health, _, ok := tr.view(state, now)
		if got := health[2].Liveness; !ok || got != want {
			t.Errorf("at %v: %v, want %v", now.UnixMilli()-1e12, got, want)
		}
	}
	report := func() { tr.take(&metapb.NodeReport{Node: 2}, now) }
	pass := func(d time.Duration) { now = now.Add(d) }
	see(Unheard)
	pass(4 * time.Second)
	see(Unheard)
	report()
	see(Alive)
	pass(4900 * time.Millisecond)
	see(Alive)
	pass(200 * time.Millisecond)
	see(Dead)
	for range 2 {
		report()
		see(Dead)
		pass(time.Second)
	}
	report()
	see(Alive)
	// Late again, without anybody having looked in between.
	pass(6 * time.Second)
	report()
	see(Dead)
	pass(20 * time.Second)
	tr.setLeading(false, now)
	tr.setLeading(true, now)
	see(Unheard)
	pass(5 * time.Second)
	see(Dead)
	if len(told) < 5 {
		t.Errorf("told %v", told)
	}
}

func TestLeadsFollowTheHighestTerm(t *testing.T) {
	state := founded(t).m.State()
	tr := newTracker(Tuning{}.withDefaults(), Hooks{})
	start := time.UnixMilli(1e12)
	tr.setLeading(true, start)
	say := func(after time.Duration, node, term uint64, ready bool) {
		r := &metapb.ReplicaReport{Shard: 2, Term: term, LeaderReady: ready}
		meta := &metapb.ReplicaReport{Shard: 1, Term: term, LeaderReady: ready}
		tr.take(&metapb.NodeReport{Node: node, Replicas: []*metapb.ReplicaReport{r, meta}}, start.Add(after))
	}
	want := func(node kv.NodeID, term uint64, since time.Duration) {
		t.Helper()
		_, leads, _ := tr.view(state, start)
		if got := leads[2]; len(leads) > 1 || got.Node != node || got.Term != term || node != 0 && !got.Since.Equal(start.Add(since)) {
			t.Errorf("leads %+v, want node %s term %d since %v", leads, node, term, since)
		}
	}
	say(1, 1, 5, true)
	want(1, 5, 1)
	say(2, 1, 5, true)
	want(1, 5, 1)
	say(3, 2, 4, true) // an old leader that has not heard
	want(1, 5, 1)
	say(4, 2, 6, true)
	want(2, 6, 4)
	say(5, 1, 6, false)
	want(2, 6, 4)
	say(6, 2, 6, false)
	want(0, 0, 0)
}
