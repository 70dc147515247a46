package placement

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

const (
	enterPauseFirst = 200 * time.Millisecond
	enterPauseLast  = time.Second
	probeTimeout    = time.Second
	joinTimeout     = 5 * time.Second
	foundTimeout    = 10 * time.Second
)

// fatalError is a refusal that trying again cannot change.
type fatalError struct{ err error }

func (f *fatalError) Error() string { return f.err.Error() }
func (f *fatalError) Unwrap() error { return f.err }

func fatalf(format string, args ...any) error { return &fatalError{fmt.Errorf(format, args...)} }

// enter returns when this node belongs to a cluster and has its replica of the
// meta shard, or with an error that is fatal or the context's.
func (a *agent) enter(ctx context.Context) error {
	for wait := enterPauseFirst; ; wait = min(2*wait, enterPauseLast) {
		done, err := a.enterOnce(ctx)
		if done {
			return nil
		}
		var fatal *fatalError
		if errors.As(err, &fatal) {
			return fatal
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		a.once.say("not in a cluster yet", err.Error())
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// enterOnce looks at what this directory has come to and takes the next step
// (P6). Its error says what it waits for.
func (a *agent) enterOnce(ctx context.Context) (done bool, err error) {
	cluster := a.identity.ClusterID()
	begun := a.replicas.Known(a.metaServer())
	switch {
	case cluster != "" && begun:
		return true, nil
	case cluster != "":
		return a.join(ctx, cluster)
	case begun:
		return a.resumeFounding(ctx)
	}
	alone, err := a.byItself()
	if err != nil {
		return false, err
	}
	if alone {
		return a.found(ctx)
	}
	seen := a.probe(ctx)
	other, err := seen.cluster()
	switch {
	case err != nil:
		return false, err
	case other != "":
		return a.join(ctx, other)
	}
	if err := a.mayFound(seen); err != nil {
		return false, err
	}
	return a.found(ctx)
}

func (a *agent) metaServer() kv.ServerID {
	return kv.ServerID{Node: a.self, Shard: kv.MetaShard, Incarnation: firstMetaIncarnation}
}

// byItself reports whether the flags ask for a cluster of this node alone.
func (a *agent) byItself() (bool, error) {
	others := 0
	for _, address := range a.opts.Join {
		if address != a.opts.Self.PeerAddress {
			others++
		}
	}
	if others > 0 {
		return false, nil
	}
	if a.opts.Expect > 1 {
		return false, fatalf("%d nodes are expected, but no other node's address is given to join", a.opts.Expect)
	}
	return true, nil
}

// mayFound gives an error, in words, unless this node may found the cluster now (P5).
func (a *agent) mayFound(seen *probed) error {
	first := a.opts.Join[0]
	if owner := seen.owner(first); owner != 0 && owner != a.self && a.opts.Self.PeerAddress == first {
		return fmt.Errorf("this node advertises %s, but node %s answers there", first, owner)
	} else if owner != a.self && a.opts.Self.PeerAddress != first {
		return fmt.Errorf("waiting for a cluster: none of %v is in one yet, and only the owner of %s may found it", a.opts.Join, first)
	}
	if a.opts.Expect == 0 {
		return fmt.Errorf("waiting for a cluster: none of %v is in one, and without --expect this node does not found one with others", a.opts.Join)
	}
	blank := 1 // this node
	for node, intro := range seen.nodes {
		switch {
		case node == a.self || intro.Expect == 0: // a later joiner does not count
		case !intro.Blank:
			return fmt.Errorf("node %s at %s is not blank: it began to found or join a cluster before", node, intro.Self.GetPeerAddress())
		case intro.FirstJoin != first || int(intro.Expect) != a.opts.Expect:
			return fmt.Errorf("node %s at %s was started with other flags (first join address %s, expect %d) than this one (%s, %d)",
				node, intro.Self.GetPeerAddress(), intro.FirstJoin, intro.Expect, first, a.opts.Expect)
		default:
			blank++
		}
	}
	if blank < a.opts.Expect {
		return fmt.Errorf("waiting for %d nodes to found a cluster: heard from %d; no answer from %v", a.opts.Expect, blank, seen.silent)
	}
	return nil
}

// resumeFounding goes on where a founding stopped: the replica of the meta shard
// exists, but this node has no cluster id (P6).
func (a *agent) resumeFounding(ctx context.Context) (bool, error) {
	// Only a leader knows all of its log.
	if err := a.awaitLead(ctx); err != nil {
		return false, err
	}
	if a.machine.State().ClusterID() != "" {
		return a.found(ctx)
	}
	if alone, err := a.byItself(); err != nil {
		return false, err
	} else if alone {
		return a.found(ctx)
	}
	seen := a.probe(ctx)
	switch other, err := seen.cluster(); {
	case err != nil:
		return false, err
	case other != "":
		return false, fatalf("this data directory began to found a cluster, but there is one by now (%s): use an empty directory to join it", other)
	}
	if err := a.mayFound(seen); err != nil {
		return false, err
	}
	return a.found(ctx)
}

// found makes this node the first of a new cluster, in the order of P6. What is
// done already is left alone.
func (a *agent) found(ctx context.Context) (bool, error) {
	if id := a.metaServer(); !a.replicas.Known(id) {
		spec := ReplicaSpec{ID: id, Members: []kv.Member{{ID: id, Voter: true}}}
		if err := a.replicas.Create(ctx, spec); err != nil {
			return false, fmt.Errorf("create the meta shard: %w", err)
		}
	}
	if err := a.awaitLead(ctx); err != nil {
		return false, err
	}
	if a.machine.State().ClusterID() == "" {
		if err := a.proposeFounding(ctx); err != nil {
			return false, fmt.Errorf("found the cluster: %w", err)
		}
	}
	cluster := a.machine.State().ClusterID()
	if err := a.identity.SetClusterID(cluster); err != nil {
		return false, fmt.Errorf("record the cluster id: %w", err)
	}
	a.registered = true
	a.log.Info("founded a cluster", "cluster", cluster)
	return true, nil
}

func (a *agent) proposeFounding(ctx context.Context) error {
	var raw [16]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, foundTimeout)
	defer cancel()
	_, err := propose(ctx, a.meta, &metapb.Command{Body: &metapb.Command_FoundCluster{FoundCluster: &metapb.FoundCluster{
		ClusterId: hex.EncodeToString(raw[:]),
		Settings: &metapb.Settings{
			ReplicationFactor: uint32(a.opts.ReplicationFactor),
			ExpectedNodes:     uint32(max(1, a.opts.Expect)),
			SplitPoints:       a.opts.SplitPoints,
			Config:            configToProto(a.opts.Config),
		},
		Founder: a.record(),
	}}})
	return err
}

// awaitLead waits until this node leads the meta shard.
func (a *agent) awaitLead(ctx context.Context) error {
	deadline := a.now().Add(foundTimeout)
	for !a.meta.IsLeader() {
		if a.now().After(deadline) {
			return errors.New("the meta shard was created but has no leader yet")
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// join registers this node with the cluster and makes its replica of the meta
// shard, in the order of P6.
func (a *agent) join(ctx context.Context, cluster string) (bool, error) {
	answer, err := a.register(ctx, cluster)
	if err != nil {
		return false, err
	}
	if err := a.identity.SetClusterID(answer.ClusterId); err != nil {
		return false, fatalf("join cluster %s: %w", answer.ClusterId, err)
	}
	id := a.metaServer()
	if got := answer.Node.GetMetaIncarnation(); got != id.Incarnation {
		return false, fatalf("the cluster expects incarnation %d of this node's meta replica, this release makes %d", got, id.Incarnation)
	}
	if !a.replicas.Known(id) {
		if err := a.replicas.Create(ctx, ReplicaSpec{ID: id}); err != nil {
			return false, fmt.Errorf("create the replica of the meta shard: %w", err)
		}
	}
	a.registered = true
	a.log.Info("joined a cluster", "cluster", answer.ClusterId)
	return true, nil
}
