package client

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// The bodies that the server takes and gives. Text that is UTF-8 travels as it
// is, other bytes as base64 in the field with _b64; encoding/json writes and
// reads []byte so.

// decimal is a 64-bit number that JSON carries as a string, or as a number
// where it is small. Versions above 1<<63 keep their bits.
type decimal int64

// UnmarshalJSON reads "12", 12 and null.
func (d *decimal) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	if s == "null" || s == "" {
		return nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		*d = decimal(n)
		return nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return fmt.Errorf("%q is not a number", s)
	}
	*d = decimal(n)
	return nil
}

// instant is a point in time in RFC 3339, or milliseconds since the Unix epoch.
type instant time.Time

// UnmarshalJSON reads either form and null.
func (t *instant) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	if s == "null" || s == "" {
		return nil
	}
	*t = instant(parseExpires(s))
	return nil
}

// wireText is a key or value in a body: text or base64.
type wireText struct {
	text  *string
	bytes []byte
}

func textOf(s string) wireText {
	if asText(s) {
		return wireText{text: &s}
	}
	return wireText{bytes: []byte(s)}
}

func textOfBytes(b []byte) wireText {
	if b == nil {
		b = []byte{}
	}
	if s := string(b); asText(s) {
		return wireText{text: &s}
	}
	return wireText{bytes: b}
}

func stringOf(text *string, b []byte) string {
	if text != nil {
		return *text
	}
	return string(b)
}

func bytesOf(text *string, b []byte) []byte {
	if text != nil {
		return []byte(*text)
	}
	return b
}

type wireItem struct {
	itemFields
	Version decimal `json:"version"`
}

type itemFields struct {
	Key         *string `json:"key"`
	KeyB64      []byte  `json:"key_b64"`
	Value       *string `json:"value"`
	ValueB64    []byte  `json:"value_b64"`
	ContentType string  `json:"content_type"`
	Expires     instant `json:"expires"`
}

func (w *wireItem) item() Item { return w.itemFields.item(kv.Version(w.Version)) }

func (w *itemFields) item(v kv.Version) Item {
	return Item{
		Key:         stringOf(w.Key, w.KeyB64),
		Value:       bytesOf(w.Value, w.ValueB64),
		Version:     v,
		ContentType: w.ContentType,
		Expires:     time.Time(w.Expires),
	}
}

func itemsOf(in []wireItem) []Item {
	out := make([]Item, len(in))
	for i := range in {
		out[i] = in[i].item()
	}
	return out
}

// decodeBody reads a JSON answer. Fields that this release does not know are
// skipped: the server may be newer.
func decodeBody(resp *response, into any) error {
	if err := json.Unmarshal(resp.body, into); err != nil {
		return fmt.Errorf("the answer is not what it should be: %w", err)
	}
	return nil
}

// garbled is the error of an answer that says success and cannot be read.
func (c *Client) garbled(req *request, resp *response, err error) *Error {
	e := &Error{Code: kv.CodeInternal, Outcome: kv.OutcomeApplied, Status: resp.status, Detail: err.Error(), Cause: err, Attempts: 1}
	if req.read {
		e.Outcome = kv.OutcomeNone
	}
	return e
}

// post makes a request with a JSON body.
func post(target string, read bool, body any) (request, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return request{}, fmt.Errorf("client: encode the body of %s: %w", target, err)
	}
	return request{method: http.MethodPost, target: target, body: b, read: read, contentType: "application/json"}, nil
}
