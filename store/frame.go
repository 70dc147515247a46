package store

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
)

// An image is imageMagic, then frames:
//
//	type, 4 bytes length, content, 4 bytes CRC-32C of all before it
//
// First frameHeader with the state; then frameBlock with records in order, each
// uvarint key length, key without its space, uvarint value length, sealed value;
// last frameEnd with the number of records and the SHA-256 of the stream up to it.
const (
	imageMagic = "QUORIMG1"

	frameHeader = 1
	frameBlock  = 2
	frameEnd    = 3

	frameOverhead = 5
	// blockBytes is where a block ends; one record may go beyond, so frameBytesMax is
	// the largest remembered result and some.
	blockBytes    = 256 << 10
	frameBytesMax = 16 << 20
)

// ErrImageCorrupt is returned for an image that is damaged, cut short or of an
// unknown format. Ask for another one.
var ErrImageCorrupt = errors.New("store: the image is damaged")

// frameWriter writes an image.
type frameWriter struct {
	w       *bufio.Writer
	sum     hash.Hash
	written int64
	buf     []byte
}

func newFrameWriter(w io.Writer) *frameWriter {
	return &frameWriter{w: bufio.NewWriterSize(w, 64<<10), sum: sha256.New()}
}

func (f *frameWriter) write(b []byte) error {
	f.sum.Write(b)
	n, err := f.w.Write(b)
	f.written += int64(n)
	return err
}

func (f *frameWriter) frame(kind byte, content []byte) error {
	if len(content) > frameBytesMax {
		return fmt.Errorf("store: image: a frame of %d bytes", len(content))
	}
	f.buf = binary.BigEndian.AppendUint32(append(f.buf[:0], kind), uint32(len(content)))
	sum := crc32.Update(crc32.Checksum(f.buf, castagnoli), castagnoli, content)
	if err := f.write(f.buf); err != nil {
		return err
	}
	if err := f.write(content); err != nil {
		return err
	}
	return f.write(binary.BigEndian.AppendUint32(f.buf[:0], sum))
}

// frameReader reads an image. All its errors but those of the source are
// ErrImageCorrupt.
type frameReader struct {
	r   *bufio.Reader
	sum hash.Hash
	buf []byte
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
}

func (f *frameReader) read(n int) ([]byte, error) {
	if cap(f.buf) < n {
		f.buf = make([]byte, n)
	}
	b := f.buf[:n]
	if _, err := io.ReadFull(f.r, b); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("%w: it ends early", ErrImageCorrupt)
		}
		return nil, fmt.Errorf("store: reading the image: %w", err)
	}
	return b, nil
}

func (f *frameReader) magic() error {
	b, err := f.read(len(imageMagic))
	if err != nil {
		return err
	}
	if string(b) != imageMagic {
		return fmt.Errorf("%w: not an image of a known format", ErrImageCorrupt)
	}
	f.sum.Write(b)
	return nil
}

// frame reads a frame; the content is valid until the next call. before is the
// hash of the stream up to this frame.
func (f *frameReader) frame() (kind byte, content, before []byte, err error) {
	head, err := f.read(frameOverhead)
	if err != nil {
		return 0, nil, nil, err
	}
	kind = head[0]
	size := binary.BigEndian.Uint32(head[1:])
	if size > frameBytesMax {
		return 0, nil, nil, fmt.Errorf("%w: a frame of %d bytes", ErrImageCorrupt, size)
	}
	sum := crc32.Checksum(head, castagnoli)
	if kind == frameEnd {
		before = f.sum.Sum(nil)
	}
	f.sum.Write(head)
	b, err := f.read(int(size) + 4)
	if err != nil {
		return 0, nil, nil, err
	}
	f.sum.Write(b)
	content = b[:size]
	if crc32.Update(sum, castagnoli, content) != binary.BigEndian.Uint32(b[size:]) {
		return 0, nil, nil, fmt.Errorf("%w: a frame's checksum does not match", ErrImageCorrupt)
	}
	return kind, content, before, nil
}

// end makes sure that nothing follows.
func (f *frameReader) end() error {
	switch _, err := f.r.ReadByte(); {
	case err == nil:
		return fmt.Errorf("%w: something follows its end", ErrImageCorrupt)
	case errors.Is(err, io.EOF):
		return nil
	default:
		return fmt.Errorf("store: reading the image: %w", err)
	}
}
