// Package memdata is a database that is a map: the calls that the HTTP edge makes
// of a node, without replication, disks or shards. With it the edge, the client
// and the command line are tested and measured by themselves.
package memdata

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"sync"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// Store is the map. It is one shard on one node, and always its leader.
type Store struct {
	Node  kv.NodeID
	Shard kv.ShardID

	mu      sync.Mutex
	items   map[string]*kvpb.Item
	keys    []string // of items, in order
	version kv.Version
	done    map[[2]uint64]remembered // by request id
	failure error
}

type remembered struct {
	fingerprint uint64
	results     []*kvpb.TxnResult
}

// New makes an empty store.
func New(node kv.NodeID, shard kv.ShardID) *Store {
	return &Store{
		Node: node, Shard: shard,
		items: map[string]*kvpb.Item{}, version: kv.VersionAt(1_700_000_000_000), done: map[[2]uint64]remembered{},
	}
}

// Fail makes every later call fail with err; nil ends it.
func (s *Store) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure = err
}

// Len tells how many keys there are.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.keys)
}

func (s *Store) served(o kv.ReadOptions) kv.Served {
	return kv.Served{Shard: s.Shard, Node: s.Node, Consistency: o.Consistency}
}

func (s *Store) refusedLocked(o kv.ReadOptions) error {
	if o.At != 0 && s.failure == nil {
		return kv.Errorf(kv.CodeVersionTooOld, kv.OutcomeNone, "no history is kept")
	}
	return s.failure
}

// Get reads one key.
func (s *Store) Get(_ context.Context, key []byte, o kv.ReadOptions) (kv.Reading, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refusedLocked(o); err != nil {
		return kv.Reading{}, err
	}
	return kv.Reading{Item: s.items[string(key)], Served: s.served(o)}, nil
}

// MultiGet reads keys.
func (s *Store) MultiGet(ctx context.Context, keys [][]byte, o kv.ReadOptions) ([]kv.Reading, error) {
	out := make([]kv.Reading, len(keys))
	for i, key := range keys {
		var err error
		if out[i], err = s.Get(ctx, key, o); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Scan reads one page.
func (s *Store) Scan(_ context.Context, r kv.ScanRequest) (kv.Page, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refusedLocked(r.Read); err != nil {
		return kv.Page{}, err
	}
	page := kv.Page{Served: []kv.Served{s.served(r.Read)}}
	from, to := s.bounds(r.Start, r.End)
	keys := slices.Clone(s.keys[from:to])
	if r.Reverse {
		slices.Reverse(keys)
	}
	limit := r.Limit
	if limit == 0 {
		limit = kv.ScanItemsDefault
	}
	for _, key := range keys {
		folded, ok := fold(key, r.Delimiter, r.PrefixLen)
		if n := len(page.CommonPrefixes); ok && n > 0 && string(page.CommonPrefixes[n-1]) == folded {
			continue
		}
		if len(page.Items)+len(page.CommonPrefixes) == limit {
			page.More, page.Resume = true, []byte(key)
			if r.Reverse {
				page.Resume = append(page.Resume, 0) // its exclusive end
			}
			break
		}
		switch {
		case ok:
			page.CommonPrefixes = append(page.CommonPrefixes, []byte(folded))
		case r.KeysOnly:
			it := s.items[key]
			page.Items = append(page.Items, &kvpb.Item{Key: it.Key, Version: it.Version, ContentType: it.ContentType, ExpiresMs: it.ExpiresMs})
		default:
			page.Items = append(page.Items, s.items[key])
		}
	}
	return page, nil
}

func fold(key string, delimiter []byte, prefixLen int) (string, bool) {
	if len(delimiter) == 0 {
		return "", false
	}
	i := bytes.Index([]byte(key[prefixLen:]), delimiter)
	if i < 0 {
		return "", false
	}
	return key[:prefixLen+i+len(delimiter)], true
}

func (s *Store) bounds(start, end []byte) (from, to int) {
	from, _ = slices.BinarySearch(s.keys, string(start))
	to = len(s.keys)
	if len(end) > 0 {
		to, _ = slices.BinarySearch(s.keys, string(end))
	}
	return from, max(from, to)
}

// Txn applies one transaction.
func (s *Store) Txn(_ context.Context, t *kvpb.Txn, id *kvpb.RequestID) (kv.Written, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	results, replayed, err := s.applyLocked([]*kvpb.Txn{t}, id)
	if err != nil {
		return kv.Written{}, err
	}
	if results[0].Status == kvpb.Status_STATUS_CONFLICT {
		return kv.Written{}, &kv.Error{Code: kv.CodeConflict, Outcome: kv.OutcomeNotApplied, Detail: results[0].Detail}
	}
	return kv.Written{Result: results[0], Replayed: replayed, Served: s.served(kv.ReadOptions{})}, nil
}

// Batch applies independent transactions.
func (s *Store) Batch(_ context.Context, txns []*kvpb.Txn, id *kvpb.RequestID) []kv.BatchResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]kv.BatchResult, len(txns))
	results, replayed, err := s.applyLocked(txns, id)
	for i := range out {
		switch {
		case err != nil:
			out[i].Err = err
		case results[i].Status == kvpb.Status_STATUS_CONFLICT:
			out[i].Err = &kv.Error{Code: kv.CodeConflict, Outcome: kv.OutcomeNotApplied, Detail: results[i].Detail}
		default:
			out[i].Written = kv.Written{Result: results[i], Replayed: replayed, Served: s.served(kv.ReadOptions{})}
		}
	}
	return out
}

// DeleteRange deletes keys.
func (s *Store) DeleteRange(_ context.Context, start, end []byte, _ *kvpb.RequestID) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure != nil {
		return 0, s.failure
	}
	from, to := s.bounds(start, end)
	for _, key := range s.keys[from:to] {
		delete(s.items, key)
	}
	s.keys = slices.Delete(s.keys, from, to)
	return to - from, nil
}

func (s *Store) applyLocked(txns []*kvpb.Txn, id *kvpb.RequestID) (results []*kvpb.TxnResult, replayed bool, err error) {
	if s.failure != nil {
		return nil, false, s.failure
	}
	if id != nil {
		if old, ok := s.done[[2]uint64{id.Hi, id.Lo}]; ok {
			if old.fingerprint != id.Fingerprint {
				return nil, false, kv.Errorf(kv.CodeIdempotencyMismatch, kv.OutcomeNotApplied, "another request had this id")
			}
			return old.results, true, nil
		}
	}
	for _, t := range txns {
		results = append(results, s.txnLocked(t))
	}
	if id != nil {
		s.done[[2]uint64{id.Hi, id.Lo}] = remembered{id.Fingerprint, results}
	}
	return results, false, nil
}

func (s *Store) txnLocked(t *kvpb.Txn) *kvpb.TxnResult {
	ops, res := t.Then, &kvpb.TxnResult{Status: kvpb.Status_STATUS_OK, Succeeded: true}
	for i, g := range t.Guards {
		if s.holdsLocked(g) {
			continue
		}
		res.Succeeded, res.FailedGuard, res.CurrentVersion = false, uint32(i), s.items[string(g.Key)].GetVersion()
		ops = t.Otherwise
		if len(ops) == 0 {
			res.Status = kvpb.Status_STATUS_CONDITION_FAILED
			return res
		}
		break
	}
	if detail := s.checkLocked(ops); detail != "" {
		return &kvpb.TxnResult{Status: kvpb.Status_STATUS_CONFLICT, Detail: detail}
	}
	s.version++
	for _, op := range ops {
		res.Ops = append(res.Ops, s.opLocked(op, res))
	}
	return res
}

func (s *Store) holdsLocked(g *kvpb.Guard) bool {
	item := s.items[string(g.Key)]
	switch g.Kind {
	case kvpb.GuardKind_GUARD_EXISTS:
		return item != nil
	case kvpb.GuardKind_GUARD_ABSENT:
		return item == nil
	case kvpb.GuardKind_GUARD_VERSION_EQ:
		return item != nil && slices.Contains(g.Versions, item.Version)
	case kvpb.GuardKind_GUARD_VERSION_NE:
		return item == nil || !slices.Contains(g.Versions, item.Version)
	default:
		return item != nil && bytes.Equal(item.Value, g.Value)
	}
}

// checkLocked says why the operations do not fit what is stored, "" if they do.
func (s *Store) checkLocked(ops []*kvpb.Op) string {
	for _, op := range ops {
		item := s.items[string(op.Key)]
		if op.Kind != kvpb.OpKind_OP_ADD || item == nil {
			continue
		}
		n, err := strconv.ParseInt(string(item.Value), 10, 64)
		if sum := n + op.Delta; err != nil || (sum > n) != (op.Delta > 0) {
			return "the value is not a number that this can be added to"
		}
	}
	return ""
}

func (s *Store) opLocked(op *kvpb.Op, res *kvpb.TxnResult) *kvpb.OpResult {
	old := s.items[string(op.Key)]
	out := &kvpb.OpResult{Found: old != nil, PreviousVersion: old.GetVersion()}
	expires := int64(0)
	if op.TtlMs > 0 {
		expires = s.version.Millis() + op.TtlMs
	}
	switch op.Kind {
	case kvpb.OpKind_OP_GET:
		out.Item = old
		return out
	case kvpb.OpKind_OP_DELETE:
		if old != nil {
			i, _ := slices.BinarySearch(s.keys, string(op.Key))
			s.keys = slices.Delete(s.keys, i, i+1)
			delete(s.items, string(op.Key))
			out.Deleted = 1
		}
	case kvpb.OpKind_OP_ADD:
		n, _ := strconv.ParseInt(string(old.GetValue()), 10, 64) // checkLocked saw that it is one
		out.Number = n + op.Delta
		s.putLocked(&kvpb.Item{Key: op.Key, Value: strconv.AppendInt(nil, out.Number, 10), Version: uint64(s.version), ExpiresMs: expires})
	default:
		s.putLocked(&kvpb.Item{Key: op.Key, Value: op.Value, Version: uint64(s.version), ContentType: op.ContentType, ExpiresMs: expires})
	}
	out.ExpiresMs = expires
	res.Version = uint64(s.version)
	return out
}

func (s *Store) putLocked(item *kvpb.Item) {
	key := string(item.Key)
	if s.items[key] == nil {
		i, _ := slices.BinarySearch(s.keys, key)
		s.keys = slices.Insert(s.keys, i, key)
	}
	s.items[key] = item
}
