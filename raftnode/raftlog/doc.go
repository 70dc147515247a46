// Package raftlog keeps what Raft must not forget: the log and the stable values
// (term, vote) of a node's replicas, and the records that say which replicas
// the node holds.
//
// There are two kinds of store behind the same contract. Shared is one synced
// Pebble database for all data shards of a node, so that one disk sync serves
// every shard that is writing. Bolt is one raft-boltdb file per replica, for the
// meta shard. Guard wraps either with a write deadline.
//
// Invariants, for every store of the package:
//
//	L1. A write that returned nil is on disk, and is there after any crash.
//	L2. The entries of a store are one contiguous run of indexes. What would
//	    leave a gap, or overwrite an entry, is refused and changes nothing. After
//	    everything was deleted any index may come next.
//	L3. An entry, value or record that is read is the one that was written: its
//	    checksum also covers whose it is and where it belongs. Anything else is
//	    kv.CodeCorrupt, never data.
//	L4. An entry can be read only once it is durable.
//	L5. After a write has failed no later write succeeds until the store is
//	    opened again: a sync is never retried, because the retry can falsely
//	    succeed after the kernel has dropped the dirty pages.
//	L6. A server id that was tombstoned is never accepted again (DESIGN §9
//	    rules 1 and 2).
//
// Locks, in the order in which they may be taken: recordSet.writing,
// Shared.stores, Shared.life; recordSet.writing, ledger.writing, ledger.mu or
// recordSet.mu or entryCache.mu or Shared.life. fence.mu comes last. The turns
// (…writing) are held over syncs, the mutexes for a moment.
package raftlog
