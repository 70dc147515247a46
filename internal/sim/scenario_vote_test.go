package sim

import (
	"time"

	"github.com/quorate-db/quorate/internal/simnet"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

func init() {
	scenarios = append(scenarios, scenario{"power-cut-between-two-candidates", Config{Shards: 1, Groups: 1}, votesTwice})
}

// votesTwice: a voter loses its power when it has given its vote, and another candidate
// asks for it in the same term. Neither candidate hears of the other, and nothing but the
// vote tells the voter of the first.
func votesTwice(s *stage) {
	voter, others := s.leader()
	first, second := others[0], others[1]
	for _, n := range others { // a candidate that is behind gets no vote anyway
		for s.replica(n).Status().LastIndex < s.replica(voter).Status().LastIndex {
			time.Sleep(10 * time.Millisecond)
		}
	}
	term := s.replica(voter).Status().Term
	s.net.SetFilter(func(from, to kv.NodeID, m peer.Method, req []byte) bool {
		between := from != voter.ID() && to != voter.ID()
		return !isOf(req, onlyShard) || !between && m != peer.MethodAppendEntries
	})
	leads := func(n *Node) bool { return s.stand(n, term+1) }
	if !leads(first) {
		s.watch.violation("%s does not lead in term %d", first.name, term+1)
	}
	voter.Crash(simnet.Lost, 0, nil)
	if err := voter.Start(); err != nil {
		s.watch.violation("start: %v", err)
		return
	}
	if s.replica(second).Status().Term > term {
		s.watch.violation("%s has heard of term %d", second.name, term+1)
	}
	leads(second) // in the same term, if the voter has forgotten
	s.net.SetFilter(nil)
	time.Sleep(2 * time.Second)
}

// stand has a replica stand once, for a term, and reports whether it has won it.
func (s *stage) stand(n *Node, term uint64) bool {
	s.replica(n).Stand()
	for range 100 {
		time.Sleep(time.Millisecond)
		if st := s.replica(n).Status(); st.Term == term && st.Role == kv.RoleLeader {
			return true
		}
	}
	return false
}
