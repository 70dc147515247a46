package raftnode

import (
	"context"
	"errors"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/planted"
)

// raftErrors is the one table from the library's errors to ours. What is not in
// it came from the log store or is new to us: the outcome is then unknown.
//
// The outcomes hold for an entry that was given to Raft.Apply and for a
// configuration change alike. ErrRaftShutdown is special: see raftError.
var raftErrors = []struct {
	err     error
	code    kv.Code
	outcome kv.Outcome
}{
	// Answered before an index was given to the entry.
	{raft.ErrNotLeader, kv.CodeNotLeader, kv.OutcomeNotApplied},
	{raft.ErrLeadershipTransferInProgress, kv.CodeUnavailable, kv.OutcomeNotApplied},
	{raft.ErrEnqueueTimeout, kv.CodeTimeout, kv.OutcomeNotApplied},
	// The entry was superseded by a restored snapshot.
	{raft.ErrAbortedByRestore, kv.CodeUnavailable, kv.OutcomeNotApplied},
	// The entry is in the log of this server at least.
	{raft.ErrLeadershipLost, kv.CodeOutcomeUnknown, kv.OutcomeUnknown},
	{raft.ErrRaftShutdown, kv.CodeOutcomeUnknown, kv.OutcomeUnknown},
	// Never answered to a proposal; listed so that the table is total.
	{raft.ErrLeader, kv.CodeConflict, kv.OutcomeNotApplied},
	{raft.ErrNotVoter, kv.CodeConflict, kv.OutcomeNotApplied},
	{raft.ErrNothingNewToSnapshot, kv.CodeConflict, kv.OutcomeNotApplied},
	{raft.ErrUnsupportedProtocol, kv.CodeInternal, kv.OutcomeNotApplied},
	{raft.ErrCantBootstrap, kv.CodeConflict, kv.OutcomeNotApplied},
	{raft.ErrIncompatibleLogStore, kv.CodeInternal, kv.OutcomeNotApplied},
	{raft.ErrPipelineReplicationNotSupported, kv.CodeInternal, kv.OutcomeNotApplied},
	{raft.ErrLogNotFound, kv.CodeOutcomeUnknown, kv.OutcomeUnknown},
	{raft.ErrTransportShutdown, kv.CodeOutcomeUnknown, kv.OutcomeUnknown},
	{raft.ErrPipelineShutdown, kv.CodeOutcomeUnknown, kv.OutcomeUnknown},
}

// raftError gives our error for an error of a future. The index is the future's:
// an entry that was refused by a Raft that is shut down has index zero and was
// certainly not logged.
func raftError(id kv.ServerID, err error, index uint64) *kv.Error {
	if planted.On(planted.LostAsNotApplied) && errors.Is(err, raft.ErrLeadershipLost) {
		err = raft.ErrNotLeader
	}
	if errors.Is(err, raft.ErrRaftShutdown) && index == 0 {
		return withShard(id, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "replica %s is stopping: %w", id, err))
	}
	for _, row := range raftErrors {
		if errors.Is(err, row.err) {
			return withShard(id, kv.Errorf(row.code, row.outcome, "replica %s: %w", id, err))
		}
	}
	return withShard(id, kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown, "replica %s: %w", id, err))
}

func withShard(id kv.ServerID, e *kv.Error) *kv.Error {
	e.Shard = id.Shard
	return e
}

// errNotLeader is the answer of a replica that does not lead.
func (r *Replica) errNotLeader() *kv.Error {
	e := withShard(r.id, kv.Errorf(kv.CodeNotLeader, kv.OutcomeNotApplied, "replica %s does not lead its shard", r.id))
	if leader, ok := r.leader(); ok && leader != r.id {
		e.Leader = leader.Node
	}
	return e
}

// errStopped is the answer of a replica that has no running Raft.
func (r *Replica) errStopped() *kv.Error {
	if cause := r.failure.Load(); cause != nil {
		return withShard(r.id, kv.Errorf(kv.CodeNoReplica, kv.OutcomeNotApplied, "replica %s has failed: %w", r.id, *cause))
	}
	return withShard(r.id, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "replica %s is not running", r.id))
}

// errWaited is the answer to a caller whose context ended before anything of its
// request was proposed.
func (r *Replica) errWaited(ctx context.Context, what string) *kv.Error {
	return withShard(r.id, kv.Errorf(kv.CodeTimeout, kv.OutcomeNotApplied, "replica %s: %s: %w", r.id, what, context.Cause(ctx)))
}
