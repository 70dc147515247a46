package kv

import (
	"errors"
	"fmt"
)

// Outcome says what a failed request did. Reads have OutcomeNone.
type Outcome string

const (
	OutcomeNone       Outcome = ""
	OutcomeNotApplied Outcome = "not-applied"
	OutcomeApplied    Outcome = "applied"
	OutcomeUnknown    Outcome = "unknown"
)

// Code is the machine-readable reason of a failure, the `code` of an HTTP
// problem. The set is closed: httpd maps every one of them in one table.
type Code string

const (
	// CodeInvalid: the request itself is wrong (key, parameter, JSON, cursor).
	CodeInvalid Code = "invalid"
	// CodeKeyTooLong and CodeTooLarge: over a limit of limits.go.
	CodeKeyTooLong Code = "key_too_long"
	CodeTooLarge   Code = "too_large"
	// CodeNotFound: no such key, shard, node.
	CodeNotFound Code = "not_found"
	// CodeConditionFailed: a guard was false; Error.Version has the current version.
	CodeConditionFailed Code = "condition_failed"
	// CodeConflict: the operation does not fit the stored value (not a number,
	// overflow), or a transaction conflict.
	CodeConflict Code = "conflict"
	// CodeIdempotencyMismatch: the same idempotency key with another body.
	CodeIdempotencyMismatch Code = "idempotency_mismatch"
	// CodeCrossShardTxn: the keys of a transaction lie in several shards.
	CodeCrossShardTxn Code = "cross_shard_txn"
	// CodeVersionTooOld: a read at a version that was collected.
	CodeVersionTooOld Code = "version_too_old"
	// CodeNotLeader: this replica is not its shard's leader; Error.Leader may hint.
	CodeNotLeader Code = "not_leader"
	// CodeNoReplica: this node holds no running replica of the shard.
	CodeNoReplica Code = "no_replica"
	// CodeWrongShard: the shard does not own the key (any more); Error.Shards
	// says what it knows.
	CodeWrongShard Code = "wrong_shard"
	// CodeUnavailable: no leader, no quorum, or the peer cannot be reached.
	CodeUnavailable Code = "unavailable"
	// CodeDraining: the node is shutting down or draining.
	CodeDraining Code = "draining"
	// CodeOverloaded: a bounded queue is full; try again later.
	CodeOverloaded Code = "overloaded"
	// CodeTimeout: a read had no answer before its deadline, or a write was
	// not proposed before it.
	CodeTimeout Code = "timeout"
	// CodeOutcomeUnknown: a write was proposed and its fate is not known.
	CodeOutcomeUnknown Code = "outcome_unknown"
	// CodeUnauthenticated: no token was given, or one that does not count (any more).
	CodeUnauthenticated Code = "unauthenticated"
	// CodeForbidden: the token does not allow this.
	CodeForbidden Code = "forbidden"
	// CodeStorageFull: the disk or a quota is full.
	CodeStorageFull Code = "storage_full"
	// CodeCorrupt: stored data failed its checksum; it is never served.
	CodeCorrupt Code = "corrupt"
	// CodeInternal: a bug.
	CodeInternal Code = "internal"
)

// ErrNewerRelease is what a state machine says of an entry that only a newer release
// knows. Its replica stops, because to skip the entry would fork it from the others;
// what is on the disk is as good as before.
var ErrNewerRelease = errors.New("written by a newer release")

// Error is the one error that crosses packages and nodes. Compare with
// CodeOf and OutcomeOf, which also see through wrapping.
type Error struct {
	Code    Code
	Outcome Outcome
	Detail  string

	Shard   ShardID // the shard that answered, where one did
	Leader  NodeID  // CodeNotLeader: who leads, if known
	Version Version // CodeConditionFailed: the key's current version, 0 if absent

	Cause error // for logs; not sent over the wire
}

// Errorf makes an Error; a %w argument becomes its cause.
func Errorf(code Code, outcome Outcome, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Outcome: outcome, Detail: err.Error(), Cause: errors.Unwrap(err)}
}

// Error gives the code and the detail.
func (e *Error) Error() string {
	if e.Detail == "" {
		return string(e.Code)
	}
	return string(e.Code) + ": " + e.Detail
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// AsError finds the Error in err, or makes one of CodeInternal with an unknown
// outcome. It returns nil for nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: CodeInternal, Outcome: OutcomeUnknown, Detail: err.Error(), Cause: err}
}

// CodeOf gives the code of err, "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	return AsError(err).Code
}

// OutcomeOf gives the outcome of err.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return OutcomeNone
	}
	return AsError(err).Outcome
}

// Retryable says whether the same request may succeed later without being
// changed. A write with an unknown outcome is retryable only under its
// request id.
func (e *Error) Retryable() bool {
	switch e.Code {
	case CodeNotLeader, CodeNoReplica, CodeWrongShard, CodeUnavailable, CodeDraining,
		CodeOverloaded, CodeTimeout, CodeOutcomeUnknown:
		return true
	default:
		return false
	}
}
