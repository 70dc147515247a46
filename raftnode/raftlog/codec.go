package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
)

// What is stored of an entry is
//
//	format(1) type(1) flags(1) term(uvarint)
//	[seconds(varint) nanoseconds(uvarint)]      if flagAppendedAt
//	[length(uvarint) extensions]                if flagExtensions
//	data … crc32c(4, little endian)
//
// and of a value or record: format(1) payload … crc32c(4). The checksum also
// covers the key, which is not stored with it, so that an entry found in the
// wrong place is as corrupt as one with a flipped bit.
const (
	entryFormat = 1
	valueFormat = 1

	flagAppendedAt = 1 << 0
	flagExtensions = 1 << 1
	flagsKnown     = flagAppendedAt | flagExtensions

	checksumBytes = 4
)

// checksum covers a key and what is stored under it.
func checksum(key, body []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli) // made once by the library
	return crc32.Update(crc32.Update(0, table, key), table, body)
}

// appendChecksum ends what is stored under a key.
func appendChecksum(body, key []byte) []byte {
	return binary.LittleEndian.AppendUint32(body, checksum(key, body))
}

// unseal checks stored bytes against their key and gives the part before the
// checksum. The error is not yet a kv.Error.
func unseal(key, stored []byte) ([]byte, error) {
	n := len(stored) - checksumBytes
	if n < 1 {
		return nil, fmt.Errorf("%d bytes are too few", len(stored))
	}
	if want, got := binary.LittleEndian.Uint32(stored[n:]), checksum(key, stored[:n]); want != got {
		return nil, fmt.Errorf("checksum is %08x, stored %08x", got, want)
	}
	return stored[:n], nil
}

// sealValue gives the stored form of a payload.
func sealValue(key, payload []byte) []byte {
	out := make([]byte, 0, 1+len(payload)+checksumBytes)
	out = append(out, valueFormat)
	out = append(out, payload...)
	return appendChecksum(out, key)
}

// openValue reads what sealValue wrote. The payload aliases stored.
func openValue(key, stored []byte) ([]byte, error) {
	body, err := unseal(key, stored)
	if err != nil {
		return nil, corrupt(key, err)
	}
	if body[0] != valueFormat {
		return nil, unknownFormat("value", body[0], valueFormat)
	}
	return body[1:], nil
}

func entryFlags(log *raft.Log) (flags byte) {
	if !log.AppendedAt.IsZero() {
		flags |= flagAppendedAt
	}
	if len(log.Extensions) > 0 {
		flags |= flagExtensions
	}
	return flags
}

// encodedBytes gives the exact length of encodeEntry's result.
func encodedBytes(log *raft.Log) int {
	flags := entryFlags(log)
	n := 3 + uvarintBytes(log.Term) + len(log.Data) + checksumBytes
	if flags&flagAppendedAt != 0 {
		var scratch [binary.MaxVarintLen64]byte
		n += binary.PutVarint(scratch[:], log.AppendedAt.Unix()) + uvarintBytes(uint64(log.AppendedAt.Nanosecond()))
	}
	if flags&flagExtensions != 0 {
		n += uvarintBytes(uint64(len(log.Extensions))) + len(log.Extensions)
	}
	return n
}

func uvarintBytes(v uint64) int {
	var scratch [binary.MaxVarintLen64]byte
	return binary.PutUvarint(scratch[:], v)
}

// encodeEntry appends the stored form of an entry to dst, which must be empty
// (its capacity is used).
func encodeEntry(dst, key []byte, log *raft.Log) []byte {
	flags := entryFlags(log)
	dst = append(dst, entryFormat, byte(log.Type), flags)
	dst = binary.AppendUvarint(dst, log.Term)
	if flags&flagAppendedAt != 0 {
		dst = binary.AppendVarint(dst, log.AppendedAt.Unix())
		dst = binary.AppendUvarint(dst, uint64(log.AppendedAt.Nanosecond()))
	}
	if flags&flagExtensions != 0 {
		dst = binary.AppendUvarint(dst, uint64(len(log.Extensions)))
		dst = append(dst, log.Extensions...)
	}
	dst = append(dst, log.Data...)
	return appendChecksum(dst, key)
}

// decodeEntry reads what encodeEntry wrote. The entry does not alias stored.
func decodeEntry(key, stored []byte, index uint64, out *raft.Log) error {
	body, err := unseal(key, stored)
	if err != nil {
		return corrupt(key, err)
	}
	if body[0] != entryFormat {
		return unknownFormat("log entry", body[0], entryFormat)
	}
	r := reader{rest: body[1:]}
	log := raft.Log{Index: index, Type: raft.LogType(r.byte())}
	flags := r.byte()
	log.Term = r.uvarint()
	if flags&flagAppendedAt != 0 {
		seconds := r.varint()
		log.AppendedAt = time.Unix(seconds, int64(r.uvarint())).UTC()
	}
	if flags&flagExtensions != 0 {
		log.Extensions = r.bytes(r.uvarint())
	}
	log.Data = r.bytes(uint64(len(r.rest)))
	if r.failed || flags&^flagsKnown != 0 {
		return corrupt(key, errors.New("checksum holds but the entry does not decode"))
	}
	*out = log
	return nil
}

// reader consumes bytes and remembers whether it ran out of them.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) byte() byte {
	if len(r.rest) < 1 {
		r.failed = true
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *reader) skip(n int) {
	if n <= 0 {
		r.failed, r.rest = true, nil
		return
	}
	r.rest = r.rest[n:]
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	r.skip(n)
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.rest)
	r.skip(n)
	return v
}

// bytes copies n bytes out, nil if n is 0.
func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.rest)) {
		r.failed = true
		return nil
	}
	out := append([]byte(nil), r.rest[:n]...)
	r.rest = r.rest[n:]
	return out
}

// corrupt is the error of L3.
func corrupt(key []byte, cause error) error {
	return kv.Errorf(kv.CodeCorrupt, kv.OutcomeNone, "raft log: %s is corrupt: %w", describeKey(key), cause)
}

// unknownFormat is the error for what a newer release wrote. It is not
// corruption, and the replica must stop all the same.
func unknownFormat(what string, got, newest byte) error {
	return kv.Errorf(kv.CodeInternal, kv.OutcomeNone,
		"raft log: format %d of a %s is not known to this release (newest: %d)", got, what, newest)
}
