// Package placement is the control plane: which nodes there are, which shards,
// and who holds what. It knows the data plane only through descriptors and
// reports, and shares no lock, queue or limit with it.
//
// Its parts, from the inside out:
//
//   - Machine, the state machine of the meta shard. Its State is immutable: each
//     change makes a new one, so everybody reads without a lock.
//   - ShardMap, a State (and what shards have said since) seen as ranges.
//   - Plan, a pure function from state and reports to the next small safe steps.
//   - loop, which carries the steps out on the node that leads the meta shard.
//   - agent, which runs on every node: it founds or joins a cluster, registers,
//     creates the replicas that the meta state assigns to its node, destroys those
//     that their shards have parted with, and reports.
//   - Control, which holds the above together and answers questions about the
//     cluster.
//
// # Invariants
//
// P1. The segments of the map are none, or start at the least key and ascend
// strictly: every key has exactly one. A segment ends where the next begins.
//
// P2. A descriptor is accepted only if its generation is above that of every
// segment it overlaps and of the shard's own record (DESIGN §9 rule 10). So the
// generation that covers a given key only grows.
//
// P3. Shard ids and node ordinals are given out once. A removed node's record
// stays, so its id cannot register again (rule 1).
//
// P4. A replica is bootstrapped only where the shard's initial descriptor names
// this node and incarnation, the current descriptor still does, and neither a
// record nor a tombstone of it exists (rule 2); every initial member gets the
// same configuration. Nothing that a peer sends creates a data replica.
//
// P5. A cluster is founded by one node only: the owner of the first join
// address, when as many distinct nodes as expected have introduced themselves,
// all blank and all with the same idea of the first address and the number.
//
// P6. Founding writes in this order: the replica record of the meta shard, then
// FoundCluster in its log, then the cluster id in the node's identity. Joining
// writes: registration at the leader, then the cluster id, then the replica
// record. So a meta record without a cluster id is a founding to be resumed, and
// a cluster id without a meta record a join to be resumed.
//
// P7. What levels leaders lowers the sum of squared leader counts with each chain
// that is handed along, and raises it at no step of it; leaving a node that shall not
// lead comes before, and nothing moves back there. So levelling ends and cannot flap.
//
// P8. What evens out replicas lowers the pair (sum of squared replica counts, sum of
// squared bytes) in lexicographic order, with what is under way counted as done, and
// is planned only where no zone is lost. So it ends as well. What splits is at least
// four times what merges, so neither undoes the other.
//
// P9. Two replicas of a shard share a zone only while there are fewer zones with nodes
// that stay than replicas, or until a move out of it has found room.
//
// P10. A replica is destroyed only when a quorum of its shard has confirmed that it is
// no member, or when the shard was absorbed, here too. The meta state gives no more
// than a reason to ask.
//
// P11. At most one of move, split and merge is under way for a shard, recorded in the
// meta shard before it begins, so that whoever leads goes on with it. A member goes
// only if a majority of those that are left lives, and it was confirmed alive lately.
//
// P12. An incarnation comes from its shard's counter, which only grows.
//
// P13. Of a token's secret the meta shard has the hash alone. A token never changes;
// one that was revoked is gone from the state. The first token is made at most once.
package placement
