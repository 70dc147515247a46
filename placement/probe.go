package placement

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

const (
	// introductionsMax and introductionFresh bound what is remembered of nodes
	// that probed this one.
	introductionsMax  = 256
	introductionFresh = 3 * time.Second
)

// introductions remembers who probed this node lately: founding counts the nodes
// that are not in the list of join addresses too.
type introductions struct {
	mu   sync.Mutex
	seen map[kv.NodeID]introduced
}

type introduced struct {
	intro *metapb.Introduction
	at    time.Time
}

func (i *introductions) add(intro *metapb.Introduction, now time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.seen == nil {
		i.seen = map[kv.NodeID]introduced{}
	}
	i.pruneLocked(now)
	if len(i.seen) < introductionsMax {
		i.seen[kv.NodeID(intro.Node)] = introduced{intro: intro, at: now}
	}
}

func (i *introductions) pruneLocked(now time.Time) {
	maps.DeleteFunc(i.seen, func(_ kv.NodeID, e introduced) bool { return now.Sub(e.at) > introductionFresh })
}

func (i *introductions) fresh(now time.Time) map[kv.NodeID]*metapb.Introduction {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.pruneLocked(now)
	out := make(map[kv.NodeID]*metapb.Introduction, len(i.seen))
	for node, e := range i.seen {
		out[node] = e.intro
	}
	return out
}

// probed is what a round of probes found.
type probed struct {
	nodes     map[kv.NodeID]*metapb.Introduction
	addresses map[string]kv.NodeID // who answered where
	silent    []string             // addresses without an answer
}

// owner gives who answered at an address, zero if nobody did.
func (p *probed) owner(address string) kv.NodeID { return p.addresses[address] }

// cluster gives the cluster that the nodes belong to, "" if none does, and an
// error if they belong to several.
func (p *probed) cluster() (string, error) {
	found := map[string]string{}
	for _, intro := range p.nodes {
		if intro.ClusterId != "" {
			found[intro.ClusterId] = intro.Self.GetPeerAddress()
		}
	}
	ids := slices.Sorted(maps.Keys(found))
	switch len(ids) {
	case 0:
		return "", nil
	case 1:
		return ids[0], nil
	default:
		return "", fmt.Errorf("the nodes to join belong to different clusters: %s to %s, %s to %s; this node will join neither",
			found[ids[0]], ids[0], found[ids[1]], ids[1])
	}
}

// probe asks all join addresses at once who they are and adds who asked us.
func (a *agent) probe(ctx context.Context) *probed {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := proto.Marshal(a.introduce())
	if err != nil {
		a.log.Error("cannot encode an introduction", "err", err)
		return &probed{silent: a.opts.Join}
	}
	type answer struct {
		node  kv.NodeID
		intro *metapb.Introduction
	}
	answers := make([]answer, len(a.opts.Join))
	var wg sync.WaitGroup
	for i, address := range a.opts.Join {
		wg.Go(func() {
			node, resp, err := a.peers.Dial(ctx, address, MethodProbe, req)
			var intro metapb.Introduction
			switch {
			case node == a.self: // answered or refused: the address is ours
				answers[i] = answer{node: node}
			case err == nil && proto.Unmarshal(resp, &intro) == nil && intro.Node == uint64(node):
				answers[i] = answer{node, &intro}
			}
		})
	}
	wg.Wait()
	out := &probed{nodes: a.introductions.fresh(a.now()), addresses: map[string]kv.NodeID{}}
	for i, got := range answers {
		address := a.opts.Join[i]
		switch {
		case got.node == a.self:
			out.addresses[address] = a.self
		case got.intro != nil:
			out.addresses[address] = got.node
			out.nodes[got.node] = got.intro
		case address != a.opts.Self.PeerAddress: // a node need not be able to dial itself
			out.silent = append(out.silent, address)
		}
	}
	delete(out.nodes, a.self)
	a.learn(out.nodes)
	return out
}

func (a *agent) learn(found map[kv.NodeID]*metapb.Introduction) {
	addresses := make(map[kv.NodeID]string, len(found))
	for node, intro := range found {
		if address := intro.Self.GetPeerAddress(); address != "" {
			addresses[node] = address
		}
	}
	a.opts.LearnAddresses(addresses)
}

// introduce says who this node is.
func (a *agent) introduce() *metapb.Introduction {
	intro := &metapb.Introduction{
		Node:      uint64(a.self),
		ClusterId: a.identity.ClusterID(),
		Self:      a.record(),
		Expect:    uint32(max(0, a.opts.Expect)),
	}
	intro.Blank = intro.ClusterId == "" && !a.replicas.Known(a.metaServer())
	if len(a.opts.Join) > 0 {
		intro.FirstJoin = a.opts.Join[0]
	}
	return intro
}

// onProbe answers a probe from memory.
func (a *agent) onProbe(from kv.NodeID, req []byte, reply func([]byte, error)) {
	var intro metapb.Introduction
	if err := proto.Unmarshal(req, &intro); err != nil || intro.Node != uint64(from) || intro.Node == 0 {
		reply(nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "not an introduction of node %s", from))
		return
	}
	if from != a.self {
		a.introductions.add(&intro, a.now())
	}
	reply(proto.Marshal(a.introduce()))
}
