package placement

import (
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// TestNewLeaderBuriesNobody: a meta leader that has not had the time to hear from the
// others does not call its voters dead.
func TestNewLeaderBuriesNobody(t *testing.T) {
	in := Input{State: emptyState(), Now: time.Unix(1, 0), Self: 1,
		Members: []kv.Member{{ID: kv.ServerID{Node: 2, Shard: kv.MetaShard, Incarnation: 1}, Voter: true}}}
	for _, heard := range []bool{false, true} {
		l := &problemList{count: map[string]int{}}
		newBoard(&in).clusterProblems(l, heard)
		if told := l.count["meta-under-replicated"] > 0; told != heard {
			t.Errorf("heard from them %t, told %t", heard, told)
		}
	}
}
