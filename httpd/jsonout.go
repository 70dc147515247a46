package httpd

import (
	"encoding/base64"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// appendString appends text as a JSON string. Text that is not UTF-8 (only in
// words of ours that quote something) loses the bytes that are not.
func appendString[T string | []byte](b []byte, s T) []byte {
	const digits = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
			if r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
		}
		b = append(b, s[start:i]...)
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c == '\t':
			b = append(b, '\\', 't')
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		default:
			b = append(b, `\ufffd`...)
		}
		i++
		start = i
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

// appendBytes appends a member: "name" if the bytes are text, "name_b64" if not.
func appendBytes(b []byte, name string, v []byte) []byte {
	b = append(b, '"')
	b = append(b, name...)
	if utf8.Valid(v) {
		b = append(b, '"', ':')
		return appendString(b, v)
	}
	b = append(b, `_b64":"`...)
	b = base64.StdEncoding.AppendEncode(b, v)
	return append(b, '"')
}

// appendExpires appends the member "expires", if the key does expire, with a
// comma before it.
func appendExpires(b []byte, ms int64) []byte {
	if ms == 0 {
		return b
	}
	b = append(b, `,"expires":"`...)
	b = time.UnixMilli(ms).UTC().AppendFormat(b, expiryLayout)
	return append(b, '"')
}

func appendVersion(b []byte, name string, v uint64) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, `":"`...)
	b = strconv.AppendUint(b, v, 10)
	return append(b, '"')
}

// appendItem appends an item as an object.
func appendItem(b []byte, it *kvpb.Item, keysOnly bool) []byte {
	b = append(b, '{')
	b = appendItemMembers(b, it, keysOnly)
	return append(b, '}')
}

func appendItemMembers(b []byte, it *kvpb.Item, keysOnly bool) []byte {
	b = appendBytes(b, "key", it.Key)
	if !keysOnly {
		b = append(b, ',')
		b = appendBytes(b, "value", it.Value)
	}
	b = appendVersion(b, "version", it.Version)
	if it.ContentType != "" {
		b = append(b, `,"content_type":`...)
		b = appendString(b, it.ContentType)
	}
	return appendExpires(b, it.ExpiresMs)
}

// appendPage appends a page's items and prefixes as members of an object.
func appendPage(b []byte, page *kv.Page, keysOnly bool, next string) []byte {
	b = append(b, `"items":[`...)
	for i, it := range page.Items {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendItem(b, it, keysOnly)
	}
	b = append(b, `],"common_prefixes":[`...)
	text, other := 0, 0
	for _, p := range page.CommonPrefixes {
		if !utf8.Valid(p) {
			other++
			continue
		}
		if text > 0 {
			b = append(b, ',')
		}
		b = appendString(b, p)
		text++
	}
	b = append(b, ']')
	if other > 0 {
		b = appendOtherPrefixes(b, page.CommonPrefixes)
	}
	if next != "" {
		b = append(b, `,"next":`...)
		b = appendString(b, next)
	}
	return b
}

// appendOtherPrefixes appends the prefixes that are not text.
func appendOtherPrefixes(b []byte, prefixes [][]byte) []byte {
	b = append(b, `,"common_prefixes_b64":[`...)
	first := true
	for _, p := range prefixes {
		if utf8.Valid(p) {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, p)
		b = append(b, '"')
	}
	return append(b, ']')
}

func appendChecks(b []byte, checks []kv.Check) []byte {
	b = append(b, '[')
	for i, c := range checks {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"name":`...)
		b = appendString(b, c.Name)
		b = append(b, `,"ok":`...)
		b = strconv.AppendBool(b, c.OK)
		if c.Detail != "" {
			b = append(b, `,"detail":`...)
			b = appendString(b, c.Detail)
		}
		b = append(b, '}')
	}
	return append(b, ']')
}
