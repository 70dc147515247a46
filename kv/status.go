package kv

// Role is what a replica is in its shard right now.
type Role string

const (
	RoleLeader    Role = "leader"
	RoleFollower  Role = "follower"
	RoleCandidate Role = "candidate"
	RoleLearner   Role = "learner" // follows without a vote
	RoleStopped   Role = "stopped"
)

// Member is one server of a shard's Raft configuration.
type Member struct {
	ID    ServerID
	Voter bool
}

// ReplicaStatus is a replica's own view of itself and of its shard.
type ReplicaStatus struct {
	ID      ServerID
	Role    Role
	Term    uint64
	Leader  NodeID // zero: not known
	Members []Member

	LastIndex    uint64 // of the log
	CommitIndex  uint64
	AppliedIndex uint64 // of the state machine
	// LeaderReady: leads, and its first entry of the term is applied.
	LeaderReady bool
	// Failure says in words why a replica stopped, "" otherwise.
	Failure string
}
