package placement

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// assigned gives the replicas that this node has to hold: of initial shards (P4),
// and those that moves bring here. The latter have no members: they wait for the
// shard's leader to add them.
func (a *agent) assigned(state *State) []ReplicaSpec {
	var out []ReplicaSpec
	for _, h := range state.Shards() {
		if spec, ok := assignment(h, a.self); ok {
			out = append(out, spec)
		}
	}
	for _, m := range state.Moves() {
		h := state.Shard(kv.ShardID(m.Shard))
		if m.Add.GetNode() == uint64(a.self) && !m.Cancelled && h != nil {
			out = append(out, ReplicaSpec{
				ID:         kv.ServerID{Node: a.self, Shard: kv.ShardID(m.Shard), Incarnation: m.Add.Incarnation},
				Descriptor: proto.CloneOf(h.Current),
			})
		}
	}
	return out
}

// createAssigned creates the replicas that are this node's and reports whether
// some could not be.
func (a *agent) createAssigned(ctx context.Context, state *State, once *onceLog) (pending bool) {
	for _, spec := range a.assigned(state) {
		if a.replicas.Known(spec.ID) {
			continue
		}
		stepCtx, cancel := context.WithTimeout(ctx, a.opts.Tuning.StepTimeout)
		err := a.replicas.Create(stepCtx, spec)
		cancel()
		if ctx.Err() != nil {
			return true
		}
		subject := "cannot create the replica of shard " + spec.ID.Shard.String()
		if err != nil {
			pending = true
			once.say(subject, err.Error())
			continue
		}
		once.forget(subject)
		a.nudge()
		a.log.Info("created a replica", "shard", uint64(spec.ID.Shard), "members", len(spec.Members))
	}
	return pending
}

// tidy destroys replicas that their shards have parted with, once per tick.
func (a *agent) tidy(ctx context.Context) {
	once := newOnceLog(a.log)
	ticker := time.NewTicker(a.opts.Tuning.Tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if states := a.states.Load(); states != nil && a.opts.Actions != nil {
			a.destroyStrays(ctx, *states, once)
		}
	}
}

// destroyStrays looks twice: what this node has applied of the meta state may be old,
// if it has just been started. A replica that a move has brought looks like a stray
// then until its shard has added it, and once it is destroyed the move can never end
// (the simulator found it). What a replica was made for is acknowledged before it is
// made, so a state that has all that was acknowledged by now knows of it.
func (a *agent) destroyStrays(ctx context.Context, states []ReplicaState, once *onceLog) {
	if len(a.strays(a.machine.State(), states)) == 0 {
		return
	}
	readCtx, cancel := context.WithTimeout(ctx, a.opts.Tuning.StepTimeout)
	err := a.meta.ReadIndex(readCtx)
	cancel()
	if err != nil {
		return // tidy comes again
	}
	state := a.machine.State()
	for _, s := range a.strays(state, states) {
		id := s.Status.ID
		stepCtx, cancel := context.WithTimeout(ctx, a.opts.Tuning.StepTimeout)
		err := a.destroy(stepCtx, state, id)
		cancel()
		if ctx.Err() != nil {
			return
		}
		subject := "cannot destroy the replica of shard " + id.Shard.String()
		if err != nil {
			once.say(subject, err.Error())
			continue
		}
		once.forget(subject)
		a.nudge()
		a.log.Info("destroyed a replica that its shard has parted with", "replica", id.String())
	}
}

// strays gives the local replicas that look like strays by a meta state.
func (a *agent) strays(state *State, states []ReplicaState) []ReplicaState {
	var out []ReplicaState
	for _, s := range states {
		if s.Status.ID.Shard != kv.MetaShard && a.stray(state, s, states) {
			out = append(out, s)
		}
	}
	return out
}

// stray reports whether the meta state gives reason to think that a shard has
// parted with this node's replica. It is no more than that: the shard itself is
// asked before anything is destroyed (P10). A shard that the state does not know may
// be the child of a split that it has not heard of, and gives no reason.
func (a *agent) stray(state *State, s ReplicaState, local []ReplicaState) bool {
	id := s.Status.ID
	if r := state.Retired(id.Shard); r != nil {
		return absorbedHere(r, local)
	}
	h := state.Shard(id.Shard)
	if h == nil || h.ConfigIndex <= s.ConfigIndex && isMember(s.Status.Members, id) {
		return false
	}
	if m := state.Move(id.Shard); m.GetAdd().GetNode() == uint64(id.Node) && m.Add.Incarnation == id.Incarnation {
		return false
	}
	if mine := replicaOf(h.Current, uint64(id.Node)); mine.GetIncarnation() == id.Incarnation {
		return false
	}
	_, initial := assignment(h, a.self)
	return !initial
}

// absorbedHere reports whether this node's replica of a shard that was merged away
// is of no use any more: the shard that absorbed it has done so here too, or has
// no replica here.
func absorbedHere(r *metapb.Retired, local []ReplicaState) bool {
	for _, s := range local {
		if uint64(s.Status.ID.Shard) == r.Into {
			return s.Descriptor.GetGeneration() >= r.Generation
		}
	}
	return true
}

func isMember(members []kv.Member, id kv.ServerID) bool {
	for _, m := range members {
		if m.ID == id {
			return true
		}
	}
	return false
}

// destroy destroys a replica, if a quorum of its shard confirms that it is no
// member, or if the shard is no more.
func (a *agent) destroy(ctx context.Context, state *State, id kv.ServerID) error {
	if state.Retired(id.Shard) == nil {
		if err := a.confirmParted(ctx, state.Shard(id.Shard).Current, id); err != nil {
			return err
		}
	}
	return a.opts.Actions.Destroy(ctx, id)
}

// confirmParted asks the shard's nodes until the one that leads it answers.
func (a *agent) confirmParted(ctx context.Context, d *kvpb.ShardDescriptor, id kv.ServerID) error {
	last := kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "shard %s has no replica to ask", id.Shard)
	req := &metapb.ShardRequest{Action: metapb.ShardAction_SHARD_MEMBERS, Shard: uint64(id.Shard)}
	for _, r := range d.Replicas {
		if r.Node == uint64(a.self) {
			continue
		}
		askCtx, cancel := context.WithTimeout(ctx, a.opts.Tuning.ReportEvery)
		answer, err := callAdmin(askCtx, a.peers, kv.NodeID(r.Node), &metapb.AdminRequest{Body: &metapb.AdminRequest_Shard{Shard: req}})
		cancel()
		if err != nil {
			last = kv.AsError(err)
			continue
		}
		for _, m := range answer.Members {
			if m.Node == uint64(id.Node) && m.Incarnation == id.Incarnation {
				return kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "shard %s still has it", id.Shard)
			}
		}
		if len(answer.Members) > 0 {
			return nil
		}
	}
	return last
}

// catchingUp reports whether a local replica follows without a vote, or is about
// to be made: then reports are more frequent, because a move waits for them.
func (a *agent) catchingUp() bool {
	states := a.states.Load()
	if states == nil {
		return false
	}
	for _, s := range *states {
		if s.Status.Role == kv.RoleLearner && s.Status.ID.Shard != kv.MetaShard {
			return true
		}
	}
	return false
}

// followConfig applies the settings that concern this node.
func (a *agent) followConfig(state *State) {
	if a.opts.Actions != nil && state.ClusterID() != "" {
		a.opts.Actions.SnapshotRate(state.Config().SnapshotRate)
	}
}
