package httpd

import (
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// bodyBytesFirst is what is allocated for a body before any of it has come: a
// declared length costs the sender nothing.
const bodyBytesFirst = 64 << 10

// readBody reads the whole body within limit bytes (invariant 1). The caller owns
// the result.
func (x *exchange) readBody(limit int64) ([]byte, error) {
	declared := x.r.ContentLength
	if declared > limit {
		return nil, bodyTooLarge(limit)
	}
	if declared == 0 {
		return nil, nil
	}
	rc := http.NewResponseController(x.w)
	// A body that trickles in may not hold its place beyond the deadline. A writer
	// without deadlines (in tests) has nobody who trickles.
	if err := rc.SetReadDeadline(x.deadline); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, invalid("the body cannot be read")
	}
	size := declared
	if declared < 0 || declared > bodyBytesFirst {
		size = bodyBytesFirst
	}
	buf, err := x.grow(nil, size)
	if err != nil {
		return nil, err
	}
	body := x.r.Body
	if declared < 0 {
		body = http.MaxBytesReader(x.w, body, limit)
	}
	for {
		n, err := body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		x.bytesIn += int64(n)
		if err == io.EOF || (err == nil && int64(len(buf)) == declared) {
			break
		}
		if err != nil {
			return nil, bodyError(err, limit)
		}
		if len(buf) == cap(buf) {
			next := min(2*int64(cap(buf)), limit+1)
			if declared > 0 {
				next = min(next, declared)
			}
			if buf, err = x.grow(buf, next); err != nil {
				return nil, err
			}
		}
	}
	// The rest of the request needs no read deadline: the connection is watched
	// for the client going away. Where it is not supported none was set.
	if err := rc.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, invalid("the body cannot be read")
	}
	return buf, nil
}

// grow moves a body into a larger buffer, against the server's byte budget.
func (x *exchange) grow(buf []byte, size int64) ([]byte, error) {
	more := size - int64(cap(buf))
	if no := x.await(x.ctx, size-max(paceFree, int64(cap(buf)))); no != nil {
		no.close = true // the rest of the body is in the way
		return nil, no
	}
	if !x.takeBody(more) {
		p := refusal(kv.CodeOverloaded, "too many bytes of request bodies are held at this node")
		p.close = true
		return nil, p
	}
	return append(make([]byte, 0, size), buf...), nil
}

func bodyTooLarge(limit int64) *problem {
	p := tooLarge("the body has more than "+strconv.FormatInt(limit, 10)+" bytes", limit)
	p.close = true // the rest of the body is in the way
	return p
}

func bodyError(err error, limit int64) error {
	var over *http.MaxBytesError
	if errors.As(err, &over) {
		return bodyTooLarge(limit)
	}
	var p *problem
	var ne net.Error
	if errors.Is(err, os.ErrDeadlineExceeded) || (errors.As(err, &ne) && ne.Timeout()) {
		p = refusal(kv.CodeTimeout, "the body did not arrive in time")
	} else {
		p = invalid("the body broke off: " + err.Error())
	}
	p.close = true
	return p
}

// noBody refuses a body where none has a meaning.
func (x *exchange) noBody() error {
	if x.r.ContentLength == 0 {
		return nil
	}
	b, err := x.readBody(1)
	if err == nil && len(b) == 0 {
		return nil
	}
	if err == nil || kv.CodeOf(err) == kv.CodeTooLarge {
		p := invalid("this request takes no body")
		p.close = true
		return p
	}
	return err
}

// mediaType gives the media type of the body without its parameters.
func (x *exchange) mediaType() (string, error) {
	v, ok, err := x.header("Content-Type")
	if err != nil || !ok {
		return "", err
	}
	if v == "application/json" {
		return v, nil
	}
	mt, params, err := mime.ParseMediaType(v)
	if err != nil {
		return "", refusal(codeUnsupportedMedia, "Content-Type: "+err.Error())
	}
	if cs, ok := params["charset"]; ok && !strings.EqualFold(cs, "utf-8") {
		return "", refusal(codeUnsupportedMedia, "Content-Type: only charset utf-8 is taken")
	}
	return mt, nil
}

// jsonBody reads a body that must be JSON, or NDJSON where that is allowed.
// Insisting on the type also keeps HTML forms of other origins out.
func (x *exchange) jsonBody(ndjsonToo bool) (body []byte, ndjson bool, err error) {
	mt, err := x.mediaType()
	if err != nil {
		return nil, false, err
	}
	ndjson = ndjsonToo && mt == "application/x-ndjson"
	if mt != "application/json" && !ndjson {
		want := "application/json"
		if ndjsonToo {
			want += " or application/x-ndjson"
		}
		return nil, false, refusal(codeUnsupportedMedia, "send Content-Type: "+want)
	}
	if err := x.plainBody(); err != nil {
		return nil, false, err
	}
	body, err = x.readBody(kv.JSONBodyBytesMax)
	return body, ndjson, err
}

// plainBody refuses bodies in a content coding: bytes are stored as they come
// and would be served without it.
func (x *exchange) plainBody() error {
	if v := x.r.Header["Content-Encoding"]; len(v) > 0 && (len(v) > 1 || !strings.EqualFold(v[0], "identity")) {
		return refusal(codeUnsupportedMedia, "bodies in a Content-Encoding are not taken")
	}
	return nil
}

// format is what a route can answer with.
type format int

const (
	formatJSON format = iota
	formatNDJSON
)

// accept picks JSON or NDJSON by the Accept header (RFC 9110 §12.5.1); the
// preferred one wins a tie. ndjsonToo says that the route has both.
func (x *exchange) accept(preferred format, ndjsonToo bool) (format, error) {
	lines := x.r.Header["Accept"]
	if len(lines) == 0 || (len(lines) == 1 && lines[0] == "*/*") {
		return preferred, nil
	}
	qJSON, qNDJSON := -1.0, -1.0
	specJSON, specNDJSON := 0, 0
	for _, part := range strings.Split(strings.Join(lines, ","), ",") {
		mt, q, ok := acceptRange(part)
		if !ok {
			continue
		}
		consider := func(name string, best *float64, bestSpec *int) {
			if spec := matches(mt, name); spec > *bestSpec || (spec == *bestSpec && spec > 0 && q > *best) {
				*best, *bestSpec = q, spec
			}
		}
		consider("application/json", &qJSON, &specJSON)
		if ndjsonToo {
			consider("application/x-ndjson", &qNDJSON, &specNDJSON)
		}
	}
	switch {
	case qJSON <= 0 && qNDJSON <= 0:
		want := "application/json"
		if ndjsonToo {
			want += ", application/x-ndjson"
		}
		return 0, refusal(codeNotAcceptable, "this route serves "+want)
	case qJSON == qNDJSON:
		return preferred, nil
	case qJSON > qNDJSON:
		return formatJSON, nil
	default:
		return formatNDJSON, nil
	}
}

// acceptRange reads one media range and its weight.
func acceptRange(part string) (mediaRange string, q float64, ok bool) {
	mediaRange, params, _ := strings.Cut(part, ";")
	mediaRange = strings.ToLower(strings.TrimSpace(mediaRange))
	q = 1
	for params != "" {
		var p string
		p, params, _ = strings.Cut(params, ";")
		name, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(name, "q") {
			var err error
			if q, err = strconv.ParseFloat(v, 64); err != nil || q < 0 || q > 1 {
				return "", 0, false
			}
		}
	}
	return mediaRange, q, mediaRange != ""
}

// matches tells how specifically a media range names a type: 0 = not at all.
func matches(mediaRange, name string) int {
	switch mediaRange {
	case name:
		return 3
	case "application/*":
		return 2
	case "*/*":
		return 1
	}
	return 0
}
