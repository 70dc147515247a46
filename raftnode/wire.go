package raftnode

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
)

// Messages between replicas are encoded by hand: they are small, frequent, and
// have to be checked field by field anyway, because the library trusts what it
// is given. Every one begins with wireFormat and, between replicas, an envelope.
//
// Fixed-size integers are little endian; the rest are uvarints. What follows the
// last known field of a message is ignored, so that fields can be added.
const wireFormat = 1

// entriesPerMessageMax bounds what is accepted in one AppendEntries. It is more
// than we send, for a release that sends more.
const entriesPerMessageMax = 8 * kv.EntriesPerAppendMax

// heldMax bounds the microseconds that a message says it was held back; it is more
// than any deadline.
const heldMax = uint64(time.Hour / time.Microsecond)

// envelope names both ends of a message between replicas (R1).
type envelope struct{ from, to kv.ServerID }

func appendUvarint(out []byte, v uint64) []byte { return binary.AppendUvarint(out, v) }

func appendBool(out []byte, v bool) []byte {
	if v {
		return append(out, 1)
	}
	return append(out, 0)
}

func appendBytes(out, v []byte) []byte { return append(appendUvarint(out, uint64(len(v))), v...) }

func appendServerID(out []byte, id kv.ServerID) []byte {
	out = binary.LittleEndian.AppendUint64(out, uint64(id.Node))
	out = appendUvarint(out, uint64(id.Shard))
	return appendUvarint(out, id.Incarnation)
}

func (e envelope) append(out []byte) []byte {
	return appendServerID(appendServerID(append(out, wireFormat), e.from), e.to)
}

// wireReader takes a message apart. After the first thing that does not fit,
// failed is set and everything reads as zero.
type wireReader struct {
	rest   []byte
	failed bool
}

func (in *wireReader) take(n uint64) []byte {
	if in.failed || n > uint64(len(in.rest)) {
		in.failed = true
		return nil
	}
	out := in.rest[:n:n]
	in.rest = in.rest[n:]
	return out
}

func (in *wireReader) byte() byte {
	if b := in.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (in *wireReader) bool() bool {
	b := in.byte()
	if b > 1 {
		in.failed = true
	}
	return b == 1
}

func (in *wireReader) fixed64() uint64 {
	if b := in.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (in *wireReader) uvarint() uint64 {
	if in.failed {
		return 0
	}
	v, n := binary.Uvarint(in.rest)
	if n <= 0 {
		in.failed = true
		return 0
	}
	in.rest = in.rest[n:]
	return v
}

func (in *wireReader) varint() int64 {
	if in.failed {
		return 0
	}
	v, n := binary.Varint(in.rest)
	if n <= 0 {
		in.failed = true
		return 0
	}
	in.rest = in.rest[n:]
	return v
}

// bytes aliases the message.
func (in *wireReader) bytes(limit uint64) []byte {
	n := in.uvarint()
	if n > limit {
		in.failed = true
	}
	return in.take(n)
}

func (in *wireReader) serverID() kv.ServerID {
	return kv.ServerID{
		Node:        kv.NodeID(in.fixed64()),
		Shard:       kv.ShardID(in.uvarint()),
		Incarnation: in.uvarint(),
	}
}

// format checks the first byte of a message that has no envelope.
func (in *wireReader) format() {
	if in.byte() != wireFormat {
		in.failed = true
	}
}

func (in *wireReader) envelope() envelope {
	in.format()
	return envelope{from: in.serverID(), to: in.serverID()}
}

func encodeAppend(e envelope, m *raft.AppendEntriesRequest) []byte {
	size := 96
	for _, entry := range m.Entries {
		size += 48 + len(entry.Data) + len(entry.Extensions)
	}
	out := e.append(make([]byte, 0, size))
	for _, v := range [...]uint64{m.Term, m.PrevLogEntry, m.PrevLogTerm, m.LeaderCommitIndex, uint64(len(m.Entries))} {
		out = appendUvarint(out, v)
	}
	for _, entry := range m.Entries {
		out = appendUvarint(out, entry.Term)
		out = append(out, byte(entry.Type))
		appended := int64(0)
		if !entry.AppendedAt.IsZero() {
			appended = entry.AppendedAt.UnixNano()
		}
		out = binary.AppendVarint(out, appended)
		out = appendBytes(out, entry.Extensions)
		out = appendBytes(out, entry.Data)
	}
	return out
}

// decodeAppend reads the rest of an AppendEntries after its envelope. Entries
// alias the message. Everything that would make the library panic, or store what
// it could not read back, is refused here.
func (in *wireReader) decodeAppend(e envelope) (*raft.AppendEntriesRequest, error) {
	m := &raft.AppendEntriesRequest{
		Term:              in.uvarint(),
		PrevLogEntry:      in.uvarint(),
		PrevLogTerm:       in.uvarint(),
		LeaderCommitIndex: in.uvarint(),
	}
	n := in.uvarint()
	if in.failed || n > entriesPerMessageMax {
		return nil, fmt.Errorf("append entries: malformed, or %d entries", n)
	}
	if m.PrevLogEntry > 1<<62 {
		return nil, fmt.Errorf("append entries: index %d", m.PrevLogEntry)
	}
	entries := make([]raft.Log, n)
	m.Entries = make([]*raft.Log, n)
	term := m.PrevLogTerm
	for i := range entries {
		entry := &entries[i]
		in.entry(entry)
		entry.Index = m.PrevLogEntry + 1 + uint64(i)
		if in.failed || entry.Term < term || entry.Term > m.Term {
			return nil, fmt.Errorf("append entries: entry %d is malformed or of term %d", entry.Index, entry.Term)
		}
		term = entry.Term
		if err := checkEntry(e.to.Shard, entry); err != nil {
			return nil, err
		}
		m.Entries[i] = entry
	}
	return m, nil
}

// held reads how long the sender of an append held it back, which is after its last
// entry, in microseconds, if it was held.
func (in *wireReader) held() time.Duration {
	if len(in.rest) == 0 {
		return 0
	}
	return time.Duration(min(in.uvarint(), heldMax)) * time.Microsecond
}

func (in *wireReader) entry(entry *raft.Log) {
	entry.Term = in.uvarint()
	entry.Type = raft.LogType(in.byte())
	if appended := in.varint(); appended != 0 {
		entry.AppendedAt = time.Unix(0, appended)
	}
	if extensions := in.bytes(kv.EntryBytesMax); len(extensions) > 0 {
		entry.Extensions = extensions
	}
	// An empty data stays nil, as in an entry that the library makes.
	if data := in.bytes(kv.EntryBytesMax); len(data) > 0 {
		entry.Data = data
	}
}

// checkEntry refuses entries that the library cannot process: types of old
// protocol versions, and configurations that do not decode.
func checkEntry(shard kv.ShardID, entry *raft.Log) error {
	switch entry.Type {
	case raft.LogCommand, raft.LogNoop, raft.LogBarrier:
		return nil
	case raft.LogConfiguration:
		if _, err := decodeConfiguration(shard, entry.Data); err != nil {
			return fmt.Errorf("entry %d: %w", entry.Index, err)
		}
		return nil
	default:
		return fmt.Errorf("entry %d: type %d is not known to this release", entry.Index, entry.Type)
	}
}

func encodeAppendResponse(m *raft.AppendEntriesResponse) []byte {
	out := append(make([]byte, 0, 24), wireFormat)
	out = appendUvarint(appendUvarint(out, m.Term), m.LastLog)
	return appendBool(appendBool(out, m.Success), m.NoRetryBackoff)
}

func decodeAppendResponse(data []byte, m *raft.AppendEntriesResponse) error {
	in := wireReader{rest: data}
	in.format()
	m.Term, m.LastLog, m.Success, m.NoRetryBackoff = in.uvarint(), in.uvarint(), in.bool(), in.bool()
	return in.done("append entries response")
}

// done tells whether everything so far was there.
func (in *wireReader) done(what string) error {
	if in.failed {
		return fmt.Errorf("%s: malformed", what)
	}
	return nil
}

// ballot is a request for a vote or a pre-vote.
type ballot struct {
	term, lastIndex, lastTerm uint64
	transfer                  bool // votes only: the leader asked for this election
}

func encodeBallot(e envelope, b ballot) []byte {
	out := e.append(make([]byte, 0, 80))
	out = appendUvarint(appendUvarint(appendUvarint(out, b.term), b.lastIndex), b.lastTerm)
	return appendBool(out, b.transfer)
}

func (in *wireReader) decodeBallot() (ballot, error) {
	b := ballot{term: in.uvarint(), lastIndex: in.uvarint(), lastTerm: in.uvarint(), transfer: in.bool()}
	return b, in.done("vote request")
}

func encodeVote(term uint64, granted bool) []byte {
	return appendBool(appendUvarint([]byte{wireFormat}, term), granted)
}

func decodeVote(data []byte) (term uint64, granted bool, err error) {
	in := wireReader{rest: data}
	in.format()
	term, granted = in.uvarint(), in.bool()
	return term, granted, in.done("vote")
}
