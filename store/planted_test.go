//go:build planted

package store

import (
	"testing"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/kv/planted"
)

// TestPlantedSplits: the faults of splits do what they are meant to do, so that
// whoever looks for them may find them.
func TestPlantedSplits(t *testing.T) {
	for fault, wrong := range map[planted.Fault]func(s *shaped) bool{
		planted.SplitWithoutRequests: func(s *shaped) bool {
			again := write(then(put("q", "twice")))
			again.Request = &kvpb.RequestID{Hi: 'q', IssuedMs: s.l.nowMs, Fingerprint: 'q' % 2}
			return !decodeResult(s.t, mustApply(s.t, s.right, s.rl.entry(again))[0].Results[0]).Replayed
		},
		planted.ChildFromZero: func(s *shaped) bool { return s.right.Applied().Index != kv.ChildStartIndex },
	} {
		for _, plant := range []planted.Fault{planted.None, fault} {
			planted.Plant(plant)
			s := newShaped(t)
			s.split()
			if got := wrong(s); got != (plant == fault) {
				t.Errorf("%s: wrong %v", plant, got)
			}
			mustClose(t, s.db)
		}
		planted.Plant(planted.None)
	}
}
