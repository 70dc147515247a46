package httpd

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"

	"github.com/cespare/xxhash/v2"

	"github.com/quorate-db/quorate/kv"
)

// A cursor is base64url of
//
//	1 byte   format
//	8 bytes  hash of the scan's parameters
//	n bytes  the key at which the scan goes on
//	4 bytes  CRC-32C of all before
//
// so that one that was cut, changed, or made by another scan is told from a good
// one. It grants nothing: whoever forges one could as well ask for the range.
const (
	cursorFormat   = 1
	cursorOverhead = 1 + 8 + 4
)

// scanHash hashes what a cursor is bound to. Limits and consistency may change
// from page to page.
func scanHash(req *kv.ScanRequest) uint64 {
	var d xxhash.Digest
	d.Reset()
	var n [8]byte
	number := func(v uint64) {
		binary.BigEndian.PutUint64(n[:], v)
		d.Write(n[:]) // a Digest's errors are always nil
	}
	for _, part := range [][]byte{req.Start, req.End, req.Delimiter} {
		number(uint64(len(part)))
		d.Write(part)
	}
	flags := uint64(req.PrefixLen) << 2
	if req.Reverse {
		flags |= 1
	}
	if req.KeysOnly {
		flags |= 2
	}
	number(flags)
	number(uint64(req.Read.At))
	return d.Sum64()
}

// encodeCursor gives the cursor of the page of req after which resume follows.
func encodeCursor(req *kv.ScanRequest, resume []byte) string {
	b := make([]byte, 0, len(resume)+cursorOverhead)
	b = append(b, cursorFormat)
	b = binary.BigEndian.AppendUint64(b, scanHash(req))
	b = append(b, resume...)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return base64.RawURLEncoding.EncodeToString(b)
}

// resume moves a scan to where its cursor points.
func resume(req *kv.ScanRequest, cursor string) error {
	// A resume key may be one byte longer than a key: the least key above one.
	if len(cursor) > base64.RawURLEncoding.EncodedLen(kv.KeyBytesMax+1+cursorOverhead) {
		return invalid("cursor: too long to be one")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(b) < cursorOverhead || base64.RawURLEncoding.EncodedLen(len(b)) != len(cursor) { // line breaks the decoder skips
		return invalid("cursor: damaged")
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) != sum {
		return invalid("cursor: damaged")
	}
	if body[0] != cursorFormat {
		return invalid("cursor: made by another release")
	}
	if binary.BigEndian.Uint64(body[1:9]) != scanHash(req) {
		return invalid("cursor: made by a scan with other parameters")
	}
	at := body[9:]
	if bytes.Compare(at, req.Start) < 0 || (len(req.End) > 0 && bytes.Compare(at, req.End) > 0) {
		return invalid("cursor: outside the range")
	}
	if req.Reverse {
		if len(at) == 0 {
			return invalid("cursor: outside the range")
		}
		req.End = at
	} else {
		req.Start = at
	}
	return nil
}
