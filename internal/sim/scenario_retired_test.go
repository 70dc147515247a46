package sim

import (
	"context"
	"errors"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode"
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
	old, next := s.replica(retired).ID(), kv.ServerID{Node: spare.ID(), Shard: onlyShard, Incarnation: 1}
	s.net.Isolate(behind.ID(), true)
	actions := leader.server().Actions()
	steps := []func(context.Context) error{
		func(ctx context.Context) error {
			return spare.server().Host().Create(ctx, raftnode.Record{
				ID: next, Kind: raftnode.Durable, Log: raftnode.SharedLog, Payload: s.replica(retired).Record().Payload,
			})
		},
		func(ctx context.Context) error { return actions.AddNonvoter(ctx, onlyShard, next) },
		func(ctx context.Context) error { return actions.Promote(ctx, onlyShard, next) },
		func(ctx context.Context) error { return actions.Remove(ctx, onlyShard, old) },
		func(ctx context.Context) error { return s.onlyHas(ctx, leader, next, old) },
		func(ctx context.Context) error { return retired.server().Actions().Destroy(ctx, old) },
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

// onlyHas asks a leader whether its shard has one member and not another.
func (s *stage) onlyHas(ctx context.Context, leader *Node, has, hasNot kv.ServerID) error {
	members, _, err := leader.server().Actions().Members(ctx, onlyShard)
	if err != nil {
		return err
	}
	found := false
	for _, m := range members {
		found = found || m.ID == has
		if m.ID == hasNot {
			return errors.New("it is still a member")
		}
	}
	if !found {
		return errors.New("it is not a member yet")
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
