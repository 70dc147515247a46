package router

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/kv/planted"
	"github.com/quorate-db/quorate/router/routerpb"
)

// readOnce makes one attempt to answer req from the shard d, in the way that opts
// asks for. A linearizable read leaves MinVersion aside: it sees every
// acknowledged version anyway, and a version of another shard would be waited for
// in vain.
func (r *Router) readOnce(ctx context.Context, a *attempts, d *kvpb.ShardDescriptor, req *kvpb.ReadRequest, opts kv.ReadOptions) (*kvpb.ReadResponse, kv.Served, error) {
	if opts.Consistency == kv.Stale {
		resp, served, err := r.readStale(ctx, a, d, req, opts)
		if err == nil || !fallsBack(a, r, err) {
			return resp, served, err
		}
	}
	return r.readLeader(ctx, a, d, req, opts)
}

// fallsBack reports whether a stale read that no replica could serve goes to the
// leader, who satisfies every bound. A shard that is not where it was is
// located again first; a version that is still on its way is waited for a little.
func fallsBack(a *attempts, r *Router, err error) bool {
	e := asError(err)
	switch {
	case e.Code == kv.CodeWrongShard, e.Code == kv.CodeVersionTooOld:
		return false
	case e.Cause == errVersionAhead:
		return a.tries > 0 && time.Since(a.first) >= r.timing.MinVersionWait
	}
	return true
}

// readLeader makes one attempt to read at the leader of d (invariant 6).
func (r *Router) readLeader(ctx context.Context, a *attempts, d *kvpb.ShardDescriptor, req *kvpb.ReadRequest, opts kv.ReadOptions) (*kvpb.ReadResponse, kv.Served, error) {
	shard := kv.ShardID(d.Shard)
	// Versions strictly grow within a shard: once one at or above At is applied,
	// nothing at or below it can still be written. Until then the state as of At is
	// not settled.
	req.At, req.MinVersion = uint64(opts.At), uint64(opts.At)
	resp, node, err := r.readAtLeader(ctx, a, d, req)
	if err != nil {
		return nil, kv.Served{}, err
	}
	if resp.Status == kvpb.Status_STATUS_NOT_READY && opts.At != 0 {
		if err := r.settle(ctx, a, d, opts.At); err != nil {
			return nil, kv.Served{}, err
		}
		if resp, node, err = r.readAtLeader(ctx, a, d, req); err != nil {
			return nil, kv.Served{}, err
		}
	}
	if err := r.readRefusal(shard, node, resp); err != nil {
		return nil, kv.Served{}, err
	}
	return resp, served(shard, node, kv.Linearizable, resp), nil
}

func (r *Router) readAtLeader(ctx context.Context, a *attempts, d *kvpb.ShardDescriptor, req *kvpb.ReadRequest) (*kvpb.ReadResponse, kv.NodeID, error) {
	shard := kv.ShardID(d.Shard)
	node := a.target(d)
	if node == r.self {
		if err := r.leadsHere(shard, kv.OutcomeNone); err != nil {
			return nil, node, err
		}
		resp, err := r.readHere(ctx, shard, req)
		return resp, node, err
	}
	msg := &routerpb.ForwardRead{Shard: d.Shard, Linearizable: true, Request: req}
	var resp *kvpb.ReadResponse
	err := a.watched(ctx, d, node, func(ctx context.Context) (err error) {
		resp, err = r.forwardRead(ctx, node, msg, a.patienceForOne())
		return err
	})
	if err != nil {
		return nil, node, err
	}
	a.answered(shard, node)
	return resp, node, nil
}

// readHere reads from this node's replica after a read index.
func (r *Router) readHere(ctx context.Context, shard kv.ShardID, req *kvpb.ReadRequest) (*kvpb.ReadResponse, error) {
	if planted.On(planted.LocalReads) {
		return r.local.Read(shard, req)
	}
	if err := r.local.ReadIndex(ctx, shard); err != nil {
		return nil, err
	}
	return r.local.Read(shard, req)
}

// settle lifts a quiet shard's last version above at by a transaction that does
// nothing, so that the state as of at is final.
func (r *Router) settle(ctx context.Context, a *attempts, d *kvpb.ShardDescriptor, at kv.Version) error {
	if deadline, ok := ctx.Deadline(); ok && at.Time().After(r.now().Add(time.Until(deadline))) {
		return kv.Errorf(kv.CodeInvalid, kv.OutcomeNone, "version %s lies in the future", at)
	}
	data, err := proto.Marshal(&kvpb.Command{Kind: kvpb.CommandKind_COMMAND_WRITE, Txns: []*kvpb.Txn{{}}})
	if err != nil {
		return kv.Errorf(kv.CodeInternal, kv.OutcomeNone, "encode an empty command: %w", err)
	}
	_, _, err = r.proposeOnce(ctx, a, d, data, 1)
	return err
}

// errVersionAhead marks the error of a stale read whose MinVersion no replica
// that was asked has reached.
var errVersionAhead = &kv.Error{Code: kv.CodeUnavailable, Detail: "no replica has reached the version yet"}

// readStale asks the replicas of d in turn, this node's own first, and answers
// from the first that qualifies.
func (r *Router) readStale(ctx context.Context, a *attempts, d *kvpb.ShardDescriptor, req *kvpb.ReadRequest, opts kv.ReadOptions) (*kvpb.ReadResponse, kv.Served, error) {
	shard := kv.ShardID(d.Shard)
	req.At, req.MinVersion = uint64(opts.At), uint64(max(opts.At, opts.MinVersion))
	resp, err := r.readStaleHere(shard, req, opts.MaxStaleness)
	if done, err := r.staleAnswer(d, resp, err); done {
		return resp, served(shard, r.self, kv.Stale, resp), err
	}
	ahead := err == nil && resp.Status == kvpb.Status_STATUS_NOT_READY
	last := asErrorOf(err, shard, resp)
	staleness := uint64((opts.MaxStaleness + time.Microsecond - 1) / time.Microsecond) // zero only if it was
	for rep := range r.remoteReplicas(d) {
		node := kv.NodeID(rep.Node)
		msg := &routerpb.ForwardRead{Shard: d.Shard, MaxStalenessUs: staleness, Request: req}
		resp, err := r.forwardRead(ctx, node, msg, a.patienceForOne()/2)
		if done, err := r.staleAnswer(d, resp, err); done {
			return resp, served(shard, node, kv.Stale, resp), err
		}
		ahead = ahead || err == nil && resp.Status == kvpb.Status_STATUS_NOT_READY
		last = asErrorOf(err, shard, resp)
		if ctx.Err() != nil {
			break
		}
	}
	if ahead {
		last = &kv.Error{Code: kv.CodeUnavailable, Detail: errVersionAhead.Detail, Shard: shard, Cause: errVersionAhead}
	}
	return nil, kv.Served{}, last
}

// staleAnswer reports whether one replica's answer ends a stale read. A refusal
// counts only if it comes from a replica that knows more than the map did.
func (r *Router) staleAnswer(d *kvpb.ShardDescriptor, resp *kvpb.ReadResponse, err error) (bool, error) {
	switch {
	case err != nil:
		return false, nil
	case resp.Status == kvpb.Status_STATUS_OK:
		r.observe(resp.NowMs)
		return true, nil
	case resp.Status == kvpb.Status_STATUS_WRONG_SHARD && resp.Descriptor_.GetGeneration() > d.Generation,
		resp.Status == kvpb.Status_STATUS_VERSION_TOO_OLD:
		return true, r.readRefusal(kv.ShardID(d.Shard), 0, resp)
	}
	return false, nil
}

func asErrorOf(err error, shard kv.ShardID, resp *kvpb.ReadResponse) *kv.Error {
	if err != nil {
		return asError(err)
	}
	return statusError(OpRead, shard, resp.Status, resp.Detail)
}

// readStaleHere reads from this node's replica without asking anybody, if the
// replica heard from its leader within maxStaleness (0 = any time).
func (r *Router) readStaleHere(shard kv.ShardID, req *kvpb.ReadRequest, maxStaleness time.Duration) (*kvpb.ReadResponse, error) {
	if maxStaleness > 0 {
		if age, ok := r.local.LastContact(shard); !ok || age > maxStaleness {
			return nil, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNone, "node %s has not heard from the leader of shard %s within %s", r.self, shard, maxStaleness)
		}
	}
	return r.local.Read(shard, req)
}

// readRefusal gives the error of an answer that is not STATUS_OK, and learns
// from both kinds.
func (r *Router) readRefusal(shard kv.ShardID, node kv.NodeID, resp *kvpb.ReadResponse) error {
	r.observe(resp.NowMs)
	if resp.Status == kvpb.Status_STATUS_OK {
		return nil
	}
	if resp.Status == kvpb.Status_STATUS_WRONG_SHARD {
		r.learn(resp.Descriptor_, resp.Sibling, node)
	}
	return statusError(OpRead, shard, resp.Status, resp.Detail)
}

func served(shard kv.ShardID, node kv.NodeID, c kv.Consistency, resp *kvpb.ReadResponse) kv.Served {
	return kv.Served{Shard: shard, Node: node, Consistency: c, LastVersion: kv.Version(resp.GetLastVersion()), NowMs: resp.GetNowMs()}
}

// seekAbsorber asks the left neighbour of a shard that is frozen or gone what it
// owns, in case that it has absorbed the shard: it knows before the map does. Any
// replica will do, for what a shard says of itself is true from then on; silence is
// no harm.
func (r *Router) seekAbsorber(ctx context.Context, gone *kvpb.ShardDescriptor) {
	if gone == nil || len(gone.Start) == 0 {
		return
	}
	before := r.shards.Overlapping(nil, gone.Start)
	if len(before) == 0 || before[len(before)-1].Shard == gone.Shard {
		return
	}
	left := before[len(before)-1]
	if resp, err := r.local.Read(kv.ShardID(left.Shard), &kvpb.ReadRequest{}); err == nil {
		r.learn(resp.Descriptor_, nil, 0)
		return
	}
	for rep := range r.remoteReplicas(left) {
		msg := &routerpb.ForwardRead{Shard: left.Shard, Request: &kvpb.ReadRequest{}}
		if resp, err := r.forwardRead(ctx, kv.NodeID(rep.Node), msg, r.timing.LastAttempt); err == nil {
			r.learn(resp.Descriptor_, nil, 0)
			return
		}
	}
}

// checkRead refuses options that mean nothing.
func checkRead(opts kv.ReadOptions) error {
	switch {
	case opts.Consistency != "" && opts.Consistency != kv.Linearizable && opts.Consistency != kv.Stale:
		return kv.Errorf(kv.CodeInvalid, kv.OutcomeNone, "consistency %q: want %q or %q", string(opts.Consistency), string(kv.Linearizable), string(kv.Stale))
	case opts.MaxStaleness < 0:
		return kv.Errorf(kv.CodeInvalid, kv.OutcomeNone, "max staleness %s: want none below zero", opts.MaxStaleness)
	}
	return nil
}

func checkKey(key []byte, outcome kv.Outcome) error {
	switch {
	case len(key) < kv.KeyBytesMin:
		return kv.Errorf(kv.CodeInvalid, outcome, "a key may not be empty")
	case len(key) > kv.KeyBytesMax:
		return kv.Errorf(kv.CodeKeyTooLong, outcome, "a key of %d bytes; the limit is %d", len(key), kv.KeyBytesMax)
	}
	return nil
}
