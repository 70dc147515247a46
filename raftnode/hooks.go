package raftnode

import (
	"time"

	"github.com/quorate-db/quorate/kv"
)

// Hooks is told what happens, for metrics and for the node. Any of them may be
// nil. They are called on the goroutines that do the work: they must not block
// and must not call back into the Host.
type Hooks struct {
	// LeaderChanged: the replica learnt of another leader or none (zero), or
	// became or ceased to be one itself.
	LeaderChanged func(id kv.ServerID, term uint64, leader kv.NodeID)
	// Proposed: an entry with so many commands and bytes was answered after so
	// long; ok tells whether it was applied.
	Proposed func(id kv.ServerID, commands, bytes int, took time.Duration, ok bool)
	// Refused: the queue of proposals was full.
	Refused func(id kv.ServerID)
	// Applied: the state machine applied so many entries.
	Applied func(id kv.ServerID, entries int, took time.Duration)
	// Synced: the log store wrote entries and synced them.
	Synced func(id kv.ServerID, entries, bytes int, took time.Duration)
	// ReadRound: a round of the read index answered so many reads.
	ReadRound func(id kv.ServerID, reads int, took time.Duration, ok bool)
	// SnapshotTaken, SnapshotSent and SnapshotReceived: with the bytes that were
	// moved; err is nil if it worked.
	SnapshotTaken    func(id kv.ServerID, took time.Duration, err error)
	SnapshotSent     func(id kv.ServerID, to kv.NodeID, bytes int64, took time.Duration, err error)
	SnapshotReceived func(id kv.ServerID, bytes int64, took time.Duration, err error)
	// Stalled: a write to the log has passed its deadline (true), or such a write
	// has returned after all (false).
	Stalled func(id kv.ServerID, stalled bool)
	// Failed: the replica stops for good. storage: because a write, sync or flush of
	// its log or its machine failed, after which nothing that the disk says can be
	// trusted, so the node is to end its process. Otherwise something of this one
	// replica is damaged or of a newer release, and the others go on.
	Failed func(id kv.ServerID, err error, storage bool)
}
