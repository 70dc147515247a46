package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
)

// Summary is what a log that was verified holds.
type Summary struct {
	Lines       uint64
	First, Last uint64 // sequence numbers
	Begin, End  string // times
	Unlogged    uint64
	Head        string // the hash of the last line
	Wanted      bool   // a line had the hash that was looked for
}

// parsed is what verifying needs of a line.
type parsed struct {
	Seq      uint64 `json:"seq"`
	Time     string `json:"time"`
	Prev     string `json:"prev"`
	Unlogged uint64 `json:"unlogged"`
	hash     string // as it is written in the line
	sum      string // as it is
}

// parse reads a line without its line break.
func parse(text []byte) (*parsed, error) {
	at := len(text) - tailLength
	if at < 1 || !bytes.HasPrefix(text[at:], []byte(hashMember)) || !bytes.HasSuffix(text, []byte(`"}`)) {
		return nil, fmt.Errorf("not a line of an audit log: it does not end with its hash")
	}
	body := append(bytes.Clone(text[:at]), '}')
	p := &parsed{hash: string(text[at+len(hashMember) : len(text)-2])}
	if err := json.Unmarshal(body, p); err != nil {
		return nil, fmt.Errorf("not a line of an audit log: %w", err)
	}
	sum := sha256.Sum256(body)
	p.sum = hex.EncodeToString(sum[:])
	return p, nil
}

// Verifier goes through the files of a log, the oldest first.
type Verifier struct {
	Want  string // a hash to look for
	sum   Summary
	begun bool
}

// File checks the lines of one file, and that they go on from the file before it. The
// first line of all may follow on anything: older files are thrown away in time. The
// error names the first line that is wrong.
func (v *Verifier) File(r io.Reader) error {
	in := bufio.NewReaderSize(r, lineBytesMax)
	for number := 1; ; number++ {
		text, err := in.ReadSlice('\n')
		switch {
		case err == io.EOF && len(text) == 0:
			return nil
		case err == io.EOF:
			return fmt.Errorf("line %d: cut off", number)
		case err != nil:
			return fmt.Errorf("line %d: %w", number, err)
		}
		if err := v.line(text[:len(text)-1]); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
	}
}

func (v *Verifier) line(text []byte) error {
	p, err := parse(text)
	switch {
	case err != nil:
		return err
	case p.sum != p.hash:
		return fmt.Errorf("its hash is wrong: the line was changed")
	case v.begun && p.Prev != v.sum.Head:
		return fmt.Errorf("it does not follow on the line before it (sequence number %d after %d)", p.Seq, v.sum.Last)
	case v.begun && p.Seq != v.sum.Last+1:
		return fmt.Errorf("sequence number %d follows %d", p.Seq, v.sum.Last)
	}
	if !v.begun {
		v.begun, v.sum.First, v.sum.Begin = true, p.Seq, p.Time
	}
	v.sum.Wanted = v.sum.Wanted || p.hash == v.Want
	v.sum.Lines++
	v.sum.Unlogged += p.Unlogged
	v.sum.Last, v.sum.End, v.sum.Head = p.Seq, p.Time, p.hash
	return nil
}

// Summary tells what was found so far.
func (v *Verifier) Summary() Summary { return v.sum }
