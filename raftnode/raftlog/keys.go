package raftlog

import (
	"encoding/binary"
	"fmt"

	"github.com/quorate-db/quorate/kv"
)

// Keys of the shared store; numbers are big endian so that they sort.
//
//	F                                  format of the layout
//	L shard(8) incarnation(8) index(8) log entry
//	R shard(8)                         replica record
//	S shard(8) incarnation(8) name     stable value
//
// Bolt uses the same keys in its checksums only.
const (
	tagFormat = 'F'
	tagLog    = 'L'
	tagRecord = 'R'
	tagStable = 'S'
)

// replica names whose log it is: the node is the directory.
type replica struct {
	shard       kv.ShardID
	incarnation uint64
}

func (r replica) String() string { return fmt.Sprintf("%d/%d", r.shard, r.incarnation) }

// prefix gives tag shard incarnation, with room for size more bytes.
func (r replica) prefix(tag byte, size int) []byte {
	key := make([]byte, 0, 17+size)
	key = append(key, tag)
	key = binary.BigEndian.AppendUint64(key, uint64(r.shard))
	return binary.BigEndian.AppendUint64(key, r.incarnation)
}

func (r replica) logKey(index uint64) []byte {
	return binary.BigEndian.AppendUint64(r.prefix(tagLog, 8), index)
}

func (r replica) stableKey(name []byte) []byte {
	return append(r.prefix(tagStable, len(name)), name...)
}

// span gives the bounds [from, to) of everything of the replica under a tag.
func (r replica) span(tag byte) (from, to []byte) {
	from = r.prefix(tag, 0)
	return from, successor(from)
}

// successor gives the smallest key above every key with this prefix. The first
// byte is a tag, so there always is one.
func successor(prefix []byte) []byte {
	out := append([]byte(nil), prefix...)
	for i := len(out) - 1; i >= 0; i-- {
		out[i]++
		if out[i] != 0 {
			return out[:i+1]
		}
	}
	return nil
}

func recordKey(shard kv.ShardID) []byte {
	return binary.BigEndian.AppendUint64([]byte{tagRecord}, uint64(shard))
}

// describeKey says in words what is stored under a key.
func describeKey(key []byte) string {
	switch {
	case len(key) == 25 && key[0] == tagLog:
		return fmt.Sprintf("entry %d of replica %s", binary.BigEndian.Uint64(key[17:]), replicaOf(key))
	case len(key) >= 17 && key[0] == tagStable:
		return fmt.Sprintf("stable value %q of replica %s", key[17:], replicaOf(key))
	case len(key) == 9 && key[0] == tagRecord:
		return fmt.Sprintf("record of shard %d", binary.BigEndian.Uint64(key[1:]))
	default:
		return fmt.Sprintf("key %x", key)
	}
}

func replicaOf(key []byte) replica {
	return replica{kv.ShardID(binary.BigEndian.Uint64(key[1:])), binary.BigEndian.Uint64(key[9:])}
}
