package httpd

import (
	"context"
	"encoding/json"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/quorate-db/quorate/kv"
)

type pageDoc struct {
	Items []struct {
		Key     string `json:"key"`
		KeyB64  []byte `json:"key_b64"`
		Value   *string
		Version string
	}
	CommonPrefixes    []string `json:"common_prefixes"`
	CommonPrefixesB64 [][]byte `json:"common_prefixes_b64"`
	Next              string
}

func (r *rig) page(target string) (pageDoc, answer) {
	r.t.Helper()
	a := r.want(r.do("GET", target, ""), 200)
	var p pageDoc
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		r.t.Fatal(err)
	}
	return p, a
}

func (p *pageDoc) keys() string {
	var out []string
	for _, it := range p.Items {
		out = append(out, it.Key+string(it.KeyB64))
	}
	return strings.Join(out, " ")
}

func fill(r *rig, keys ...string) {
	for _, k := range keys {
		r.want(r.do("PUT", keyPrefix+escape(k), "v"+k), 201)
	}
}

func TestScan(t *testing.T) {
	r := newRig(t)
	fill(r, "a", "b/1", "b/2", "c", "\xff\x01", "\xff\x02")
	for target, want := range map[string]string{
		"/v1/kv":                                         "a b/1 b/2 c \xff\x01 \xff\x02",
		"/v1/kv?prefix=b/":                               "b/1 b/2",
		"/v1/kv?prefix=":                                 "a b/1 b/2 c \xff\x01 \xff\x02",
		"/v1/kv?prefix=%ff":                              "\xff\x01 \xff\x02",
		"/v1/kv?prefix=_w&enc=base64url":                 "\xff\x01 \xff\x02",
		"/v1/kv?start=b&end=c":                           "b/1 b/2",
		"/v1/kv?start=b/2":                               "b/2 c \xff\x01 \xff\x02",
		"/v1/kv?end=b/2&reverse":                         "b/1 a",
		"/v1/kv?end=b/2&reverse=true&limit=10000":        "b/1 a",
		"/v1/kv?end=b/2&reverse=false&consistency=stale": "a b/1",
		"/v1/kv?start=c&end=a":                           "",
	} {
		if p, a := r.page(target); p.keys() != want || p.Next != "" || a.header.Get("Link") != "" || a.header.Get("Quorate-Shard") != "2" {
			t.Errorf("%s: %q %v", target, p.keys(), a.header)
		}
	}
	p, _ := r.page("/v1/kv?limit=1&keys_only")
	if p.Items[0].Value != nil || p.Items[0].Version == "" {
		t.Errorf("keys_only: %+v", p)
	}
	p, _ = r.page("/v1/kv?delimiter=/")
	if p.keys() != "a c \xff\x01 \xff\x02" || strings.Join(p.CommonPrefixes, " ") != "b/" {
		t.Errorf("delimiter: %+v", p)
	}
	p, _ = r.page("/v1/kv?prefix=%ff&delimiter=%01")
	if p.keys() != "\xff\x02" || len(p.CommonPrefixes) != 0 || string(p.CommonPrefixesB64[0]) != "\xff\x01" {
		t.Errorf("binary common prefix: %+v", p)
	}
	for _, bad := range []string{"prefix=a&start=b", "prefix=a&end=b", "end=", "limit=0", "limit=-1", "limit=10001", "limit=x", "limit=1e3", "reverse=yes", "keys_only=1",
		"delimiter=", "prefx=a", "cursor=", "start=a&start=b", "all=true", "enc=base32", "prefix=!&enc=base64url"} {
		r.want(r.do("GET", "/v1/kv?"+bad, ""), 400, "invalid")
	}
	r.want(r.do("GET", "/v1/kv?prefix="+strings.Repeat("x", 4097), ""), 414, "key_too_long")
	r.want(r.do("GET", "/v1/kv", "", "Accept", "text/html"), 406, "not_acceptable")
}

func TestPagesFollowTheirCursorsAndLinks(t *testing.T) {
	r := newRig(t)
	fill(r, "a", "b", "c&d=?", "d", "\xffe")
	for _, params := range []string{"", "&reverse", "&prefix=", "&keys_only=true"} {
		var got []string
		for target := "/v1/kv?limit=2" + params; target != ""; {
			p, a := r.page(target)
			if k := p.keys(); k != "" {
				got = append(got, k)
			}
			link := a.header.Get("Link")
			if (link == "") != (p.Next == "") {
				t.Fatalf("next %q but Link %q", p.Next, link)
			}
			target = ""
			if m := regexp.MustCompile(`^<(/v1/kv\?.*)>; rel="next"$`).FindStringSubmatch(link); m != nil {
				target = m[1]
			}
		}
		want := "a b c&d=? d \xffe"
		if params == "&reverse" {
			want = "\xffe d c&d=? b a"
		}
		if all := strings.Join(got, " "); all != want {
			t.Errorf("pages with %q: %q, want %q", params, all, want)
		}
	}
}

func TestCursorsAreBoundToTheirScan(t *testing.T) {
	r := newRig(t)
	fill(r, "a", "b", "c")
	p, _ := r.page("/v1/kv?limit=1&end=c")
	next := url.QueryEscape(p.Next)
	if p, _ := r.page("/v1/kv?limit=2&end=c&consistency=stale&cursor=" + next); p.keys() != "b" {
		t.Errorf("the limit may change: %+v", p)
	}
	for _, other := range []string{"", "end=b", "end=c&start=a", "end=c&reverse", "end=c&keys_only", "end=c&delimiter=/", "end=c&at=5", "prefix=c"} {
		r.want(r.do("GET", "/v1/kv?"+other+"&cursor="+next, ""), 400, "invalid")
	}
	req := kv.ScanRequest{End: []byte("c")}
	for _, bad := range []string{p.Next[1:], p.Next + "A", p.Next[:len(p.Next)-2], "AAAA", "!", strings.Repeat("A", 9000), strings.ToUpper(p.Next), p.Next[:5] + "\r\n" + p.Next[5:],
		encodeCursor(&req, []byte("d"))} {
		r.want(r.do("GET", "/v1/kv?limit=1&end=c&cursor="+url.QueryEscape(bad), ""), 400, "invalid")
	}
	req = kv.ScanRequest{Start: []byte("b")}
	r.want(r.do("GET", "/v1/kv?start=b&cursor="+encodeCursor(&req, []byte("a")), ""), 400, "invalid")
}

func TestStream(t *testing.T) {
	r := newRig(t)
	ndjson := []string{"Accept", "application/x-ndjson"}
	for i := range 2500 {
		r.data.items[string(rune('a'+i%26))+strings.Repeat("x", i/26)] = nil
	}
	for k := range r.data.items {
		it := *itemOf(k)
		r.data.items[k] = &it
	}
	a := r.want(r.do("GET", "/v1/kv", "", ndjson...), 200)
	if n := strings.Count(a.body, "\n"); n != 2500 || strings.Contains(a.body, `"next"`) || a.header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("whole range: %d lines, %v", n, a.header)
	}
	// A limit leaves a cursor, and the two halves are the whole.
	first := r.want(r.do("GET", "/v1/kv?limit=1300", "", ndjson...), 200)
	next := cursorOf(t, first.body)
	rest := r.want(r.do("GET", "/v1/kv?cursor="+next, "", ndjson...), 200)
	if both := first.body[:strings.LastIndex(first.body, `{"next"`)] + rest.body; both != a.body {
		t.Error("the halves are not the whole")
	}
	a = r.want(r.do("GET", "/v1/kv?prefix=z&delimiter=x&reverse", "", ndjson...), 200)
	if !regexp.MustCompile(`^\{"common_prefix":"zx"\}\n\{"key":"z",.*\}\n$`).MatchString(a.body) {
		t.Errorf("delimiter: %s", a.body)
	}
	r.want(r.do("HEAD", "/v1/kv", "", ndjson...), 200)

	// It breaks in the middle: the last line tells why and where to go on.
	calls := 0
	r.data.fail = func(context.Context, string) error {
		if calls++; calls == 2 {
			return kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "no leader")
		}
		return nil
	}
	a = r.want(r.do("GET", "/v1/kv", "", ndjson...), 200)
	if n := strings.Count(a.body, "\n"); n != streamPageItems+1 || !strings.Contains(a.body, `"code":"unavailable"`) || !strings.Contains(a.body, `"next"`) {
		t.Errorf("broken stream: %d lines: %s", n, a.body[max(0, len(a.body)-300):])
	}
	rest = r.want(r.do("GET", "/v1/kv?cursor="+cursorOf(t, a.body), "", ndjson...), 200)
	if n := strings.Count(rest.body, "\n"); n != 1500 {
		t.Errorf("%d lines after the break", n)
	}
	// It breaks at the start: an ordinary problem.
	calls = 1
	r.want(r.do("GET", "/v1/kv", "", ndjson...), 503, "unavailable")
}

func cursorOf(t *testing.T, body string) string {
	t.Helper()
	m := regexp.MustCompile(`"next":"([^"]+)"\}\n$`).FindStringSubmatch(body)
	if m == nil {
		t.Fatalf("no cursor in %s", body[max(0, len(body)-300):])
	}
	return m[1]
}

func TestStreamEndsWhenTheServerDrains(t *testing.T) {
	r := newRig(t)
	for i := range 1500 {
		k := strings.Repeat("k", i+1)
		r.data.items[k] = itemOf(k)
	}
	calls := 0
	r.data.fail = func(context.Context, string) error {
		if calls++; calls == 1 {
			r.server.drainOnce.Do(func() { close(r.server.drain) })
		}
		return nil
	}
	a := r.want(r.do("GET", "/v1/kv", "", "Accept", "application/x-ndjson"), 200)
	if strings.Count(a.body, "\n") != streamPageItems+1 || !strings.Contains(a.body, `"code":"draining"`) {
		t.Errorf("%s", a.body[max(0, len(a.body)-300):])
	}
}

func TestDeleteRange(t *testing.T) {
	r := newRig(t)
	fill(r, "a", "b/1", "b/2", "c")
	for _, bad := range []string{"", "?prefix=", "?start=", "?all=false", "?all=true&prefix=a", "?prefix=a&limit=1", "?cursor=x", "?end="} {
		r.want(r.do("DELETE", "/v1/kv"+bad, ""), 400, "invalid", "not-applied")
	}
	r.want(r.do("DELETE", "/v1/kv?prefix=a", "", "If-Match", "*"), 400, "invalid")
	if len(r.data.items) != 4 {
		t.Fatal("a refused delete deleted")
	}
	a := r.want(r.do("DELETE", "/v1/kv?prefix=b/", ""), 200)
	if a.body != `{"deleted":2}` || a.header.Get("Quorate-Deleted") != "2" {
		t.Errorf("%s %v", a.body, a.header)
	}
	r.data.fail = func(context.Context, string) error {
		return kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "no leader")
	}
	a = r.want(r.do("DELETE", "/v1/kv?start=c", ""), 503, "unavailable", "unknown")
	if !strings.Contains(a.body, `"deleted":1`) {
		t.Errorf("a part was deleted: %s", a.body)
	}
	r.want(r.do("DELETE", "/v1/kv?start=c", ""), 503, "unavailable", "not-applied")
	r.data.fail = nil
	r.want(r.do("DELETE", "/v1/kv?all=true", ""), 200)
	if len(r.data.items) != 0 {
		t.Error("all=true left keys")
	}
}

func TestPrefixEnd(t *testing.T) {
	for prefix, want := range map[string]string{"a": "b", "a\xff": "b", "a\xff\xff": "b", "\xff": "", "": "", "\x00": "\x01", "az": "a{"} {
		if got := string(prefixEnd([]byte(prefix))); got != want {
			t.Errorf("prefixEnd(%q) = %q, want %q", prefix, got, want)
		}
	}
}
