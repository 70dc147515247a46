// Package store is the deterministic state machine of one data shard, and the
// database that holds all replicas of a node.
//
// A Replica applies the entries of its Raft log in order and answers reads from
// consistent views. What it holds is a pure function of the log: apply reads no
// clock, no randomness and no network, so all replicas of a shard hold the same
// at the same applied index, and Digest can prove it while they run.
//
// # Layout
//
// Integers in keys are big-endian. A space is a number that is private to the
// node and never used twice (DESIGN §4).
//
//	0x01 shard                      the replica's state: applied index, floors, descriptor, pieces, homes
//	0x02 home  'q' issued id print  request by time → result
//	0x02 home  'r' id print ^issued  requests with a fingerprint by id
//	0x02 space 'c' version key      change index: what each version changed, and what it superseded
//	0x02 space 'd' escaped ^version  the records: every retained version of every key
//	0x02 space 'x' expires key      keys that expire
//	0x03 shard                      marks a replica that its left neighbour has absorbed
//
// A replica's range is a list of pieces, each in one space; several replicas may
// have pieces in one. Its homes are spaces with request ids, of which it writes the
// first. See placement.
//
// Every value starts with a CRC-32C of its key and content. It is checked
// whenever the value is read; a mismatch is an error, never a value.
//
// # Invariants
//
//	S1  The effects of an entry and the applied index that includes it are in one
//	    engine batch (DESIGN §4).
//	S2  Versions applied strictly grow and never exceed the ceiling that was
//	    applied before them; other entries are rejected whole (DESIGN §9 rule 5).
//	S3  A command's result depends on the log alone: not on how entries were
//	    batched, on restarts, on what an engine has compacted, or on which spaces hold
//	    what. A replica with several pieces and homes behaves, counts and stops exactly
//	    as one that was restored from its image, which has one of each.
//	S4  Range, generation and data of an answer come from one engine view
//	    (DESIGN §9 rule 6).
//	S5  A restore becomes visible by one record, which is written after all that it
//	    refers to; before that the old state is whole (DESIGN §9 rule 3).
//	S6  For each key, the newest record that is not a tombstone is never collected,
//	    and nothing that a read at or above the horizon can see.
//	S7  A record is superseded by exactly one entry of the change index, which is
//	    collected together with it; collecting looks nowhere else.
//	S8  At any time a key of a space is in a piece of at most one replica of the
//	    node, and once in none, for ever: so what is left there is never found.
//	S9  A request is remembered if and only if it was issued at or above the request
//	    floor. Of several homes that hold the same one, the first in the list counts.
//	S10 A transaction of a request is applied at most once while the request is
//	    remembered: one that comes alone by the request's identity, one of several by
//	    that and its number in the request, however the request is cut into parts.
package store
