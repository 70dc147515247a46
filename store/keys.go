package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/quorate-db/quorate/kv"
)

// The first byte of an engine key, and the table byte inside a space.
const (
	rootState    = 0x01
	rootSpace    = 0x02
	rootAbsorbed = 0x03

	tableChanges  = 'c'
	tableData     = 'd'
	tableByIssued = 'q'
	tableRequests = 'r'
	tableExpiry   = 'x'
)

const (
	spaceBytes    = 1 + 8          // 0x02, space
	headerBytes   = spaceBytes + 1 // and the table
	versionBytes  = 8
	checksumBytes = 4
)

// castagnoli is read-only.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errChecksum: a stored value does not belong to its key or has been damaged.
var errChecksum = errors.New("store: checksum mismatch")

// splitKey tells the engine where the version of a record's key begins. A data
// key's user part is escaped and ends in 0x00 0x01, which cannot occur inside
// it, so looking ten bytes from the end is unambiguous.
func splitKey(k []byte) int {
	n := len(k)
	if n >= headerBytes+2+versionBytes && k[0] == rootSpace && k[spaceBytes] == tableData &&
		k[n-10] == 0x00 && k[n-9] == 0x01 {
		return n - versionBytes
	}
	return n
}

func stateKey(shard kv.ShardID) []byte {
	return binary.BigEndian.AppendUint64([]byte{rootState}, uint64(shard))
}

// absorbedKey marks a shard whose replica here was absorbed by its left neighbour.
func absorbedKey(shard kv.ShardID) []byte {
	return binary.BigEndian.AppendUint64([]byte{rootAbsorbed}, uint64(shard))
}

// spacePrefix appends what all keys of a space begin with.
func spacePrefix(dst []byte, space uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, rootSpace), space)
}

// tablePrefix appends what all keys of a table begin with. The end of the table
// is the prefix of table+1.
func tablePrefix(dst []byte, space uint64, table byte) []byte {
	return append(spacePrefix(dst, space), table)
}

// escape appends a user key so that order is kept and no escaped key is a
// prefix of another: 0x00 becomes 0x00 0xff, the end is 0x00 0x01.
func escape(dst, key []byte) []byte {
	return append(escapeOpen(dst, key), 0x00, 0x01)
}

// escapeOpen is escape without the end: the least position of all keys at or
// above key.
func escapeOpen(dst, key []byte) []byte {
	for {
		i := bytes.IndexByte(key, 0)
		if i < 0 {
			return append(dst, key...)
		}
		dst = append(append(dst, key[:i]...), 0x00, 0xff)
		key = key[i+1:]
	}
}

// unescape appends the user key that escape wrote; ok is false if src is not
// one escaped key exactly.
func unescape(dst, src []byte) (key []byte, ok bool) {
	for {
		i := bytes.IndexByte(src, 0)
		if i < 0 || i+1 >= len(src) {
			return dst, false
		}
		dst = append(dst, src[:i]...)
		switch src[i+1] {
		case 0xff:
			dst = append(dst, 0x00)
			src = src[i+2:]
		case 0x01:
			return dst, i+2 == len(src)
		default:
			return dst, false
		}
	}
}

// dataKey appends the key of a record. The version is inverted so that the
// newest comes first.
func dataKey(dst []byte, space uint64, key []byte, v kv.Version) []byte {
	dst = escape(tablePrefix(dst, space, tableData), key)
	return binary.BigEndian.AppendUint64(dst, ^uint64(v))
}

// versionMax seeks the newest record of a key.
const versionMax = kv.Version(^uint64(0))

// parseDataKey takes a data key apart; the user key is appended to dst.
func parseDataKey(dst, k []byte) (key []byte, v kv.Version, ok bool) {
	n := splitKey(k)
	if n == len(k) {
		return dst, 0, false
	}
	key, ok = unescape(dst, k[headerBytes:n])
	return key, kv.Version(^binary.BigEndian.Uint64(k[n:])), ok
}

// indexKey appends a key of the tables 'c' and 'x': a number, then a user key.
func indexKey(dst []byte, space uint64, table byte, n uint64, key []byte) []byte {
	dst = binary.BigEndian.AppendUint64(tablePrefix(dst, space, table), n)
	return append(dst, key...)
}

// parseIndexKey takes an index key apart; the user key aliases k.
func parseIndexKey(k []byte) (n uint64, key []byte, ok bool) {
	if len(k) < headerBytes+8 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint64(k[headerBytes:]), k[headerBytes+8:], true
}

type requestID [16]byte

// checksum covers a key without its space, which differs between nodes, and
// the content.
func checksum(key, content []byte) uint32 {
	if key[0] == rootSpace {
		key = key[spaceBytes:]
	}
	return crc32.Update(crc32.Update(0, castagnoli, key), castagnoli, content)
}

// seal fills in the checksum of a value whose first checksumBytes were left free.
func seal(key, value []byte) {
	binary.LittleEndian.PutUint32(value, checksum(key, value[checksumBytes:]))
}

// unseal checks a value and gives its content.
func unseal(key, value []byte) ([]byte, error) {
	if len(value) < checksumBytes || binary.LittleEndian.Uint32(value) != checksum(key, value[checksumBytes:]) {
		return nil, errChecksum
	}
	return value[checksumBytes:], nil
}

// versionOf gives the version of a data key that is known to have one.
func versionOf(k []byte) kv.Version {
	return kv.Version(^binary.BigEndian.Uint64(k[len(k)-versionBytes:]))
}

// appendVersion appends a version as data keys end in it.
func appendVersion(dst []byte, v kv.Version) []byte {
	return binary.BigEndian.AppendUint64(dst, ^uint64(v))
}
