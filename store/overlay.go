package store

import (
	"bytes"
	"slices"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// head is the newest state of a key. The zero head is an absent key; a
// tombstone is absent too, so that nothing depends on whether it was collected
// already (S3).
type head struct {
	version   kv.Version
	expiresMs int64
	valueLen  int
	// content is the record as appendRecord made it, after room for a checksum; nil
	// where only the engine has it. It lives for one Apply call.
	content []byte
}

func (h *head) exists() bool { return h.version != 0 }

// touched is a key in a transaction: what it was before, and what it is now.
type touched struct {
	key   []byte
	base  *head // in applier.heads
	now   head
	dirty bool
}

// overlay holds the keys that one transaction has touched.
type overlay struct {
	list  []*touched
	index map[string]*touched // only once the list is long
}

// overlayIndexFrom is the length from which the list has an index.
const overlayIndexFrom = 12

func (o *overlay) reset() {
	clear(o.list)
	o.list = o.list[:0]
	o.index = nil
}

func (o *overlay) find(key []byte) *touched {
	if o.index != nil {
		return o.index[string(key)]
	}
	for _, t := range o.list {
		if string(t.key) == string(key) {
			return t
		}
	}
	return nil
}

func (o *overlay) add(t *touched) {
	o.list = append(o.list, t)
	if len(o.list) < overlayIndexFrom {
		return
	}
	if o.index == nil {
		o.index = make(map[string]*touched, 2*len(o.list))
		for _, old := range o.list {
			o.index[string(old.key)] = old
		}
		return
	}
	o.index[string(t.key)] = t
}

// touch gives a key of the transaction, as all earlier operations left it.
func (a *applier) touch(key []byte) (*touched, error) {
	if t := a.txn.find(key); t != nil {
		return t, nil
	}
	h, err := a.head(key)
	if err != nil {
		return nil, err
	}
	t := &touched{key: key, base: h, now: *h}
	a.txn.add(t)
	return t, nil
}

// head gives the newest state of a key as earlier transactions left it.
func (a *applier) head(key []byte) (*head, error) {
	h := a.heads[string(key)]
	if h == nil {
		h = &head{}
		if err := a.seekHead(key, h); err != nil {
			return nil, err
		}
		a.heads[string(key)] = h
	}
	a.used = append(a.used, h)
	return h, nil
}

// headContentMax is the size up to which a record is copied when its key is
// looked up; larger ones are read again by those who need the value.
const headContentMax = 1 << 10

// seekHead reads a key's newest state from the engine as it was before the call.
func (a *applier) seekHead(key []byte, h *head) error {
	content, v, err := a.seekContent(key)
	if err != nil || content == nil {
		return err
	}
	rec, err := decodeRecord(content)
	if err != nil || rec.tombstone {
		return err
	}
	h.version, h.expiresMs, h.valueLen = v, rec.expiresMs, len(rec.value)
	if len(content) <= headContentMax {
		h.content = append(append(a.arena.alloc(checksumBytes+len(content)), 0, 0, 0, 0), content...)
	}
	return nil
}

// seekContent finds the newest record of a key in the engine, checked; nil if
// there is none. It is valid until the iterator moves.
func (a *applier) seekContent(key []byte) ([]byte, kv.Version, error) {
	if a.it == nil {
		it, err := a.eng.NewIter(a.st.lower, a.st.upper)
		if err != nil {
			return nil, 0, err
		}
		a.it = it
	}
	a.kbuf = dataKey(a.kbuf[:0], a.st.spaceOf(key), key, versionMax)
	prefix := a.kbuf[:len(a.kbuf)-versionBytes]
	if !a.it.SeekPrefixGE(a.kbuf) {
		return nil, 0, a.it.Error()
	}
	found := a.it.Key()
	if splitKey(found) != len(prefix) || string(found[:len(prefix)]) != string(prefix) {
		return nil, 0, nil
	}
	value, err := a.it.Value()
	if err != nil {
		return nil, 0, err
	}
	content, err := unseal(found, value)
	return content, versionOf(found), err
}

// record gives the record of a key that exists.
func (a *applier) record(t *touched) (record, error) {
	content := t.now.content
	if content == nil {
		// What this call has put has its content, so the newest of before the call is
		// the one.
		found, v, err := a.seekContent(t.key)
		if err != nil {
			return record{}, err
		}
		if found == nil || v != t.now.version {
			return record{}, errChecksum
		}
		content = append(make([]byte, checksumBytes, checksumBytes+len(found)), found...)
		t.now.content = content
	}
	return decodeRecord(content[checksumBytes:])
}

// put makes a key exist at a version.
func (a *applier) put(t *touched, v kv.Version, expiresMs int64, contentType string, value []byte) {
	buf := a.arena.alloc(checksumBytes + recordBytesMax(contentType, value))
	t.now = head{
		version:   v,
		expiresMs: expiresMs,
		valueLen:  len(value),
		content:   appendRecord(append(buf, 0, 0, 0, 0), expiresMs, contentType, value),
	}
	t.dirty = true
}

// remove makes a key absent.
func (t *touched) remove() {
	t.now = head{}
	t.dirty = true
}

// item gives a key as an OP_GET answers it; the result outlives the call.
func (a *applier) item(t *touched) (*kvpb.Item, error) {
	rec, err := a.record(t)
	if err != nil {
		return nil, err
	}
	return &kvpb.Item{
		Key:         slices.Clone(t.key),
		Value:       slices.Clone(rec.value),
		Version:     uint64(t.now.version),
		ContentType: string(rec.contentType),
		ExpiresMs:   rec.expiresMs,
	}, nil
}

// commitTxn writes what a transaction changed at its version and tells whether
// it changed anything.
func (a *applier) commitTxn(v kv.Version) bool {
	wrote := false
	for _, t := range a.txn.list {
		if !t.dirty || !t.base.exists() && !t.now.exists() {
			continue
		}
		a.write(t, v)
		*t.base = t.now
		wrote = true
	}
	return wrote
}

// count changes the counters by what happened to a key.
func (a *applier) count(key []byte, keys, size int64) {
	a.st.counters.keys += keys
	a.st.counters.bytes += size
	if p := &a.st.prepared; p.index != 0 && bytes.Compare(key, p.key) >= 0 {
		p.right.keys += keys
		p.right.bytes += size
	}
}

// write adds one changed key to the batch: the record, its place in the change
// index, and its expiry.
func (a *applier) write(t *touched, v kv.Version) {
	st, space := &a.st, a.st.spaceOf(t.key)
	a.kbuf = dataKey(a.kbuf[:0], space, t.key, v)
	if t.now.exists() {
		a.setSealed(a.kbuf, t.now.content)
		a.count(t.key, 1, int64(len(t.key)+t.now.valueLen))
	} else {
		a.vbuf = append(a.vbuf[:0], 0, 0, 0, 0, recordTombstone)
		a.setSealed(a.kbuf, a.vbuf)
	}
	if t.base.exists() {
		a.count(t.key, -1, 0)
	}
	a.kbuf = indexKey(a.kbuf[:0], space, tableChanges, uint64(v), t.key)
	a.vbuf = appendChange(append(a.vbuf[:0], 0, 0, 0, 0), changeEntry{
		deleted:     !t.now.exists(),
		prevVersion: t.base.version,
		prevBytes:   uint64(t.base.valueLen),
	})
	a.setSealed(a.kbuf, a.vbuf)
	if t.base.expiresMs == t.now.expiresMs {
		return
	}
	if t.base.expiresMs != 0 {
		a.kbuf = indexKey(a.kbuf[:0], space, tableExpiry, uint64(t.base.expiresMs), t.key)
		a.batch.Delete(a.kbuf)
	}
	if t.now.expiresMs != 0 {
		a.kbuf = indexKey(a.kbuf[:0], space, tableExpiry, uint64(t.now.expiresMs), t.key)
		a.setSealed(a.kbuf, append(a.vbuf[:0], 0, 0, 0, 0))
		st.floors.expireFrom = min(st.floors.expireFrom, t.now.expiresMs)
	}
}
