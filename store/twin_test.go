package store

import (
	"bytes"
	"cmp"
	"fmt"
	"math/big"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// twin is a dumb copy of the state machine: maps and slices, no engine, no
// caches, everything copied for every transaction. It shares the messages with
// the real one, nothing else.
type twin struct {
	desc          *kvpb.ShardDescriptor
	index         uint64
	last, ceiling kv.Version
	now           int64
	horizon       kv.Version
	requestFloor  int64
	keys          map[string][]twinVersion // ascending; what is retained
	changes       []twinChange             // not collected yet, by version, then key
	requests      []*twinRequest           // not swept yet
	configIndex   uint64
	shape         twinShape
}

type twinVersion struct {
	version     kv.Version
	deleted     bool
	value       string
	contentType string
	expires     int64
}

type twinChange struct {
	version kv.Version
	key     string
	deleted bool
	prev    kv.Version
}

type twinRequest struct {
	id     *kvpb.RequestID
	result *kvpb.Result
	whole  *kvpb.RequestID // of a part: its request
}

func newTwin(d *kvpb.ShardDescriptor) *twin {
	return &twin{desc: d, keys: map[string][]twinVersion{}}
}

// newest gives the newest version of a key if it exists.
func (w *twin) newest(key string) (twinVersion, bool) {
	h := w.keys[key]
	if len(h) == 0 || h[len(h)-1].deleted {
		return twinVersion{}, false
	}
	return h[len(h)-1], true
}

// at gives the version of a key that a read at v sees.
func (w *twin) at(key string, v kv.Version) (twinVersion, bool) {
	h := w.keys[key]
	for i := len(h) - 1; i >= 0; i-- {
		if h[i].version <= v {
			return h[i], !h[i].deleted
		}
	}
	return twinVersion{}, false
}

func (w *twin) sorted() []string {
	var out []string
	for k := range w.keys {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// apply gives what Apply answers for one entry, decoded.
func (w *twin) apply(e kv.Entry) (rejected bool, results []*kvpb.Result) {
	if e.Index <= w.index {
		return false, nil
	}
	w.index = e.Index
	if e.Config != nil {
		w.configIndex = e.Index
		return false, nil
	}
	if e.Stamp.Term != e.Term {
		return true, nil
	}
	if len(e.Commands) == 0 {
		w.last = max(w.last, w.ceiling)
		w.ceiling = max(w.ceiling+kv.VersionAt(1), e.Stamp.Ceiling)
		w.now = max(w.now, e.Stamp.NowMs)
		return false, nil
	}
	total := new(big.Int).SetUint64(uint64(e.Stamp.Version))
	for _, c := range e.Commands {
		total.Add(total, big.NewInt(int64(c.Versions)))
	}
	total.Sub(total, big.NewInt(1))
	if e.Stamp.Version <= w.last || total.Cmp(new(big.Int).SetUint64(uint64(w.ceiling))) > 0 {
		return true, nil
	}
	w.now = max(w.now, e.Stamp.NowMs)
	v := e.Stamp.Version
	w.shape.seen, w.shape.joined = false, false
	for _, c := range e.Commands {
		results = append(results, w.command(c, v))
		v += kv.Version(c.Versions)
		w.last = max(w.last, v-1)
	}
	w.ceiling = max(w.ceiling, e.Stamp.Ceiling)
	return false, results
}

func (w *twin) command(ec kv.EntryCommand, v kv.Version) *kvpb.Result {
	var c kvpb.Command
	if proto.Unmarshal(ec.Data, &c) != nil {
		return &kvpb.Result{Status: kvpb.Status_STATUS_BAD_COMMAND}
	}
	if bad, _ := checkCommand(&c, ec.Versions); bad != "" { // has tests of its own
		return &kvpb.Result{Status: kvpb.Status_STATUS_BAD_COMMAND}
	}
	switch {
	case w.shape.joined && v <= w.last:
		return &kvpb.Result{Status: kvpb.Status_STATUS_REJECTED}
	case isShape(c.Kind):
		return w.change(&c)
	case w.shape.frozen != nil:
		return &kvpb.Result{Status: kvpb.Status_STATUS_FROZEN}
	case c.Kind == kvpb.CommandKind_COMMAND_SWEEP:
		return w.sweep(c.Sweep, v)
	}
	if len(c.Ordinals) > 0 {
		return w.part(&c, v)
	}
	if q := c.Request; q != nil {
		known, used := w.known(q)
		switch {
		case known != nil:
			res := proto.Clone(known.result).(*kvpb.Result)
			res.Replayed = true
			return res
		case used:
			return &kvpb.Result{Status: kvpb.Status_STATUS_REQUEST_MISMATCH}
		case q.IssuedMs < w.requestFloor:
			return &kvpb.Result{Status: kvpb.Status_STATUS_REQUEST_TOO_OLD}
		}
	}
	if !w.ownsAll(&c) {
		return &kvpb.Result{Status: kvpb.Status_STATUS_WRONG_SHARD, Descriptor_: w.desc, Sibling: w.shape.sibling}
	}
	res := &kvpb.Result{Status: kvpb.Status_STATUS_OK}
	for i, t := range c.Txns {
		res.Txns = append(res.Txns, w.transaction(t, v+kv.Version(i)))
	}
	if q := c.Request; q != nil {
		w.requests = append(w.requests, &twinRequest{id: q, result: res})
	}
	return res
}

func (w *twin) ownsAll(c *kvpb.Command) bool {
	if c.Generation != 0 && c.Generation != w.desc.Generation {
		return false
	}
	for _, t := range c.Txns {
		for _, g := range t.Guards {
			if !w.owns(g.Key) {
				return false
			}
		}
		for _, op := range append(slices.Clone(t.Then), t.Otherwise...) {
			past := len(op.EndKey) > 0 && bytes.Compare(op.EndKey, w.desc.End) > 0
			if !w.owns(op.Key) || op.Kind == kvpb.OpKind_OP_DELETE_RANGE && past {
				return false
			}
		}
	}
	return true
}

// known finds what is remembered of a request. used tells that its id is remembered
// with another fingerprint.
func (w *twin) known(q *kvpb.RequestID) (known *twinRequest, used bool) {
	for _, r := range w.requests {
		if r.id.Hi != q.Hi || r.id.Lo != q.Lo || r.id.IssuedMs < w.requestFloor || (r.id.Fingerprint == 0) != (q.Fingerprint == 0) {
			continue
		}
		if r.id.Fingerprint != q.Fingerprint {
			used = true
		} else if q.Fingerprint == 0 && r.id.IssuedMs == q.IssuedMs ||
			q.Fingerprint != 0 && (known == nil || r.id.IssuedMs > known.id.IssuedMs) {
			known = r
		}
	}
	return known, used
}

func (w *twin) owns(key []byte) bool {
	return bytes.Compare(key, w.desc.Start) >= 0 && bytes.Compare(key, w.desc.End) < 0
}

func (w *twin) transaction(t *kvpb.Txn, v kv.Version) *kvpb.TxnResult {
	res := &kvpb.TxnResult{Status: kvpb.Status_STATUS_OK, Succeeded: true, CommittedVersion: uint64(v)}
	ops := t.Then
	for i, g := range t.Guards {
		if w.holds(g) {
			continue
		}
		ops, res.Succeeded = t.Otherwise, false
		if len(ops) == 0 {
			cur, _ := w.newest(string(g.Key))
			res.Status, res.FailedGuard, res.CurrentVersion = kvpb.Status_STATUS_CONDITION_FAILED, uint32(i), uint64(cur.version)
			return res
		}
		break
	}
	saved := map[string][]twinVersion{}
	for k, h := range w.keys {
		saved[k] = slices.Clone(h)
	}
	for _, op := range ops {
		out, status := w.op(op, v)
		if status != kvpb.Status_STATUS_OK {
			w.keys = saved
			return &kvpb.TxnResult{Status: status, CommittedVersion: uint64(v)}
		}
		res.Ops = append(res.Ops, out)
	}
	if w.record(saved, v) {
		res.Version = uint64(v)
	}
	return res
}

// record compares the keys before and after a transaction and keeps what changed.
func (w *twin) record(before map[string][]twinVersion, v kv.Version) (wrote bool) {
	for _, k := range w.sorted() {
		h := w.keys[k]
		if len(h) == 0 || h[len(h)-1].version != v {
			continue
		}
		var prev kv.Version
		if old := before[k]; len(old) > 0 && !old[len(old)-1].deleted {
			prev = old[len(old)-1].version
		}
		if h[len(h)-1].deleted && prev == 0 { // made and deleted in one go: nothing happened
			w.keys[k] = h[:len(h)-1]
			continue
		}
		w.changes = append(w.changes, twinChange{version: v, key: k, deleted: h[len(h)-1].deleted, prev: prev})
		wrote = true
	}
	return wrote
}

func (w *twin) holds(g *kvpb.Guard) bool {
	cur, exists := w.newest(string(g.Key))
	in := slices.Contains(g.Versions, uint64(cur.version))
	switch g.Kind {
	case kvpb.GuardKind_GUARD_EXISTS:
		return exists
	case kvpb.GuardKind_GUARD_ABSENT:
		return !exists
	case kvpb.GuardKind_GUARD_VERSION_EQ:
		return exists && in
	case kvpb.GuardKind_GUARD_VERSION_NE:
		return !exists || !in
	case kvpb.GuardKind_GUARD_VALUE_EQ:
		return exists && cur.value == string(g.Value)
	}
	panic(fmt.Sprint("guard ", g.Kind))
}

// set appends a version, over one that the same transaction made.
func (w *twin) set(key string, tv twinVersion) {
	h := w.keys[key]
	if n := len(h); n > 0 && h[n-1].version == tv.version {
		h = h[:n-1]
	}
	w.keys[key] = append(h, tv)
}

func (w *twin) op(op *kvpb.Op, v kv.Version) (*kvpb.OpResult, kvpb.Status) {
	key := string(op.Key)
	cur, exists := w.newest(key)
	out := &kvpb.OpResult{Found: exists, PreviousVersion: uint64(cur.version)}
	expires := int64(0)
	if op.TtlMs > 0 {
		expires = w.now + op.TtlMs
	}
	switch op.Kind {
	case kvpb.OpKind_OP_PUT:
		w.set(key, twinVersion{version: v, value: string(op.Value), contentType: op.ContentType, expires: expires})
		out.ExpiresMs = expires
	case kvpb.OpKind_OP_DELETE:
		if exists {
			w.set(key, twinVersion{version: v, deleted: true})
			out.Deleted = 1
		}
	case kvpb.OpKind_OP_GET:
		if exists {
			out.Item = twinItem(key, cur)
		}
	case kvpb.OpKind_OP_ADD:
		sum := big.NewInt(op.Delta)
		next := twinVersion{version: v, contentType: op.ContentType, expires: expires}
		if exists {
			n, err := strconv.ParseInt(cur.value, 10, 64)
			if err != nil {
				return nil, kvpb.Status_STATUS_CONFLICT
			}
			sum.Add(sum, big.NewInt(n))
			next.contentType = cmp.Or(op.ContentType, cur.contentType)
			next.expires = cmp.Or(expires, cur.expires)
		}
		if !sum.IsInt64() {
			return nil, kvpb.Status_STATUS_CONFLICT
		}
		next.value = sum.String()
		w.set(key, next)
		out.Number, out.ExpiresMs = sum.Int64(), next.expires
	case kvpb.OpKind_OP_DELETE_RANGE:
		*out = kvpb.OpResult{Resume: op.EndKey}
		if len(op.EndKey) == 0 {
			out.Resume = w.desc.End
		}
		limit := cmp.Or(op.Limit, kv.OpsMax)
		for _, k := range w.sorted() {
			_, exists := w.newest(k)
			if !exists || k < key || len(op.EndKey) > 0 && k >= string(op.EndKey) {
				continue
			}
			if out.Deleted == limit {
				out.More, out.Resume = true, []byte(k)
				break
			}
			w.set(k, twinVersion{version: v, deleted: true})
			out.Deleted++
		}
	}
	return out, kvpb.Status_STATUS_OK
}

func twinItem(key string, tv twinVersion) *kvpb.Item {
	return &kvpb.Item{
		Key: []byte(key), Value: []byte(tv.value), Version: uint64(tv.version),
		ContentType: tv.contentType, ExpiresMs: tv.expires,
	}
}

func (w *twin) sweep(args *kvpb.SweepArgs, v kv.Version) *kvpb.Result {
	left := int(cmp.Or(args.MaxItems, 1000))
	w.requestFloor = max(w.requestFloor, args.RequestFloorMs)
	w.horizon = max(w.horizon, min(kv.Version(args.RetainFromVersion), w.last))
	res := &kvpb.Result{Status: kvpb.Status_STATUS_OK}

	type expiring struct {
		at  int64
		key string
	}
	var due []expiring
	for _, k := range w.sorted() {
		if cur, ok := w.newest(k); ok && cur.expires != 0 && cur.expires <= args.ExpireBeforeMs {
			due = append(due, expiring{cur.expires, k})
		}
	}
	slices.SortStableFunc(due, func(a, b expiring) int { return cmp.Compare(a.at, b.at) })
	n := min(left, len(due))
	left -= n
	res.More = n < len(due)
	slices.SortFunc(due[:n], func(a, b expiring) int { return cmp.Compare(a.key, b.key) })
	for _, d := range due[:n] {
		cur, _ := w.newest(d.key)
		w.changes = append(w.changes, twinChange{version: v, key: d.key, deleted: true, prev: cur.version})
		w.set(d.key, twinVersion{version: v, deleted: true})
	}

	var old []*twinRequest
	for _, q := range w.requests {
		if q.id.IssuedMs < w.requestFloor {
			old = append(old, q)
		}
	}
	slices.SortFunc(old, func(a, b *twinRequest) int {
		return cmp.Or(cmp.Compare(a.id.IssuedMs, b.id.IssuedMs), cmp.Compare(a.id.Hi, b.id.Hi),
			cmp.Compare(a.id.Lo, b.id.Lo), cmp.Compare(a.id.Fingerprint, b.id.Fingerprint))
	})
	n = min(left, len(old))
	left -= n
	res.More = res.More || n < len(old)
	for _, q := range old[:n] {
		w.requests = slices.DeleteFunc(w.requests, func(r *twinRequest) bool { return r == q })
	}

	n = 0
	for n < len(w.changes) && w.changes[n].version < w.horizon && n < left {
		w.collect(w.changes[n])
		n++
	}
	w.changes = w.changes[n:]
	res.More = res.More || len(w.changes) > 0 && w.changes[0].version < w.horizon
	return res
}

// collect removes what a change superseded, and the change's own tombstone.
func (w *twin) collect(c twinChange) {
	w.keys[c.key] = slices.DeleteFunc(w.keys[c.key], func(tv twinVersion) bool {
		return tv.version == c.prev || c.deleted && tv.version == c.version
	})
}

// scan gives the page that a scan answers, by the plainest means.
func (w *twin) scan(q *kvpb.Scan, at kv.Version) (items []*kvpb.Item, prefixes []string, resume string) {
	start, end := max(string(q.Start), string(w.desc.Start)), string(w.desc.End)
	if len(q.End) > 0 {
		end = min(end, string(q.End))
	}
	keys := w.sorted()
	if q.Reverse {
		slices.Reverse(keys)
	}
	limit, limitBytes, used := int(cmp.Or(q.Limit, kv.ScanItemsDefault)), int(cmp.Or(q.LimitBytes, kv.ScanBytesMax)), 0
	folded := ""
	for _, k := range keys {
		tv, ok := w.at(k, at)
		if !ok || k < start || k >= end || folded != "" && len(k) >= len(folded) && k[:len(folded)] == folded {
			continue
		}
		folded = ""
		size := len(k) + len(tv.value)
		if q.KeysOnly {
			size = len(k)
		}
		if int(q.PrefixLen) <= len(k) && len(q.Delimiter) > 0 {
			if i := bytes.Index([]byte(k[q.PrefixLen:]), q.Delimiter); i >= 0 {
				folded = k[:int(q.PrefixLen)+i+len(q.Delimiter)]
				size = len(folded)
			}
		}
		if len(items)+len(prefixes) >= limit || used > 0 && used+size > limitBytes {
			if q.Reverse {
				return items, prefixes, k + "\x00"
			}
			return items, prefixes, k
		}
		used += size
		if folded != "" {
			prefixes = append(prefixes, folded)
			continue
		}
		item := twinItem(k, tv)
		if q.KeysOnly {
			item.Value = nil
		}
		items = append(items, item)
	}
	return items, prefixes, ""
}
