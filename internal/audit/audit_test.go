package audit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func entry(i int) Entry {
	return Entry{Node: "n", Token: "0123456789abcdef", Name: "a <b>", Method: "POST", Route: "/v1/rebalance", From: fmt.Sprintf("127.0.0.1:%d", i), Status: 202}
}

// open opens a log in its own directory, with a clock that stands still.
func open(t *testing.T, opts Options) (*Log, string) {
	t.Helper()
	if opts.Path == "" {
		opts.Path = filepath.Join(t.TempDir(), "audit.log")
	}
	opts.Now = func() time.Time { return time.Unix(1_700_000_000, 5) }
	l, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, opts.Path
}

func (l *Log) must(t *testing.T, e Entry) {
	t.Helper()
	if err := l.Record(e); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func verify(texts ...string) (Summary, error) {
	var v Verifier
	for _, text := range texts {
		if err := v.File(strings.NewReader(text)); err != nil {
			return v.Summary(), err
		}
	}
	return v.Summary(), nil
}

func TestChainGoesOnOverRestartsAndTornLines(t *testing.T) {
	l, path := open(t, Options{})
	for i := range 3 {
		l.must(t, entry(i))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Record(entry(9)); err == nil {
		t.Error("a closed log takes entries")
	}
	f, _ := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	_, _ = f.WriteString(`{"seq":4,"ti`) // a crash
	f.Close()
	l, _ = open(t, Options{Path: path})
	l.must(t, entry(3))
	s, err := verify(read(t, path))
	if err != nil || s.Lines != 4 || s.First != 1 || s.Last != 4 || s.Begin != "2023-11-14T22:13:20.000000005Z" || len(s.Head) != 64 {
		t.Fatalf("%+v, %v", s, err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestTamperingIsFound(t *testing.T) {
	l, path := open(t, Options{})
	for i := range 6 {
		l.must(t, entry(i))
	}
	good := read(t, path)
	lines := strings.SplitAfter(strings.TrimSuffix(good, "\n"), "\n")
	lines[5] += "\n"
	join := func(parts ...string) string { return strings.Join(parts, "") }
	for name, text := range map[string]string{
		"a line changed":     strings.Replace(good, "127.0.0.1:2", "127.0.0.1:7", 1),
		"the last changed":   strings.Replace(good, "127.0.0.1:5", "127.0.0.1:7", 1),
		"a line removed":     join(append(lines[:2:2], lines[3:]...)...),
		"two swapped":        join(lines[0], lines[2], lines[1], lines[3], lines[4], lines[5]),
		"one repeated":       join(lines[0], lines[0], lines[1]),
		"a line inserted":    join(lines[0], strings.Replace(lines[0], `"seq":1`, `"seq":2`, 1), lines[1]),
		"cut in the middle":  good[:len(good)-10],
		"something else":     good + "hello\n",
		"an empty line":      good + "\n",
		"a member after":     strings.Replace(good, `"}`+"\n", `","x":1}`+"\n", 1),
		"a line without end": good + strings.Repeat("x", lineBytesMax+1),
		"the hash made anew": rehash(t, lines, 2),
	} {
		if s, err := verify(text); err == nil {
			t.Errorf("%s: %+v", name, s)
		} else if name == "a line changed" && !strings.HasPrefix(err.Error(), "line 3: ") {
			t.Errorf("%v", err)
		}
	}
	// Lines that are missing at the end show against a head that was noted.
	short, err := verify(join(lines[:4]...))
	if whole, _ := verify(good); err != nil || short.Head == whole.Head {
		t.Errorf("%v", err)
	}
	if _, err := verify(join(lines[2:]...)); err != nil {
		t.Errorf("older lines that were thrown away: %v", err)
	}
}

// rehash changes a line as one would who knows how the hash is made.
func rehash(t *testing.T, lines []string, i int) string {
	t.Helper()
	e := entry(77)
	p, err := parse([]byte(strings.TrimSpace(lines[i])))
	if err != nil {
		t.Fatal(err)
	}
	text, _, err := encode(&line{Seq: p.Seq, Time: p.Time, Entry: &e, Prev: p.Prev})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines[:i], "") + string(text) + strings.Join(lines[i+1:], "")
}

func TestRotation(t *testing.T) {
	l, path := open(t, Options{FileBytes: 1000, Files: 3})
	for i := range 20 {
		l.must(t, entry(i))
	}
	texts := []string{read(t, path+".2"), read(t, path+".1"), read(t, path)}
	s, err := verify(texts...)
	if err != nil || s.Last != 20 || s.First < 3 {
		t.Fatalf("%+v, %v", s, err)
	}
	if _, err := verify(texts[0], texts[2]); err == nil {
		t.Error("a file that is missing is not found")
	}
	if _, err := os.Stat(path + ".3"); err == nil {
		t.Error("more files than allowed")
	}
	for _, text := range texts {
		if len(text) > 1000 {
			t.Errorf("a file of %d bytes", len(text))
		}
	}
	// A crash between the rename and the next line.
	_ = l.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	last, _ := verify(texts[1])
	l, _ = open(t, Options{Path: path, FileBytes: 1000, Files: 3})
	l.must(t, entry(1))
	if s, err := verify(texts[1], read(t, path)); err != nil || s.Last != last.Last+1 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestAFileThatCannotBeTurnedIsTriedAgain(t *testing.T) {
	l, path := open(t, Options{FileBytes: 500, Files: 2})
	l.must(t, entry(0))
	if err := os.MkdirAll(filepath.Join(path+".1", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for i := range 3 {
		if l.Record(entry(i)) != nil {
			failed++
		}
	}
	if failed == 0 {
		t.Fatal("the file was turned onto a directory")
	}
	if err := os.RemoveAll(path + ".1"); err != nil {
		t.Fatal(err)
	}
	l.must(t, entry(4))
	if _, err := verify(read(t, path+".1"), read(t, path)); err != nil {
		t.Error(err)
	}
}

func TestAFileThatIsNoLogIsPutAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte("hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	l, _ := open(t, Options{Path: path})
	l.must(t, entry(1))
	if s, err := verify(read(t, path)); err != nil || s.First != 1 || read(t, path+".1") != "hello\n" {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestFloodsAreCounted(t *testing.T) {
	l, path := open(t, Options{DeniedPerSecond: 1})
	denied := entry(1)
	denied.Status = 401
	for range 100 {
		l.must(t, denied)
	}
	l.must(t, entry(2)) // an act of administration is always logged
	for range 7 {
		l.must(t, denied)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := verify(read(t, path))
	if err != nil || s.Lines != 11+1+1 || s.Unlogged != 89+7 {
		t.Errorf("%+v, %v", s, err)
	}
}

func FuzzVerify(f *testing.F) {
	e := entry(1)
	text, hash, err := encode(&line{Seq: 1, Time: "t", Entry: &e, Prev: genesis})
	if err != nil {
		f.Fatal(err)
	}
	next, _, _ := encode(&line{Seq: 2, Time: "t", Entry: &e, Prev: hash})
	f.Add(bytes.Join([][]byte{text, next}, nil))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v Verifier
		if err := v.File(bytes.NewReader(b)); err == nil && int(v.Summary().Lines) != bytes.Count(b, []byte("\n")) {
			t.Fatalf("%+v of %q", v.Summary(), b)
		}
	})
}
