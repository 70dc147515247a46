package router

import (
	"crypto/rand"
	"crypto/sha256"
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
	fieldCommandRequest    protowire.Number = 2
	fieldCommandGeneration protowire.Number = 7
	fieldIDHi              protowire.Number = 1
	fieldIDLo              protowire.Number = 2
	fieldIDIssuedMs        protowire.Number = 3
	fieldIDFingerprint     protowire.Number = 4
	suffixBytesMax                          = 2 + 3*9 + 11 + 11
)

// requestID is a kvpb.RequestID by value.
type requestID struct {
	hi, lo      uint64
	issuedMs    int64
	fingerprint uint64
}

// command is a write, encoded.
type command struct {
	txns       []*kvpb.Txn
	body       []byte // kind, transactions, ordinals
	data       []byte // body, request id, generation; nil before the first attempt
	id         requestID
	minted     bool // the id is ours, not the caller's
	versions   uint32
	spread     bool   // it names more keys than one: its attempts are bound to a generation
	generation uint64 // in data
}

// identify gives the id of a request: the caller's, or one of our own making.
func (r *Router) identify(given *kvpb.RequestID) (id requestID, minted bool) {
	if given == nil {
		return r.mint(), true
	}
	return requestID{given.Hi, given.Lo, given.IssuedMs, given.Fingerprint}, false
}

// newCommand encodes transactions under an id. With ordinals they are a part of a
// request and these their numbers in it. A caller's id without a fingerprint gets
// one, which of a part is the whole's.
func newCommand(txns []*kvpb.Txn, id requestID, minted bool, ordinals []uint32) (*command, error) {
	msg := kvpb.Command{Kind: kvpb.CommandKind_COMMAND_WRITE, Txns: txns, Ordinals: ordinals}
	opts := proto.MarshalOptions{Deterministic: true}
	size := opts.Size(&msg)
	body, err := opts.MarshalAppend(make([]byte, 0, size+suffixBytesMax), &msg)
	if err != nil {
		return nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "encode the request: %w", err)
	}
	if len(body) > kv.EntryBytesMax-entryOverheadBytes {
		return nil, kv.Errorf(kv.CodeTooLarge, kv.OutcomeNotApplied, "the request takes %d bytes in the log; the limit is %d", len(body), kv.EntryBytesMax-entryOverheadBytes)
	}
	c := &command{txns: txns, body: body, versions: uint32(len(txns)), id: id, minted: minted}
	for _, txn := range txns {
		c.spread = c.spread || spreads(txn)
	}
	if !minted && id.fingerprint == 0 {
		c.id.fingerprint = notZero(xxhash.Sum64(body))
	}
	return c, nil
}

// encode gives the command for a shard of a generation. What it gave before is
// not changed: replicas keep it.
func (c *command) encode(generation uint64) []byte {
	if !c.spread {
		generation = 0
	}
	if c.data != nil && c.generation == generation {
		return c.data
	}
	b := c.body // has room for one suffix
	if c.data != nil {
		b = append(make([]byte, 0, len(b)+suffixBytesMax), b...)
	}
	c.data, c.generation = c.id.appendTo(b), generation
	if generation != 0 {
		c.data = protowire.AppendTag(c.data, fieldCommandGeneration, protowire.VarintType)
		c.data = protowire.AppendVarint(c.data, generation)
	}
	return c.data
}

// entryOverheadBytes is left for what wraps a command in a log entry.
const entryOverheadBytes = 1 << 10

// renew gives a command that certainly was not applied another id, issued at a
// shard's time.
func (c *command) renew(r *Router) {
	id := r.mint()
	id.fingerprint = c.id.fingerprint
	// The body's room may be taken by what was sent before.
	c.id, c.data, c.body = id, nil, append(make([]byte, 0, len(c.body)+suffixBytesMax), c.body...)
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

// page derives the id of the page of a range delete that begins at a key. Wherever
// the key moves, the page is found under it.
func (id requestID) page(pos []byte) requestID {
	h := sha256.New()
	var own [16]byte
	binary.BigEndian.PutUint64(own[:8], id.hi)
	binary.BigEndian.PutUint64(own[8:], id.lo)
	h.Write(own[:])
	h.Write(pos)
	sum := h.Sum(nil)
	id.hi, id.lo = binary.BigEndian.Uint64(sum), binary.BigEndian.Uint64(sum[8:])
	return id
}

// notZero keeps a fingerprint from meaning "not checked".
func notZero(x uint64) uint64 {
	if x == 0 {
		return 1
	}
	return x
}
