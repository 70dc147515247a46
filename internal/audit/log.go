// Package audit keeps a node's audit log: a line of JSON for each request that was
// denied and each act of administration, each with the hash of the one before it.
//
// What the chain proves: whoever changes, removes or inserts a line has to write every
// later one anew. So a hash that was noted elsewhere (the head that verifying prints)
// vouches for all lines up to it. That lines are missing at the end shows against
// such a head alone.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Entry is one line, without what the log adds to it.
type Entry struct {
	Node    string `json:"node"`
	Token   string `json:"token,omitempty"` // the id; absent: nobody known
	Name    string `json:"name,omitempty"`  // of the token
	Method  string `json:"method"`
	Route   string `json:"route"`
	Target  string `json:"target,omitempty"`
	From    string `json:"from"`
	Status  int    `json:"status"`
	Code    string `json:"code,omitempty"`
	Outcome string `json:"outcome,omitempty"`
}

// line is an entry as it is written. Its hash follows as the last member.
type line struct {
	Seq      uint64 `json:"seq"`
	Time     string `json:"time"`
	Unlogged uint64 `json:"unlogged,omitempty"` // entries before this one that were too many
	*Entry
	Prev string `json:"prev"`
}

const (
	hashMember = `,"hash":"`
	tailLength = len(hashMember) + 2*sha256.Size + len(`"}`)
	// lineBytesMax bounds a line when it is read.
	lineBytesMax = 64 << 10
)

// genesis stands for the hash before the first line.
var genesis = hex.EncodeToString(make([]byte, sha256.Size))

// Options say where a log is and how large it may grow. A zero takes the default.
type Options struct {
	Path      string
	FileBytes int64 // of one file: 16 MiB
	Files     int   // with the one that is written: 8
	// DeniedPerSecond bounds the lines of denied requests, so that whoever is not let
	// in can neither fill the disk nor push older lines out quickly: 100, ten times as
	// many at once. The others are counted in the next line.
	DeniedPerSecond float64
	Now             func() time.Time
}

// Log appends to an audit log. It may be used from any goroutine.
type Log struct {
	opts   Options
	denied *rate.Limiter

	mu       sync.Mutex
	closed   bool
	file     *os.File // nil: closed, or turning it failed
	size     int64
	seq      uint64
	prev     string
	unlogged uint64
}

// Open opens a log, or begins one. A last line that was cut off by a crash is taken
// away; the chain goes on from the one before it. A file whose last line is no line of
// a log is put aside as if it was full, and a new chain begins.
func Open(opts Options) (*Log, error) {
	if opts.FileBytes == 0 {
		opts.FileBytes = 16 << 20
	}
	if opts.Files == 0 {
		opts.Files = 8
	}
	if opts.DeniedPerSecond == 0 {
		opts.DeniedPerSecond = 100
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	l := &Log{opts: opts, prev: genesis, denied: rate.NewLimiter(rate.Limit(opts.DeniedPerSecond), int(10*opts.DeniedPerSecond)+1)}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return l, nil
}

func (l *Log) open() error {
	f, err := os.OpenFile(l.opts.Path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	end, last, err := tail(f)
	if err == nil {
		err = f.Truncate(end)
	}
	if err == nil {
		_, err = f.Seek(end, io.SeekStart)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.file, l.size = f, end
	switch {
	case end > 0 && last == nil:
		return l.rotate()
	case end > 0:
		l.seq, l.prev = last.Seq, last.hash
	default:
		return l.resume()
	}
	return nil
}

// resume goes on from the file before an empty one: a crash came between the two.
func (l *Log) resume() error {
	f, err := os.Open(l.older(1))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if _, last, err := tail(f); err != nil {
		return err
	} else if last != nil {
		l.seq, l.prev = last.Seq, last.hash
	}
	return nil
}

// tail finds the end of the last whole line, and reads that line: nil if there is
// none, or it is none of a log.
func tail(f *os.File) (end int64, last *parsed, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, nil, err
	}
	from := max(0, info.Size()-2*lineBytesMax)
	b := make([]byte, info.Size()-from)
	if _, err := f.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
		return 0, nil, err
	}
	n := bytes.LastIndexByte(b, '\n')
	if n < 0 {
		return 0, nil, nil
	}
	end, b = from+int64(n)+1, b[:n]
	last, _ = parse(b[bytes.LastIndexByte(b, '\n')+1:])
	return end, last, nil
}

// older gives the path of the nth file before the one that is written.
func (l *Log) older(n int) string { return l.opts.Path + "." + strconv.Itoa(n) }

// rotate puts the file aside and begins another; the chain goes on.
func (l *Log) rotate() error {
	err := errors.Join(l.file.Sync(), l.file.Close())
	l.file = nil
	if err != nil {
		return err
	}
	for n := l.opts.Files - 1; n > 1; n-- {
		if err := os.Rename(l.older(n-1), l.older(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if l.opts.Files > 1 {
		if err := os.Rename(l.opts.Path, l.older(1)); err != nil {
			return err
		}
	}
	l.file, err = os.OpenFile(l.opts.Path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	l.size = 0
	return err
}

// Record appends an entry. It survives the end of the process, and that of the machine
// once the system has written it. After an error the log tries again with the next.
func (l *Log) Record(e Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if isDenied(e.Status) && !l.denied.AllowN(l.opts.Now(), 1) {
		l.unlogged++
		return nil
	}
	return l.appendLocked(&e)
}

func isDenied(status int) bool { return status == 401 || status == 403 }

func (l *Log) appendLocked(e *Entry) error {
	if l.closed {
		return errors.New("audit log: closed")
	}
	if err := l.reopen(); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	text, hash, err := encode(&line{Seq: l.seq + 1, Time: l.opts.Now().UTC().Format(time.RFC3339Nano), Unlogged: l.unlogged, Entry: e, Prev: l.prev})
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	if l.size > 0 && l.size+int64(len(text)) > l.opts.FileBytes {
		if err := l.rotate(); err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
	}
	if n, err := l.file.Write(text); err != nil {
		// What was written in part must not stand before the next line.
		_, seekErr := l.file.Seek(l.size, io.SeekStart)
		if n > 0 {
			err = errors.Join(err, l.file.Truncate(l.size), seekErr)
		}
		return fmt.Errorf("audit log: %w", err)
	}
	l.size += int64(len(text))
	l.seq, l.prev, l.unlogged = l.seq+1, hash, 0
	return nil
}

// reopen makes good for a file that could not be turned.
func (l *Log) reopen() error {
	if l.file != nil {
		return nil
	}
	f, err := os.OpenFile(l.opts.Path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if l.size, err = f.Seek(0, io.SeekEnd); err != nil {
		return errors.Join(err, f.Close())
	}
	l.file = f
	return nil
}

// encode gives a line with its hash, and the hash.
func encode(in *line) (text []byte, hash string, err error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256(body)
	hash = hex.EncodeToString(sum[:])
	text = append(body[:len(body)-1], hashMember...)
	text = append(text, hash...)
	return append(text, '"', '}', '\n'), hash, nil
}

// Close writes how many entries were not logged last, if any, and closes the file.
// Later entries are refused.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	var err error
	if l.unlogged > 0 {
		err = l.appendLocked(&Entry{Method: "-", Route: "-", From: "-"})
	}
	l.closed = true
	if l.file == nil {
		return err
	}
	err = errors.Join(err, l.file.Sync(), l.file.Close())
	l.file = nil
	return err
}
