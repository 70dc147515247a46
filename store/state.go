package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// stateFormat is the newest format of the state record.
const stateFormat = 2

// state is what a replica knows of itself beside its tables. A published state
// is never changed: apply works on a copy.
type state struct {
	placement
	applied    kv.Applied
	descriptor []byte                // encoded
	desc       *kvpb.ShardDescriptor // decoded; read-only
	floors     floors
	counters   counters
	shape
}

// floors only ever rise, except that a key with an early expiry lowers
// expireFrom, and that a merge takes the lower …From of both. The …From fields say
// where sweeps have to begin to look: nothing is left below. They change nothing
// but the work. requestFrom never is above requestFloor.
type floors struct {
	horizon      kv.Version // reads below it are refused
	requestFloor int64      // an id is remembered if and only if it was issued at or above
	changeFrom   kv.Version
	requestFrom  int64
	expireFrom   int64
}

// counters are exact.
type counters struct {
	keys  int64 // that exist now
	bytes int64 // keys and values of all retained versions but tombstones
}

// newState is the state of an empty shard.
func newState(space, homeSpace uint64, d *kvpb.ShardDescriptor) (*state, error) {
	if err := checkDescriptor(d); err != nil {
		return nil, err
	}
	s := &state{}
	if err := s.describe(proto.Clone(d).(*kvpb.ShardDescriptor)); err != nil {
		return nil, err
	}
	s.placement = placeAt(s.desc, space, homeSpace)
	return s, nil
}

// describe sets the descriptor, which is not changed any more.
func (s *state) describe(d *kvpb.ShardDescriptor) (err error) {
	s.desc = d
	s.descriptor, err = proto.MarshalOptions{Deterministic: true}.Marshal(d)
	if err != nil {
		return fmt.Errorf("store: descriptor: %w", err)
	}
	return nil
}

func checkDescriptor(d *kvpb.ShardDescriptor) error {
	if d.GetShard() == 0 {
		return errors.New("store: a descriptor needs a shard id")
	}
	if len(d.End) > 0 && bytes.Compare(d.Start, d.End) >= 0 {
		return fmt.Errorf("store: shard %d: its range is empty", d.Shard)
	}
	return nil
}

func (s *state) shard() kv.ShardID { return kv.ShardID(s.desc.Shard) }

// owns reports whether a key is in the shard's range.
func (s *state) owns(key []byte) bool {
	return bytes.Compare(key, s.desc.Start) >= 0 && (len(s.desc.End) == 0 || bytes.Compare(key, s.desc.End) < 0)
}

// appendState appends the format, the placement, numbers and blobs of a state;
// without the placement it is what images carry.
func appendState(dst []byte, s *state, withPlacement bool) []byte {
	dst = append(dst, stateFormat)
	if withPlacement {
		dst = appendPlacement(dst, &s.placement)
	}
	for _, n := range [...]uint64{
		s.applied.Index, s.applied.Term, s.applied.ConfigIndex,
		uint64(s.applied.LastVersion), uint64(s.applied.Ceiling), uint64(s.applied.NowMs),
		uint64(s.floors.horizon), uint64(s.floors.requestFloor),
		uint64(s.floors.changeFrom), uint64(s.floors.requestFrom), uint64(s.floors.expireFrom),
		uint64(s.counters.keys), uint64(s.counters.bytes),
	} {
		dst = binary.AppendUvarint(dst, n)
	}
	dst = appendShape(dst, &s.shape)
	dst = appendBlob(dst, s.applied.Config)
	return appendBlob(dst, s.descriptor)
}

// appendShape appends what fieldReader.shape reads. It is also what digests cover.
func appendShape(dst []byte, s *shape) []byte {
	for _, n := range [...]uint64{
		s.prepared.index, uint64(s.prepared.right.keys), uint64(s.prepared.right.bytes),
		s.frozen.index, uint64(s.frozen.into), uint64(s.frozen.last), uint64(s.frozen.ceiling), uint64(s.frozen.nowMs),
		uint64(s.absorbed), s.absorbedAt, s.refused,
	} {
		dst = binary.AppendUvarint(dst, n)
	}
	return appendBlob(appendBlob(dst, s.prepared.key), s.siblingEncoded)
}

// fieldReader reads what appendState wrote. After the first error it gives zeros.
type fieldReader struct {
	rest []byte
	err  error
}

var errTruncated = errors.New("store: state record: truncated")

func (f *fieldReader) number() uint64 {
	n, size := binary.Uvarint(f.rest)
	if size <= 0 {
		f.fail()
		return 0
	}
	f.rest = f.rest[size:]
	return n
}

func (f *fieldReader) fail() {
	if f.err == nil {
		f.err = errTruncated
	}
	f.rest = nil
}

// count reads a number of things that take at least one byte each.
func (f *fieldReader) count() int {
	n := f.number()
	if n > uint64(len(f.rest)) {
		f.fail()
		return 0
	}
	return int(n)
}

// blob reads a blob; it aliases the record.
func (f *fieldReader) blob() []byte {
	n := f.count()
	b := f.rest[:n:n]
	f.rest = f.rest[n:]
	if n == 0 {
		return nil
	}
	return b
}

func (f *fieldReader) placement() (p placement) {
	for range f.count() {
		c := piece{space: f.number()}
		c.start, c.end = f.blob(), f.blob()
		p.pieces = append(p.pieces, c)
	}
	for range f.count() {
		h := home{space: f.number()}
		if len(f.rest) < len(h.from) {
			f.fail()
			break
		}
		copy(h.from[:], f.rest)
		f.rest = f.rest[len(h.from):]
		h.count, h.lastMs = int64(f.number()), int64(f.number())
		p.homes = append(p.homes, h)
	}
	return p
}

func (f *fieldReader) shape() (s shape) {
	s.prepared.index, s.prepared.right.keys, s.prepared.right.bytes = f.number(), int64(f.number()), int64(f.number())
	s.frozen.index, s.frozen.into = f.number(), kv.ShardID(f.number())
	s.frozen.last, s.frozen.ceiling, s.frozen.nowMs = kv.Version(f.number()), kv.Version(f.number()), int64(f.number())
	s.absorbed, s.absorbedAt, s.refused = kv.ShardID(f.number()), f.number(), f.number()
	s.prepared.key = f.blob()
	s.siblingEncoded = f.blob()
	if s.siblingEncoded == nil || f.err != nil {
		return s
	}
	s.sibling = &kvpb.ShardDescriptor{}
	if err := proto.Unmarshal(s.siblingEncoded, s.sibling); err != nil {
		f.err = fmt.Errorf("store: state record: sibling: %w", err)
	}
	return s
}

// decodeState reads what appendState wrote; it copies.
func decodeState(content []byte, withPlacement bool) (*state, error) {
	if len(content) == 0 || content[0] != stateFormat {
		return nil, errors.New("store: state record: unknown format")
	}
	f := &fieldReader{rest: bytes.Clone(content[1:])}
	s := &state{}
	if withPlacement {
		s.placement = f.placement()
	}
	s.applied.Index, s.applied.Term, s.applied.ConfigIndex = f.number(), f.number(), f.number()
	s.applied.LastVersion, s.applied.Ceiling, s.applied.NowMs = kv.Version(f.number()), kv.Version(f.number()), int64(f.number())
	s.floors.horizon, s.floors.requestFloor = kv.Version(f.number()), int64(f.number())
	s.floors.changeFrom, s.floors.requestFrom, s.floors.expireFrom = kv.Version(f.number()), int64(f.number()), int64(f.number())
	s.counters.keys, s.counters.bytes = int64(f.number()), int64(f.number())
	s.shape = f.shape()
	s.applied.Config = f.blob()
	s.descriptor = f.blob()
	if f.err == nil && len(f.rest) > 0 {
		f.err = errors.New("store: state record: something follows its end")
	}
	if f.err != nil {
		return nil, f.err
	}
	s.desc = &kvpb.ShardDescriptor{}
	if err := proto.Unmarshal(s.descriptor, s.desc); err != nil {
		return nil, fmt.Errorf("store: state record: descriptor: %w", err)
	}
	if err := checkDescriptor(s.desc); err != nil {
		return nil, err
	}
	if withPlacement {
		if !s.covers(s.desc.Start, s.desc.End) {
			return nil, fmt.Errorf("store: shard %d: its pieces are not its range: %w", s.desc.Shard, errChecksum)
		}
		s.bound()
	}
	return s, nil
}

// sealedState gives the state record as it is stored under key.
func sealedState(dst, key []byte, s *state) []byte {
	dst = appendState(append(dst[:0], 0, 0, 0, 0), s, true)
	seal(key, dst)
	return dst
}

// openState reads a stored state record.
func openState(key, value []byte) (*state, error) {
	content, err := unseal(key, value)
	if err != nil {
		return nil, fmt.Errorf("store: state record: %w", err)
	}
	return decodeState(content, true)
}
