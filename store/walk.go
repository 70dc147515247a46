package store

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/quorate-db/quorate/store/engine"
)

// tables lists what a replica holds, in the order of engine keys inside one space.
func (p *placement) tables() []struct {
	space uint64
	table byte
} {
	return []struct {
		space uint64
		table byte
	}{
		{p.space, tableChanges},
		{p.space, tableData},
		{p.home, tableByIssued},
		{p.home, tableRequests},
		{p.space, tableExpiry},
	}
}

// walk visits everything that a replica holds, checked, in a fixed order. local is
// the key without its space, value the sealed one; both are valid during the
// call.
func walk(it engine.Iterator, p placement, visit func(local, value []byte) error) error {
	for _, t := range p.tables() {
		it.SetBounds(tablePrefix(nil, t.space, t.table), tablePrefix(nil, t.space, t.table+1))
		for ok := it.First(); ok; ok = it.Next() {
			value, err := it.Value()
			if err != nil {
				return err
			}
			if _, err := unseal(it.Key(), value); err != nil {
				return err
			}
			if err := visit(it.Key()[spaceBytes:], value); err != nil {
				return err
			}
		}
		if err := it.Error(); err != nil {
			return err
		}
	}
	return nil
}

// digestFormat is hashed first, so that digests of different makes never agree.
const digestFormat = "quorate digest 1\n"

// digest gives the SHA-256 of the logical state: the range, how far versions and
// time have come, the floors, and every record, change, expiry and request id. It
// leaves out where things are stored, and Raft's own bookkeeping.
func (v view) digest() ([]byte, error) {
	h := sha256.New()
	h.Write([]byte(digestFormat))
	var buf []byte
	blob := func(b []byte) {
		buf = binary.AppendUvarint(buf[:0], uint64(len(b)))
		h.Write(buf)
		h.Write(b)
	}
	blob(v.desc.Start)
	blob(v.desc.End)
	for _, n := range []uint64{
		v.desc.Shard, v.desc.Generation,
		uint64(v.applied.LastVersion), uint64(v.applied.Ceiling), uint64(v.applied.NowMs),
		uint64(v.floors.horizon), uint64(v.floors.requestFloor),
		uint64(v.floors.changeFrom), uint64(v.floors.requestFrom), uint64(v.floors.expireFrom),
		uint64(v.counters.keys), uint64(v.counters.bytes), uint64(v.counters.requests),
	} {
		buf = binary.BigEndian.AppendUint64(buf[:0], n)
		h.Write(buf)
	}
	err := walk(v.it, v.placement, func(local, value []byte) error {
		blob(local)
		blob(value[checksumBytes:])
		return nil
	})
	return h.Sum(nil), err
}

// Digest gives a hash of everything that replicas of a shard must agree on. It is
// equal on all of them at equal applied index, and reads everything.
func (r *Replica) Digest() ([]byte, error) {
	if err := r.db.enter(); err != nil {
		return nil, err
	}
	defer r.db.leave()
	v, err := r.view()
	if err != nil {
		return nil, err
	}
	sum, err := v.digest()
	return sum, closeWith(v.it, err)
}
