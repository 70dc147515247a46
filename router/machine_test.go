package router

import (
	"bytes"
	"maps"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// machine is a shard's state machine in the simplest form: sorted keys with all
// their versions, and a window of request ids.
type machine struct {
	keys     map[string][]cell // by ascending version
	requests map[requestKey]remembered
	floorMs  int64
	version  uint64
	nowMs    int64
	applied  int // commands that had an effect, so not the replayed ones
}

type cell struct {
	version uint64
	value   []byte
	deleted bool
}

type requestKey struct{ hi, lo uint64 }

type remembered struct {
	fingerprint uint64
	result      []byte
}

func newMachine() *machine {
	return &machine{keys: map[string][]cell{}, requests: map[requestKey]remembered{}}
}

// clone copies what can change; cells only ever grow.
func (m *machine) clone() *machine {
	c := *m
	c.keys, c.requests = maps.Clone(m.keys), maps.Clone(m.requests)
	return &c
}

func (m *machine) at(key string, version uint64) (cell, bool) {
	cells := m.keys[key]
	for i := len(cells) - 1; i >= 0; i-- {
		if version == 0 || cells[i].version <= version {
			return cells[i], !cells[i].deleted
		}
	}
	return cell{}, false
}

func (m *machine) set(key string, c cell) {
	cells := m.keys[key]
	m.keys[key] = append(cells[:len(cells):len(cells)], c)
}

// apply applies an encoded command to a shard with the range of d.
func (m *machine) apply(d *kvpb.ShardDescriptor, data []byte, nowMs int64) *kvpb.Result {
	var cmd kvpb.Command
	if err := proto.Unmarshal(data, &cmd); err != nil || len(cmd.Txns) == 0 {
		return &kvpb.Result{Status: kvpb.Status_STATUS_BAD_COMMAND}
	}
	m.nowMs = max(m.nowMs, nowMs)
	first := max(m.version+1, uint64(kv.VersionAt(m.nowMs)))
	m.version = first + uint64(len(cmd.Txns)) - 1
	if id := cmd.Request; id != nil {
		known, ok := m.requests[requestKey{id.Hi, id.Lo}]
		switch {
		case !ok && id.IssuedMs < m.floorMs:
			return &kvpb.Result{Status: kvpb.Status_STATUS_REQUEST_TOO_OLD}
		case ok && id.Fingerprint != 0 && known.fingerprint != 0 && known.fingerprint != id.Fingerprint:
			return &kvpb.Result{Status: kvpb.Status_STATUS_REQUEST_MISMATCH}
		case ok:
			var again kvpb.Result
			if err := proto.Unmarshal(known.result, &again); err != nil {
				panic(err)
			}
			again.Replayed = true
			return &again
		}
	}
	if !commandFits(d, &cmd) {
		return &kvpb.Result{Status: kvpb.Status_STATUS_WRONG_SHARD, Descriptor_: d}
	}
	res := &kvpb.Result{Status: kvpb.Status_STATUS_OK}
	for i, txn := range cmd.Txns {
		res.Txns = append(res.Txns, m.txn(d, txn, first+uint64(i)))
	}
	m.applied++
	if id := cmd.Request; id != nil {
		encoded, err := proto.Marshal(res)
		if err != nil {
			panic(err)
		}
		m.requests[requestKey{id.Hi, id.Lo}] = remembered{id.Fingerprint, encoded}
	}
	return res
}

func commandFits(d *kvpb.ShardDescriptor, cmd *kvpb.Command) bool {
	for _, txn := range cmd.Txns {
		for _, g := range txn.Guards {
			if !owns(d, g.Key) {
				return false
			}
		}
		for _, op := range slices.Concat(txn.Then, txn.Otherwise) {
			if !owns(d, op.Key) || op.Kind == kvpb.OpKind_OP_DELETE_RANGE && len(op.EndKey) > 0 && !ownsRange(d, op.Key, op.EndKey) {
				return false
			}
		}
	}
	return true
}

func (m *machine) txn(d *kvpb.ShardDescriptor, txn *kvpb.Txn, version uint64) *kvpb.TxnResult {
	res := &kvpb.TxnResult{Status: kvpb.Status_STATUS_OK, Succeeded: true, CommittedVersion: version}
	ops := txn.Then
	for i, g := range txn.Guards {
		c, found := m.at(string(g.Key), 0)
		if g.Kind == kvpb.GuardKind_GUARD_ABSENT && found || g.Kind == kvpb.GuardKind_GUARD_EXISTS && !found {
			res.Succeeded, ops = false, txn.Otherwise
			if len(ops) == 0 {
				res.Status, res.FailedGuard, res.CurrentVersion = kvpb.Status_STATUS_CONDITION_FAILED, uint32(i), c.version
				return res
			}
			break
		}
	}
	for _, op := range ops {
		out := &kvpb.OpResult{}
		res.Ops = append(res.Ops, out)
		old, found := m.at(string(op.Key), 0)
		out.Found, out.PreviousVersion = found, old.version
		switch op.Kind {
		case kvpb.OpKind_OP_PUT:
			m.set(string(op.Key), cell{version: version, value: op.Value})
		case kvpb.OpKind_OP_DELETE:
			if found {
				m.set(string(op.Key), cell{version: version, deleted: true})
				out.Deleted = 1
			}
		case kvpb.OpKind_OP_ADD:
			n := 0
			if found {
				var err error
				if n, err = strconv.Atoi(string(old.value)); err != nil {
					return &kvpb.TxnResult{Status: kvpb.Status_STATUS_CONFLICT, CommittedVersion: version}
				}
			}
			out.Number = int64(n) + op.Delta
			m.set(string(op.Key), cell{version: version, value: strconv.AppendInt(nil, out.Number, 10)})
		case kvpb.OpKind_OP_DELETE_RANGE:
			m.deleteRange(d, op, version, out)
		}
		res.Version = version
	}
	return res
}

func (m *machine) deleteRange(d *kvpb.ShardDescriptor, op *kvpb.Op, version uint64, out *kvpb.OpResult) {
	for _, key := range m.sorted(0) {
		if !owns(d, []byte(key)) || key < string(op.Key) || len(op.EndKey) > 0 && key >= string(op.EndKey) {
			continue
		}
		if out.Deleted == op.Limit {
			out.More = true
			return
		}
		m.set(key, cell{version: version, deleted: true})
		out.Deleted++
	}
}

// sorted lists the keys that exist as of a version (0 = now).
func (m *machine) sorted(version uint64) []string {
	var keys []string
	for key := range m.keys {
		if _, found := m.at(key, version); found {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func (m *machine) item(key string, version uint64, keysOnly bool) *kvpb.Item {
	c, _ := m.at(key, version)
	item := &kvpb.Item{Key: []byte(key), Version: c.version}
	if !keysOnly {
		item.Value = c.value
	}
	return item
}

// read answers a read of a shard with the range of d.
func (m *machine) read(d *kvpb.ShardDescriptor, req *kvpb.ReadRequest) *kvpb.ReadResponse {
	resp := &kvpb.ReadResponse{Status: kvpb.Status_STATUS_OK, Descriptor_: d, LastVersion: m.version, NowMs: m.nowMs}
	if req.MinVersion > m.version {
		resp.Status = kvpb.Status_STATUS_NOT_READY
		return resp
	}
	for _, key := range req.Gets {
		if !owns(d, key) {
			return &kvpb.ReadResponse{Status: kvpb.Status_STATUS_WRONG_SHARD, Descriptor_: d}
		}
		got := &kvpb.GetResult{}
		if _, got.Found = m.at(string(key), req.At); got.Found {
			got.Item = m.item(string(key), req.At, false)
		}
		resp.Gets = append(resp.Gets, got)
	}
	if s := req.Scan; s != nil {
		var keys []string
		for _, key := range m.sorted(req.At) {
			if owns(d, []byte(key)) {
				keys = append(keys, key)
			}
		}
		scanSorted(keys, func(key string) *kvpb.Item { return m.item(key, req.At, s.KeysOnly) }, s, resp)
	}
	return resp
}

// scanSorted answers a scan from a sorted list of keys. It is both a shard's
// answer and, over the keys of all shards, the twin that the router is held to.
func scanSorted(keys []string, item func(string) *kvpb.Item, s *kvpb.Scan, resp *kvpb.ReadResponse) {
	keys = slices.Clone(keys)
	if s.Reverse {
		slices.Reverse(keys)
	}
	count, size := 0, 0
	var folded []byte
	for _, key := range keys {
		k := []byte(key)
		if bytes.Compare(k, s.Start) < 0 || len(s.End) > 0 && bytes.Compare(k, s.End) >= 0 {
			continue
		}
		if folded != nil && bytes.HasPrefix(k, folded) {
			continue
		}
		prefix := foldedPrefix(k, s)
		it := item(key)
		more := len(it.Key) + len(it.Value)
		if prefix != nil {
			more = len(prefix)
		}
		if count == int(s.Limit) || count > 0 && size+more > int(s.LimitBytes) {
			resp.Resume = k
			if s.Reverse {
				resp.Resume = append(slices.Clone(k), 0)
				// Not into the middle of what is folded.
				if folded != nil && bytes.HasPrefix(resp.Resume, folded) {
					resp.Resume = folded
				}
			}
			return
		}
		count, size = count+1, size+more
		if prefix != nil {
			folded = prefix
			resp.CommonPrefixes = append(resp.CommonPrefixes, prefix)
			continue
		}
		resp.Items = append(resp.Items, it)
	}
}

// foldedPrefix gives the common prefix that stands for a key, nil for the key itself.
func foldedPrefix(key []byte, s *kvpb.Scan) []byte {
	if len(s.Delimiter) == 0 || len(key) < int(s.PrefixLen) {
		return nil
	}
	i := bytes.Index(key[s.PrefixLen:], s.Delimiter)
	if i < 0 {
		return nil
	}
	return slices.Clone(key[:int(s.PrefixLen)+i+len(s.Delimiter)])
}
