package sim

import (
	"context"
	"errors"
	"time"

	"github.com/quorate-db/quorate/kv"
)

func init() {
	scenarios = append(scenarios, scenario{"retired-replica-is-asked-for-its-vote", Config{Nodes: 4, Shards: 1, Groups: 1}, retiredVotes})
}

// retiredVotes: a replica is moved while another member is cut off. That one still
// counts the old replica as a voter, and asks it, while the others elect a leader in
// the same term. The retired replica must not answer, or there are two.
func retiredVotes(s *stage) {
	leader, followers, spare := s.cast()
	behind, retired := followers[0], followers[1]
	old := s.replica(retired).ID()
	s.net.Isolate(behind.ID(), true)
	steps := []func(context.Context) error{
		func(ctx context.Context) error {
			_, err := leader.server().Control().Move(ctx, onlyShard, retired.ID(), spare.ID())
			return err
		},
		func(ctx context.Context) error { return s.moved(ctx, leader, spare.ID(), old) },
		func(context.Context) error {
			if _, there := retired.server().Host().Replica(onlyShard); there {
				return errors.New("the old replica is not destroyed")
			}
			return nil
		},
	}
	for i, step := range steps {
		if err := eventually(step); err != nil {
			s.watch.violation("step %d of the move: %v", i, err)
			return
		}
	}
	if err := s.write(leader, "moved", 10*time.Second); err != nil {
		s.watch.violation("the write after the move: %v", err)
	}
	// The one that is behind reaches the retired replica's node and nobody else.
	term := s.replica(leader).Status().Term
	s.net.CutBoth(behind.ID(), retired.ID(), false)
	for range 40 {
		s.replica(behind).Stand()
		time.Sleep(50 * time.Millisecond)
		if s.replica(behind).Status().Role == kv.RoleLeader {
			break
		}
	}
	s.note("%s is at term %d, the others at %d", behind.name, s.replica(behind).Status().Term, term)
	for s.replica(leader).Status().Term <= term {
		s.replica(spare).Stand()
		time.Sleep(50 * time.Millisecond)
	}
	time.Sleep(2 * time.Second)
}

// cast gives the leader of the shard, its followers, and the node without a replica.
func (s *stage) cast() (leader *Node, followers []*Node, spare *Node) {
	for {
		leader, followers, spare = nil, nil, nil
		for _, n := range s.nodes {
			switch r, ok := n.server().Host().Replica(onlyShard); {
			case !ok:
				spare = n
			case r.Status().LeaderReady:
				leader = n
			default:
				followers = append(followers, n)
			}
		}
		if leader != nil && spare != nil && len(followers) == 2 {
			return leader, followers, spare
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// moved asks a leader whether its shard has a voter on a node and not an
// earlier member.
func (s *stage) moved(ctx context.Context, leader *Node, to kv.NodeID, old kv.ServerID) error {
	members, _, err := leader.server().Actions().Members(ctx, onlyShard)
	if err != nil {
		return err
	}
	found := false
	for _, m := range members {
		found = found || m.ID.Node == to && m.Voter
		if m.ID == old {
			return errors.New("the old one is still a member")
		}
	}
	if !found {
		return errors.New("the new one is no voter yet")
	}
	return nil
}

// eventually repeats a step until it works, and gives its last error after a while.
func eventually(step func(context.Context) error) error {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := step(ctx)
		cancel()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}
