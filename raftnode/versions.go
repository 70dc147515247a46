package raftnode

import (
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/planted"
)

const (
	// ceilingWindowMs is how far a raise lifts the ceiling above the leader's
	// clock, and ceilingLowMs how little may be left before the next entry raises it
	// on its way. A new leader's versions start above the old ceiling, so after a
	// failover they run ahead of the clock by at most the window.
	ceilingWindowMs = 3000
	ceilingLowMs    = 1500

	ceilingWindow = kv.Version(ceilingWindowMs) << 20
	ceilingLow    = kv.Version(ceilingLowMs) << 20
)

// versions gives a shard's versions to a leader's entries: strictly growing, near
// the clock, and never above a ceiling that is logged before them. It belongs to
// whoever has the proposer's turn.
type versions struct {
	term    uint64     // in which last and ceiling were learnt
	last    kv.Version // the largest that was given or applied
	ceiling kv.Version // that holds once the entries in flight are applied
}

// learn starts anew from what the machine has, for a term or after entries were
// rejected or lost. Versions that were given already stay given.
func (v *versions) learn(term uint64, applied kv.Applied) {
	v.last = max(v.last, applied.LastVersion)
	if planted.On(planted.VersionsByClock) && term != v.term {
		v.last = 0
	}
	v.term, v.ceiling = term, applied.Ceiling
}

// stamp gives the stamp of an entry that uses n versions. If raise is not zero, an
// entry without commands has to be logged right before it that raises the ceiling
// to that: the shard was idle, and its ceiling is in the past.
func (v *versions) stamp(nowMs int64, n uint64) (s kv.Stamp, raise kv.Version) {
	now := kv.VersionAt(nowMs)
	first := max(v.last+1, now)
	end := first + kv.Version(max(n, 1)) - 1
	if end > v.ceiling {
		// The entry that raises also lifts the last version to the old ceiling.
		first = max(first, v.ceiling+1)
		end = first + kv.Version(max(n, 1)) - 1
		raise = max(now, end) + ceilingWindow
		v.ceiling = raise
	}
	s = kv.Stamp{Term: v.term, Version: first, NowMs: nowMs}
	if raise == 0 && v.ceiling < max(now, end)+ceilingLow {
		s.Ceiling = max(now, end) + ceilingWindow
		v.ceiling = s.Ceiling
	}
	v.last = end
	return s, raise
}
