package store

import (
	"encoding/binary"

	"github.com/quorate-db/quorate/kv"
)

const (
	recordPut       = 1
	recordTombstone = 2
)

// record is the content of one version of a key. Its slices alias what it was
// decoded from.
type record struct {
	tombstone   bool
	expiresMs   int64 // 0 = never
	contentType []byte
	value       []byte
}

// appendRecord appends the content of a put:
// kind, uvarint expires, uvarint length, content type, value.
func appendRecord(dst []byte, expiresMs int64, contentType string, value []byte) []byte {
	dst = append(dst, recordPut)
	dst = binary.AppendUvarint(dst, uint64(expiresMs))
	dst = binary.AppendUvarint(dst, uint64(len(contentType)))
	dst = append(dst, contentType...)
	return append(dst, value...)
}

// recordBytesMax bounds what appendRecord appends.
func recordBytesMax(contentType string, value []byte) int {
	return 1 + 2*binary.MaxVarintLen64 + len(contentType) + len(value)
}

// decodeRecord reads what appendRecord wrote, or a tombstone.
func decodeRecord(content []byte) (record, error) {
	if len(content) == 0 {
		return record{}, errChecksum
	}
	kind, rest := content[0], content[1:]
	if kind == recordTombstone && len(rest) == 0 {
		return record{tombstone: true}, nil
	}
	if kind != recordPut {
		return record{}, errChecksum
	}
	expires, n := binary.Uvarint(rest)
	if n <= 0 || expires > 1<<63-1 {
		return record{}, errChecksum
	}
	rest = rest[n:]
	size, n := binary.Uvarint(rest)
	if n <= 0 || size > uint64(len(rest)-n) {
		return record{}, errChecksum
	}
	rest = rest[n:]
	return record{expiresMs: int64(expires), contentType: rest[:size], value: rest[size:]}, nil
}

// openRecord checks and decodes the value of a data key.
func openRecord(key, value []byte) (record, error) {
	content, err := unseal(key, value)
	if err != nil {
		return record{}, err
	}
	return decodeRecord(content)
}

// changeEntry is the content of the change index: what happened to a key at a
// version, and what that superseded.
type changeEntry struct {
	deleted     bool
	prevVersion kv.Version // 0: the key was absent
	prevBytes   uint64     // of the superseded value
}

func appendChange(dst []byte, c changeEntry) []byte {
	kind := byte(recordPut)
	if c.deleted {
		kind = recordTombstone
	}
	dst = append(dst, kind)
	dst = binary.AppendUvarint(dst, uint64(c.prevVersion))
	return binary.AppendUvarint(dst, c.prevBytes)
}

func decodeChange(content []byte) (changeEntry, error) {
	if len(content) < 3 || content[0] != recordPut && content[0] != recordTombstone {
		return changeEntry{}, errChecksum
	}
	c := changeEntry{deleted: content[0] == recordTombstone}
	v, n := binary.Uvarint(content[1:])
	if n <= 0 {
		return changeEntry{}, errChecksum
	}
	c.prevVersion = kv.Version(v)
	size, m := binary.Uvarint(content[1+n:])
	if m <= 0 || 1+n+m != len(content) {
		return changeEntry{}, errChecksum
	}
	c.prevBytes = size
	return c, nil
}
