// Package raftnode is the Raft side of one node. A Host holds the node's
// replicas; a Replica is one server of one shard's Raft group: it proposes
// commands, confirms read indexes, takes and moves snapshots, and changes the
// group's membership. It is the only room that knows hashicorp/raft.
//
// # How a replica is put together
//
// A Replica lives as long as its record. Inside, an instance is one run of
// raft.Raft with its transport; it is replaced when a snapshot has been
// installed, and when the library is stuck. The state machine and the log stores
// outlive instances. One goroutine, the keeper, owns the instance: it reacts to
// changes of leadership, and it alone starts and stops Raft.
//
// # Invariants
//
// The numbers are cited where the code keeps them. "Rule" is DESIGN §9.
//
//	R1  A message names both ends' server ids, and only the replica that is
//	    meant accepts it. Traffic never creates a replica. (Rules 1, 2)
//	R2  The library's heartbeat fast path is never used: it changes term and
//	    state beside the main loop. (hashicorp/raft #695)
//	R3  A replica without a configuration answers neither votes nor pre-votes.
//	    (Rule 2)
//	R4  Every future of the library is answered: before Raft is shut down the
//	    replica stops proposing, steps down, and waits for what is in flight. (The
//	    library abandons futures that it has queued when it shuts down.)
//	R5  An entry carries its proposer's term and versions; what the machine
//	    rejects was not applied and may be proposed again. (Rule 5)
//	R6  A leader is ready when the machine has applied a start-of-term entry of
//	    its term; waits are on the machine's applied index. (Rule 6)
//	R7  A read index is confirmed by a majority of voters that are asked for
//	    their term after the read began. (docs/decisions/0005)
//	R8  A leader's clock counts at most a limit more than the median of its
//	    voters' clocks. (Rule 8)
//	R9  The record that says where Raft starts is the machine's own applied
//	    record, which is written in one batch with the data it describes. So log
//	    and state cannot disagree in a way that start does not see: a log that ends
//	    before the state, or contradicts it, is dropped; one that begins after it is
//	    a failure. (Rules 3, 4)
//	R10 The log is cut only up to an applied index that is flushed.
//	R11 A snapshot is staged beside the machine's state while it arrives, and checked
//	    completely; then Raft is stopped, the state replaced, and Raft started anew.
//	    Raft itself never installs. A sender that falls silent blocks nobody, and no
//	    stale last index survives. (Rule 4, hashicorp/raft #697)
//	R12 A replica whose storage or machine failed is mute from that moment: no
//	    message leaves it, and it answers nothing. Then it stops.
//	R13 A leader whose disk hangs is mute until the write returns, so that the
//	    others elect a new leader. (hashicorp/raft #503, #614, #666)
//	R14 Votes depend on terms and logs alone, never on whether the receiver knows
//	    the candidate as a voter: its configuration may be the older one. Only over
//	    a leader's head it has to.
//
// # Order of locks
//
// Host.mu, Replica.mu, then any of the small ones (queue, reader, inbox,
// pipeline, waiters), which are leaves: nothing is called with one held that
// could take another. Callbacks of the mesh may run on the caller's goroutine, so
// no lock is held across a Send.
package raftnode
