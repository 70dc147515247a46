package store

import (
	"bytes"
	"slices"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

// nextsBeforeSeek is how many records of one key are stepped over before an
// iterator seeks past all of them.
const nextsBeforeSeek = 4

// skipKey moves an iterator from a record of a key to the first record of the
// next key. prefix is the escaped key with everything before it; it is
// overwritten.
func skipKey(it engine.Iterator, prefix []byte) bool {
	for range nextsBeforeSeek {
		if !it.Next() {
			return false
		}
		if k := it.Key(); len(k) != len(prefix)+versionBytes || string(k[:len(prefix)]) != string(prefix) {
			return true
		}
	}
	// The escaped key ends in 0x00 0x01, and no other key has 0x00 0x02 there.
	prefix[len(prefix)-1]++
	return it.SeekGE(prefix)
}

// deleteRange is OP_DELETE_RANGE: the least keys of the range that exist, as
// many as the limit and the command's budget allow.
func (a *applier) deleteRange(op *kvpb.Op, out *kvpb.OpResult, left *budget) error {
	limit := kv.OpsMax
	if op.Limit > 0 && op.Limit < kv.OpsMax {
		limit = int(op.Limit)
	}
	limit = min(limit, left.deletes)
	end := op.EndKey
	if len(end) == 0 {
		end = a.st.desc.End
	}
	out.Resume = end
	if len(end) > 0 && bytes.Compare(op.Key, end) >= 0 {
		return nil
	}
	// One key more than the limit tells whether there are more.
	stored, err := a.liveKeys(op.Key, end, limit+1)
	if err != nil {
		return err
	}
	keys := a.withPending(stored, op.Key, end)
	for _, key := range keys {
		t, err := a.touch(key)
		if err != nil {
			return err
		}
		if !t.now.exists() {
			continue
		}
		if int(out.Deleted) == limit {
			out.More, out.Resume = true, key
			break
		}
		t.remove()
		out.Deleted++
	}
	left.deletes -= int(out.Deleted)
	return nil
}

// liveKeys lists keys of [start, end) that exist for the transaction, as many as
// limit, of those that existed when it began.
func (a *applier) liveKeys(start, end []byte, limit int) (keys [][]byte, err error) {
	pieces := a.st.piecesIn(start, end)
	for i := range pieces {
		if keys, err = a.liveKeysOf(keys, &pieces[i], start, end, limit); err != nil || len(keys) >= limit {
			break
		}
	}
	return keys, err
}

// liveKeysOf appends those of one piece.
func (a *applier) liveKeysOf(keys [][]byte, c *piece, start, end []byte, limit int) (_ [][]byte, err error) {
	it, err := a.newest().NewIter(c.dataSpan(start, end))
	if err != nil {
		return nil, err
	}
	defer func() { err = closeWith(it, err) }()
	var prefix []byte
	for ok := it.First(); ok && len(keys) < limit; ok = skipKey(it, prefix) {
		value, err := it.Value()
		if err != nil {
			return nil, err
		}
		rec, err := openRecord(it.Key(), value)
		if err != nil {
			return nil, err
		}
		key, _, parsed := parseDataKey(nil, it.Key())
		if !parsed {
			return nil, errChecksum
		}
		prefix = append(prefix[:0], it.Key()[:len(it.Key())-versionBytes]...)
		if t := a.txn.find(key); !rec.tombstone && (t == nil || t.now.exists()) {
			keys = append(keys, key)
		}
	}
	return keys, it.Error()
}

// withPending adds the keys of a range that the transaction itself made, and
// sorts.
func (a *applier) withPending(keys [][]byte, start, end []byte) [][]byte {
	added := false
	for _, t := range a.txn.list {
		inRange := bytes.Compare(t.key, start) >= 0 && (len(end) == 0 || bytes.Compare(t.key, end) < 0)
		if inRange && t.now.exists() && !t.base.exists() {
			keys = append(keys, t.key)
			added = true
		}
	}
	if added {
		slices.SortFunc(keys, bytes.Compare)
	}
	return keys
}
