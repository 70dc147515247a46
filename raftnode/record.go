package raftnode

import (
	"fmt"

	"github.com/quorate-db/quorate/kv"
)

// Kind says where a replica's state machine keeps its state.
type Kind uint8

const (
	// Durable machines come back from disk by themselves. A snapshot is a flush.
	Durable Kind = 1
	// InMemory machines come back from a snapshot file and the log.
	InMemory Kind = 2
)

// String gives the name that logs use.
func (k Kind) String() string {
	switch k {
	case Durable:
		return "durable"
	case InMemory:
		return "in-memory"
	default:
		return fmt.Sprintf("kind(%d)", uint8(k))
	}
}

// LogKind says which store keeps a replica's Raft log.
type LogKind uint8

const (
	// SharedLog is the node's one log store for many shards.
	SharedLog LogKind = 1
	// BoltLog is a raft-boltdb file of the replica's own.
	BoltLog LogKind = 2
)

// String gives the name that logs use.
func (l LogKind) String() string {
	switch l {
	case SharedLog:
		return "shared"
	case BoltLog:
		return "bolt"
	default:
		return fmt.Sprintf("log(%d)", uint8(l))
	}
}

// Record is what a node keeps of a replica to be able to start it again.
type Record struct {
	ID   kv.ServerID
	Kind Kind
	Log  LogKind
	// Members is the group's initial configuration, the same on every member; it
	// contains ID as a voter. Empty: the replica joins a group that exists, by
	// being added to it, or its machine starts with a configuration.
	Members []kv.Member
	// Payload is for whoever made the replica, at most 64 KiB.
	Payload []byte
}

const (
	recordFormat       = 1
	recordPayloadMax   = 64 << 10
	configurationMax   = 64 // members of one group
	configurationBytes = 64 << 10
)

// validate checks a record before it is stored.
func (r *Record) validate(node kv.NodeID) error {
	if r.ID.Node != node || r.ID.Shard == 0 || r.ID.Incarnation == 0 {
		return fmt.Errorf("server id %s is not one of node %s", r.ID, node)
	}
	if r.Kind != Durable && r.Kind != InMemory {
		return fmt.Errorf("unknown %s", r.Kind)
	}
	if r.Log != SharedLog && r.Log != BoltLog {
		return fmt.Errorf("unknown %s", r.Log)
	}
	if len(r.Payload) > recordPayloadMax {
		return fmt.Errorf("payload of %d bytes, at most %d are allowed", len(r.Payload), recordPayloadMax)
	}
	if len(r.Members) == 0 {
		return nil
	}
	if err := validateMembers(r.ID.Shard, r.Members); err != nil {
		return err
	}
	for _, m := range r.Members {
		if m.ID == r.ID && m.Voter {
			return nil
		}
	}
	return fmt.Errorf("the initial configuration does not have %s as a voter", r.ID)
}

// encode gives the stored form of everything but the id.
func (r *Record) encode() []byte {
	out := []byte{recordFormat, byte(r.Kind), byte(r.Log)}
	out = appendMembers(out, r.Members)
	return append(out, r.Payload...)
}

// decodeRecord reads what encode wrote.
func decodeRecord(id kv.ServerID, data []byte) (Record, error) {
	in := wireReader{rest: data}
	if format := in.byte(); in.failed || format != recordFormat {
		return Record{}, fmt.Errorf("record of %s: format %d is not known to this release (newest: %d)", id, format, recordFormat)
	}
	r := Record{ID: id, Kind: Kind(in.byte()), Log: LogKind(in.byte()), Members: in.members()}
	r.Payload = append([]byte(nil), in.rest...)
	if in.failed {
		return Record{}, fmt.Errorf("record of %s: %d bytes do not decode", id, len(data))
	}
	if err := r.validate(id.Node); err != nil {
		return Record{}, fmt.Errorf("record of %s: %w", id, err)
	}
	return r, nil
}

func appendMembers(out []byte, members []kv.Member) []byte {
	out = appendUvarint(out, uint64(len(members)))
	for _, m := range members {
		out = appendServerID(out, m.ID)
		out = appendBool(out, m.Voter)
	}
	return out
}

func (in *wireReader) members() []kv.Member {
	n := in.uvarint()
	if in.failed || n > configurationMax {
		in.failed = true
		return nil
	}
	var members []kv.Member
	for range n {
		members = append(members, kv.Member{ID: in.serverID(), Voter: in.bool()})
	}
	return members
}
