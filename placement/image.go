package placement

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

// An image is: magic, format (4 bytes), length of the body (8), the body (a
// metapb.Image), SHA-256 over all of it. Big-endian. Nothing may follow.
const (
	imageMagic = "QRTMETA\n"
	// imageFormat is the newest format. One that holds tokens has it, so that a release
	// that does not know them refuses the image instead of losing them; others have
	// imageFormatPlain.
	imageFormat      = 2
	imageFormatPlain = 1
	imageBytesMax    = 1 << 30
	imageHeader      = len(imageMagic) + 4 + 8
)

// Image is the state at one applied index, to be written to a snapshot.
type Image interface {
	Applied() kv.Applied
	// WriteTo writes what Machine.Stage reads.
	WriteTo(w io.Writer) (int64, error)
	Close() error
}

type image struct{ version *version }

// Image gives the current state. It copies nothing; Apply may go on meanwhile.
func (m *Machine) Image() (Image, error) { return image{m.current.Load()}, nil }

func (i image) Applied() kv.Applied { return i.version.applied }
func (i image) Close() error        { return nil }

func (i image) WriteTo(w io.Writer) (int64, error) {
	data, err := i.version.encode()
	if err != nil {
		return 0, err
	}
	n, err := w.Write(data)
	return int64(n), err
}

func (v *version) encode() ([]byte, error) {
	a := v.applied
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(&metapb.Image{
		State: v.state.toProto(), Index: a.Index, Term: a.Term, Config: a.Config, ConfigIndex: a.ConfigIndex,
		LastVersion: uint64(a.LastVersion), Ceiling: uint64(a.Ceiling), NowMs: a.NowMs,
	})
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, imageHeader+len(body)+sha256.Size)
	out = append(out, imageMagic...)
	out = binary.BigEndian.AppendUint32(out, v.format())
	out = binary.BigEndian.AppendUint64(out, uint64(len(body)))
	out = append(out, body...)
	sum := sha256.Sum256(out)
	return append(out, sum[:]...), nil
}

// format gives the format of the version's image.
func (v *version) format() uint32 {
	if t := v.state.tokens; len(t.list) == 0 && !t.bootstrapped {
		return imageFormatPlain
	}
	return imageFormat
}

// Digest is equal on replicas that hold the same state at the same applied
// index.
func (m *Machine) Digest() ([]byte, error) {
	data, err := m.current.Load().encode()
	if err != nil {
		return nil, err
	}
	return data[len(data)-sha256.Size:], nil
}

// Staged is an image that was read and checked, but is not the state of a machine yet.
type Staged interface {
	// Applied tells where in the log the image stands.
	Applied() kv.Applied
	// Install replaces the state by the image. One at or below the applied index is
	// refused (DESIGN §9 rule 4).
	Install() error
	Close() error
}

type staged struct {
	m    *Machine
	next *version
}

// Stage reads an image and checks the whole of it. The machine stays as it is, and
// Apply may run meanwhile.
func (m *Machine) Stage(r io.Reader) (Staged, error) {
	next, err := decodeImage(r)
	if err != nil {
		return nil, fmt.Errorf("meta snapshot: %w", err)
	}
	return staged{m, next}, nil
}

func (s staged) Applied() kv.Applied { return s.next.applied }
func (s staged) Close() error        { return nil }

func (s staged) Install() error {
	if applied := s.m.Applied().Index; s.next.applied.Index <= applied {
		return fmt.Errorf("meta snapshot: its index %d is not above the applied index %d", s.next.applied.Index, applied)
	}
	s.m.publish(s.next, true)
	return nil
}

func decodeImage(r io.Reader) (*version, error) {
	header := make([]byte, imageHeader)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if string(header[:len(imageMagic)]) != imageMagic {
		return nil, errors.New("not an image of the meta shard")
	}
	format := binary.BigEndian.Uint32(header[len(imageMagic):])
	length := binary.BigEndian.Uint64(header[len(imageMagic)+4:])
	if format < imageFormatPlain || format > imageFormat {
		return nil, fmt.Errorf("format %d is not known to this release (newest: %d)", format, imageFormat)
	}
	if length > imageBytesMax {
		return nil, fmt.Errorf("a body of %d bytes is over the limit of %d", length, imageBytesMax)
	}
	// One byte more than there should be, to see that nothing follows.
	rest, err := io.ReadAll(io.LimitReader(r, int64(length)+sha256.Size+1))
	if err != nil {
		return nil, err
	}
	if uint64(len(rest)) != length+sha256.Size {
		return nil, fmt.Errorf("%d bytes follow the header, want %d", len(rest), length+sha256.Size)
	}
	body, sum := rest[:length], rest[length:]
	hash := sha256.New()
	hash.Write(header)
	hash.Write(body)
	if !bytes.Equal(hash.Sum(nil), sum) {
		return nil, errors.New("the checksum does not match")
	}
	var in metapb.Image
	if err := proto.Unmarshal(body, &in); err != nil {
		return nil, err
	}
	state, err := stateFromProto(in.State)
	if err != nil {
		return nil, err
	}
	return &version{state: state, applied: kv.Applied{
		Index: in.Index, Term: in.Term, Config: in.Config, ConfigIndex: in.ConfigIndex,
		LastVersion: kv.Version(in.LastVersion), Ceiling: kv.Version(in.Ceiling), NowMs: in.NowMs,
	}}, nil
}
