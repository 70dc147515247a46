package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/kv/planted"
	"github.com/quorate-db/quorate/store/engine"
)

// A request is remembered if and only if it was issued at or above the request
// floor, whatever the tables hold (S9). What it is recognised by:
//
//   - without a fingerprint: id and time of issue. Such ids are made inside the
//     cluster and keep both in all attempts, so one record per request is enough.
//   - with a fingerprint: id and fingerprint, since an Idempotency-Key is dated anew
//     with each attempt. The same id with another fingerprint is another request that
//     must not use it.

// request is what is remembered of a request.
type request struct {
	issuedMs    int64
	fingerprint uint64
	result      []byte   // encoded
	other       *request // with the same id, that was remembered before in this call
}

// requestAt is the place of a request in the table by time: time of issue, id,
// fingerprint. It is also its identity in all tables.
type requestAt [8 + 16 + 8]byte

func placeOfRequest(issuedMs int64, id requestID, fingerprint uint64) (at requestAt) {
	binary.BigEndian.PutUint64(at[:], uint64(issuedMs))
	copy(at[8:], id[:])
	binary.BigEndian.PutUint64(at[24:], fingerprint)
	return at
}

func (at *requestAt) issuedMs() int64     { return int64(binary.BigEndian.Uint64(at[:])) }
func (at *requestAt) id() requestID       { return requestID(at[8:24]) }
func (at *requestAt) fingerprint() uint64 { return binary.BigEndian.Uint64(at[24:]) }

// atOfIssued reads the suffix of a key of the table by time.
func atOfIssued(suffix []byte) (at requestAt, ok bool) {
	if len(suffix) != len(at) {
		return at, false
	}
	return requestAt(suffix), true
}

// atOfRequest reads the suffix of a key of the table by id.
func atOfRequest(suffix []byte) (at requestAt, ok bool) {
	if len(suffix) != len(at) {
		return at, false
	}
	issued := ^binary.BigEndian.Uint64(suffix[24:])
	return placeOfRequest(int64(issued), requestID(suffix[:16]), binary.BigEndian.Uint64(suffix[16:])), true
}

// issuedKey appends the key under which a request's result is kept.
func issuedKey(dst []byte, home uint64, at requestAt) []byte {
	return append(tablePrefix(dst, home, tableByIssued), at[:]...)
}

// requestKey appends the key that finds a request with a fingerprint by its id. Of
// several with the same fingerprint the latest comes first.
func requestKey(dst []byte, home uint64, at requestAt) []byte {
	dst = append(tablePrefix(dst, home, tableRequests), at[8:]...)
	return binary.BigEndian.AppendUint64(dst, ^binary.BigEndian.Uint64(at[:]))
}

// replayedField is Result.replayed = true as protocol buffers encode it;
// appended to an encoded Result it sets the field.
var replayedField = []byte{5 << 3, 1}

func idOf(r *kvpb.RequestID) (id requestID) {
	binary.BigEndian.PutUint64(id[:8], r.Hi)
	binary.BigEndian.PutUint64(id[8:], r.Lo)
	return id
}

// remembered answers a command whose request id decides it: one that was applied
// before, or may have been (DESIGN §9 rule 11). Else it is not done.
func (a *applier) remembered(r *kvpb.RequestID) (encoded []byte, done bool, err error) {
	if planted.On(planted.NoDeduplication) {
		return nil, false, nil
	}
	result, found, used, err := a.lookUpRequest(r)
	switch {
	case err != nil:
		return nil, false, err
	case found:
		return append(result[:len(result):len(result)], replayedField...), true, nil
	case used:
		encoded, err = encodeResult(requestMismatch())
		return encoded, true, err
	case r.IssuedMs < a.st.floors.requestFloor:
		encoded, err = encodeResult(requestTooOld())
		return encoded, true, err
	}
	return nil, false, nil
}

// lookUpRequest gives the result of a request if it is remembered. used tells that
// its id is remembered with another fingerprint.
func (a *applier) lookUpRequest(q *kvpb.RequestID) (result []byte, found, used bool, err error) {
	id, floor := idOf(q), a.st.floors.requestFloor
	for r := a.requests[id]; r != nil; r = r.other {
		switch {
		case r.issuedMs < floor, (r.fingerprint == 0) != (q.Fingerprint == 0):
		case r.fingerprint != q.Fingerprint:
			used = true
		case r.fingerprint != 0 || r.issuedMs == q.IssuedMs:
			return r.result, true, false, nil
		}
	}
	if a.known.excludes(id) {
		return nil, false, used, nil
	}
	at := placeOfRequest(q.IssuedMs, id, 0)
	if q.Fingerprint != 0 {
		var other bool
		at, found, other, err = a.findRequest(id, q.Fingerprint)
		if used = used || other; err != nil || !found {
			return nil, false, used, err
		}
	}
	if at.issuedMs() < floor {
		return nil, false, used, nil
	}
	result, found, err = a.readRequest(at)
	return result, found, used && !found, err
}

// findRequest looks in all homes for a request with a fingerprint that is
// remembered. used tells that there is another one with the same id.
func (a *applier) findRequest(id requestID, fingerprint uint64) (at requestAt, found, used bool, err error) {
	for i := range a.st.homes {
		lower := append(tablePrefix(nil, a.st.homes[i].space, tableRequests), id[:]...)
		upper := append(slices.Clone(lower), bytes.Repeat([]byte{0xff}, len(at)-len(id)+1)...)
		it, err := a.newest().NewIter(lower, upper)
		if err != nil {
			return at, false, false, err
		}
		for ok := it.First(); ok; ok = it.Next() {
			r, parsed := atOfRequest(it.Key()[headerBytes:])
			switch {
			case !parsed:
				return at, false, false, closeWith(it, errChecksum)
			case r.issuedMs() < a.st.floors.requestFloor:
			case r.fingerprint() != fingerprint:
				used = true
			case !found || r.issuedMs() > at.issuedMs():
				at, found = r, true
			}
		}
		if err := closeWith(it, it.Error()); err != nil {
			return at, false, false, err
		}
	}
	return at, found, used, nil
}

// readRequest gives the result that the first home has of a request.
func (a *applier) readRequest(at requestAt) (result []byte, found bool, err error) {
	for i := range a.st.homes {
		a.kbuf = issuedKey(a.kbuf[:0], a.st.homes[i].space, at)
		value, closer, err := a.newest().Get(a.kbuf)
		if errors.Is(err, engine.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, false, err
		}
		content, err := unseal(a.kbuf, value)
		result = slices.Clone(content)
		return result, err == nil, closeWith(closer, err)
	}
	return nil, false, nil
}

// remember keeps the result of a command under its request id.
func (a *applier) remember(q *kvpb.RequestID, result []byte) {
	id := idOf(q)
	at := placeOfRequest(q.IssuedMs, id, q.Fingerprint)
	a.requests[id] = &request{issuedMs: q.IssuedMs, fingerprint: q.Fingerprint, result: result, other: a.requests[id]}
	a.known.add(id, q.IssuedMs)
	own := &a.st.homes[0]
	a.kbuf = issuedKey(a.kbuf[:0], own.space, at)
	a.vbuf = append(append(a.vbuf[:0], 0, 0, 0, 0), result...)
	a.setSealed(a.kbuf, a.vbuf)
	if q.Fingerprint != 0 {
		a.kbuf = requestKey(a.kbuf[:0], own.space, at)
		a.setSealed(a.kbuf, append(a.vbuf[:0], 0, 0, 0, 0))
	}
	own.count++
	own.lastMs = max(own.lastMs, q.IssuedMs)
	a.st.floors.requestFrom = min(a.st.floors.requestFrom, q.IssuedMs)
}

// sweepRequests forgets request ids that were issued below the floor, each once
// however many homes have it. It removes them from the replica's own home; past the
// others it moves the place from which on they count.
func (a *applier) sweepRequests(left *int) (more bool, err error) {
	f := &a.st.floors
	if f.requestFloor <= f.requestFrom {
		return false, nil
	}
	from, below := placeOfRequest(f.requestFrom, requestID{}, 0), placeOfRequest(f.requestFloor, requestID{}, 0)
	m, err := openMerged(a.newest(), a.st.homeSources(tableByIssued), tableByIssued, from[:8], below[:8])
	if err != nil {
		return false, err
	}
	var own []requestAt
	for ok := m.First(); ok; ok = m.Next() {
		at, parsed := atOfIssued(m.Suffix())
		if !parsed {
			return false, closeWith(m, errChecksum)
		}
		if *left == 0 {
			below, more = at, true
			break
		}
		*left--
		m.holders(func(i int) {
			a.st.homes[i].count--
			if i == 0 {
				own = append(own, at)
			}
		})
	}
	if err := closeWith(m, m.Error()); err != nil {
		return false, err
	}
	for _, at := range own {
		a.kbuf = issuedKey(a.kbuf[:0], a.st.homes[0].space, at)
		a.batch.Delete(a.kbuf)
		if at.fingerprint() != 0 {
			a.kbuf = requestKey(a.kbuf[:0], a.st.homes[0].space, at)
			a.batch.Delete(a.kbuf)
		}
	}
	a.forgetBelow(below)
	f.requestFrom = below.issuedMs()
	return more, nil
}

// forgetBelow lets homes begin at a place, and drops the older ones that have
// nothing from there on.
func (a *applier) forgetBelow(at requestAt) {
	kept := a.st.homes[:0]
	for i, h := range a.st.homes {
		if bytes.Compare(h.from[:], at[:]) < 0 {
			h.from = at
		}
		if i > 0 && h.lastMs < at.issuedMs() {
			a.shape.gone.homes = append(a.shape.gone.homes, h)
			continue
		}
		kept = append(kept, h)
	}
	a.st.homes = kept
}

// setSealed seals a value that has room for its checksum and adds it to the batch.
func (a *applier) setSealed(key, value []byte) {
	seal(key, value)
	a.batch.Set(key, value)
}

// newest reads what the batch has made of the engine so far, if the batch is
// indexed; else it reads the engine, and the maps hold the difference.
func (a *applier) newest() engine.Reader {
	if a.indexed {
		return a.batch
	}
	return a.eng
}
