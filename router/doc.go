// Package router is the data plane: it finds the shard of a key and the leader
// of the shard, has reads and writes carried out there, forwards them to
// another node at most once, and tries again while the request's deadline
// allows, so that a client sees a slow success and not an error when a leader
// dies.
//
// # Invariants
//
//  1. One hop. A forwarded request is answered from the local replicas of the
//     node that receives it, or refused with a hint; it is never passed on. The
//     methods and messages of forward.go are the mark, and their handlers have no
//     way to call a peer, so two nodes that each believe the other to lead cannot
//     send a request in circles.
//  2. One id. All attempts of a write carry the same request id and the same
//     bytes, so that a shard which has applied one of them answers the others from
//     memory. Writes without an id of the caller's get one of our own.
//  3. Not applied means not applied. A write fails with OutcomeNotApplied only if
//     every single attempt was certainly not applied; one attempt without an
//     answer makes the outcome unknown, unless a later attempt is answered by the
//     state machine under the same id.
//  4. No regrouping in doubt. The writes that were sent to a shard in one command
//     are distributed anew over other shards only while none of their attempts may
//     have been applied: in another grouping the shard would not recognise them.
//  5. A linearizable read is answered only by a replica that leads, took a read
//     index for it, and owns all of the keys in the view that it read from.
//  6. A scan's position only moves forward (in its direction), over what the
//     answering shard said it owns, not over what the map said.
//
// # Several shards
//
// A read of several shards (MultiGet, Scan) is linearizable in each of them and
// no more: the shards are read one after another, so of two writes to different
// shards it may show the later and miss the earlier. Strictly serializable reads over
// shards come with transactions over shards (DESIGN §9 rule 15). A transaction
// whose keys lie in several shards is refused.
package router
