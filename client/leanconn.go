package client

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/quorate-db/quorate/kv"
)

const (
	// headBytesMax bounds the status line and header of an answer.
	headBytesMax = 64 << 10
	// inlineBodyMax is up to which size a body is copied behind the head, so that
	// both go out in one packet.
	inlineBodyMax = 16 << 10
)

// leanConn is one connection, used by one request at a time.
type leanConn struct {
	nc   net.Conn
	in   *bufio.Reader
	out  []byte // reused for the heads of requests
	used time.Time

	answering bool // a byte of the answer to the current request has come

	// The last values of two header fields that rarely change, so that they are
	// not allocated again for each answer.
	lastContentType string
	lastServedBy    string
}

func newLeanConn(nc net.Conn) *leanConn {
	return &leanConn{nc: nc, in: bufio.NewReaderSize(nc, 4<<10), out: make([]byte, 0, 512)}
}

// interrupt makes reads and writes on the connection fail at once.
func (c *leanConn) interrupt() { c.nc.SetDeadline(time.Unix(1, 0)) }

func (c *leanConn) write(head, body []byte) error {
	if len(body) == 0 {
		_, err := c.nc.Write(head)
		return err
	}
	if len(body) <= inlineBodyMax {
		c.out = append(head, body...)
		_, err := c.nc.Write(c.out)
		return err
	}
	parts := net.Buffers{head, body}
	_, err := parts.WriteTo(c.nc)
	return err
}

// read reads one answer; informational ones before it are skipped.
func (c *leanConn) read(bodyMax int64) (response, bool, error) {
	for {
		h, err := c.readHead()
		if err != nil {
			return response{}, false, err
		}
		if h.resp.status >= 100 && h.resp.status < 200 {
			if h.resp.status == 101 {
				return response{}, false, errors.New("the server switched protocols unasked")
			}
			continue
		}
		if err := c.readBody(&h, bodyMax); err != nil {
			return response{}, false, err
		}
		return h.resp, h.keepAlive && c.in.Buffered() == 0, nil
	}
}

// head is what the start of an answer says.
type head struct {
	resp      response
	length    int64 // of the body; -1 = not told
	chunked   bool
	old       bool // HTTP/1.0
	keepAlive bool
	etag      kv.Version
}

func (c *leanConn) readHead() (head, error) {
	h := head{length: -1}
	line, err := c.in.ReadSlice('\n')
	if len(line) > 0 {
		c.answering = true
	}
	if err != nil {
		return h, headError(err)
	}
	if err := h.statusLine(trimLine(line)); err != nil {
		return h, err
	}
	for size := len(line); ; {
		if line, err = c.in.ReadSlice('\n'); err != nil {
			return h, headError(err)
		}
		if size += len(line); size > headBytesMax {
			return h, errors.New("the answer's header is too large")
		}
		if line = trimLine(line); len(line) == 0 {
			break
		}
		name, value, ok := bytes.Cut(line, []byte{':'})
		if !ok || len(name) == 0 || name[len(name)-1] == ' ' || name[0] == ' ' || name[0] == '\t' {
			return h, fmt.Errorf("bad header line %q in the answer", line)
		}
		if err := c.field(&h, name, bytes.Trim(value, " \t")); err != nil {
			return h, err
		}
	}
	if h.resp.version == 0 {
		h.resp.version = h.etag
	}
	if h.chunked && (h.old || h.length >= 0) {
		// RFC 9112 §6.1 and §6.3: framing that two readers may understand differently.
		return h, errors.New("the answer says twice how long it is")
	}
	return h, nil
}

func headError(err error) error {
	if errors.Is(err, bufio.ErrBufferFull) {
		return errors.New("a header line of the answer is too long")
	}
	return err
}

func trimLine(line []byte) []byte {
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line
}

// statusLine reads "HTTP/1.1 200 OK".
func (h *head) statusLine(line []byte) error {
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) || line[8] != ' ' || (len(line) > 12 && line[12] != ' ') {
		return fmt.Errorf("not an answer of HTTP/1: %.64q", line)
	}
	for _, d := range line[9:12] {
		if d < '0' || d > '9' {
			return fmt.Errorf("bad status in %.64q", line)
		}
		h.resp.status = h.resp.status*10 + int(d-'0')
	}
	if h.resp.status < 100 {
		return fmt.Errorf("bad status in %.64q", line)
	}
	h.old = line[7] == '0'
	h.keepAlive = !h.old
	return nil
}

// field takes what is of use from one header field. Names are told apart by
// length first, as most are of no interest.
func (c *leanConn) field(h *head, name, value []byte) error {
	switch len(name) {
	case len("ETag"):
		if is(name, "etag") {
			h.etag = parseVersion(bytes.Trim(bytes.TrimPrefix(value, []byte("W/")), `"`))
		}
	case len("Connection"):
		if is(name, "connection") && is(value, "close") {
			h.keepAlive = false
		}
	case len("Retry-After"):
		if is(name, "retry-after") {
			h.resp.retryAfter = parseRetryAfter(string(value))
		}
	case len("Content-Type"):
		if is(name, "content-type") {
			h.resp.contentType = again(&c.lastContentType, value)
		}
	case len("Quorate-Shard"):
		if is(name, "quorate-shard") {
			h.resp.shard = kv.ShardID(parseVersion(value))
		}
	case len("Content-Length"):
		if is(name, "content-length") {
			return h.contentLength(value)
		}
	case len("Quorate-Version"): // Quorate-Expires and Quorate-Deleted are as long
		switch {
		case is(name, "quorate-version"):
			h.resp.version = parseVersion(value)
		case is(name, "quorate-expires"):
			h.resp.expires = string(value)
		case is(name, "quorate-deleted"):
			h.resp.deleted, _ = strconv.Atoi(string(value))
		}
	case len("Quorate-Replayed"):
		if is(name, "quorate-replayed") {
			h.resp.replayed = is(value, "true")
		}
	case len("Quorate-Served-By"): // Transfer-Encoding is as long
		switch {
		case is(name, "quorate-served-by"):
			h.resp.servedBy = again(&c.lastServedBy, value)
		case is(name, "transfer-encoding"):
			if !is(value, "chunked") {
				return fmt.Errorf("transfer encoding %q is not known", value)
			}
			h.chunked = true
		}
	case len("Quorate-Consistency"):
		if is(name, "quorate-consistency") {
			h.resp.consistency = consistencyOf(value)
		}
	}
	return nil
}

func (h *head) contentLength(value []byte) error {
	n, err := strconv.ParseUint(string(value), 10, 63)
	if err != nil || (h.length >= 0 && h.length != int64(n)) {
		return fmt.Errorf("bad Content-Length %q in the answer", value)
	}
	h.length = int64(n)
	return nil
}

// is compares an ASCII text with a lower-case one, whatever the former's case.
func is(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i := range b {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// again gives b as a string, the one before if it is the same.
func again(last *string, b []byte) string {
	if string(b) != *last {
		*last = string(b)
	}
	return *last
}

func consistencyOf(b []byte) kv.Consistency {
	switch string(b) {
	case string(kv.Linearizable):
		return kv.Linearizable
	case string(kv.Stale):
		return kv.Stale
	}
	return kv.Consistency(b)
}

// parseVersion reads decimal digits; what is not a version is zero.
func parseVersion(b []byte) kv.Version {
	if len(b) == 0 || len(b) > 20 {
		return 0
	}
	v, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil {
		return 0
	}
	return kv.Version(v)
}

func (c *leanConn) readBody(h *head, limit int64) error {
	var err error
	switch {
	case h.resp.status == 204 || h.resp.status == 304:
		return nil
	case h.chunked:
		h.resp.body, err = c.readChunks(limit)
		return err
	case h.length > limit:
		return errBodyTooLarge
	case h.length == 0:
		return nil
	case h.length > 0:
		h.resp.body = make([]byte, h.length)
		if _, err = io.ReadFull(c.in, h.resp.body); errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	h.keepAlive = false // the end of the connection ends the body
	h.resp.body, err = io.ReadAll(io.LimitReader(c.in, limit+1))
	if err == nil && int64(len(h.resp.body)) > limit {
		err = errBodyTooLarge
	}
	return err
}

func (c *leanConn) readChunks(limit int64) ([]byte, error) {
	var body []byte
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return nil, headError(err)
		}
		digits, _, _ := strings.Cut(string(trimLine(line)), ";")
		n, err := strconv.ParseUint(strings.TrimSpace(digits), 16, 62)
		if err != nil {
			return nil, fmt.Errorf("bad chunk size %q in the answer", digits)
		}
		if n == 0 {
			return body, c.skipTrailer()
		}
		if int64(n) > limit-int64(len(body)) {
			return nil, errBodyTooLarge
		}
		from := len(body)
		body = append(body, make([]byte, n)...)
		if _, err := io.ReadFull(c.in, body[from:]); err != nil {
			return nil, io.ErrUnexpectedEOF
		}
		if end, err := c.in.ReadSlice('\n'); err != nil || len(trimLine(end)) != 0 {
			return nil, errors.New("a chunk of the answer does not end where it says")
		}
	}
}

// skipTrailer reads up to the empty line that ends a chunked body.
func (c *leanConn) skipTrailer() error {
	for size := 0; ; {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return headError(err)
		}
		if len(trimLine(line)) == 0 {
			return nil
		}
		if size += len(line); size > headBytesMax {
			return textproto.ProtocolError("the answer's trailer is too large")
		}
	}
}
