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
//     transactions, so that a shard which has applied one of them answers the others
//     from memory. Writes without an id of the caller's get one of our own, that keeps
//     its time of issue. A fresh id is taken only while no attempt is in doubt.
//  3. Not applied means not applied. A write fails with OutcomeNotApplied only if
//     every single attempt was certainly not applied; one attempt without an
//     answer makes the outcome unknown, unless a later attempt is answered by the
//     state machine under the same id. Doubt stays with a transaction when it is
//     sent on in another group.
//  4. Cut anew, applied once. What is cut into parts by shards is remembered by
//     names that do not depend on the cut. A batch's transactions have numbers, and a
//     shard remembers (request, number). The pages of a range delete are named after
//     the key that they begin at, and the answer tells where the next one begins. So a
//     retry may be cut by whatever map there is then, here or at another node.
//  5. One transaction is refused as lying in several shards only by the answer of the
//     shard of its first key, see below.
//  6. A linearizable read is answered only by a replica that leads, took a read
//     index for it, and owns all of the keys in the view that it read from.
//  7. A scan's position only moves forward (in its direction), over what the
//     answering shard said it owns, not over what the map said. A cursor is a key.
//
// # Ranges that change
//
// Shards split, merge and move at any time (docs/decisions/0011). Call what a shard
// is between two changes of its range an epoch: its range is fixed, and its
// generation is greater than that of every epoch that it came from. The epochs that
// own a given key follow one another, and each knows all request ids that its
// predecessor remembered: a split gives them to both halves, a merge unites them.
//
//   - Where a write may have been applied, it is known. An attempt is applied in an
//     epoch that owns all its keys. Every later epoch of any of these keys knows the id.
//     So the retry goes to whoever owns the key now, and finds it (invariants 2 and 4).
//   - STATUS_WRONG_SHARD is answered after the id was looked up. Let epoch E answer it
//     to a transaction whose first key it owns and whose other keys it does not. Every
//     attempt so far was made at an epoch of the first key that owned the others too. If
//     that came before E, it has ended, and E would know the id: it was not applied. It
//     cannot come after E: the attempt would have been sent when E had ended, and E's
//     answer was asked for still later. A late copy of an attempt, that arrives when the
//     keys are in one shard again, names the generation it was sent for and is refused.
//     So the transaction was not applied and will not be (invariant 5); doubt about
//     attempts for greater generations than E's, which cannot be, would keep it unknown.
//   - Ids that meet in a merge do not collide. The two shards remember different
//     transactions under different names: a whole request in one shard only, a batch's
//     transaction or a page only where it was applied, once.
//   - Fingerprints are of the whole request, so another cut never looks like another
//     content.
//   - A range delete always names an end, the greatest key's successor if there is
//     none: a shard takes a missing end for its own, which moves. A page that was
//     applied with another end than the latest attempt's says how far it went.
//   - The answer that a shard does not own a key tells the shard that it last gave keys
//     to, so that the child is found before the meta shard knows it. When a shard is
//     frozen or gone, its left neighbour is asked whether it has absorbed it.
//   - STATUS_FROZEN is not applied, and waited out to the deadline. A shard that has no
//     leader yet is retried among its voters.
//
// # Several shards
//
// A read of several shards (MultiGet, Scan) is linearizable in each of them and
// no more: the shards are read one after another, so of two writes to different
// shards it may show the later and miss the earlier. Strictly serializable reads over
// shards come with transactions over shards (DESIGN §9 rule 15). A transaction
// whose keys lie in several shards is refused.
package router
