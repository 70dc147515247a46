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
const stateFormat = 1

// state is what a replica knows of itself beside its tables. A published state
// is never changed: apply works on a copy.
type state struct {
	placement
	applied    kv.Applied
	descriptor []byte                // encoded
	desc       *kvpb.ShardDescriptor // decoded; read-only
	floors     floors
	counters   counters
}

// placement says where on this node the replica's tables are.
type placement struct {
	space uint64 // records and indexes; a split leaves both halves in one space
	home  uint64 // request ids; of one replica only
	// lower and upper bound the data table.
	lower, upper []byte
}

// floors only ever rise, except that a key with an early expiry lowers
// expireFrom. The …From fields say where sweeps have to begin to look: nothing is
// left below. They change nothing but the work.
type floors struct {
	horizon      kv.Version // reads below it are refused
	requestFloor int64      // ids issued below it are refused unless remembered
	changeFrom   kv.Version
	requestFrom  int64
	expireFrom   int64
}

// counters are exact.
type counters struct {
	keys     int64 // that exist now
	bytes    int64 // keys and values of all retained versions but tombstones
	requests int64 // remembered ids
}

func placeAt(space, home uint64) placement {
	return placement{
		space: space,
		home:  home,
		lower: tablePrefix(nil, space, tableData),
		upper: tablePrefix(nil, space, tableData+1),
	}
}

// newState is the state of an empty shard.
func newState(space uint64, d *kvpb.ShardDescriptor) (*state, error) {
	if err := checkDescriptor(d); err != nil {
		return nil, err
	}
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("store: descriptor: %w", err)
	}
	return &state{
		placement:  placeAt(space, space),
		descriptor: encoded,
		desc:       proto.Clone(d).(*kvpb.ShardDescriptor),
	}, nil
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

// owns reports whether a key is in the shard's range.
func (s *state) owns(key []byte) bool {
	return bytes.Compare(key, s.desc.Start) >= 0 && (len(s.desc.End) == 0 || bytes.Compare(key, s.desc.End) < 0)
}

// appendState appends the format, numbers and blobs of a state; without the
// placement it is what images carry.
func appendState(dst []byte, s *state, withPlacement bool) []byte {
	dst = append(dst, stateFormat)
	if withPlacement {
		dst = binary.AppendUvarint(dst, s.space)
		dst = binary.AppendUvarint(dst, s.home)
	}
	for _, n := range []uint64{
		s.applied.Index, s.applied.Term, s.applied.ConfigIndex,
		uint64(s.applied.LastVersion), uint64(s.applied.Ceiling), uint64(s.applied.NowMs),
		uint64(s.floors.horizon), uint64(s.floors.requestFloor),
		uint64(s.floors.changeFrom), uint64(s.floors.requestFrom), uint64(s.floors.expireFrom),
		uint64(s.counters.keys), uint64(s.counters.bytes), uint64(s.counters.requests),
		uint64(len(s.applied.Config)),
	} {
		dst = binary.AppendUvarint(dst, n)
	}
	dst = append(dst, s.applied.Config...)
	return append(dst, s.descriptor...)
}

// decodeState reads what appendState wrote; it copies.
func decodeState(content []byte, withPlacement bool) (*state, error) {
	if len(content) == 0 || content[0] != stateFormat {
		return nil, errors.New("store: state record: unknown format")
	}
	in := bytes.NewReader(content[1:])
	var failed error
	next := func() uint64 {
		n, err := binary.ReadUvarint(in)
		if err != nil && failed == nil {
			failed = fmt.Errorf("store: state record: %w", err)
		}
		return n
	}
	s := &state{}
	if withPlacement {
		space, home := next(), next()
		s.placement = placeAt(space, home)
	}
	s.applied.Index, s.applied.Term, s.applied.ConfigIndex = next(), next(), next()
	s.applied.LastVersion, s.applied.Ceiling, s.applied.NowMs = kv.Version(next()), kv.Version(next()), int64(next())
	s.floors.horizon, s.floors.requestFloor = kv.Version(next()), int64(next())
	s.floors.changeFrom, s.floors.requestFrom, s.floors.expireFrom = kv.Version(next()), int64(next()), int64(next())
	s.counters.keys, s.counters.bytes, s.counters.requests = int64(next()), int64(next()), int64(next())
	configBytes := next()
	if failed != nil {
		return nil, failed
	}
	rest := bytes.Clone(content[len(content)-in.Len():])
	if configBytes > uint64(len(rest)) {
		return nil, errors.New("store: state record: truncated")
	}
	if configBytes > 0 {
		s.applied.Config = rest[:configBytes:configBytes]
	}
	s.descriptor = rest[configBytes:]
	s.desc = &kvpb.ShardDescriptor{}
	if err := proto.Unmarshal(s.descriptor, s.desc); err != nil {
		return nil, fmt.Errorf("store: state record: descriptor: %w", err)
	}
	if err := checkDescriptor(s.desc); err != nil {
		return nil, err
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
