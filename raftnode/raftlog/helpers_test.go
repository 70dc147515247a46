package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/quorate-db/quorate/kv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testing part of *testing.T and *rapid.T.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// node is a node's stores, opened and opened again, of either kind.
type node interface {
	store(t failer, shard kv.ShardID) ReplicaStore
	reopen(t failer)
	close(t failer)
}

// sharedNode keeps its shards in a Shared in memory.
type sharedNode struct {
	fs   vfs.FS
	opts Options
	db   *Shared
}

func newSharedNode(t failer, opts Options) *sharedNode {
	n := &sharedNode{fs: vfs.NewMem(), opts: opts}
	n.open(t)
	return n
}

func (n *sharedNode) open(t failer) {
	t.Helper()
	db, err := OpenShared(n.fs, "logs", n.opts)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	n.db = db
}

func (n *sharedNode) store(t failer, shard kv.ShardID) ReplicaStore {
	t.Helper()
	st, err := n.db.Store(shard, 1)
	if err != nil {
		t.Fatalf("store %d: %v", shard, err)
	}
	return st
}

func (n *sharedNode) close(t failer) {
	t.Helper()
	if err := n.db.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

func (n *sharedNode) reopen(t failer) {
	t.Helper()
	n.close(t)
	n.open(t)
}

// boltNode keeps each shard in a Bolt.
type boltNode struct {
	dir   string
	bolts map[kv.ShardID]*Bolt
}

func newBoltNode(dir string) *boltNode { return &boltNode{dir: dir, bolts: map[kv.ShardID]*Bolt{}} }

func (n *boltNode) store(t failer, shard kv.ShardID) ReplicaStore {
	t.Helper()
	if n.bolts[shard] == nil {
		b, err := OpenBolt(filepath.Join(n.dir, shard.String()), shard, 1)
		if err != nil {
			t.Fatalf("open bolt: %v", err)
		}
		n.bolts[shard] = b
	}
	return n.bolts[shard]
}

func (n *boltNode) close(t failer) {
	t.Helper()
	for _, b := range n.bolts {
		if err := b.Close(); err != nil {
			t.Fatalf("close bolt: %v", err)
		}
	}
	clear(n.bolts)
}

func (n *boltNode) reopen(t failer) { n.close(t) }

// eachKind runs a test on stores of every kind.
func eachKind(t *testing.T, test func(t *testing.T, n node)) {
	t.Run("shared", func(t *testing.T) {
		n := newSharedNode(t, Options{})
		test(t, n)
		n.close(t)
	})
	t.Run("bolt", func(t *testing.T) {
		n := newBoltNode(t.TempDir())
		test(t, n)
		n.close(t)
	})
}

// twin is the dumb twin of a store: what it must hold.
type twin struct {
	logs   map[uint64]raft.Log
	values map[string][]byte
}

func newTwin() *twin { return &twin{logs: map[uint64]raft.Log{}, values: map[string][]byte{}} }

func (w *twin) clone() *twin { return &twin{maps.Clone(w.logs), maps.Clone(w.values)} }

func (w *twin) bounds() (first, last uint64) {
	for index := range w.logs {
		if first == 0 || index < first {
			first = index
		}
		last = max(last, index)
	}
	return first, last
}

func (w *twin) store(logs []*raft.Log) {
	for _, l := range logs {
		w.logs[l.Index] = *l
	}
}

func (w *twin) delete(from, to uint64) {
	maps.DeleteFunc(w.logs, func(index uint64, _ raft.Log) bool { return from <= index && index <= to })
}

// diff says how a store differs from the twin, nil if it does not.
func (w *twin) diff(s ReplicaStore) error {
	wantFirst, wantLast := w.bounds()
	first, err := s.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.LastIndex()
	if err != nil {
		return err
	}
	if first != wantFirst || last != wantLast {
		return fmt.Errorf("holds %d to %d, want %d to %d", first, last, wantFirst, wantLast)
	}
	for index, want := range w.logs {
		var got raft.Log
		if err := s.GetLog(index, &got); err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		if !sameLog(&got, &want) {
			return fmt.Errorf("entry %d is %s, want %s", index, brief(&got), brief(&want))
		}
	}
	for _, index := range []uint64{0, wantFirst - 1, wantLast + 1, wantLast + 1000} {
		if _, held := w.logs[index]; held {
			continue
		}
		if err := s.GetLog(index, new(raft.Log)); err != raft.ErrLogNotFound {
			return fmt.Errorf("entry %d outside of the log: %v", index, err)
		}
	}
	for name, want := range w.values {
		got, err := s.Get([]byte(name))
		if err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("value %q is %x (%w), want %x", name, got, err, want)
		}
	}
	return nil
}

func (w *twin) check(t failer, s ReplicaStore) {
	t.Helper()
	if err := w.diff(s); err != nil {
		t.Fatalf("%v", err)
	}
}

func sameLog(a, b *raft.Log) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && bytes.Equal(a.Data, b.Data) &&
		bytes.Equal(a.Extensions, b.Extensions) && a.AppendedAt.Equal(b.AppendedAt)
}

func brief(l *raft.Log) string {
	return fmt.Sprintf("{%d term %d %s %d+%d bytes %.16x… %s}",
		l.Index, l.Term, l.Type, len(l.Data), len(l.Extensions), l.Data, l.AppendedAt)
}

// entries makes n entries whose content depends on everything.
func entries(first uint64, n int, term uint64) []*raft.Log {
	logs := make([]*raft.Log, n)
	for i := range logs {
		index := first + uint64(i)
		logs[i] = &raft.Log{
			Index: index, Term: term, Type: raft.LogType(index % 6),
			Data:       []byte("entry " + strconv.FormatUint(index, 10) + " of term " + strconv.FormatUint(term, 10)),
			AppendedAt: time.UnixMicro(int64(1_700_000_000_000_000 + index)),
		}
		if index%3 == 0 {
			logs[i].Extensions = []byte{byte(term), byte(index)}
		}
	}
	return logs
}

func must(t failer, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// wantCode fails unless err is a kv.Error of a code.
func wantCode(t failer, err error, codes ...kv.Code) {
	t.Helper()
	var typed *kv.Error
	if !errors.As(err, &typed) || !slices.Contains(codes, typed.Code) {
		t.Fatalf("error %v, want one of %v", err, codes)
	}
}
