package store

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/kv/planted"
	"github.com/quorate-db/quorate/store/engine"
)

// request is what is remembered of a request id.
type request struct {
	issuedMs    int64
	fingerprint uint64
	result      []byte // encoded
}

// replayedField is Result.replayed = true as protocol buffers encode it;
// appended to an encoded Result it sets the field.
var replayedField = []byte{5 << 3, 1}

func idOf(r *kvpb.RequestID) (id requestID) {
	binary.BigEndian.PutUint64(id[:8], r.Hi)
	binary.BigEndian.PutUint64(id[8:], r.Lo)
	return id
}

func appendRequest(dst []byte, r request) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.issuedMs))
	dst = binary.BigEndian.AppendUint64(dst, r.fingerprint)
	return append(dst, r.result...)
}

func decodeRequest(content []byte) (request, error) {
	if len(content) < 16 {
		return request{}, errChecksum
	}
	return request{
		issuedMs:    int64(binary.BigEndian.Uint64(content)),
		fingerprint: binary.BigEndian.Uint64(content[8:]),
		result:      content[16:],
	}, nil
}

// remembered answers a command whose request id decides it: one that was applied
// before, or may have been (DESIGN §9 rule 11). Else it is not done.
func (a *applier) remembered(r *kvpb.RequestID) (encoded []byte, done bool, err error) {
	if planted.On(planted.NoDeduplication) {
		return nil, false, nil
	}
	known, found, err := a.lookUpRequest(idOf(r))
	switch {
	case err != nil:
		return nil, false, err
	case !found && r.IssuedMs < a.st.floors.requestFloor:
		encoded, err = encodeResult(&kvpb.Result{
			Status: kvpb.Status_STATUS_REQUEST_TOO_OLD,
			Detail: "the request was issued before the window of remembered ids",
		})
		return encoded, true, err
	case !found:
		return nil, false, nil
	case r.Fingerprint != 0 && known.fingerprint != 0 && r.Fingerprint != known.fingerprint:
		encoded, err = encodeResult(&kvpb.Result{
			Status: kvpb.Status_STATUS_REQUEST_MISMATCH,
			Detail: "the request id was used with another content",
		})
		return encoded, true, err
	}
	return append(known.result[:len(known.result):len(known.result)], replayedField...), true, nil
}

func (a *applier) lookUpRequest(id requestID) (r request, found bool, err error) {
	if r, found = a.requests[id]; found {
		return r, true, nil
	}
	if a.known.excludes(id) {
		return request{}, false, nil
	}
	a.kbuf = requestKey(a.kbuf[:0], a.st.home, id)
	value, closer, err := a.newest().Get(a.kbuf)
	if errors.Is(err, engine.ErrNotFound) {
		return request{}, false, nil
	}
	if err != nil {
		return request{}, false, err
	}
	content, err := unseal(a.kbuf, value)
	if err == nil {
		r, err = decodeRequest(content)
	}
	r.result = slices.Clone(r.result)
	return r, err == nil, closeWith(closer, err)
}

// remember keeps the result of a command under its request id.
func (a *applier) remember(id *kvpb.RequestID, result []byte) {
	r := request{issuedMs: id.IssuedMs, fingerprint: id.Fingerprint, result: result}
	key := idOf(id)
	a.requests[key] = r
	a.known.add(key, r.issuedMs)
	a.kbuf = requestKey(a.kbuf[:0], a.st.home, key)
	a.vbuf = appendRequest(append(a.vbuf[:0], 0, 0, 0, 0), r)
	a.setSealed(a.kbuf, a.vbuf)
	a.kbuf = issuedKey(a.kbuf[:0], a.st.home, r.issuedMs, key)
	a.setSealed(a.kbuf, append(a.vbuf[:0], 0, 0, 0, 0))
	a.st.counters.requests++
	a.st.floors.requestFrom = min(a.st.floors.requestFrom, r.issuedMs)
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
