package httpd

import (
	"bytes"
	"encoding/base64"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/quorate-db/quorate/kv"
)

// reader pulls JSON (RFC 8259) out of a body, strictly (invariants 3 and 4):
// bytes must be exact UTF-8, escapes must name whole characters, names may not
// repeat, nothing may follow the document. It never recurses: it descends only
// where the caller knows a field, so depth is bounded by what callers expect, and
// an unknown field is an error at its name, however deep its value is.
//
// The first error sticks; after it every method returns zero values.
type reader struct {
	data []byte
	pos  int
	err  *problem
	path []step
}

// step is one step of the way to the value that is being read.
type step struct {
	name  string
	index int // when name is ""
}

func (r *reader) fail(detail string) {
	if r.err != nil {
		return
	}
	where := ""
	for _, s := range r.path {
		if s.name == "" {
			where += "[" + strconv.Itoa(s.index) + "]"
			continue
		}
		if where != "" {
			where += "."
		}
		where += s.name
	}
	if where == "" {
		where = "body"
	}
	r.err = invalid(where + ": " + detail + " (at byte " + strconv.Itoa(r.pos) + ")")
}

// next skips white space and gives the byte that follows, 0 at the end.
func (r *reader) next() byte {
	for r.pos < len(r.data) {
		switch c := r.data[r.pos]; c {
		case ' ', '\t', '\n', '\r':
			r.pos++
		default:
			return c
		}
	}
	return 0
}

// eat takes one byte if it is the next.
func (r *reader) eat(c byte) bool {
	if r.err == nil && r.next() == c && r.pos < len(r.data) {
		r.pos++
		return true
	}
	return false
}

// end insists that nothing follows.
func (r *reader) end() error {
	if r.err == nil && (r.next() != 0 || r.pos < len(r.data)) {
		r.fail("something follows the end")
	}
	if r.err != nil {
		return r.err
	}
	return nil
}

// fields are the names that one kind of object knows, at most 32.
type fields []string

// object reads an object and calls field for each of its members with the index
// of its name in known; field must read the value. It gives the set of names that
// occurred, bit i for known[i].
func (r *reader) object(known fields, field func(i int)) (seen uint32) {
	if !r.eat('{') {
		r.fail("want an object")
		return 0
	}
	if r.eat('}') {
		return 0
	}
	for r.err == nil {
		name := r.str()
		i := 0
		for i < len(known) && known[i] != string(name) {
			i++
		}
		switch {
		case r.err != nil:
			return seen
		case i == len(known):
			r.fail("unknown field " + quoted(name))
			return seen
		case seen&(1<<i) != 0:
			r.fail("field " + quoted(name) + " is given more than once")
			return seen
		}
		seen |= 1 << i
		if !r.eat(':') {
			r.fail("want a colon")
			return seen
		}
		r.path = append(r.path, step{name: known[i]})
		field(i)
		if r.err != nil {
			return seen
		}
		r.path = r.path[:len(r.path)-1]
		if r.eat('}') {
			return seen
		}
		if !r.eat(',') {
			r.fail("want a comma or the end of the object")
		}
	}
	return seen
}

// quoted shows a name in an error, cut where it is long.
func quoted(name []byte) string {
	if len(name) > 40 {
		name = append(bytes.Clone(name[:40]), "..."...)
	}
	return strconv.Quote(string(name))
}

// array reads an array of at most limit elements and calls element for each.
func (r *reader) array(limit int, element func(i int)) {
	if !r.eat('[') {
		r.fail("want an array")
		return
	}
	if r.eat(']') {
		return
	}
	for i := 0; r.err == nil; i++ {
		if i == limit {
			r.tooMany(limit)
			return
		}
		r.path = append(r.path, step{index: i})
		element(i)
		if r.err != nil {
			return
		}
		r.path = r.path[:len(r.path)-1]
		if r.eat(']') {
			return
		}
		if !r.eat(',') {
			r.fail("want a comma or the end of the array")
		}
	}
}

func (r *reader) tooMany(limit int) {
	r.fail("more than " + strconv.Itoa(limit) + " elements")
	r.err.err.Code, r.err.limit = kv.CodeTooLarge, int64(limit)
}

// str reads a string. The result may be a part of the body.
func (r *reader) str() []byte {
	if !r.eat('"') {
		r.fail("want a string")
		return nil
	}
	start := r.pos
	ascii := true
	for r.pos < len(r.data) {
		c := r.data[r.pos]
		switch {
		case c == '"':
			s := r.data[start:r.pos:r.pos]
			if !ascii && !utf8.Valid(s) {
				r.fail("the text is not UTF-8; send other bytes as base64")
				return nil
			}
			r.pos++
			return s
		case c == '\\':
			return r.escaped(start)
		case c < ' ':
			r.fail("a control character must be escaped")
			return nil
		case c >= utf8.RuneSelf:
			ascii = false
		}
		r.pos++
	}
	r.fail("the string does not end")
	return nil
}

// escaped reads on from the first escape in a string.
func (r *reader) escaped(start int) []byte {
	out := append(make([]byte, 0, r.pos-start+32), r.data[start:r.pos]...)
	for r.pos < len(r.data) {
		c := r.data[r.pos]
		r.pos++
		switch {
		case c == '"':
			if !utf8.Valid(out) {
				r.fail("the text is not UTF-8; send other bytes as base64")
				return nil
			}
			return out
		case c < ' ':
			r.fail("a control character must be escaped")
			return nil
		case c != '\\':
			out = append(out, c)
		default:
			var ok bool
			if out, ok = r.escape(out); !ok {
				r.fail("an escape that names no character")
				return nil
			}
		}
	}
	r.fail("the string does not end")
	return nil
}

// escape reads what follows a backslash.
func (r *reader) escape(out []byte) ([]byte, bool) {
	if r.pos >= len(r.data) {
		return out, false
	}
	c := r.data[r.pos]
	r.pos++
	switch c {
	case '"', '\\', '/':
		return append(out, c), true
	case 'b':
		return append(out, '\b'), true
	case 'f':
		return append(out, '\f'), true
	case 'n':
		return append(out, '\n'), true
	case 'r':
		return append(out, '\r'), true
	case 't':
		return append(out, '\t'), true
	case 'u':
		u, ok := r.hex4()
		if !ok {
			return out, false
		}
		if !utf16.IsSurrogate(u) {
			return utf8.AppendRune(out, u), true
		}
		// A pair, or half a character, which would be stored as another.
		if !bytes.HasPrefix(r.data[r.pos:], []byte(`\u`)) {
			return out, false
		}
		r.pos += 2
		low, ok := r.hex4()
		if full := utf16.DecodeRune(u, low); ok && full != utf8.RuneError {
			return utf8.AppendRune(out, full), true
		}
	}
	return out, false
}

func (r *reader) hex4() (rune, bool) {
	if len(r.data)-r.pos < 4 {
		return 0, false
	}
	var v rune
	for _, c := range r.data[r.pos : r.pos+4] {
		v <<= 4
		switch {
		case '0' <= c && c <= '9':
			v |= rune(c - '0')
		case 'a' <= c && c <= 'f':
			v |= rune(c - 'a' + 10)
		case 'A' <= c && c <= 'F':
			v |= rune(c - 'A' + 10)
		default:
			return 0, false
		}
	}
	r.pos += 4
	return v, true
}

// boolean reads true or false.
func (r *reader) boolean() bool {
	r.next()
	for _, word := range [...]string{"true", "false"} {
		if r.err == nil && bytes.HasPrefix(r.data[r.pos:], []byte(word)) {
			r.pos += len(word)
			return word == "true"
		}
	}
	r.fail("want true or false")
	return false
}

// count reads a number from 1 to limit, written in digits alone.
func (r *reader) count(limit int) int {
	r.next()
	start := r.pos
	for r.pos < len(r.data) && '0' <= r.data[r.pos] && r.data[r.pos] <= '9' {
		r.pos++
	}
	n, err := strconv.Atoi(string(r.data[start:r.pos]))
	if err != nil || n < 1 || n > limit || r.data[start] == '0' {
		r.fail("want a number from 1 to " + strconv.Itoa(limit))
		return 0
	}
	return n
}

// base64 reads bytes that were written as base64 (RFC 4648 §4, padded).
func (r *reader) base64() []byte {
	text := r.str()
	out := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Strict().Decode(out, text)
	if err != nil || bytes.ContainsAny(text, "\r\n") {
		r.fail("want base64 with padding")
		return nil
	}
	return out[:n]
}

// version reads a version: a string of decimal digits.
func (r *reader) version() kv.Version {
	text := r.str()
	if r.err != nil {
		return 0
	}
	v, err := kv.ParseVersion(string(text))
	if err != nil {
		r.fail("want a version: a string of decimal digits, not 0")
	}
	return v
}

// key holds a key to its limits. Those are 400 in JSON, not 414.
func (r *reader) key(b []byte) []byte {
	if r.err == nil && len(b) < kv.KeyBytesMin {
		r.fail("a key has at least one byte")
	}
	return r.keyPart(b)
}

// keyPart holds a prefix or a bound to its limits; it may be empty.
func (r *reader) keyPart(b []byte) []byte {
	if r.err == nil && len(b) > kv.KeyBytesMax {
		r.fail("a key has at most " + strconv.Itoa(kv.KeyBytesMax) + " bytes")
		r.err.err.Code, r.err.status, r.err.limit = kv.CodeKeyTooLong, 400, kv.KeyBytesMax
	}
	return b
}

// value holds a value to its limit.
func (r *reader) value(b []byte) []byte {
	if r.err == nil && len(b) > kv.ValueBytesMax {
		r.fail("a value has at most " + strconv.Itoa(kv.ValueBytesMax) + " bytes")
		r.err.err.Code, r.err.limit = kv.CodeTooLarge, kv.ValueBytesMax
	}
	return b
}
