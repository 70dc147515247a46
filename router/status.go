package router

import (
	"errors"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// meaning is what a status says as an error.
type meaning struct {
	code    kv.Code
	outcome kv.Outcome // of a write; reads have none
	// settled: a state machine that answers this under a request id has not
	// applied and will not apply an earlier attempt under the same id with any other
	// result. It remembers the answer, so an earlier attempt in doubt is no
	// longer in doubt (invariant 3).
	settled bool
}

// meanings is total over kvpb.Status; STATUS_OK alone has no error.
var meanings = [...]meaning{
	kvpb.Status_STATUS_UNSPECIFIED:      {kv.CodeInternal, kv.OutcomeUnknown, false},
	kvpb.Status_STATUS_OK:               {},
	kvpb.Status_STATUS_CONDITION_FAILED: {kv.CodeConditionFailed, kv.OutcomeNotApplied, true},
	kvpb.Status_STATUS_WRONG_SHARD:      {kv.CodeWrongShard, kv.OutcomeNotApplied, false},
	kvpb.Status_STATUS_CONFLICT:         {kv.CodeConflict, kv.OutcomeNotApplied, true},
	// Below the floor of the window nobody can tell (DESIGN §9 rule 11).
	kvpb.Status_STATUS_REQUEST_TOO_OLD:  {kv.CodeOutcomeUnknown, kv.OutcomeUnknown, false},
	kvpb.Status_STATUS_REQUEST_MISMATCH: {kv.CodeIdempotencyMismatch, kv.OutcomeNotApplied, true},
	kvpb.Status_STATUS_REJECTED:         {kv.CodeUnavailable, kv.OutcomeNotApplied, false},
	kvpb.Status_STATUS_BAD_COMMAND:      {kv.CodeInvalid, kv.OutcomeNotApplied, false},
	kvpb.Status_STATUS_VERSION_TOO_OLD:  {kv.CodeVersionTooOld, kv.OutcomeNotApplied, false},
	kvpb.Status_STATUS_NOT_READY:        {kv.CodeUnavailable, kv.OutcomeNotApplied, false},
	// One replica's damage does not tell what the others applied.
	kvpb.Status_STATUS_CORRUPT: {kv.CodeCorrupt, kv.OutcomeUnknown, false},
	// It is about to be merged, and soon another shard answers, or the same again.
	kvpb.Status_STATUS_FROZEN: {kv.CodeUnavailable, kv.OutcomeNotApplied, false},
}

func meaningOf(s kvpb.Status) meaning {
	if s < 0 || int(s) >= len(meanings) {
		// A status of a newer release.
		return meanings[kvpb.Status_STATUS_UNSPECIFIED]
	}
	return meanings[s]
}

// errFrozen marks the error of a shard that is about to be merged.
var errFrozen = errors.New("the shard is frozen")

// statusError gives the error of a shard's answer, nil for STATUS_OK.
func statusError(op Op, shard kv.ShardID, s kvpb.Status, detail string) *kv.Error {
	if s == kvpb.Status_STATUS_OK {
		return nil
	}
	m := meaningOf(s)
	if detail == "" {
		detail = "shard " + shard.String() + " answered " + s.String()
	}
	e := &kv.Error{Code: m.code, Outcome: m.outcome, Detail: detail, Shard: shard}
	if s == kvpb.Status_STATUS_FROZEN {
		e.Cause = errFrozen
	}
	if op == OpRead {
		e.Outcome = kv.OutcomeNone
		if m.code == kv.CodeOutcomeUnknown {
			e.Code = kv.CodeInternal // not an answer to a read
		}
	}
	return e
}
