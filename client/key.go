package client

import (
	"encoding/base64"
	"strings"
	"unicode/utf8"
)

// keyPathPlain says which bytes of a key go into a path as they are: RFC 3986's
// unreserved characters and the slash.
var keyPathPlain = func() (plain [256]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/" {
		plain[c] = true
	}
	return plain
}()

const upperHex = "0123456789ABCDEF"

// keyTarget gives the path of a key, and query, which is "" or begins with
// something else than a question mark. Keys that a proxy on the way might
// normalise into other keys, and keys of bytes that would all be escaped, go as base64url.
func keyTarget(key, query string) string {
	escapes := 0
	for i := range len(key) {
		if !keyPathPlain[key[i]] {
			escapes++
		}
	}
	const prefix = "/v1/kv/"
	var b []byte
	if fragile(key) || escapes > len(key)/2 {
		b = make([]byte, 0, len(prefix)+base64.RawURLEncoding.EncodedLen(len(key))+len("?enc=base64url&")+len(query))
		b = append(b, prefix...)
		b = base64.RawURLEncoding.AppendEncode(b, []byte(key))
		b = append(b, "?enc=base64url"...)
		if query != "" {
			b = append(b, '&')
			b = append(b, query...)
		}
		return string(b)
	}
	if escapes == 0 && query == "" {
		return prefix + key
	}
	b = make([]byte, 0, len(prefix)+len(key)+2*escapes+1+len(query))
	b = append(b, prefix...)
	for i := range len(key) {
		if c := key[i]; keyPathPlain[c] {
			b = append(b, c)
		} else {
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	if query != "" {
		b = append(b, '?')
		b = append(b, query...)
	}
	return string(b)
}

// fragile reports whether a path with this key has segments that something on
// the way might remove: empty ones, "." and "..". The empty key is sent as it is
// and refused by the server.
func fragile(key string) bool {
	if key == "" {
		return false
	}
	if key[0] == '/' || key[len(key)-1] == '/' || strings.Contains(key, "//") {
		return true
	}
	if strings.IndexByte(key, '.') < 0 {
		return false
	}
	for s := range strings.SplitSeq(key, "/") {
		if s == "." || s == ".." {
			return true
		}
	}
	return false
}

// queryString collects parameters of a request.
type queryString struct{ b []byte }

// add appends a parameter with a text of any bytes.
func (q *queryString) add(name, value string) {
	if len(q.b) > 0 {
		q.b = append(q.b, '&')
	}
	q.b = append(q.b, name...)
	q.b = append(q.b, '=')
	for i := range len(value) {
		if c := value[i]; keyPathPlain[c] {
			q.b = append(q.b, c)
		} else {
			q.b = append(q.b, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
}

func (q *queryString) String() string { return string(q.b) }

// asText reports whether bytes can go into JSON as a string and come back the same.
func asText(s string) bool { return utf8.ValidString(s) }
