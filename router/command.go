package router

import (
	"crypto/rand"
	"encoding/binary"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// The field numbers of kvpb.Command.request and of kvpb.RequestID, which
// withID writes by hand: the fingerprint is of the encoded rest, so a command
// is encoded once and its request id appended. A test holds them to the schema.
const (
	fieldCommandRequest  protowire.Number = 2
	fieldIDHi            protowire.Number = 1
	fieldIDLo            protowire.Number = 2
	fieldIDIssuedMs      protowire.Number = 3
	fieldIDFingerprint   protowire.Number = 4
	requestFieldBytesMax                  = 2 + 3*9 + 11
)

// requestID is a kvpb.RequestID by value.
type requestID struct {
	hi, lo      uint64
	issuedMs    int64
	fingerprint uint64
}

// command is a write, encoded. Its data never changes once it was sent: replicas
// keep it.
type command struct {
	body     []byte // kind and transactions
	data     []byte // body and request id
	id       requestID
	minted   bool // the id is ours, not the caller's
	versions uint32
}

// identify gives the id of a request: the caller's, or one of our own making.
func (r *Router) identify(given *kvpb.RequestID) (id requestID, minted bool) {
	if given == nil {
		return r.mint(), true
	}
	return requestID{given.Hi, given.Lo, given.IssuedMs, given.Fingerprint}, false
}

// newCommand encodes transactions under an id. part says that the command is
// one part of a larger request, in which the same id goes to several shards: the
// fingerprint then covers the part, so that a shard that is asked for another
// part under the same id refuses (invariant 4).
func newCommand(txns []*kvpb.Txn, id requestID, minted, part bool) (*command, error) {
	msg := kvpb.Command{Kind: kvpb.CommandKind_COMMAND_WRITE, Txns: txns}
	opts := proto.MarshalOptions{Deterministic: true}
	size := opts.Size(&msg)
	body, err := opts.MarshalAppend(make([]byte, 0, size+requestFieldBytesMax), &msg)
	if err != nil {
		return nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "encode the request: %w", err)
	}
	if len(body) > kv.EntryBytesMax-entryOverheadBytes {
		return nil, kv.Errorf(kv.CodeTooLarge, kv.OutcomeNotApplied, "the request takes %d bytes in the log; the limit is %d", len(body), kv.EntryBytesMax-entryOverheadBytes)
	}
	c := &command{body: body, versions: uint32(len(txns)), id: id, minted: minted}
	switch {
	case part:
		c.id.fingerprint = notZero(mix(c.id.fingerprint) ^ xxhash.Sum64(body))
	case !c.minted && c.id.fingerprint == 0:
		c.id.fingerprint = notZero(xxhash.Sum64(body))
	}
	c.data = c.id.appendTo(body)
	return c, nil
}

// entryOverheadBytes is left for what wraps a command in a log entry.
const entryOverheadBytes = 1 << 10

// renew gives a command that certainly was not applied another id, issued at a
// shard's time.
func (c *command) renew(r *Router) {
	id := r.mint()
	id.fingerprint = c.id.fingerprint
	c.id = id
	c.data = c.id.appendTo(append(make([]byte, 0, len(c.body)+requestFieldBytesMax), c.body...))
}

// mint makes a request id that nobody else has.
func (r *Router) mint() requestID {
	var raw [16]byte
	rand.Read(raw[:]) // ends the process rather than fail
	return requestID{
		hi:       binary.LittleEndian.Uint64(raw[:8]),
		lo:       binary.LittleEndian.Uint64(raw[8:]),
		issuedMs: max(r.now().UnixMilli(), r.seenMs.Load()),
	}
}

// appendTo appends the id as the field `request` of a Command.
func (id requestID) appendTo(b []byte) []byte {
	size := 3*9 + protowire.SizeTag(fieldIDIssuedMs) + protowire.SizeVarint(uint64(id.issuedMs))
	b = protowire.AppendTag(b, fieldCommandRequest, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = protowire.AppendTag(b, fieldIDHi, protowire.Fixed64Type)
	b = protowire.AppendFixed64(b, id.hi)
	b = protowire.AppendTag(b, fieldIDLo, protowire.Fixed64Type)
	b = protowire.AppendFixed64(b, id.lo)
	b = protowire.AppendTag(b, fieldIDIssuedMs, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(id.issuedMs))
	b = protowire.AppendTag(b, fieldIDFingerprint, protowire.Fixed64Type)
	return protowire.AppendFixed64(b, id.fingerprint)
}

// step derives the id of the n-th step of a request that takes several. The
// first step has the request's own.
func (id requestID) step(n int) requestID {
	if n > 0 {
		salt := mix(uint64(n))
		id.hi = mix(id.hi ^ salt)
		id.lo = mix(id.lo + salt)
	}
	return id
}

// mix is the finalizer of splitmix64 (Steele, Lea and Flood, 2014): a
// bijection in which every bit depends on all.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// notZero keeps a fingerprint from meaning "not checked".
func notZero(x uint64) uint64 {
	if x == 0 {
		return 1
	}
	return x
}
