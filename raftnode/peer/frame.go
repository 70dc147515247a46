package peer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// A frame is, little-endian:
//
//	length   u32  of all that follows
//	kind     u8
//	flags    u8   must be 0
//	method   u16  of a request and its answer; a closeCode in a close frame
//	id       u64  of the request; in a ping the pinger's own
//	left     u32  microseconds until a request's deadline, 0 in other frames
//	payload
//	crc      u32  Castagnoli, of everything before it, length included
const (
	frameHeaderBytes  = 20
	frameTrailerBytes = 4
	frameLengthMin    = frameHeaderBytes - 4 + frameTrailerBytes

	// frameStrangerMax bounds a frame of a peer that is not known to be a member
	// of this cluster.
	frameStrangerMax = 1 << 20

	// frameChunkBytes is how much of a claimed length is believed at first: more
	// is allocated only as bytes arrive.
	frameChunkBytes = 1 << 20

	closeTextBytesMax = 512
)

type frameKind uint8

const (
	kindRequest frameKind = iota + 1
	kindAnswer            // payload: the handler's answer
	kindFailure           // payload: kvpb.WireError
	kindPing
	kindPong
	kindClose // payload: why, as text
	kindEnd
)

// closeCode says what a close frame means to the other end.
type closeCode uint16

const (
	closeFault    closeCode = iota // the sender gives up on this connection
	closeShutdown                  // the sending process ends
	closeReplaced                  // the sender needs this connection no longer
)

type frameHeader struct {
	kind    frameKind
	method  uint16
	id      uint64
	left    uint32
	payload int // bytes
}

// errMalformed is wrapped by every error about bytes that are no frame or
// greeting of ours.
var errMalformed = errors.New("malformed")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errMalformed, fmt.Sprintf(format, args...))
}

// castagnoli is a constant in all but syntax.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func frameBytes(payload int) int { return frameHeaderBytes + payload + frameTrailerBytes }

// appendFrame appends a whole frame to buf. The payload's length in h is
// ignored.
func appendFrame(buf []byte, h frameHeader, payload []byte) []byte {
	start := len(buf)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(frameBytes(len(payload))-4))
	buf = append(buf, byte(h.kind), 0)
	buf = binary.LittleEndian.AppendUint16(buf, h.method)
	buf = binary.LittleEndian.AppendUint64(buf, h.id)
	buf = binary.LittleEndian.AppendUint32(buf, h.left)
	buf = append(buf, payload...)
	return binary.LittleEndian.AppendUint32(buf, crc32.Checksum(buf[start:], castagnoli))
}

// readFrame reads one frame of at most limit bytes. The payload is the caller's
// to keep. Errors wrap errMalformed or come from the reader; io.EOF only
// between two frames.
func readFrame(r *bufio.Reader, limit int) (frameHeader, []byte, error) {
	head, err := r.Peek(frameHeaderBytes)
	if err != nil {
		if len(head) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return frameHeader{}, nil, err
	}
	h, err := parseHeader(head, limit)
	if err != nil {
		return h, nil, err
	}
	crc := crc32.Checksum(head, castagnoli)
	if _, err := r.Discard(frameHeaderBytes); err != nil {
		return h, nil, err
	}
	payload, err := readPayload(r, h.payload)
	if err != nil {
		return h, nil, unexpected(err)
	}
	tail, err := r.Peek(frameTrailerBytes)
	if err != nil {
		return h, nil, unexpected(err)
	}
	if crc = crc32.Update(crc, castagnoli, payload); crc != binary.LittleEndian.Uint32(tail) {
		return h, nil, malformed("frame checksum")
	}
	_, err = r.Discard(frameTrailerBytes)
	return h, payload, err
}

func parseHeader(head []byte, limit int) (frameHeader, error) {
	length := binary.LittleEndian.Uint32(head)
	h := frameHeader{
		kind:   frameKind(head[4]),
		method: binary.LittleEndian.Uint16(head[6:]),
		id:     binary.LittleEndian.Uint64(head[8:]),
		left:   binary.LittleEndian.Uint32(head[16:]),
	}
	switch {
	case length < frameLengthMin:
		return h, malformed("frame of %d bytes", length)
	case int64(length)+4 > int64(limit):
		return h, malformed("frame of %d bytes: at most %d", int64(length)+4, limit)
	case h.kind == 0 || h.kind >= kindEnd:
		return h, malformed("frame kind %d", h.kind)
	case head[5] != 0:
		return h, malformed("frame flags %#x", head[5])
	}
	h.payload = int(length) - frameLengthMin
	return h, nil
}

// readPayload reads n bytes without believing in them before they come.
func readPayload(r io.Reader, n int) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	buf := make([]byte, min(n, frameChunkBytes))
	have := 0
	for {
		got, err := io.ReadFull(r, buf[have:])
		have += got
		if err != nil {
			return nil, err
		}
		if have == n {
			return buf, nil
		}
		grown := make([]byte, min(n, 4*have))
		copy(grown, buf)
		buf = grown
	}
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// leftOf gives what is left until a deadline in the unit of a frame, never 0.
func leftOf(d time.Duration) uint32 {
	return uint32(min(max(d.Microseconds(), 1), math.MaxUint32))
}

// encodeFailure gives the payload of a failure frame.
func encodeFailure(err error) []byte {
	w := kv.ToWire(err)
	w.Detail = clip(w.Detail, closeTextBytesMax)
	out, encodeErr := proto.Marshal(w)
	if encodeErr != nil {
		// Only text that is not UTF-8 does not encode.
		w.Code, w.Outcome, w.Detail = string(kv.CodeInternal), string(kv.OutcomeUnknown), "error text is not UTF-8"
		out, _ = proto.Marshal(w)
	}
	return out
}

func decodeFailure(payload []byte) (failure, err error) {
	var w kvpb.WireError
	if err := proto.Unmarshal(payload, &w); err != nil {
		return nil, malformed("failure: %v", err)
	}
	return kv.FromWire(&w), nil
}
