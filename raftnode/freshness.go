package raftnode

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/planted"
)

// freshness is as of when a follower's state holds everything that was
// acknowledged. A heartbeat tells nothing of that: it comes beside the entries, and
// a follower that is far behind gets it in time. An append does: it carries the
// leader's commit index, and once that is applied, and an entry of the leader's own
// term with it, the state is as new as the moment at which the append was sent (which
// is when it came, less what it says that it was held back: gatherer), but for the
// time that it travelled and the lease within which a leader may not know that
// it was replaced. (Before a leader has committed something in its term, its commit
// index may be below what earlier ones have acknowledged, or zero.)
type freshness struct {
	mu sync.Mutex
	// at is when the newest append came whose commit index is known to be applied;
	// zero: none yet.
	at time.Time
	// oldest is the append that is waited for, newest the last one that came after
	// it; a zero at means there is none. Two are enough: those between are passed
	// over.
	oldest, newest told
}

// told is a commit index of a leader's term, and when it was told.
type told struct {
	commit, term uint64
	at           time.Time
}

// in reports whether a state holds everything that was acknowledged when this was
// told.
func (t told) in(a kv.Applied) bool {
	return !t.at.IsZero() && t.commit <= a.Index && t.term <= a.Term
}

// hear notes an append that was accepted.
func (f *freshness) hear(m *raft.AppendEntriesRequest, at time.Time, applied kv.Applied) {
	if planted.On(planted.StaleByHeartbeat) {
		m = &raft.AppendEntriesRequest{} // whatever it says
	} else if isHeartbeat(m) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.newest = told{commit: m.LeaderCommitIndex, term: m.Term, at: at}
	f.moveLocked(applied)
}

// asOf gives the time as of which an applied state holds everything, false if it is
// not known.
func (f *freshness) asOf(applied kv.Applied) (time.Time, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.moveLocked(applied)
	return f.at, !f.at.IsZero()
}

func (f *freshness) moveLocked(applied kv.Applied) {
	for _, t := range []*told{&f.newest, &f.oldest} {
		if t.in(applied) {
			if t.at.After(f.at) {
				f.at = t.at
			}
			*t = told{}
		}
	}
	if f.oldest.at.IsZero() {
		f.oldest, f.newest = f.newest, told{}
	}
}
