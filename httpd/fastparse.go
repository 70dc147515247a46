package httpd

import (
	"bytes"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
)

const (
	// fastHeadMax and fastBodyMax bound what is read here of one request; larger ones
	// are net/http's.
	fastHeadMax = 8 << 10
	fastBodyMax = 24 << 10
	// fastFieldsMax bounds its header lines.
	fastFieldsMax = 48
)

// verdict is what the parser makes of the bytes that have come.
type verdict int

const (
	fastWhole   verdict = iota // a whole plain request
	fastPartial                // what there is may be the beginning of one
	fastOther                  // anything else: net/http is to judge it
)

// fastRequest is one request, parsed into memory that the next one reuses.
type fastRequest struct {
	http   *http.Request // made once; its fields are set anew
	values [fastFieldsMax]string
	fields int
	host   bool // a Host line was seen
	length int  // of the body; -1: no Content-Length line
	body   fastBody
}

// fastBody is a body that is there already.
type fastBody struct{ bytes.Reader }

// Close does nothing.
func (*fastBody) Close() error { return nil }

// fieldNames gives the canonical form of the names that our clients send, so that
// they need not be computed and allocated.
var fieldNames = func() map[string]string {
	names := map[string]string{}
	for _, n := range []string{
		"Accept", "Accept-Encoding", "Content-Length", "Content-Type", "Host", "Idempotency-Key", "If-Match", "If-None-Match",
		"Quorate-Timeout", "User-Agent", "Connection", "Traceparent", "Authorization", "Origin", "Sec-Fetch-Site",
	} {
		names[n], names[strings.ToLower(n)] = n, n
	}
	return names
}()

// fieldsOfOthers are the header lines with which a request is not plain: they change
// how long it is, what the connection is for, or what net/http makes of it.
var fieldsOfOthers = map[string]bool{
	"Transfer-Encoding": true, "Expect": true, "Upgrade": true, "Trailer": true, "Te": true, "Pragma": true,
	"Keep-Alive": true, "Proxy-Connection": true, "Http2-Settings": true,
}

// parse looks at the beginning of what has come. A whole request is in r then, and
// is n bytes long; its body aliases b.
//
// It takes only requests that can be read in one way: one of five methods on a path
// of one key, HTTP/1.1, lines that end with CR LF and hold printable ASCII, one Host,
// at most one Content-Length of digits. It never answers that a request is bad.
func (r *fastRequest) parse(b []byte) (n int, v verdict) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if len(b) > fastHeadMax || !mayBecomeFast(b) {
			return 0, fastOther
		}
		return 0, fastPartial
	}
	if end > fastHeadMax {
		return 0, fastOther
	}
	text := string(b[:end+2]) // every line ends with CR LF
	line, rest, _ := strings.Cut(text, "\r\n")
	if !r.requestLine(line) || !r.header(rest) {
		return 0, fastOther
	}
	end += 4
	size := max(r.length, 0)
	if len(b) < end+size {
		return 0, fastPartial
	}
	r.http.ContentLength, r.http.Body = int64(size), http.NoBody
	if size > 0 {
		r.body.Reset(b[end : end+size])
		r.http.Body = &r.body
	}
	return end + size, fastWhole
}

// mayBecomeFast tells early what cannot be a request for a key: whoever sends
// something else waits for an answer, perhaps before its next byte.
func mayBecomeFast(b []byte) bool {
	for _, m := range fastMethods {
		start := m + " " + keyPrefix
		n := min(len(b), len(start))
		if string(b[:n]) == start[:n] {
			return true
		}
	}
	return false
}

var fastMethods = [...]string{http.MethodGet, http.MethodPut, http.MethodHead, http.MethodDelete, http.MethodPost}

func (r *fastRequest) requestLine(line string) bool {
	method, rest, _ := strings.Cut(line, " ")
	target, proto, ok := strings.Cut(rest, " ")
	if !ok || proto != "HTTP/1.1" || !strings.HasPrefix(target, keyPrefix) || !printable(target) {
		return false
	}
	known := false
	for _, m := range fastMethods {
		known = known || m == method
	}
	u, err := url.ParseRequestURI(target)
	if !known || err != nil {
		return false
	}
	r.http.Method, r.http.RequestURI, r.http.URL = method, target, u
	return true
}

// header reads header lines, each with its CR LF.
func (r *fastRequest) header(text string) bool {
	clear(r.http.Header)
	clear(r.values[:r.fields])
	r.fields, r.host, r.length = 0, false, -1
	r.http.Host = ""
	for text != "" {
		line, rest, _ := strings.Cut(text, "\r\n")
		text = rest
		name, value, ok := strings.Cut(line, ":")
		if !ok || r.fields == fastFieldsMax || !r.field(name, strings.Trim(value, " \t")) {
			return false
		}
	}
	return r.host
}

func (r *fastRequest) field(name, value string) bool {
	if !isToken(name) || !printable(value) {
		return false
	}
	canonical, ok := fieldNames[name]
	if !ok {
		canonical = textproto.CanonicalMIMEHeaderKey(name)
	}
	switch {
	case fieldsOfOthers[canonical]:
		return false
	case canonical == "Connection" && !strings.EqualFold(value, "keep-alive"):
		return false
	case canonical == "Host":
		again := r.host
		r.host, r.http.Host = true, value
		return !again && plainHost(value)
	case canonical == "Content-Length":
		again := r.length >= 0
		r.length = 0
		for i := range len(value) {
			if r.length = 10*r.length + int(value[i]-'0'); value[i] < '0' || value[i] > '9' || r.length > fastBodyMax {
				return false
			}
		}
		if again || value == "" {
			return false
		}
	}
	r.values[r.fields] = value
	if earlier := r.http.Header[canonical]; earlier != nil {
		r.http.Header[canonical] = append(earlier, value) // moves: its capacity is 1
	} else {
		r.http.Header[canonical] = r.values[r.fields : r.fields+1 : r.fields+1]
	}
	r.fields++
	return true
}

// plainHost reports whether a Host is a name or address, perhaps with a port.
func plainHost(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !isAlphanumeric(c) && c != '.' && c != ':' && c != '-' && c != '_' && c != '[' && c != ']' {
			return false
		}
	}
	return s != ""
}

// printable reports whether text is printable ASCII: no control characters, no
// bare CR or LF.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func isToken(s string) bool {
	for i := range len(s) {
		if !isAlphanumeric(s[i]) && !strings.Contains("!#$%&'*+-.^_`|~", s[i:i+1]) {
			return false
		}
	}
	return s != ""
}
