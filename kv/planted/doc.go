// Package planted holds faults that are made on purpose, to prove that the
// simulator would find them: a test that cannot fail proves nothing.
//
// They exist only in binaries that are built with the tag "planted". Without it On
// is a constant false, so that the compiler leaves the faults out.
package planted

// Fault names a planted fault.
type Fault int

// The faults, each a mistake that somebody made somewhere, or nearly did here.
const (
	None Fault = iota
	// HeartbeatFastPath: heartbeats change term and state beside Raft's main loop (R2).
	HeartbeatFastPath
	// VerifyLeaderReads: the library's VerifyLeader instead of a read index (R7).
	VerifyLeaderReads
	// ReadWithoutQuorum: a leader answers reads without asking anybody (R7).
	ReadWithoutQuorum
	// LocalReads: whichever node is asked answers a linearizable read from its own
	// replica (router invariant 6).
	LocalReads
	// AckBeforeSync: the Raft log says that entries are on disk before they are.
	AckBeforeSync
	// VoteForgotten: a vote is not stored.
	VoteForgotten
	// CutBeforeFlush: the log is cut although the state is not on disk (R10).
	CutBeforeFlush
	// AppliedApart: the applied index is not in the batch with its effects (S1).
	AppliedApart
	// ImageWithoutRequests: snapshots leave the request ids out.
	ImageWithoutRequests
	// ImageWithoutTombstones: snapshots leave out what hides older versions.
	ImageWithoutTombstones
	// NoDeduplication: request ids are not looked up.
	NoDeduplication
	// VersionsByClock: versions follow the leader's clock alone (S2).
	VersionsByClock
	// ForgottenCondition: a transaction's guards on versions hold always.
	ForgottenCondition
	// NewIDPerAttempt: the router's attempts have different request ids.
	NewIDPerAttempt
	// UnknownAsNotApplied: an attempt without an answer counts as not applied.
	UnknownAsNotApplied
	// LostAsNotApplied: a proposal whose leader lost its leadership does.
	LostAsNotApplied
	// StaleByHeartbeat: a replica is as fresh as its newest heartbeat.
	StaleByHeartbeat
	// StallIgnored: a leader whose disk hangs goes on leading (R13).
	StallIgnored
	// SplitWithoutRequests: a child that is split off does not remember request ids.
	SplitWithoutRequests
	// ChildFromZero: a child starts with an empty applied record, so that a replica
	// without the data can be built from the log alone.
	ChildFromZero
	// RemovedNodeReturns: a node that was removed may register again (P3).
	RemovedNodeReturns
	// ZonesIgnored: replicas are placed without regard to zones (P9).
	ZonesIgnored
	// RetiredVotes: a replica that was destroyed still votes (R1, R3).
	RetiredVotes
	// InitialFromZero: what a shard is founded with begins at index 0, so that a replica
	// that comes later is built from the log.
	InitialFromZero
	// ChildBeforeFlush: a child's replica is made before its state is on disk.
	ChildBeforeFlush
	// AbsorbUnfrozen: a shard is absorbed without waiting until all its replicas have
	// frozen.
	AbsorbUnfrozen
	// FrozenAnswers: a shard that is frozen goes on reading and writing.
	FrozenAnswers
	faults
)

var names = [...]string{
	"none", "heartbeat-fast-path", "verify-leader-reads", "read-without-quorum", "local-reads", "ack-before-sync",
	"vote-forgotten", "cut-before-flush", "applied-apart", "image-without-requests", "image-without-tombstones",
	"no-deduplication", "versions-by-clock", "forgotten-condition", "new-id-per-attempt", "unknown-as-not-applied",
	"lost-as-not-applied", "stale-by-heartbeat", "stall-ignored", "split-without-requests", "child-from-zero",
	"removed-node-returns", "zones-ignored",
	"retired-votes", "initial-from-zero", "child-before-flush", "absorb-unfrozen", "frozen-answers",
}

// String gives the fault's name.
func (f Fault) String() string { return names[f] }

// All gives every fault.
func All() []Fault {
	all := make([]Fault, 0, faults-1)
	for f := None + 1; f < faults; f++ {
		all = append(all, f)
	}
	return all
}
