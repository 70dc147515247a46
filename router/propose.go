package router

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/kv/planted"
)

// proposeOnce makes one attempt to have a command applied by the leader of d. An
// answer that says "not here" or "not now" is an error beside the result, every other
// one a result.
func (r *Router) proposeOnce(ctx context.Context, a *attempts, d *kvpb.ShardDescriptor, data []byte, versions uint32) (*kvpb.Result, kv.NodeID, error) {
	shard := kv.ShardID(d.Shard)
	node := a.target(d)
	var answer []byte
	var err error
	if node == r.self {
		answer, err = r.local.Propose(ctx, shard, data, versions)
	} else {
		err = a.watched(ctx, d, node, func(ctx context.Context) (err error) {
			answer, err = r.forwardPropose(ctx, node, shard, data, versions, a.patienceForOne())
			return err
		})
	}
	if err != nil {
		return nil, 0, err
	}
	a.answered(shard, node)
	result := &kvpb.Result{}
	if err := proto.Unmarshal(answer, result); err != nil {
		return nil, 0, kv.Errorf(kv.CodeInternal, kv.OutcomeUnknown, "shard %s on node %s answered a command with what does not decode: %w", shard, node, err)
	}
	switch result.Status {
	case kvpb.Status_STATUS_WRONG_SHARD:
		r.learn(result.Descriptor_, result.Sibling, node)
		return result, node, statusError(OpWrite, shard, result.Status, result.Detail)
	case kvpb.Status_STATUS_REJECTED, kvpb.Status_STATUS_FROZEN:
		return result, node, statusError(OpWrite, shard, result.Status, result.Detail)
	}
	return result, node, nil
}

// learn takes what a shard said of itself and of the shard that it last gave keys
// to. Who leads the one is likely to lead the other.
func (r *Router) learn(d, sibling *kvpb.ShardDescriptor, node kv.NodeID) {
	if d != nil {
		r.shards.Learn(d)
	}
	if sibling == nil {
		return
	}
	r.shards.Learn(sibling)
	if child := kv.ShardID(sibling.Shard); node != 0 && node != r.self && r.leaders.get(child) == 0 {
		r.leaders.set(child, node)
	}
}

// locator finds the one shard that a command has to go to. It is asked again
// before every attempt, because the map learns. errScattered says that there is no
// such shard any more, kv.CodeUnavailable that the map does not know.
type locator func() (*kvpb.ShardDescriptor, error)

// renewalsMax bounds how often a command gets a fresh id.
const renewalsMax = 3

// apply has a command applied by the shard that locate finds, however many
// attempts it takes (invariant 2). The result's transactions are as many as the
// command's. It fails with errScattered if locate does, and then a tells what is in
// doubt; with another kv.CodeCrossShardTxn if the command is one transaction that
// no shard can apply (invariant 5).
func (r *Router) apply(ctx context.Context, a *attempts, c *command, locate locator) (*kvpb.Result, kv.Served, error) {
	for renewals := 0; ; {
		d, err := locate()
		if err == error(errScattered) {
			if ctx.Err() != nil { // no map, however it changes, keeps a request for ever
				err = a.failure(ctx, kv.Errorf(kv.CodeTimeout, kv.OutcomeNotApplied, "the shards changed until there was no time left"))
			}
			return nil, kv.Served{}, err
		}
		var result *kvpb.Result
		var node kv.NodeID
		if err == nil {
			data := c.encode(d.Generation)
			a.generation = c.generation
			result, node, err = r.proposeOnce(ctx, a, d, data, c.versions)
			if e := a.parted(c, result); e != nil {
				return nil, kv.Served{}, e
			}
		}
		if err != nil {
			if err = a.again(ctx, err); err != nil {
				return nil, kv.Served{}, err
			}
			if planted.On(planted.NewIDPerAttempt) && c.minted {
				c.renew(r)
			}
			continue
		}
		shard := kv.ShardID(d.Shard)
		served := kv.Served{Shard: shard, Node: node}
		switch {
		case result.Status == kvpb.Status_STATUS_OK && len(result.Txns) == int(c.versions):
			return result, served, nil
		case result.Status == kvpb.Status_STATUS_OK:
			return nil, served, kv.Errorf(kv.CodeInternal, kv.OutcomeUnknown, "shard %s answered %d transactions with %d results", shard, c.versions, len(result.Txns))
		case result.Status == kvpb.Status_STATUS_REQUEST_TOO_OLD && c.minted && !a.doubt && renewals < renewalsMax:
			// Our own id was never taken: it is this node's clock that is behind
			// the shard's by more than the window.
			renewals++
			if err := r.askTime(ctx, a, d); err != nil {
				return nil, served, err
			}
			c.renew(r)
			continue
		}
		return nil, served, a.refusal(ctx, statusError(OpWrite, shard, result.Status, result.Detail), meaningOf(result.Status))
	}
}

// parted gives the final error of a single transaction, if an answer shows that no
// shard can have applied it or will (invariant 5).
func (a *attempts) parted(c *command, result *kvpb.Result) error {
	d := result.GetDescriptor_()
	if result.GetStatus() != kvpb.Status_STATUS_WRONG_SHARD || len(c.txns) != 1 || !c.spread || d == nil ||
		!owns(d, firstKey(c.txns[0])) || ownsTxn(d, c.txns[0]) || a.doubt && d.Generation < a.doubtful {
		return nil
	}
	a.doubt = false
	e := *errScattered
	e.Shard = kv.ShardID(d.Shard)
	return &e
}

// refusal is the request's error after a state machine's final answer.
func (a *attempts) refusal(ctx context.Context, e *kv.Error, m meaning) error {
	if m.settled {
		return e
	}
	a.note(e)
	return a.failure(ctx, e)
}

// askTime learns a shard's time from its leader.
func (r *Router) askTime(ctx context.Context, a *attempts, d *kvpb.ShardDescriptor) error {
	reads := &attempts{r: r, op: OpRead}
	for {
		_, _, err := r.readLeader(ctx, reads, d, &kvpb.ReadRequest{}, kv.ReadOptions{})
		if err == nil {
			return nil
		}
		if err := reads.again(ctx, err); err != nil {
			return a.failure(ctx, asError(err))
		}
	}
}

// written gives the answer to one transaction of a result.
func (r *Router) written(result *kvpb.Result, n int, served kv.Served) (kv.Written, error) {
	txn := result.Txns[n]
	switch txn.GetStatus() {
	case kvpb.Status_STATUS_OK, kvpb.Status_STATUS_CONDITION_FAILED:
		served.LastVersion = kv.Version(txn.CommittedVersion)
		r.observe(served.LastVersion.Millis())
		return kv.Written{Result: txn, Replayed: result.Replayed || txn.Replayed, Served: served}, nil
	}
	e := statusError(OpWrite, served.Shard, txn.GetStatus(), txn.GetDetail())
	if e.Code == kv.CodeWrongShard {
		e.Code = kv.CodeUnavailable // a word between nodes
	}
	return kv.Written{}, e
}
