package placement

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

// record is this node as it registers.
func (a *agent) record() *metapb.Node {
	n := &metapb.Node{
		Id: uint64(a.self), Name: a.opts.Self.Name, Zone: a.opts.Self.Zone, HttpAddress: a.opts.Self.HTTPAddress,
		PeerAddress: a.opts.Self.PeerAddress, Release: a.opts.Self.Release,
	}
	if n.Name == "" {
		n.Name = a.self.String()
	}
	return n
}

// register makes the meta leader record this node: through the leader if it is
// known, else through whoever can name it. It fails fatally if this node cannot
// be part of that cluster.
func (a *agent) register(ctx context.Context, cluster string) (*metapb.JoinAnswer, error) {
	req := &metapb.JoinRequest{ClusterId: a.identity.ClusterID(), Node: a.record()}
	if a.meta.IsLeader() {
		return a.admit(ctx, a.self, req)
	}
	data, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	tried := map[string]bool{a.opts.Self.PeerAddress: true}
	var reasons []string
	queue := a.doors()
	for len(queue) > 0 && ctx.Err() == nil {
		address := queue[0]
		queue = queue[1:]
		if address == "" || tried[address] {
			continue
		}
		tried[address] = true
		answer, err := a.knock(ctx, address, data)
		switch {
		case err == nil && answer.ClusterId != cluster:
			return nil, fatalf("%s belongs to cluster %s, not to %s", address, answer.ClusterId, cluster)
		case err == nil && answer.Registered:
			a.hint = kv.NodeID(answer.Leader)
			return answer, nil
		case err == nil:
			reasons = append(reasons, address+" knows no leader of the meta shard")
			queue = append([]string{answer.LeaderAddress}, queue...)
		case kv.CodeOf(err) == kv.CodeConflict:
			return nil, fatalf("%s refuses this node: %w", address, err)
		default:
			reasons = append(reasons, address+" answers: "+err.Error())
		}
	}
	return nil, fmt.Errorf("cannot register with cluster %s: %s", cluster, strings.Join(reasons, "; "))
}

// doors gives the addresses to try, the likeliest first.
func (a *agent) doors() []string {
	state := a.machine.State()
	var out []string
	if leader := state.Node(a.meta.Leader()); leader != nil {
		out = append(out, leader.PeerAddress)
	}
	out = append(out, a.opts.Join...)
	for _, n := range state.Members() {
		out = append(out, n.PeerAddress)
	}
	return out
}

func (a *agent) knock(ctx context.Context, address string, req []byte) (*metapb.JoinAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	_, resp, err := a.peers.Dial(ctx, address, MethodJoin, req)
	if err != nil {
		return nil, err
	}
	var answer metapb.JoinAnswer
	if err := proto.Unmarshal(resp, &answer); err != nil {
		return nil, fmt.Errorf("decode the answer of %s: %w", address, err)
	}
	addresses := map[kv.NodeID]string{}
	for _, n := range answer.Addresses {
		addresses[kv.NodeID(n.Node)] = n.PeerAddress
	}
	if answer.Leader != 0 && answer.LeaderAddress != "" {
		addresses[kv.NodeID(answer.Leader)] = answer.LeaderAddress
	}
	a.opts.LearnAddresses(addresses)
	return &answer, nil
}

// onJoin answers a node that wants to be registered.
func (a *agent) onJoin(from kv.NodeID, req []byte, reply func([]byte, error)) {
	a.workers.serve(joinTimeout, reply, func(ctx context.Context) ([]byte, error) {
		var in metapb.JoinRequest
		if err := proto.Unmarshal(req, &in); err != nil {
			return nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "not a join request: %w", err)
		}
		answer, err := a.admit(ctx, from, &in)
		if err != nil {
			return nil, err
		}
		return proto.Marshal(answer)
	})
}

// admit registers a node if this one leads the meta shard, else names the leader.
func (a *agent) admit(ctx context.Context, from kv.NodeID, req *metapb.JoinRequest) (*metapb.JoinAnswer, error) {
	own := a.identity.ClusterID()
	switch {
	case req.Node.GetId() != uint64(from):
		return nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "node %s asks for node %016x to join", from, req.Node.GetId())
	case own == "":
		return nil, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "node %s is not in a cluster yet", a.self)
	case req.ClusterId != "" && req.ClusterId != own:
		return nil, kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "this is cluster %s, but the node belongs to %s", own, req.ClusterId)
	}
	state := a.machine.State()
	answer := &metapb.JoinAnswer{ClusterId: own, Leader: uint64(a.meta.Leader())}
	answer.LeaderAddress = state.Node(kv.NodeID(answer.Leader)).GetPeerAddress()
	if !a.meta.IsLeader() {
		return answer, nil
	}
	known := state.Node(from)
	if known == nil || known.State == metapb.NodeState_NODE_REMOVED || !sameNode(known, req.Node) {
		result, err := propose(ctx, a.meta, &metapb.Command{Body: &metapb.Command_RegisterNode{
			RegisterNode: &metapb.RegisterNode{ClusterId: own, Node: req.Node}}})
		if err != nil {
			return nil, err
		}
		known = result.Node
	}
	answer.Registered, answer.Node = true, known
	for _, n := range a.machine.State().Members() {
		answer.Addresses = append(answer.Addresses, &metapb.NodeAddress{Node: n.Id, PeerAddress: n.PeerAddress})
	}
	return answer, nil
}
