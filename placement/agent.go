package placement

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// agent is a node's side of the control plane.
type agent struct {
	opts     Options
	self     kv.NodeID
	machine  *Machine
	identity Identity
	meta     Meta
	replicas Replicas
	peers    Peers
	tracker  *tracker
	workers  *workers
	now      func() time.Time
	log      *slog.Logger
	rates    *rates
	nudged   chan struct{} // one slot: report soon
	// control answers what operators ask of the meta leader.
	control func(context.Context, *metapb.ControlRequest) (*metapb.ControlAnswer, error)
	states  atomic.Pointer[[]ReplicaState] // as last reported

	introductions introductions
	once          *onceLog // of enter, then of speak
	// registered: the leader has recorded this node as it is now. False at each
	// start, because the node may have come back with another address while what it
	// has replayed still says the old one. Of enter, then of speak.
	registered bool
	// hint is who was last said to lead the meta shard: a node that is not in its
	// configuration yet hears nothing from the leader. Like registered.
	hint kv.NodeID
}

// follow keeps what this node hosts in step with the meta state: it learns
// addresses and creates the replicas that are assigned to it.
func (a *agent) follow(ctx context.Context) {
	once := newOnceLog(a.log)
	ticker := time.NewTicker(a.opts.Tuning.Tick)
	defer ticker.Stop()
	var learned *State
	for {
		changed := a.machine.Changed()
		state := a.machine.State()
		if state != learned {
			a.learnState(state)
			if learned == nil || learned.config != state.config {
				a.followConfig(state)
			}
			learned = state
		}
		pending := a.createAssigned(ctx, state, once)
		var retry <-chan time.Time
		if pending {
			retry = ticker.C
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-retry:
		}
	}
}

func (a *agent) learnState(state *State) {
	addresses := map[kv.NodeID]string{}
	for _, n := range state.Members() {
		if kv.NodeID(n.Id) != a.self {
			addresses[kv.NodeID(n.Id)] = n.PeerAddress
		}
	}
	a.opts.LearnAddresses(addresses)
}

// assignment gives the replica that node has to hold of an initial shard (P4).
// It does not depend on the node beyond its own id, so every initial member
// starts with the same configuration.
func assignment(h *metapb.Shard, node kv.NodeID) (ReplicaSpec, bool) {
	mine := replicaOf(h.Initial, uint64(node))
	still := replicaOf(h.Current, uint64(node))
	if mine == nil || still == nil || mine.Incarnation != still.Incarnation {
		return ReplicaSpec{}, false
	}
	shard := kv.ShardID(h.Initial.Shard)
	spec := ReplicaSpec{
		ID:         kv.ServerID{Node: node, Shard: shard, Incarnation: mine.Incarnation},
		Descriptor: proto.CloneOf(h.Initial),
	}
	for _, r := range h.Initial.Replicas {
		id := kv.ServerID{Node: kv.NodeID(r.Node), Shard: shard, Incarnation: r.Incarnation}
		spec.Members = append(spec.Members, kv.Member{ID: id, Voter: r.Role == kvpb.ReplicaRole_ROLE_VOTER})
	}
	return spec, true
}

// speak registers with the meta leader and reports to it, once per
// Tuning.ReportEvery. It returns only with a fatal error or the context's.
func (a *agent) speak(ctx context.Context) error {
	timer := time.NewTimer(a.opts.Tuning.ReportEvery)
	defer timer.Stop()
	for {
		if err := a.speakOnce(ctx); err != nil {
			return err
		}
		wait := a.opts.Tuning.ReportEvery
		if a.catchingUp() {
			wait /= 4
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		case <-a.nudged:
			// What was just done takes a moment to show.
			if err := pause(ctx, nudgeRest); err != nil {
				return err
			}
		}
	}
}

// nudgeRest also bounds how often a node reports, whatever happens to it.
const nudgeRest = 20 * time.Millisecond

func (a *agent) speakOnce(ctx context.Context) error {
	if !a.registered {
		regCtx, cancel := context.WithTimeout(ctx, joinTimeout)
		_, err := a.register(regCtx, a.identity.ClusterID())
		cancel()
		var fatal *fatalError
		switch {
		case errors.As(err, &fatal):
			return fatal
		case err != nil:
			a.once.say("not registered with the meta leader yet", err.Error())
		default:
			a.registered = true
		}
	}
	if err := a.report(ctx); err != nil && ctx.Err() == nil {
		a.once.say("cannot report to the meta leader", err.Error())
	} else {
		a.once.forget("cannot report to the meta leader")
	}
	return nil
}

// report gives this node's report to the meta leader.
func (a *agent) report(ctx context.Context) error {
	states := a.replicas.States()
	a.rates.take(states, a.now())
	a.states.Store(&states)
	report := a.reportOf(states)
	if a.meta.IsLeader() {
		a.tracker.setLeading(true, a.now())
		a.tracker.take(report, a.now())
		return nil
	}
	leader := cmp.Or(a.meta.Leader(), a.hint)
	if leader == 0 || leader == a.self {
		a.registered = false // to register is to ask everybody who leads
		return errors.New("the meta shard has no leader that is known here")
	}
	req, err := proto.Marshal(report)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, a.opts.Tuning.ReportEvery)
	defer cancel()
	resp, err := a.peers.Call(ctx, leader, MethodReport, req)
	if err != nil {
		a.hint = 0
		return err
	}
	var answer metapb.ReportAnswer
	if err := proto.Unmarshal(resp, &answer); err != nil {
		return err
	}
	a.hint = kv.NodeID(answer.Leader)
	if !answer.Accepted && a.hint == leader {
		a.registered = false // it leads, and does not know this node
	}
	return nil
}

// ownReport says how this node and its replicas are.
func (a *agent) ownReport() *metapb.NodeReport { return a.reportOf(a.replicas.States()) }

func (a *agent) reportOf(states []ReplicaState) *metapb.NodeReport {
	out := &metapb.NodeReport{Node: uint64(a.self)}
	if a.opts.Disk != nil {
		out.DiskBytes, out.DiskFreeBytes = a.opts.Disk()
	}
	for _, s := range states {
		st := s.Status
		r := &metapb.ReplicaReport{
			Shard: uint64(st.ID.Shard), Incarnation: st.ID.Incarnation, Role: string(st.Role), Term: st.Term,
			Leader: uint64(st.Leader), LeaderReady: st.LeaderReady, CommitIndex: st.CommitIndex, AppliedIndex: st.AppliedIndex,
			Failure: st.Failure, Bytes: s.Bytes, Keys: s.Keys,
			FrozenIndex: s.FrozenIndex, FrozenInto: uint64(s.FrozenInto), Generation: s.Descriptor.GetGeneration(),
		}
		r.Reads, r.Writes = a.rates.of(st.ID)
		if st.LeaderReady && st.ID.Shard != kv.MetaShard {
			r.Leads = descriptorReport(s)
		}
		out.Replicas = append(out.Replicas, r)
	}
	sortReplicas(out)
	return out
}

// descriptorReport says what a led shard is: its range as its machine has it, its
// replicas as its Raft configuration has them. Nil if either is not known.
func descriptorReport(s ReplicaState) *metapb.DescriptorReport {
	if s.Descriptor == nil || len(s.Status.Members) == 0 || s.ConfigIndex == 0 {
		return nil
	}
	d := &kvpb.ShardDescriptor{
		Shard: s.Descriptor.Shard, Generation: s.Descriptor.Generation, Start: s.Descriptor.Start, End: s.Descriptor.End,
		Replicas: kv.DescribeMembers(s.Status.Members),
	}
	return &metapb.DescriptorReport{Shard: d, ConfigIndex: s.ConfigIndex}
}

// onReport takes a report if this node leads the meta shard, else names who does.
func (a *agent) onReport(from kv.NodeID, req []byte, reply func([]byte, error)) {
	report := &metapb.NodeReport{}
	if err := proto.Unmarshal(req, report); err != nil || report.Node != uint64(from) {
		reply(nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "not a report of node %s", from))
		return
	}
	answer := &metapb.ReportAnswer{Leader: uint64(a.meta.Leader())}
	if a.meta.IsLeader() {
		answer.Leader = uint64(a.self)
		n := a.machine.State().Node(from)
		if n != nil && n.State != metapb.NodeState_NODE_REMOVED {
			a.tracker.setLeading(true, a.now())
			a.tracker.take(report, a.now())
			answer.Accepted = true
		}
	}
	reply(proto.Marshal(answer))
}

// onAdmin does what another node asks on behalf of the control plane.
func (a *agent) onAdmin(_ kv.NodeID, req []byte, reply func([]byte, error)) {
	var in metapb.AdminRequest
	if err := proto.Unmarshal(req, &in); err != nil {
		reply(nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "not an admin request: %w", err))
		return
	}
	timeout := a.opts.Tuning.StepTimeout
	if in.GetShard().GetAction() == metapb.ShardAction_SHARD_SPLIT {
		timeout = a.opts.Tuning.LongTimeout
	}
	a.workers.serve(timeout, reply, func(ctx context.Context) ([]byte, error) {
		answer := &metapb.AdminAnswer{}
		var err error
		switch body := in.Body.(type) {
		case *metapb.AdminRequest_Summary:
			answer.Summary, err = a.summary()
		case *metapb.AdminRequest_Transfer:
			err = a.replicas.Transfer(ctx, kv.ShardID(body.Transfer.GetShard()), kv.NodeID(body.Transfer.GetTo()))
			a.nudge()
		case *metapb.AdminRequest_Shard:
			answer, err = doShard(ctx, a.opts.Actions, a.replicas, body.Shard)
			a.nudge()
		case *metapb.AdminRequest_Control:
			answer.Control, err = a.control(ctx, body.Control)
		default:
			err = kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "an admin request that this release does not know")
		}
		if err != nil {
			return nil, err
		}
		return proto.Marshal(answer)
	})
}

// nudge makes this node report at once instead of at its next turn.
func (a *agent) nudge() {
	select {
	case a.nudged <- struct{}{}:
	default:
	}
}

// summary gives what this node, as the meta leader, has heard.
func (a *agent) summary() (*metapb.Summary, error) {
	health, _, ok := a.tracker.view(a.machine.State(), a.now())
	if !ok || !a.meta.IsLeader() {
		return nil, &kv.Error{Code: kv.CodeNotLeader, Shard: kv.MetaShard, Leader: a.meta.Leader()}
	}
	out := &metapb.Summary{}
	for node, h := range health {
		n := &metapb.NodeHealth{Node: uint64(node), Alive: h.Liveness != Dead, Report: h.Report}
		if !h.LastSeen.IsZero() {
			n.LastSeenMs = h.LastSeen.UnixMilli()
		}
		out.Nodes = append(out.Nodes, n)
	}
	slices.SortFunc(out.Nodes, func(a, b *metapb.NodeHealth) int { return cmp.Compare(a.Node, b.Node) })
	return out, nil
}
