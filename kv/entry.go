package kv

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv/kvpb"
)

// EntryFormat is the newest format of LogEntry that this release writes and the
// newest it reads.
const EntryFormat = 1

// Stamp is what a leader adds to the commands of one log entry.
type Stamp struct {
	// Term in which it was stamped. Raft may append a proposal in a later term
	// than its proposer's (DESIGN §9 rule 5).
	Term uint64
	// Version of the first transaction in the entry; the n-th has Version+n.
	Version Version
	// Ceiling, if not zero, asks that the shard's ceiling be raised to it.
	Ceiling Version
	// NowMs is the leader's bounded wall clock, milliseconds since the Unix epoch.
	NowMs int64
}

// EntryCommand is one proposal inside an entry.
type EntryCommand struct {
	Data     []byte // encoded; the state machine owns the encoding
	Versions uint32 // how many versions it uses
}

// Entry is one committed Raft log entry as a state machine sees it.
type Entry struct {
	Index uint64
	Term  uint64
	Stamp Stamp
	// Commands is empty in the first entry of a leader's term: the state machine
	// then lifts its last version to its ceiling, and its ceiling by at least one
	// millisecond, so that the new leader starts above all that the old one used.
	Commands []EntryCommand
	// Config is not nil when the entry is a Raft configuration: opaque bytes to
	// be kept with the applied index. Stamp and Commands are then empty.
	Config []byte
}

// Stale reports whether the entry was stamped in another term than it was
// logged in. Its commands must then be rejected, not applied.
func (e *Entry) Stale() bool { return e.Config == nil && e.Stamp.Term != e.Term }

// EntryResult answers an Entry.
type EntryResult struct {
	// Rejected: nothing was applied because the stamp's term or version was
	// stale. The proposer may propose the same commands again.
	Rejected bool
	// Results has one encoded answer per command; empty if Rejected or if the
	// entry was at or below the applied index.
	Results [][]byte
}

// Applied is how far a state machine has come, all of it written in one batch
// with the effects it describes.
type Applied struct {
	Index       uint64
	Term        uint64
	Config      []byte // the newest Raft configuration at or below Index
	ConfigIndex uint64
	LastVersion Version // the largest version applied
	Ceiling     Version // no version above it was or will be used before it is raised
	NowMs       int64   // the largest NowMs applied
}

// EncodeEntry gives the data of a Raft log entry.
func EncodeEntry(stamp Stamp, commands []EntryCommand) ([]byte, error) {
	out := &kvpb.LogEntry{
		Format:  EntryFormat,
		Term:    stamp.Term,
		Version: uint64(stamp.Version),
		Ceiling: uint64(stamp.Ceiling),
		NowMs:   stamp.NowMs,
	}
	if len(commands) > 0 {
		out.Commands = make([]*kvpb.LogCommand, len(commands))
		slab := make([]kvpb.LogCommand, len(commands))
		for i, c := range commands {
			slab[i].Data, slab[i].Versions = c.Data, c.Versions
			out.Commands[i] = &slab[i]
		}
	}
	return proto.Marshal(out)
}

// DecodeEntry reads what EncodeEntry wrote into an Entry. An unknown format or
// bytes that do not decode are an error, upon which the replica must stop: to
// skip the entry would fork its state from the others'.
func DecodeEntry(index, term uint64, data []byte) (Entry, error) {
	var in kvpb.LogEntry
	if err := proto.Unmarshal(data, &in); err != nil {
		return Entry{}, fmt.Errorf("log entry %d: %w", index, err)
	}
	if in.Format != EntryFormat {
		return Entry{}, fmt.Errorf("log entry %d: format %d is not known to this release (newest: %d)", index, in.Format, EntryFormat)
	}
	e := Entry{
		Index: index,
		Term:  term,
		Stamp: Stamp{Term: in.Term, Version: Version(in.Version), Ceiling: Version(in.Ceiling), NowMs: in.NowMs},
	}
	if len(in.Commands) > 0 {
		e.Commands = make([]EntryCommand, len(in.Commands))
		for i, c := range in.Commands {
			e.Commands[i] = EntryCommand{Data: c.Data, Versions: c.Versions}
		}
	}
	return e, nil
}
