package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

const (
	// pageBytesMax bounds the lines that one page is made of.
	pageBytesMax = 1 << 20
	// windowBytes is how much of a file is held while it is read from its end.
	windowBytes = 2 * lineBytesMax
	// stampBytesMax is where in a line its time has ended: the number comes before it.
	stampBytesMax = 96
)

// Query asks for the newest entries of a log in [Since, Before); a zero time is no bound.
type Query struct {
	Limit  int       `json:"limit"`
	Since  time.Time `json:"since,omitzero"`
	Before time.Time `json:"before,omitzero"`
}

// Logged is an entry as it stands in the log.
type Logged struct {
	Seq      uint64    `json:"seq"`
	Time     time.Time `json:"time"`
	Unlogged uint64    `json:"unlogged,omitempty"` // before this one
	Entry
	Hash string `json:"hash"`
}

// Page is the answer to a Query.
type Page struct {
	Entries []Logged `json:"entries"` // the newest first
	More    bool     `json:"more"`    // older ones are there that the query asks for too
	Damaged int      `json:"damaged"` // lines on the way that are none, or were changed
}

// Newest reads the log from its end, over the files before too, and holds little more
// than the page. It stops at the first entry older than q.Since. It does not hold up
// Record while it reads. That lines follow on each other it does not check: Verifier does.
func (l *Log) Newest(ctx context.Context, q Query) (Page, error) {
	files, err := l.files()
	defer func() {
		for _, f := range files {
			_ = f.Close() // was only read
		}
	}()
	if err != nil {
		return Page{}, fmt.Errorf("audit log: %w", err)
	}
	r := backwards{query: q, window: make([]byte, windowBytes)}
	for _, f := range files {
		if done, err := r.file(ctx, f); err != nil {
			return Page{}, fmt.Errorf("audit log: %w", err)
		} else if done {
			break
		}
	}
	return r.page, nil
}

// files opens all files, the newest first. They are of one moment: when one is turned
// later, what was opened stays the same files.
func (l *Log) files() (files []*os.File, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.New("closed")
	}
	for n := range l.opts.Files {
		path := l.opts.Path
		if n > 0 {
			path = l.older(n)
		}
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, nil
}

// backwards puts a page together, from the newest line to older ones.
type backwards struct {
	query  Query
	window []byte
	page   Page
	bytes  int // of the lines in page
}

// file reads a file from its end, and reports that the page is complete.
func (r *backwards) file(ctx context.Context, f *os.File) (done bool, err error) {
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	for end := info.Size(); end > 0; {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		from := max(0, end-windowBytes)
		b := r.window[:end-from]
		if _, err := f.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		begin := 0 // of the first line that is whole
		if from > 0 {
			begin = bytes.IndexByte(b, '\n') + 1
		}
		if from > 0 && (begin == 0 || begin == len(b)) { // longer than any line
			r.page.Damaged++
			end = from
			continue
		}
		if r.lines(b[begin:]) {
			return true, nil
		}
		end = from + int64(begin)
	}
	return false, nil
}

// lines takes the lines of b, the last first. What comes after the last line break was
// cut off, or is being written.
func (r *backwards) lines(b []byte) (done bool) {
	b = b[:bytes.LastIndexByte(b, '\n')+1]
	for len(b) > 0 {
		b = b[:len(b)-1]
		at := bytes.LastIndexByte(b, '\n') + 1
		if r.line(b[at:]) {
			return true
		}
		b = b[:at]
	}
	return false
}

func (r *backwards) line(text []byte) (done bool) {
	// Most lines of a log that is searched are not wanted: those cost no more than this.
	if at, ok := stamp(text); ok {
		if !r.query.Before.IsZero() && !at.Before(r.query.Before) {
			return false
		}
		if at.Before(r.query.Since) {
			return true
		}
	}
	e, err := decode(text)
	if err != nil {
		r.page.Damaged++
		return false
	}
	n := len(r.page.Entries)
	if n >= r.query.Limit || n > 0 && r.bytes+len(text) > pageBytesMax {
		r.page.More = true
		return true
	}
	r.page.Entries = append(r.page.Entries, e)
	r.bytes += len(text)
	return false
}

// stamp gives the time of a line without reading the rest of it.
func stamp(text []byte) (time.Time, bool) {
	_, rest, _ := bytes.Cut(text[:min(len(text), stampBytesMax)], []byte(`"time":"`))
	value, _, ok := bytes.Cut(rest, []byte(`"`))
	at, err := time.Parse(time.RFC3339Nano, string(value))
	return at, ok && err == nil
}

// decode reads a line whose hash is right.
func decode(text []byte) (Logged, error) {
	p, err := parse(text)
	if err != nil {
		return Logged{}, err
	}
	if p.sum != p.hash {
		return Logged{}, errors.New("its hash is wrong")
	}
	var e Logged
	err = json.Unmarshal(text, &e)
	return e, err
}
