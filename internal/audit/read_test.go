package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// ticking opens a log in which each entry is a second later than the one before.
func ticking(t *testing.T, opts Options) (*Log, string) {
	t.Helper()
	l, path := open(t, opts)
	now := time.Unix(1_700_000_000, 0)
	l.opts.Now = func() time.Time { now = now.Add(time.Second); return now }
	return l, path
}

func second(n int) time.Time { return time.Unix(1_700_000_000+int64(n), 0) }

func (l *Log) newest(t *testing.T, q Query) Page {
	t.Helper()
	p, err := l.Newest(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func numbers(p Page) (out []int) {
	for _, e := range p.Entries {
		out = append(out, int(e.Seq))
	}
	return out
}

// downFrom gives first, first-1, … last.
func downFrom(first, last int) (out []int) {
	for i := first; i >= last; i-- {
		out = append(out, i)
	}
	return out
}

func TestNewestReadsOverFiles(t *testing.T) {
	l, path := ticking(t, Options{FileBytes: 1000, Files: 5})
	if p := l.newest(t, Query{Limit: 3}); p.Entries != nil || p.More {
		t.Errorf("an empty log: %+v", p)
	}
	for i := range 40 {
		l.must(t, entry(i))
	}
	kept := numbers(l.newest(t, Query{Limit: 100}))
	if len(kept) < 8 || !slices.Equal(kept, downFrom(40, kept[len(kept)-1])) {
		t.Fatalf("all of them are %v", kept)
	}
	oldest := kept[len(kept)-1]
	for name, c := range map[string]struct {
		q    Query
		want []int
		more bool
	}{
		"some":              {Query{Limit: 5}, downFrom(40, 36), true},
		"as many as are":    {Query{Limit: len(kept)}, kept, false},
		"one less":          {Query{Limit: len(kept) - 1}, kept[:len(kept)-1], true},
		"from a time on":    {Query{Limit: 100, Since: second(37)}, downFrom(40, 37), false},
		"some of these":     {Query{Limit: 2, Since: second(37)}, downFrom(40, 39), true},
		"just these":        {Query{Limit: 4, Since: second(37)}, downFrom(40, 37), false},
		"older than a time": {Query{Limit: 3, Before: second(37)}, downFrom(36, 34), true},
		"between":           {Query{Limit: 9, Since: second(36), Before: second(38)}, downFrom(37, 36), false},
		"older than all":    {Query{Limit: 9, Before: second(oldest)}, nil, false},
		"newer than all":    {Query{Limit: 9, Since: second(41)}, nil, false},
	} {
		if p := l.newest(t, c.q); !slices.Equal(numbers(p), c.want) || p.More != c.more || p.Damaged != 0 {
			t.Errorf("%s: %v, more %t, damaged %d, want %v, %t", name, numbers(p), p.More, p.Damaged, c.want, c.more)
		}
	}
	e := l.newest(t, Query{Limit: 1}).Entries[0]
	s, err := verify(read(t, path))
	if err != nil || e.Hash != s.Head || !e.Time.Equal(second(40)) || e.From != "127.0.0.1:39" || e.Entry != entry(39) {
		t.Errorf("%+v, %+v, %v", e, s, err)
	}
}

// TestNewestSaysWhatIsDamaged: what was changed is not shown as if it was true, and does
// not hide what is older, however long it is.
func TestNewestSaysWhatIsDamaged(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(text string) string
		want    []int
		damaged int
	}{
		"a line changed":    {func(s string) string { return strings.Replace(s, "127.0.0.1:1", "127.0.0.1:7", 1) }, []int{3, 1}, 1},
		"something between": {func(s string) string { return strings.Replace(s, "\n", "\nhello\n\n", 1) }, []int{3, 2, 1}, 2},
		"the end cut off":   {func(s string) string { return s[:len(s)-5] }, []int{2, 1}, 0},
		"a long line first": {func(s string) string { return strings.Repeat("x", 5*windowBytes) + "\n" + s }, []int{3, 2, 1}, 5},
		"a long line last":  {func(s string) string { return s + strings.Repeat("x", 2*windowBytes) }, []int{3, 2, 1}, 2},
		"a file of zeros":   {func(string) string { return strings.Repeat("\x00", windowBytes+1) }, nil, 1},
		"a time that is no": {func(s string) string { return strings.Replace(s, `"time":"2023`, `"time":"x`, 1) }, []int{3, 2}, 1},
	} {
		l, path := ticking(t, Options{})
		for i := range 3 {
			l.must(t, entry(i))
		}
		if err := os.WriteFile(path, []byte(c.change(read(t, path))), 0o600); err != nil {
			t.Fatal(err)
		}
		if p := l.newest(t, Query{Limit: 10}); !slices.Equal(numbers(p), c.want) || p.Damaged != c.damaged || p.More {
			t.Errorf("%s: %v, damaged %d, more %t, want %v and %d", name, numbers(p), p.Damaged, p.More, c.want, c.damaged)
		}
	}
}

// TestNewestIsBounded: a page has a size, and to be asked for everything costs no more.
func TestNewestIsBounded(t *testing.T) {
	l, _ := ticking(t, Options{})
	long := entry(1)
	long.Target = strings.Repeat("t", 10_000)
	const lines = 200
	for range lines {
		l.must(t, long)
	}
	p := l.newest(t, Query{Limit: 1000})
	if n := len(p.Entries); !p.More || n < 90 || n > pageBytesMax/10_000 {
		t.Errorf("%d entries, more %t", n, p.More)
	}
	got := 0
	for q := (Query{Limit: 1000}); ; q.Before = p.Entries[len(p.Entries)-1].Time {
		p = l.newest(t, q)
		if got += len(p.Entries); !p.More {
			break
		}
	}
	if got != lines {
		t.Errorf("%d entries in all pages, want %d", got, lines)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Newest(ctx, Query{Limit: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits any more: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Newest(t.Context(), Query{Limit: 1}); err == nil {
		t.Error("a closed log is read")
	}
}

// TestNewestWhileTheLogIsWritten: each page is of whole lines without a hole, however
// often files are turned meanwhile.
func TestNewestWhileTheLogIsWritten(t *testing.T) {
	l, err := Open(Options{Path: filepath.Join(t.TempDir(), "audit.log"), FileBytes: 2000, Files: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.must(t, entry(0))
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range 2000 {
			if err := l.Record(entry(i)); err != nil {
				t.Error(err)
			}
		}
	})
	for last := 0; last < 2001; {
		p := l.newest(t, Query{Limit: 8})
		got := numbers(p)
		if p.Damaged != 0 || !slices.Equal(got, downFrom(got[0], got[0]-len(got)+1)) || got[0] < last {
			t.Fatalf("%s after %d", fmt.Sprint(got), last)
		}
		last = got[0]
	}
	writer.Wait()
}

func FuzzNewest(f *testing.F) {
	e := entry(1)
	text, _, err := encode(&line{Seq: 1, Time: second(1).UTC().Format(time.RFC3339Nano), Entry: &e, Prev: genesis})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(text, text...), int64(0), int64(2))
	f.Add([]byte("{}\n\n"), int64(5), int64(0))
	f.Fuzz(func(t *testing.T, b []byte, since, before int64) {
		r := backwards{query: Query{Limit: 3, Since: time.Unix(since, 0), Before: time.Unix(before, 0)}, window: make([]byte, windowBytes)}
		r.lines(b)
		for _, e := range r.page.Entries {
			if e.Time.Before(r.query.Since) || !e.Time.Before(r.query.Before) {
				t.Fatalf("%v is not in [%v, %v)", e.Time, r.query.Since, r.query.Before)
			}
		}
	})
}
