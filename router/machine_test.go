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
	parts    map[requestKey]map[uint32]*kvpb.TxnResult
	prints   map[[2]uint64]uint64 // of requests in parts
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

// requestKey identifies a request: with a fingerprint, by whatever time it bears.
type requestKey struct {
	hi, lo   uint64
	issuedMs int64
}

func keyOf(id *kvpb.RequestID) requestKey {
	if id.Fingerprint != 0 {
		return requestKey{id.Hi, id.Lo, 0}
	}
	return requestKey{id.Hi, id.Lo, id.IssuedMs}
}

type remembered struct {
	fingerprint uint64
	result      []byte
}

func newMachine() *machine {
	return &machine{keys: map[string][]cell{}, requests: map[requestKey]remembered{}, parts: map[requestKey]map[uint32]*kvpb.TxnResult{}, prints: map[[2]uint64]uint64{}}
}

// clone copies what can change; cells only ever grow.
func (m *machine) clone() *machine {
	c := *m
	c.keys, c.requests, c.prints = maps.Clone(m.keys), maps.Clone(m.requests), maps.Clone(m.prints)
	c.parts = map[requestKey]map[uint32]*kvpb.TxnResult{}
	for id, part := range m.parts {
		c.parts[id] = maps.Clone(part)
	}
	return &c
}

// absorb takes over what the shard with the range of d holds, and the requests that
// it remembers. Of two with one id, m's own stay: only different ones can be left.
func (m *machine) absorb(d *kvpb.ShardDescriptor, right *machine) {
	for key := range m.keys {
		if owns(d, []byte(key)) {
			delete(m.keys, key) // garbage of an earlier split
		}
	}
	for key, cells := range right.keys {
		if owns(d, []byte(key)) {
			m.keys[key] = cells
		}
	}
	for id, r := range right.requests {
		if _, ok := m.requests[id]; !ok {
			m.requests[id] = r
		}
	}
	maps.Copy(m.prints, right.prints)
	for id, part := range right.parts {
		if m.parts[id] == nil {
			m.parts[id] = map[uint32]*kvpb.TxnResult{}
		}
		for o, res := range part {
			if m.parts[id][o] == nil {
				m.parts[id][o] = res
			}
		}
	}
	m.version, m.nowMs, m.floorMs = max(m.version, right.version), max(m.nowMs, right.nowMs), max(m.floorMs, right.floorMs)
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
	if n := len(cmd.Ordinals); n > 0 && (cmd.Request == nil || n != len(cmd.Txns)) {
		return &kvpb.Result{Status: kvpb.Status_STATUS_BAD_COMMAND}
	}
	m.nowMs = max(m.nowMs, nowMs)
	first := max(m.version+1, uint64(kv.VersionAt(m.nowMs)))
	m.version = first + uint64(len(cmd.Txns)) - 1
	if len(cmd.Ordinals) > 0 {
		return m.part(d, &cmd, first)
	}
	if id := cmd.Request; id != nil {
		known, ok := m.requests[keyOf(id)]
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
		m.requests[keyOf(id)] = remembered{id.Fingerprint, encoded}
	}
	return res
}

// part applies those of a request's transactions that were not applied before.
func (m *machine) part(d *kvpb.ShardDescriptor, cmd *kvpb.Command, first uint64) *kvpb.Result {
	id, whole := keyOf(cmd.Request), [2]uint64{cmd.Request.Hi, cmd.Request.Lo}
	if known, ok := m.prints[whole]; ok && known != cmd.Request.Fingerprint {
		return &kvpb.Result{Status: kvpb.Status_STATUS_REQUEST_MISMATCH}
	}
	known, fits := m.parts[id], commandFits(d, cmd)
	res := &kvpb.Result{Status: kvpb.Status_STATUS_OK, Replayed: true}
	for _, o := range cmd.Ordinals {
		switch {
		case known[o] != nil:
		case cmd.Request.IssuedMs < m.floorMs:
			return &kvpb.Result{Status: kvpb.Status_STATUS_REQUEST_TOO_OLD}
		case !fits:
			return &kvpb.Result{Status: kvpb.Status_STATUS_WRONG_SHARD, Descriptor_: d}
		}
	}
	m.prints[whole] = cmd.Request.Fingerprint
	if known == nil {
		known = map[uint32]*kvpb.TxnResult{}
		m.parts[id] = known
	}
	for i, o := range cmd.Ordinals {
		if again := known[o]; again != nil {
			again = proto.CloneOf(again)
			again.Replayed = true
			res.Txns = append(res.Txns, again)
			continue
		}
		res.Replayed = false
		known[o] = m.txn(d, cmd.Txns[i], first+uint64(i))
		res.Txns = append(res.Txns, known[o])
	}
	if !res.Replayed {
		m.applied++
	}
	return res
}

func commandFits(d *kvpb.ShardDescriptor, cmd *kvpb.Command) bool {
	if cmd.Generation != 0 && cmd.Generation != d.Generation {
		return false
	}
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
	out.Resume = op.EndKey
	if len(out.Resume) == 0 {
		out.Resume = d.End
	}
	for _, key := range m.sorted(0) {
		if !owns(d, []byte(key)) || key < string(op.Key) || len(op.EndKey) > 0 && key >= string(op.EndKey) {
			continue
		}
		if out.Deleted == op.Limit {
			out.More, out.Resume = true, []byte(key)
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
