package raftnode

import (
	"errors"
	"testing"

	"github.com/quorate-db/quorate/raftnode/raftlog"
)

// brokenStable is a log whose stable values cannot be stored.
type brokenStable struct{ LogStore }

var errBrokenStable = errors.New("the disk fails")

func (brokenStable) SetUint64([]byte, uint64) error { return errBrokenStable }

var _ raftlog.ReplicaStore = brokenStable{}

// The library panics where its term cannot be stored, also in the moment in which
// it starts: the replica fails instead, and ends in order.
func TestTermThatCannotBeStoredIsNoPanic(t *testing.T) {
	bubble(t, 1, func(c *testCluster) {
		r := c.leader()
		s := newLogStore(r, brokenStable{r.store.inner})
		if err := s.SetUint64([]byte("LastVoteTerm"), 7); !errors.Is(err, errBrokenStable) {
			t.Fatalf("a vote that cannot be stored: %v", err)
		}
		if err := s.SetUint64(keyCurrentTerm, 7); err != nil {
			t.Fatalf("the term: %v", err)
		}
		if r.Status().Failure == "" || r.mute.Load() == 0 {
			t.Fatal("the replica goes on")
		}
		s.Wait()
	})
}
