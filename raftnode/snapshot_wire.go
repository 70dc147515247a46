package raftnode

import (
	"encoding/binary"

	"github.com/quorate-db/quorate/kv"
)

// snapshotChunkBytes is how much of a snapshot travels in one message.
const snapshotChunkBytes = 256 << 10

// chunk is one message of a snapshot. Each repeats what the snapshot is, so that
// any of them can be answered on its own.
type chunk struct {
	term   uint64 // of the leader that sends
	stream uint64 // a random number for this attempt to send it
	index  uint64 // of the state
	terms  uint64 // the term of the entry at index
	offset uint64 // of data in the whole
	last   bool   // nothing follows; sum covers the whole
	sum    uint32 // CRC-32C
	data   []byte
}

// end is the offset of what follows the chunk.
func (c *chunk) end() uint64 { return c.offset + uint64(len(c.data)) }

// chunkOverhead is what a message of a chunk takes beside its data, at most.
const chunkOverhead = 128

func (c *chunk) encode(e envelope) []byte {
	return c.append(make([]byte, 0, len(c.data)+chunkOverhead), e)
}

func (c *chunk) append(out []byte, e envelope) []byte {
	out = e.append(out)
	for _, v := range [...]uint64{c.term, c.stream, c.index, c.terms, c.offset} {
		out = appendUvarint(out, v)
	}
	out = appendBool(out, c.last)
	out = binary.LittleEndian.AppendUint32(out, c.sum)
	return appendBytes(out, c.data)
}

// decodeChunk reads the rest of a message after its envelope; data aliases it.
func (in *wireReader) decodeChunk() (*chunk, error) {
	c := &chunk{
		term: in.uvarint(), stream: in.uvarint(), index: in.uvarint(), terms: in.uvarint(), offset: in.uvarint(),
		last: in.bool(),
	}
	if b := in.take(4); b != nil {
		c.sum = binary.LittleEndian.Uint32(b)
	}
	c.data = in.bytes(snapshotChunkBytes)
	if c.index == 0 || c.offset > 1<<62 {
		in.failed = true
	}
	return c, in.done("snapshot chunk")
}

// chunkStatus is what the receiver of a chunk says.
type chunkStatus byte

const (
	chunkNext       chunkStatus = 1 // send what is at offset
	chunkInstalling chunkStatus = 2 // all is there; ask again
	chunkHave       chunkStatus = 3 // the state is at or above index
	chunkStale      chunkStatus = 4 // the receiver's term is higher
)

type chunkAnswer struct {
	status chunkStatus
	term   uint64 // of the receiver
	offset uint64
}

func (a chunkAnswer) encode() []byte {
	return appendUvarint(appendUvarint([]byte{wireFormat, byte(a.status)}, a.term), a.offset)
}

func decodeChunkAnswer(data []byte) (chunkAnswer, error) {
	in := wireReader{rest: data}
	in.format()
	a := chunkAnswer{status: chunkStatus(in.byte()), term: in.uvarint(), offset: in.uvarint()}
	if a.status < chunkNext || a.status > chunkStale {
		in.failed = true
	}
	if err := in.done("answer to a snapshot chunk"); err != nil {
		return a, kv.Errorf(kv.CodeInternal, kv.OutcomeUnknown, "%w", err)
	}
	return a, nil
}
