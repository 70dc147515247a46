package httpd

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/quorate-db/quorate/kv"
)

// FuzzString compares the reader of strings with encoding/json: what is taken
// means the same, and what is refused is what encoding/json refuses or repairs.
func FuzzString(f *testing.F) {
	for _, s := range []string{`"a"`, `"\ud83d\ude00"`, `"\ud800"`, `"\ud800\u0041"`, `"é\n\/"`, "\"\xff\"", `"\u00e9"`, "\"\x01\"", `"`, `"\`, `"\u12`, `"\ufffd"`, ` "a" `} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &reader{data: data}
		got := r.str()
		ours := r.end()
		var want string
		theirs := json.Unmarshal(data, &want)
		if bytes.Equal(bytes.TrimSpace(data), []byte("null")) {
			return // encoding/json leaves the string alone
		}
		if ours == nil && (theirs != nil || string(got) != want) {
			t.Errorf("%q: read %q, encoding/json %q (%v)", data, got, want, theirs)
		}
		if ours != nil && theirs == nil && !strings.Contains(want, "\ufffd") {
			t.Errorf("%q: refused (%v), encoding/json read %q", data, ours, want)
		}
		if ours == nil {
			back := appendString(nil, got)
			var again string
			if err := json.Unmarshal(back, &again); err != nil || again != string(got) {
				t.Errorf("%q was written as %q: %v", got, back, err)
			}
		}
	})
}

// FuzzBytes checks that any bytes survive being written as a member.
func FuzzBytes(f *testing.F) {
	f.Add([]byte("text"))
	f.Add([]byte("\x00\xff"))
	f.Add([]byte("\ufffd\u2028<&>"))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc := append(appendBytes([]byte{'{'}, "k", data), '}')
		var got struct {
			K    *string `json:"k"`
			KB64 []byte  `json:"k_b64"`
		}
		if err := json.Unmarshal(doc, &got); err != nil {
			t.Fatalf("%q: %v", doc, err)
		}
		if utf8.Valid(data) != (got.K != nil) {
			t.Fatalf("%q: in the wrong field: %s", data, doc)
		}
		back := got.KB64
		if got.K != nil {
			back = []byte(*got.K)
		}
		if !bytes.Equal(back, data) {
			t.Errorf("%q came back as %q", data, back)
		}
	})
}

// FuzzBodies sends anything to the routes that take JSON: no answer but a valid
// one, and what is taken is what encoding/json would have taken.
func FuzzBodies(f *testing.F) {
	for _, s := range []string{`{"if":[{"key":"a","version":"1"}],"then":[{"op":"put","key":"a","value":"b","ttl":"1s"}],"else":[{"op":"get","key":"a"}]}`,
		`{"ops":[{"op":"add","key":"a","delta":"1","if_match":["1","2"]},{"op":"delete","key_b64":"YQ=="}]}`,
		`{"gets":[{"key":"a"}],"ranges":[{"prefix":"a","limit":5,"reverse":true,"cursor":"AA"}],"consistency":"stale","max_staleness":"1s"}`} {
		for route := range 5 {
			f.Add(route, []byte(s))
		}
	}
	for _, s := range badJSON {
		if len(s) < 200 {
			f.Add(0, []byte(strings.ReplaceAll(s, "OBJ", `"then"`)))
		}
	}
	f.Add(4, []byte(`{"name":"n","grants":[{"role":"reader","prefix":"a"},{"role":"writer","prefix_b64":"/w==","deny":true}],"ttl":"1h","rate":0.5}`))
	d, tokens := newFakeData(), &fakeAccess{}
	s := New(Options{Data: d, Cluster: &fakeCluster{}, Health: &fakeHealth{}, Tokens: tokens, Self: testNode})
	f.Fuzz(func(t *testing.T, route int, body []byte) {
		route = int(uint(route) % 5)
		target := []string{"/v1/txn", "/v1/batch", "/v1/query", "/v1/batch", "/v1/tokens"}[route]
		clear(d.items)
		tokens.setLocked(nil)
		req := httptest.NewRequest("POST", target, bytes.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		ndjson := route == 3
		if ndjson {
			req.Header.Set("Content-Type", "application/x-ndjson")
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, req)
		switch w.Code {
		case 400, 409, 412, 413:
		case 200, 201:
			if !ndjson && !json.Valid(body) {
				t.Errorf("%s took %q", target, body)
			}
		default:
			t.Errorf("%s with %q: %d %s", target, body, w.Code, w.Body)
		}
		for _, line := range lines(w.Body.String()) {
			if !json.Valid([]byte(line)) {
				t.Errorf("%s with %q answered %q", target, body, line)
			}
		}
	})
}

// FuzzCursor checks that nothing but the encoder's own output is taken.
func FuzzCursor(f *testing.F) {
	req := kv.ScanRequest{Start: []byte("a"), End: []byte("q"), Delimiter: []byte("/"), PrefixLen: 1}
	f.Add(encodeCursor(&req, []byte("b")), false)
	f.Add("AAAA", true)
	f.Fuzz(func(t *testing.T, cursor string, reverse bool) {
		paged := req
		paged.Reverse = reverse
		of := paged
		if err := resume(&paged, cursor); err != nil {
			if kv.CodeOf(err) != kv.CodeInvalid {
				t.Errorf("%q: %v", cursor, err)
			}
			return
		}
		at := paged.Start
		if reverse {
			at = paged.End
		}
		if encodeCursor(&of, at) != cursor {
			t.Errorf("%q was taken, the cursor of %q is %q", cursor, at, encodeCursor(&of, at))
		}
	})
}

// FuzzKey checks that the key is exactly the decoded rest of the path.
func FuzzKey(f *testing.F) {
	for _, c := range oddKeys {
		f.Add(c.path)
	}
	d := newFakeData()
	s := New(Options{Data: d, Cluster: &fakeCluster{}, Health: &fakeHealth{}, Self: testNode})
	f.Fuzz(func(t *testing.T, path string) {
		clear(d.items)
		u, err := url.ParseRequestURI(keyPrefix + path)
		if err != nil || u.RawQuery != "" || u.ForceQuery {
			return
		}
		key := strings.TrimPrefix(u.Path, keyPrefix)
		req := httptest.NewRequest("PUT", "/", strings.NewReader("v"))
		req.URL = u
		w := httptest.NewRecorder()
		s.ServeHTTP(w, req)
		want := 201
		switch {
		case key == "":
			want = 400
		case len(key) > kv.KeyBytesMax:
			want = 414
		}
		if w.Code != want || (d.items[key] != nil) != (want == 201) {
			t.Errorf("%q: %d, want %d; written: %v", path, w.Code, want, d.items)
		}
	})
}
