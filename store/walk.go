package store

import (
	"crypto/sha256"
	"encoding/binary"
)

// walk visits everything that a replica holds, checked, in a fixed order: that of
// engine keys if it had one space and a later home. local is the key without its
// space, value the sealed one; both are valid during the call.
func walk(src iterSource, p *placement, visit func(local, value []byte) error) error {
	if err := walkMerged(src, p.indexSources(), tableChanges, visit); err != nil {
		return err
	}
	for i := range p.pieces {
		if err := walkPiece(src, &p.pieces[i], visit); err != nil {
			return err
		}
	}
	if err := walkMerged(src, p.indexSources(), tableExpiry, visit); err != nil {
		return err
	}
	for _, table := range [...]byte{tableByIssued, tableRequests} {
		if err := walkMerged(src, p.homeSources(table), table, visit); err != nil {
			return err
		}
	}
	return nil
}

func walkPiece(src iterSource, c *piece, visit func(local, value []byte) error) error {
	it, err := src.NewIter(c.dataBounds())
	if err != nil {
		return err
	}
	return visitAll(it, visit)
}

func walkMerged(src iterSource, sources []source, table byte, visit func(local, value []byte) error) error {
	m, err := openMerged(src, sources, table, nil, nil)
	if err != nil {
		return err
	}
	return visitAll(m, visit)
}

// forward is what an engine.Iterator and a merged have in common.
type forward interface {
	First() bool
	Next() bool
	Key() []byte
	Value() ([]byte, error)
	Error() error
	Close() error
}

// visitAll visits everything under an iterator, checked, and closes it.
func visitAll(it forward, visit func(local, value []byte) error) (err error) {
	defer func() { err = closeWith(it, err) }()
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
	return it.Error()
}

// digestFormat is hashed first, so that digests of different makes never agree.
const digestFormat = "quorate digest 2\n"

// digest gives the SHA-256 of the logical state: the range, how far versions and
// time have come, the floors, what is pending of a split or merge, and every record, change, expiry and request id. It
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
		uint64(v.counters.keys), uint64(v.counters.bytes),
	} {
		buf = binary.BigEndian.AppendUint64(buf[:0], n)
		h.Write(buf)
	}
	h.Write(appendShape(nil, &v.shape))
	err := walk(sameView{v.it}, &v.placement, func(local, value []byte) error {
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
