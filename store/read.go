package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/kv/planted"
)

// Read answers gets, a scan and a digest from one consistent view (S4). It
// never fails without a status: damage is STATUS_CORRUPT, a replica that is gone
// is STATUS_NOT_READY. The caller owns the answer but must not change its
// descriptor.
func (r *Replica) Read(req *kvpb.ReadRequest) *kvpb.ReadResponse {
	if err := r.db.enter(); err != nil {
		return failedRead(err)
	}
	defer r.db.leave()
	v, err := r.view()
	if err != nil {
		return r.corruptRead(err)
	}
	resp, err := v.read(req)
	if err := closeWith(v.it, err); err != nil {
		return r.corruptRead(err)
	}
	return resp
}

func (r *Replica) corruptRead(err error) *kvpb.ReadResponse {
	if !errors.Is(err, ErrClosed) {
		r.log.Error("read failed", "error", err)
	}
	return failedRead(err)
}

func failedRead(err error) *kvpb.ReadResponse {
	status := kvpb.Status_STATUS_CORRUPT
	if errors.Is(err, ErrClosed) {
		status = kvpb.Status_STATUS_NOT_READY
	}
	return &kvpb.ReadResponse{Status: status, Detail: err.Error()}
}

// read answers a request from the view. An error means that stored data could
// not be read.
func (v view) read(req *kvpb.ReadRequest) (*kvpb.ReadResponse, error) {
	resp := &kvpb.ReadResponse{
		Status:       kvpb.Status_STATUS_OK,
		Descriptor_:  v.desc,
		AppliedIndex: v.applied.Index,
		LastVersion:  uint64(v.applied.LastVersion),
		NowMs:        v.applied.NowMs,
	}
	at := kv.Version(req.At)
	if at == 0 {
		at = versionMax
	}
	if refused := v.refuse(req, at, resp); refused {
		return resp, nil
	}
	if err := v.gets(req.Gets, at, resp); err != nil {
		return nil, err
	}
	if req.Scan != nil && resp.Status == kvpb.Status_STATUS_OK {
		s := scan{view: v, at: at, req: req.Scan, resp: resp}
		if err := s.run(); err != nil {
			return nil, err
		}
	}
	if req.Digest && resp.Status == kvpb.Status_STATUS_OK {
		sum, err := v.digest()
		if err != nil {
			return nil, err
		}
		resp.Digest = sum
	}
	return resp, nil
}

// frozenDetail is the detail of STATUS_FROZEN.
const frozenDetail = "the shard is about to be merged with its left neighbour"

// refuse sets the status of a request that cannot be answered and tells so.
func (v view) refuse(req *kvpb.ReadRequest, at kv.Version, resp *kvpb.ReadResponse) bool {
	switch {
	case v.frozen.index != 0 && !planted.On(planted.FrozenAnswers) && (len(req.Gets) > 0 || req.Scan != nil):
		resp.Status = kvpb.Status_STATUS_FROZEN
		resp.Detail = frozenDetail
	case kv.Version(req.MinVersion) > v.applied.LastVersion:
		resp.Status = kvpb.Status_STATUS_NOT_READY
		resp.Detail = fmt.Sprintf("version %d is not applied yet", req.MinVersion)
	case at < v.floors.horizon:
		resp.Status = kvpb.Status_STATUS_VERSION_TOO_OLD
		resp.Detail = fmt.Sprintf("versions below %d were collected", v.floors.horizon)
	case len(req.Gets) > kv.OpsMax:
		resp.Status = kvpb.Status_STATUS_BAD_COMMAND
		resp.Detail = fmt.Sprintf("more than %d keys", kv.OpsMax)
	default:
		for _, key := range req.Gets {
			if bad := checkKey(key); bad != "" {
				resp.Status, resp.Detail = kvpb.Status_STATUS_BAD_COMMAND, bad
				return true
			}
			if !v.owns(key) {
				resp.Status, resp.Sibling = kvpb.Status_STATUS_WRONG_SHARD, v.sibling
				return true
			}
		}
		return false
	}
	return true
}

// gets answers the keys that were asked for one by one. A single value always
// fits; several must not exceed the bound of a command.
func (v view) gets(keys [][]byte, at kv.Version, resp *kvpb.ReadResponse) error {
	if len(keys) == 0 {
		return nil
	}
	left := kv.CommandBytesMax
	slab := make([]kvpb.GetResult, len(keys))
	resp.Gets = make([]*kvpb.GetResult, len(keys))
	var seek []byte
	for i, key := range keys {
		resp.Gets[i] = &slab[i]
		seek = dataKey(seek[:0], v.spaceOf(key), key, at)
		item, err := v.get(key, seek)
		if err != nil {
			return err
		}
		if item == nil {
			continue
		}
		slab[i].Found, slab[i].Item = true, item
		if left -= len(item.Key) + len(item.Value); left < 0 {
			resp.Status = kvpb.Status_STATUS_BAD_COMMAND
			resp.Detail = fmt.Sprintf("the values that are asked for exceed %d bytes", kv.CommandBytesMax)
			resp.Gets = nil
			return nil
		}
	}
	return nil
}

// get gives the newest version of a key at or below the one in its data key
// seek, nil if the key did not exist then.
func (v view) get(key, seek []byte) (*kvpb.Item, error) {
	if !v.it.SeekPrefixGE(seek) {
		return nil, v.it.Error()
	}
	found := v.it.Key()
	prefix := seek[:len(seek)-versionBytes]
	if splitKey(found) != len(prefix) || !bytes.Equal(found[:len(prefix)], prefix) {
		return nil, nil
	}
	value, err := v.it.Value()
	if err != nil {
		return nil, err
	}
	rec, err := openRecord(found, value)
	if err != nil || rec.tombstone {
		return nil, err
	}
	return newItem(slices.Clone(key), versionOf(found), rec), nil
}

// newItem copies a record out of the engine's memory; it takes over the key.
func newItem(key []byte, version kv.Version, rec record) *kvpb.Item {
	return &kvpb.Item{
		Key:         key,
		Value:       slices.Clone(rec.value),
		Version:     uint64(version),
		ContentType: string(rec.contentType),
		ExpiresMs:   rec.expiresMs,
	}
}

// Change is one change of one key.
type Change struct {
	Version  kv.Version
	Key      []byte
	Deleted  bool
	Previous kv.Version // what it superseded, 0 if the key was absent
}

// changesMax bounds what one call of Changes gives or looks at.
const changesMax = 10000

// Changes lists changes above a version of keys that begin with prefix, in order
// of versions, then keys. All changes up to and including through are in the list;
// through ≥ after, and the next call goes on there. The changes of one version are
// never torn apart, so the list may be longer than the limit by what one
// transaction changed. If changes above after have been collected, the error has
// kv.CodeVersionTooOld.
func (r *Replica) Changes(after kv.Version, prefix []byte, limit int) (changes []Change, through kv.Version, err error) {
	if err := r.db.enter(); err != nil {
		return nil, after, asError(kv.OutcomeNone, "changes", err)
	}
	defer r.db.leave()
	v, err := r.view()
	if err != nil {
		return nil, after, asError(kv.OutcomeNone, "changes", err)
	}
	changes, through, err = v.changes(after, prefix, limit)
	if err = closeWith(v.it, err); err != nil {
		var known *kv.Error
		if !errors.As(err, &known) {
			err = asError(kv.OutcomeNone, "changes", err)
		}
		return nil, after, err
	}
	return changes, through, nil
}

func (v view) changes(after kv.Version, prefix []byte, limit int) (out []Change, through kv.Version, err error) {
	if v.frozen.index != 0 {
		// Its last version goes on growing, and what is through is not the merged shard's.
		return nil, after, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNone, frozenDetail)
	}
	if after >= v.applied.LastVersion {
		return nil, after, nil
	}
	if after+1 < v.floors.horizon {
		return nil, after, kv.Errorf(kv.CodeVersionTooOld, kv.OutcomeNone,
			"changes below version %d were collected", v.floors.horizon)
	}
	if limit <= 0 || limit > changesMax {
		limit = changesMax
	}
	m, err := openMerged(sameView{v.it}, v.indexSources(), tableChanges, binary.BigEndian.AppendUint64(nil, uint64(after)+1), nil)
	if err != nil {
		return nil, after, err
	}
	defer func() { err = closeWith(m, err) }()
	looked := 0
	through = after
	for ok := m.First(); ok; ok = m.Next() {
		n, key, parsed := parseIndexKey(m.Key())
		if !parsed {
			return nil, after, errChecksum
		}
		if kv.Version(n) != through && (len(out) >= limit || looked >= changesMax) {
			return out, through, nil
		}
		through = kv.Version(n)
		looked++
		if !bytes.HasPrefix(key, prefix) {
			continue
		}
		content, err := m.content()
		if err != nil {
			return nil, after, err
		}
		c, err := decodeChange(content)
		if err != nil {
			return nil, after, err
		}
		out = append(out, Change{Version: kv.Version(n), Key: slices.Clone(key), Deleted: c.deleted, Previous: c.prevVersion})
	}
	return out, v.applied.LastVersion, m.Error()
}

// Execute decodes a ReadRequest, reads, and encodes the answer, for callers that
// carry bytes.
func (r *Replica) Execute(request []byte) ([]byte, error) {
	var req kvpb.ReadRequest
	if err := proto.Unmarshal(request, &req); err != nil {
		return nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNone, "read request: %w", err)
	}
	return proto.Marshal(r.Read(&req))
}
