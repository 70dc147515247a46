package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

// Absorbed lists the shards whose replicas here were absorbed by their left
// neighbours and have not been forgotten, in order. What is left of them is their
// Raft side.
func (db *DB) Absorbed() ([]kv.ShardID, error) {
	if err := db.enter(); err != nil {
		return nil, err
	}
	defer db.leave()
	it, err := db.eng.NewIter([]byte{rootAbsorbed}, []byte{rootAbsorbed + 1})
	if err != nil {
		return nil, err
	}
	var out []kv.ShardID
	for ok := it.First(); ok; ok = it.Next() {
		if len(it.Key()) != len(absorbedKey(0)) {
			return nil, closeWith(it, fmt.Errorf("store: a mark of an absorbed shard: %w", engine.ErrCorrupt))
		}
		out = append(out, kv.ShardID(binary.BigEndian.Uint64(it.Key()[1:])))
	}
	return out, closeWith(it, it.Error())
}

// ForgetAbsorbed removes the mark of an absorbed shard, once nothing is left of its
// Raft side. It is durable with the next flush; without the mark the shard may be
// opened again. No mark is no error.
func (db *DB) ForgetAbsorbed(shard kv.ShardID) error {
	if err := db.enter(); err != nil {
		return err
	}
	defer db.leave()
	b := db.eng.NewBatch(false)
	b.Delete(absorbedKey(shard))
	return errors.Join(b.Commit(), b.Close())
}

// notAbsorbed gives ErrAbsorbed for a shard that is marked as absorbed.
func (db *DB) notAbsorbed(shard kv.ShardID) error {
	_, closer, err := db.eng.Get(absorbedKey(shard))
	switch {
	case errors.Is(err, engine.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return errors.Join(ErrAbsorbed, closer.Close())
}

// ReplicaDescriptor gives what a shard is as far as its replica here knows, without
// opening it; ErrNoReplica if there is none.
func (db *DB) ReplicaDescriptor(shard kv.ShardID) (*kvpb.ShardDescriptor, error) {
	if err := db.enter(); err != nil {
		return nil, err
	}
	defer db.leave()
	st, err := readState(db.eng, shard)
	if errors.Is(err, engine.ErrNotFound) {
		return nil, ErrNoReplica
	}
	if err != nil {
		return nil, fmt.Errorf("store: shard %s: %w", shard, err)
	}
	return proto.Clone(st.desc).(*kvpb.ShardDescriptor), nil
}
