package engine

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cut splits at the first '|', which prefixes include; so they are prefix-free
// among themselves.
func cut(k []byte) int {
	if i := bytes.IndexByte(k, '|'); i >= 0 {
		return i + 1
	}
	return len(k)
}

func mustOpen(t *testing.T, fs FS) Engine {
	t.Helper()
	e, err := OpenPebble(Options{
		FS: fs, Dir: "db", StagingDir: "staging", Split: cut, MemtableBytes: 64 << 10,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func mustClose(t *testing.T, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, r Reader, key string) string {
	t.Helper()
	v, closer, err := r.Get([]byte(key))
	if errors.Is(err, ErrNotFound) {
		return "-"
	}
	if err != nil {
		t.Fatal(err)
	}
	out := string(v)
	mustClose(t, closer)
	return out
}

// TestComparer: shortened keys keep the order of keys and of prefixes.
func TestComparer(t *testing.T) {
	c := newComparer(cut)
	rapid.Check(t, func(t *rapid.T) {
		gen := rapid.Custom(func(t *rapid.T) []byte {
			p := rapid.StringMatching(`[a-d\xff]{1,4}`).Draw(t, "prefix")
			if rapid.Bool().Draw(t, "whole") {
				p += "|" + rapid.StringMatching(`[a-d\xff]{0,3}`).Draw(t, "suffix")
			}
			return []byte(p)
		})
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		if bytes.Compare(a, b) > 0 {
			a, b = b, a
		}
		for what, k := range map[string][]byte{"separator": c.Separator(nil, a, b), "successor": c.Successor(nil, a)} {
			if bytes.Equal(a, b) && what == "separator" {
				continue
			}
			if c.Compare(a, k) > 0 || what == "separator" && c.Compare(k, b) >= 0 {
				t.Fatalf("%s of %q and %q: %q", what, a, b, k)
			}
			if bytes.Compare(a[:cut(a)], k[:cut(k)]) > 0 {
				t.Fatalf("%s of %q: %q has a lower prefix", what, a, k)
			}
			if !bytes.Equal(k, a) && cut(k) != len(k) {
				t.Fatalf("%s of %q: %q ends inside a suffix", what, a, k)
			}
		}
	})
}

func TestBatchAndSnapshot(t *testing.T) {
	e := mustOpen(t, NewMemFS())
	b := e.NewBatch(true)
	b.Set([]byte("a|1"), []byte("x"))
	b.Set([]byte("a|2"), []byte("y"))
	b.Set([]byte("b|1"), []byte("z"))
	if get(t, b, "a|1") != "x" || get(t, e, "a|1") != "-" {
		t.Fatal("an indexed batch shows its changes, and nobody else does")
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	mustClose(t, b)
	s := e.NewSnapshot()
	b = e.NewBatch(false)
	b.DeleteRange([]byte("a"), []byte("b"))
	b.Delete([]byte("b|1"))
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	mustClose(t, b)
	if get(t, s, "a|2") != "y" || get(t, e, "a|2") != "-" || get(t, e, "b|1") != "-" {
		t.Fatal("a snapshot does not move, the engine does")
	}
	it, err := s.NewIter([]byte("a"), []byte("b"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for ok := it.First(); ok; ok = it.Next() {
		got = append(got, string(it.Key()))
	}
	if !slices.Equal(got, []string{"a|1", "a|2"}) || it.Error() != nil {
		t.Fatal(got, it.Error())
	}
	if !it.SeekPrefixGE([]byte("a|")) || it.SeekPrefixGE([]byte("aa|")) && strings.HasPrefix(string(it.Key()), "aa|") {
		t.Fatal("seeking a prefix")
	}
	mustClose(t, it)
	mustClose(t, s)
	if m := e.Metrics(); m.MemtableBytes == 0 {
		t.Fatalf("%+v", m)
	}
	mustClose(t, e)
}

// TestPrefixSeekOverRangeDeletion: prefix seeks go right where ranges were deleted,
// in the memtable and in tables.
func TestPrefixSeekOverRangeDeletion(t *testing.T) {
	e := mustOpen(t, NewMemFS())
	defer mustClose(t, e)
	keys := []string{"a|11111111", "b|11111111", "b|22222222", "c", "d|11111111", "e|11111111"}
	b := e.NewBatch(false)
	for _, k := range keys {
		b.Set([]byte(k), []byte(k))
	}
	if err := errors.Join(b.Commit(), b.Close(), e.Flush()); err != nil {
		t.Fatal(err)
	}
	b = e.NewBatch(false)
	b.DeleteRange([]byte("b"), []byte("d"))
	b.Set([]byte("b|33333333"), nil)
	if err := errors.Join(b.Commit(), b.Close()); err != nil {
		t.Fatal(err)
	}
	for _, flushed := range []bool{false, true} {
		it, err := e.NewIter(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for prefix, want := range map[string]string{"a|": "a|11111111", "b|": "b|33333333", "c|": "", "d|": "d|11111111", "e|": "e|11111111"} {
			got := ""
			if it.SeekPrefixGE([]byte(prefix)) {
				got = string(it.Key())
			}
			if got != want {
				t.Errorf("flushed %v, prefix %s: %q, want %q", flushed, prefix, got, want)
			}
		}
		mustClose(t, it)
		if err := e.Flush(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestIngestion(t *testing.T) {
	fs := NewMemFS()
	e := mustOpen(t, fs)
	in, err := e.NewIngestion()
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Add([]byte("b"), []byte("1")); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"b", "a", "z"} { // and it stays failed
		if in.Add([]byte(k), nil) == nil {
			t.Fatalf("%q was taken", k)
		}
	}
	if in.Commit() == nil {
		t.Fatal("a failed ingestion was committed")
	}
	mustClose(t, in)
	if names, err := fs.List("staging"); err != nil || len(names) > 0 || get(t, e, "b") != "-" {
		t.Fatal("an abandoned ingestion left", names, err)
	}

	if in, err = e.NewIngestion(); err != nil {
		t.Fatal(err)
	}
	large := bytes.Repeat([]byte("v"), 1<<20)
	for i := range byte(40) { // more than one table
		if err := in.Add([]byte{'k', i}, large); err != nil {
			t.Fatal(err)
		}
	}
	if get(t, e, "k\x00") != "-" {
		t.Fatal("visible before its commit")
	}
	if err := in.Commit(); err != nil {
		t.Fatal(err)
	}
	mustClose(t, in)
	if names, err := fs.List("staging"); err != nil || len(names) > 0 {
		t.Fatal("a committed ingestion left", names, err)
	}
	mustClose(t, e)
	e = mustOpen(t, fs)
	if len(get(t, e, "k\x27")) != 1<<20 {
		t.Fatal("not durable")
	}
	if n, err := e.RangeBytes([]byte("k"), []byte("l")); err != nil || n == 0 {
		t.Fatal(n, err)
	}
	mustClose(t, e)
}

// TestFatal: the engine must not go on after a fatal error, whatever the hook does.
func TestFatal(t *testing.T) {
	var told error
	l := &logBridge{log: slog.New(slog.NewTextHandler(io.Discard, nil)), onFatal: func(err error) { told = err }}
	defer func() {
		if recover() == nil || told == nil {
			t.Fatal("it went on")
		}
	}()
	l.Fatalf("disk %d", 1)
}

// TestWriteFileSynced: after a crash at any moment there is the old file or the new.
func TestWriteFileSynced(t *testing.T) {
	fs := NewCrashableMemFS()
	if err := MkdirSynced(fs, "a/b"); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"one", "two"} {
		if err := WriteFileSynced(fs, "a/b/f", []byte(content)); err != nil {
			t.Fatal(err)
		}
		after := fs.CrashClone(CrashCloneCfg{})
		f, err := after.Open("a/b/f")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f)
		if err != nil || string(got) != content {
			t.Fatal(string(got), err)
		}
		mustClose(t, f)
	}
}
