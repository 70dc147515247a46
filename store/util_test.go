package store

import (
	"io"
	"log/slog"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testShard = kv.ShardID(7)

// epochMs is where test clocks begin.
const epochMs = int64(1_700_000_000_000)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// mustOpen opens a DB on fs. The test closes it.
func mustOpen(t testing.TB, fs engine.FS) *DB {
	t.Helper()
	db, err := Open(Options{Dir: "store", FS: fs, Logger: quiet(), MemtableBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func testDescriptor() *kvpb.ShardDescriptor {
	return &kvpb.ShardDescriptor{Shard: uint64(testShard), Generation: 1, Start: []byte("b"), End: []byte("y")}
}

func mustReplica(t testing.TB, db *DB) *Replica {
	t.Helper()
	r, err := db.OpenReplica(testShard, testDescriptor())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// mustClose closes what a test opened.
func mustClose(t fatalTB, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// logWriter makes entries as a well-behaved leader would.
type logWriter struct {
	index uint64
	term  uint64
	last  kv.Version
	nowMs int64
}

func newLog() *logWriter { return &logWriter{term: 1, nowMs: epochMs} }

// startTerm is the first entry of a term; it raises the ceiling far.
func (l *logWriter) startTerm() kv.Entry {
	l.index++
	ceiling := kv.VersionAt(epochMs + 1000*3600*1000)
	l.last = max(l.last, kv.VersionAt(l.nowMs))
	return kv.Entry{Index: l.index, Term: l.term, Stamp: kv.Stamp{Term: l.term, Ceiling: ceiling, NowMs: l.nowMs}}
}

func (l *logWriter) entry(cmds ...*kvpb.Command) kv.Entry {
	l.index++
	e := kv.Entry{Index: l.index, Term: l.term, Stamp: kv.Stamp{Term: l.term, Version: l.last + 1, NowMs: l.nowMs}}
	for _, c := range cmds {
		n := uint32(max(1, len(c.Txns)))
		data, err := proto.Marshal(c)
		if err != nil {
			panic(err)
		}
		e.Commands = append(e.Commands, kv.EntryCommand{Data: data, Versions: n})
		l.last += kv.Version(n)
	}
	return e
}

func write(txns ...*kvpb.Txn) *kvpb.Command {
	return &kvpb.Command{Kind: kvpb.CommandKind_COMMAND_WRITE, Txns: txns}
}

func then(ops ...*kvpb.Op) *kvpb.Txn { return &kvpb.Txn{Then: ops} }

func put(key, value string) *kvpb.Op {
	return &kvpb.Op{Kind: kvpb.OpKind_OP_PUT, Key: []byte(key), Value: []byte(value)}
}

func del(key string) *kvpb.Op { return &kvpb.Op{Kind: kvpb.OpKind_OP_DELETE, Key: []byte(key)} }

func mustApply(t testing.TB, r *Replica, entries ...kv.Entry) []kv.EntryResult {
	t.Helper()
	out, err := r.Apply(entries)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func decodeResult(t testing.TB, b []byte) *kvpb.Result {
	t.Helper()
	var res kvpb.Result
	if err := proto.Unmarshal(b, &res); err != nil {
		t.Fatal(err)
	}
	return &res
}

func mustDigest(t testing.TB, r *Replica) string {
	t.Helper()
	d, err := r.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return string(d)
}

// fatalTB is what a *testing.T and a *rapid.T share.
type fatalTB interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}
