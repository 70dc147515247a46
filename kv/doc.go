// Package kv is Quorate's vocabulary: identifiers, versions, limits, errors and
// the messages that shards are asked and answer with. It imports nothing of
// ours, so every other package can speak it without depending on one another.
//
// The messages themselves (commands, results, reads, descriptors) are protocol
// buffers in kv/kvpb: they are written into Raft logs and sent between nodes of
// different releases, so their encoding has to tolerate both.
package kv
