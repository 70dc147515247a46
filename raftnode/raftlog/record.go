package raftlog

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/quorate-db/quorate/kv"
)

// RecordPayloadBytesMax bounds Record.Payload.
const RecordPayloadBytesMax = 1 << 20

// Record says that this node holds, or has held, a replica of a shard. There is
// at most one per shard: that of the highest incarnation ever used.
type Record struct {
	ID kv.ServerID
	// Tombstone: the replica was destroyed. Kind and Payload are then empty; ID
	// tells which incarnations must never be used again (L6).
	Tombstone bool
	// Kind and Payload are the caller's.
	Kind    uint8
	Payload []byte
}

// recordSet is the records in memory, as they are on disk.
type recordSet struct {
	writing turn // held over a whole write, its sync included

	mu      sync.Mutex            // also held, for a moment, by readers
	byShard map[kv.ShardID]Record // changed with both held
}

// Stored form of a record, inside a sealed value.
const (
	recordHeaderBytes = 8 + 8 + 2
	recordTombstone   = 1
)

func encodeRecord(r Record) []byte {
	out := make([]byte, 0, recordHeaderBytes+len(r.Payload))
	out = binary.BigEndian.AppendUint64(out, uint64(r.ID.Node))
	out = binary.BigEndian.AppendUint64(out, r.ID.Incarnation)
	flags := byte(0)
	if r.Tombstone {
		flags = recordTombstone
	}
	out = append(out, flags, r.Kind)
	return append(out, r.Payload...)
}

func decodeRecord(key, stored []byte) (Record, error) {
	payload, err := openValue(key, stored)
	if err != nil {
		return Record{}, err
	}
	if len(key) != 9 || len(payload) < recordHeaderBytes {
		return Record{}, corrupt(key, errors.New("too short"))
	}
	r := Record{ID: kv.ServerID{
		Node:        kv.NodeID(binary.BigEndian.Uint64(payload)),
		Shard:       kv.ShardID(binary.BigEndian.Uint64(key[1:])),
		Incarnation: binary.BigEndian.Uint64(payload[8:]),
	}}
	r.Tombstone, r.Kind = payload[16] == recordTombstone, payload[17]
	if rest := payload[recordHeaderBytes:]; len(rest) > 0 {
		r.Payload = slices.Clone(rest)
	}
	return r, nil
}

// load reads all records from disk.
func (rs *recordSet) load(s *Shared) error {
	rs.writing.Lock()
	defer rs.writing.Unlock()
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.byShard = map[kv.ShardID]Record{}
	bound := []byte{tagRecord}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: bound, UpperBound: successor(bound)})
	if err != nil {
		return s.failRead(bound, err)
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var r Record
		if r, err = decodeRecord(it.Key(), it.Value()); err == nil {
			rs.byShard[r.ID.Shard] = r
		}
	}
	if err := errors.Join(err, it.Error(), it.Close()); err != nil {
		return s.failRead(bound, err)
	}
	return nil
}

// destroyedLocked gives the highest incarnation of a shard that is known to be
// destroyed. The caller has the turn.
func (rs *recordSet) destroyedLocked(shard kv.ShardID) (uint64, bool) {
	r, ok := rs.byShard[shard]
	switch {
	case !ok:
		return 0, false
	case r.Tombstone:
		return r.ID.Incarnation, true
	case r.ID.Incarnation == 0:
		return 0, false
	default:
		// A live replica: everything before it was.
		return r.ID.Incarnation - 1, true
	}
}

// PutRecord writes the record of a new replica; on disk when it returns. The
// error is kv.CodeConflict, and nothing is written, if this node already holds
// the shard, or has held it under the same or a higher incarnation.
func (s *Shared) PutRecord(r Record) error {
	if r.Tombstone || r.ID.Node == 0 || r.ID.Shard == 0 || len(r.Payload) > RecordPayloadBytesMax {
		return kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied,
			"raft log: bad record of %s (tombstone %t, %d bytes)", r.ID, r.Tombstone, len(r.Payload))
	}
	s.records.writing.Lock()
	defer s.records.writing.Unlock()
	if old, ok := s.records.byShard[r.ID.Shard]; ok {
		if !old.Tombstone {
			return kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "raft log: this node holds replica %s", old.ID)
		}
		if old.ID.Incarnation >= r.ID.Incarnation {
			return kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied,
				"raft log: replica %s was destroyed; %s is too old", old.ID, r.ID)
		}
	}
	r.Payload = slices.Clone(r.Payload)
	return s.writeRecordLocked(r, nil)
}

// Tombstone ends a replica for ever: with its record turned into a tombstone,
// its log and its stable values are deleted, in one synced batch. Its Store
// refuses everything from then on. Doing it again does nothing. The error is
// kv.CodeNotFound if there is no record.
func (s *Shared) Tombstone(shard kv.ShardID) error {
	s.records.writing.Lock()
	defer s.records.writing.Unlock()
	r, ok := s.records.byShard[shard]
	if !ok {
		return kv.Errorf(kv.CodeNotFound, kv.OutcomeNotApplied, "raft log: no record of shard %s", shard)
	}
	if r.Tombstone {
		return nil
	}
	id := replica{shard, r.ID.Incarnation}
	erase := func(b *pebble.Batch) error {
		for _, tag := range []byte{tagLog, tagStable} {
			from, to := id.span(tag)
			if err := b.DeleteRange(from, to, nil); err != nil {
				return err
			}
		}
		return nil
	}
	dead := Record{ID: r.ID, Tombstone: true}
	s.stores.Lock()
	st := s.stores.open[id]
	delete(s.stores.open, id)
	s.stores.Unlock()
	if st == nil {
		return s.writeRecordLocked(dead, erase)
	}
	return st.destroy(func() error { return s.writeRecordLocked(dead, erase) })
}

// writeRecordLocked writes a record and whatever more has to be in its batch. The
// caller has the turn.
func (s *Shared) writeRecordLocked(r Record, more func(*pebble.Batch) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.exit()
	b := s.db.NewBatch()
	key := recordKey(r.ID.Shard)
	err := b.Set(key, sealValue(key, encodeRecord(r)), nil)
	if err == nil && more != nil {
		err = more(b)
	}
	if err != nil {
		return kv.Errorf(kv.CodeInternal, kv.OutcomeNotApplied, "raft log: batch: %w", err)
	}
	if err := s.commit(b); err != nil {
		return err
	}
	s.records.mu.Lock()
	s.records.byShard[r.ID.Shard] = r
	s.records.mu.Unlock()
	if err := b.Close(); err != nil {
		return s.fail("close batch", err)
	}
	return nil
}

// Records gives all records and tombstones, by shard.
func (s *Shared) Records() []Record {
	s.records.mu.Lock()
	defer s.records.mu.Unlock()
	all := make([]Record, 0, len(s.records.byShard))
	for _, r := range s.records.byShard {
		r.Payload = slices.Clone(r.Payload)
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b Record) int {
		switch {
		case a.ID.Shard < b.ID.Shard:
			return -1
		case a.ID.Shard > b.ID.Shard:
			return 1
		default:
			return 0
		}
	})
	return all
}

// MaxIncarnation gives the highest incarnation of a shard that this node has
// ever used; false if it never held the shard. It waits for no disk.
func (s *Shared) MaxIncarnation(shard kv.ShardID) (uint64, bool) {
	s.records.mu.Lock()
	defer s.records.mu.Unlock()
	r, ok := s.records.byShard[shard]
	return r.ID.Incarnation, ok
}
