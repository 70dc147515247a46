package httpd

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/quorate-db/quorate/kv"
)

// escape writes a key so that each of its bytes is percent-encoded.
func escape(key string) string {
	var b strings.Builder
	for i := range len(key) {
		const digits = "0123456789ABCDEF"
		b.WriteByte('%')
		b.WriteByte(digits[key[i]>>4])
		b.WriteByte(digits[key[i]&15])
	}
	return b.String()
}

// oddKeys are paths after /v1/kv/ and the keys that they must mean.
var oddKeys = []struct{ path, key string }{
	{"a", "a"}, {"a/b", "a/b"}, {"a//b", "a//b"}, {"..", ".."}, {".", "."}, {"a/../b", "a/../b"}, {"./a", "./a"},
	{"%2F", "/"}, {"a%2Fb", "a/b"}, {"%00%ff", "\x00\xff"}, {"%0A", "\n"}, {"%0D%0A", "\r\n"}, {"+", "+"}, {"a+b", "a+b"}, {"%20", " "},
	{"%25", "%"}, {"%2525", "%25"}, {"/a", "/a"}, {"//", "//"}, {"a/", "a/"}, {"/", "/"}, {"%3F", "?"}, {"%23", "#"},
	{"%C3%A9", "é"}, {"%2e%2e", ".."}, {"a;b", "a;b"}, {"a&b=c", "a&b=c"}, {"{key}", "{key}"}, {"a:b", "a:b"}, {"~!$'()*,;=@", "~!$'()*,;=@"},
	{escape(strings.Repeat("k", kv.KeyBytesMax)), strings.Repeat("k", kv.KeyBytesMax)},
}

func TestKeysPassUnchanged(t *testing.T) {
	r := newRig(t)
	for _, c := range oddKeys {
		r.want(r.do("PUT", keyPrefix+c.path, "v of "+c.path), 201)
		it := r.data.items[c.key]
		if it == nil || string(it.Value) != "v of "+c.path {
			t.Fatalf("PUT of path %.40q did not write key %.40q", c.path, c.key)
		}
		if got := r.want(r.do("GET", keyPrefix+c.path, ""), 200); got.body != "v of "+c.path {
			t.Errorf("GET %.40q = %.40q", c.path, got.body)
		}
		enc := base64.RawURLEncoding.EncodeToString([]byte(c.key))
		if got := r.want(r.do("GET", keyPrefix+enc+"?enc=base64url", ""), 200); got.body != "v of "+c.path {
			t.Errorf("GET %.40q by base64url = %.40q", c.path, got.body)
		}
		if a := r.want(r.do("DELETE", keyPrefix+c.path, ""), 204); a.header.Get("Quorate-Deleted") != "1" {
			t.Errorf("DELETE %.40q deleted %q", c.path, a.header.Get("Quorate-Deleted"))
		}
	}
	if len(r.data.items) != 0 {
		t.Errorf("left over: %d keys", len(r.data.items))
	}
}

func TestKeyLimits(t *testing.T) {
	r := newRig(t)
	r.want(r.do("PUT", keyPrefix, "x"), 400, "invalid", "not-applied")
	r.want(r.do("GET", keyPrefix+"?limit=3", ""), 400, "invalid")
	r.want(r.do("GET", keyPrefix+"?enc=base64url", ""), 400, "invalid")
	over := strings.Repeat("k", kv.KeyBytesMax+1)
	for _, target := range []string{over, escape(over), base64.RawURLEncoding.EncodeToString([]byte(over)) + "?enc=base64url"} {
		a := r.want(r.do("PUT", keyPrefix+target, "x"), 414, "key_too_long", "not-applied")
		if !strings.Contains(a.body, `"limit":4096`) {
			t.Errorf("no limit in %s", a.body)
		}
	}
	exact := strings.Repeat("k", kv.KeyBytesMax)
	r.want(r.do("PUT", keyPrefix+base64.RawURLEncoding.EncodeToString([]byte(exact))+"?enc=base64url", "x"), 201)
	for _, bad := range []string{"!!!!", "a", "YQ=a", "YR", "a/b"} {
		r.want(r.do("GET", keyPrefix+bad+"?enc=base64url", ""), 400, "invalid")
	}
	r.want(r.do("GET", keyPrefix+"YQ==?enc=base64url", ""), 404, "not_found", "")
	r.want(r.do("GET", keyPrefix+"YQ?enc=hex", ""), 400, "invalid")
}

func TestValueAndItsHeaders(t *testing.T) {
	r := newRig(t)
	a := r.want(r.do("PUT", keyPrefix+"k?ttl=30s", "<script>", "Content-Type", "text/html; charset=utf-8"), 201)
	tag, version := a.header.Get("ETag"), a.header.Get("Quorate-Version")
	if tag != `"`+version+`"` || a.header.Get("Quorate-Expires") != "2030-01-02T03:04:35.006Z" {
		t.Errorf("headers of PUT: %v", a.header)
	}
	g := r.want(r.do("GET", keyPrefix+"k", ""), 200)
	for name, want := range map[string]string{
		"ETag": tag, "Quorate-Version": version, "Quorate-Expires": "2030-01-02T03:04:35.006Z", "Quorate-Shard": "2",
		"Quorate-Served-By": testNode.String(), "Quorate-Consistency": "linearizable", "Content-Type": "text/html; charset=utf-8",
		"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox", "Cache-Control": "no-store", "Content-Length": "8",
	} {
		if got := g.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	h := r.want(r.do("HEAD", keyPrefix+"k", ""), 200)
	if h.body != "" || h.header.Get("Content-Length") != "8" || h.header.Get("ETag") != tag {
		t.Errorf("HEAD: %q %v", h.body, h.header)
	}
	r.want(r.do("HEAD", keyPrefix+"nothing", ""), 404)
	r.want(r.do("PUT", keyPrefix+"k", "again"), 204)
	if g := r.do("GET", keyPrefix+"k", ""); g.header.Get("Content-Type") != "application/octet-stream" || g.header.Get("Quorate-Expires") != "" {
		t.Errorf("headers after a plain PUT: %v", g.header)
	}
	r.want(r.do("PUT", keyPrefix+"empty", ""), 201)
	if g := r.want(r.do("GET", keyPrefix+"empty", ""), 200); g.body != "" || g.header.Get("Content-Length") != "0" {
		t.Errorf("empty value: %q %v", g.body, g.header)
	}
	if a := r.want(r.do("DELETE", keyPrefix+"nothing", ""), 204); a.header.Get("Quorate-Deleted") != "0" || a.header.Get("Quorate-Version") != "" {
		t.Errorf("DELETE of nothing: %v", a.header)
	}
	for _, bad := range []string{"0s", "-1s", "1", "x", "1us", "1000000h"} {
		r.want(r.do("PUT", keyPrefix+"k?ttl="+bad, "x"), 400, "invalid", "not-applied")
	}
	r.want(r.do("PUT", keyPrefix+"k", "x", "Content-Type", "t/"+strings.Repeat("x", 254)), 400, "invalid")
	r.want(r.do("PUT", keyPrefix+"k", "x", "Content-Type", "t/\xff"), 400, "invalid")
	r.want(r.do("PUT", keyPrefix+"k", "x", "Content-Encoding", "gzip"), 415, "unsupported_media_type")
	r.want(r.do("PUT", keyPrefix+"k", "x", "Content-Encoding", "identity"), 204)
	r.want(r.do("PUT", keyPrefix+"k", "x", "Content-Range", "bytes 0-1/5"), 400, "invalid")
}

func TestReadOptions(t *testing.T) {
	r := newRig(t)
	r.do("PUT", keyPrefix+"k", "v")
	a := r.want(r.do("GET", keyPrefix+"k?consistency=stale&max_staleness=5s&min_version=12", ""), 200)
	want := kv.ReadOptions{Consistency: kv.Stale, MaxStaleness: 5e9, MinVersion: 12}
	if r.data.lastRead != want || a.header.Get("Quorate-Consistency") != "stale" {
		t.Errorf("read with %+v, want %+v; header %q", r.data.lastRead, want, a.header.Get("Quorate-Consistency"))
	}
	r.data.upgrade = true
	for _, target := range []string{keyPrefix + "k?", "/v1/kv?"} {
		a := r.want(r.do("GET", target+"consistency=stale", ""), 200)
		if a.header.Get("Quorate-Consistency") != "linearizable" || a.header.Get("Quorate-Consistency-Asked") != "stale" {
			t.Errorf("more was served than asked for: %v", a.header)
		}
		if a := r.want(r.do("GET", target, ""), 200); a.header.Get("Quorate-Consistency-Asked") != "" {
			t.Errorf("%v", a.header)
		}
	}
	r.want(r.do("GET", keyPrefix+"k?at=18446744073709551615", ""), 200)
	if r.data.lastRead.At != 1<<64-1 {
		t.Errorf("at = %d", r.data.lastRead.At)
	}
	for _, bad := range []string{"consistency=weak", "consistency=", "max_staleness=5s", "consistency=stale&max_staleness=5", "consistency=stale&max_staleness=-1s",
		"at=0", "at=x", "at=-1", "at=01", "at=18446744073709551616", "at=1.5", "at=+1", "at=", "min_version=zero", "at=5&consistency=stale",
		"consistencey=stale", "at=1&at=1", "ttl=5s", "a;b=1", "at=%zz", "x", "=", "limit=5"} {
		r.want(r.do("GET", keyPrefix+"k?"+bad, ""), 400, "invalid")
	}
	r.want(r.do("GET", keyPrefix+"k?&", ""), 200)
}

func TestConditions(t *testing.T) {
	r := newRig(t)
	put := func(headers ...string) answer { return r.do("PUT", keyPrefix+"k", "v", headers...) }
	a := r.want(put("If-Match", "*"), 412, "condition_failed", "not-applied")
	if !strings.Contains(a.body, `"version":"0"`) || a.header.Get("ETag") != "" {
		t.Errorf("412 of an absent key: %s %v", a.body, a.header)
	}
	tag := r.want(put("If-None-Match", "*"), 201).header.Get("ETag")
	version := strings.Trim(tag, `"`)
	a = r.want(put("If-None-Match", "*"), 412, "condition_failed")
	if a.header.Get("ETag") != tag || !strings.Contains(a.body, `"version":"`+version+`"`) {
		t.Errorf("412: %s %v", a.body, a.header)
	}
	for _, c := range []struct {
		method, name, value string
		status              int
	}{
		{"GET", "If-Match", tag, 200}, {"GET", "If-Match", "*", 200}, {"GET", "If-Match", `"7", ` + tag, 200}, {"GET", "If-Match", `"7"`, 412},
		{"GET", "If-Match", "W/" + tag, 412}, {"GET", "If-Match", `"abc"`, 412}, {"GET", "If-Match", `""`, 412}, {"GET", "If-Match", `"a,b",` + tag, 200},
		{"GET", "If-None-Match", tag, 304}, {"GET", "If-None-Match", "W/" + tag, 304}, {"GET", "If-None-Match", "*", 304}, {"GET", "If-None-Match", `"7"`, 200},
		{"HEAD", "If-None-Match", tag, 304}, {"GET", "If-Match", version, 400}, {"GET", "If-Match", `"7`, 400}, {"GET", "If-Match", ``, 400}, {"GET", "If-Match", `*, "7"`, 400},
		{"GET", "If-Match", `"1" "2"`, 400}, {"GET", "If-Match", ", ,", 400}, {"GET", "If-Match", `,"7",,` + tag + ",", 200}, {"GET", "If-None-Match", `w/"1"`, 400},
		{"GET", "If-Match", strings.Repeat(`"1",`, 65), 400}, {"GET", "If-Modified-Since", "Wed, 21 Oct 2099 07:28:00 GMT", 200},
		{"PUT", "If-Match", "W/" + tag, 412}, {"PUT", "If-Match", `"x"`, 412}, {"PUT", "If-None-Match", tag, 412}, {"PUT", "If-None-Match", "W/" + tag, 412},
		{"DELETE", "If-Match", `"7"`, 412}, {"DELETE", "If-None-Match", "*", 412},
		{"POST", "If-Match", `"7"`, 412},
	} {
		target := keyPrefix + "k"
		if c.method == "POST" {
			target += "?op=add&delta=1"
		}
		if got := r.do(c.method, target, "", c.name, c.value); got.status != c.status {
			t.Errorf("%s with %s: %.60s: %d, want %d: %s", c.method, c.name, c.value, got.status, c.status, got.body)
		}
	}
	if r.data.items["k"].Version == 0 || r.data.items["k"].Version != uint64(mustVersion(t, version)) {
		t.Fatal("a false condition wrote")
	}
	// Two lines are one list; If-Match is looked at first.
	r.want(r.do("GET", keyPrefix+"k", "", "If-Match", `"7"`, "If-Match", tag), 200)
	r.want(r.do("GET", keyPrefix+"k", "", "If-Match", `"7"`, "If-None-Match", tag), 412)
	r.want(r.do("GET", keyPrefix+"nothing", "", "If-Match", "*"), 404)
	tag2 := r.want(put("If-Match", tag), 204).header.Get("ETag")
	r.want(put("If-None-Match", `"7"`), 204)
	r.want(put("If-None-Match", `"x"`), 204)
	r.want(r.do("DELETE", keyPrefix+"k", "", "If-Match", tag2), 412)
	r.want(r.do("DELETE", keyPrefix+"k", "", "If-Match", "*"), 204)
}

func mustVersion(t *testing.T, s string) kv.Version {
	t.Helper()
	v, err := kv.ParseVersion(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAdd(t *testing.T) {
	r := newRig(t)
	a := r.want(r.do("POST", keyPrefix+"n?op=add&delta=5", ""), 200)
	if !strings.HasPrefix(a.body, `{"value":"5","version":"`) || a.header.Get("ETag") == "" {
		t.Errorf("add: %s %v", a.body, a.header)
	}
	a = r.want(r.do("POST", keyPrefix+"n?op=add&delta=-9223372036854775808&ttl=1s", ""), 200)
	if !strings.Contains(a.body, `"value":"-9223372036854775803"`) || !strings.Contains(a.body, `"expires":"`) {
		t.Errorf("add: %s", a.body)
	}
	r.do("PUT", keyPrefix+"text", "abc")
	r.want(r.do("POST", keyPrefix+"text?op=add&delta=1", ""), 409, "conflict", "not-applied")
	for _, bad := range []string{"", "?delta=1", "?op=sub&delta=1", "?op=add", "?op=add&delta=", "?op=add&delta=1.5", "?op=add&delta=9223372036854775808", "?op=add&delta=1&x=1"} {
		r.want(r.do("POST", keyPrefix+"n"+bad, ""), 400, "invalid", "not-applied")
	}
	r.want(r.do("POST", keyPrefix+"n?op=add&delta=1", "body"), 400, "invalid")
	r.want(r.do("POST", keyPrefix+"n?op=add&delta=1", "", "Accept", "text/html"), 406, "not_acceptable")
	r.want(r.do("DELETE", keyPrefix+"n", "body"), 400, "invalid")
}

func TestIdempotencyKey(t *testing.T) {
	r := newRig(t)
	first := r.want(r.do("PUT", keyPrefix+"k", "v", "Idempotency-Key", "a"), 201)
	again := r.want(r.do("PUT", keyPrefix+"k", "v", "Idempotency-Key", "a"), 201)
	if again.header.Get("Quorate-Replayed") != "true" || again.header.Get("ETag") != first.header.Get("ETag") || first.header.Get("Quorate-Replayed") != "" {
		t.Errorf("replay: %v after %v", again.header, first.header)
	}
	r.want(r.do("PUT", keyPrefix+"k", "other", "Idempotency-Key", "a"), 422, "idempotency_mismatch", "not-applied")
	r.want(r.do("PUT", keyPrefix+"k", "v", "Idempotency-Key", "a", "If-Match", "*"), 422)
	r.want(r.do("PUT", keyPrefix+"k", "v", "Idempotency-Key", "a", "Content-Type", "text/plain"), 422)
	r.want(r.do("PUT", keyPrefix+"k?ttl=5s", "v", "Idempotency-Key", "a"), 422)
	r.want(r.do("DELETE", keyPrefix+"k", "", "Idempotency-Key", "a"), 422)
	r.want(r.do("PUT", keyPrefix+"k", "v", "Idempotency-Key", "b"), 204)
	ids := r.data.ids
	if ids[0].Hi != ids[1].Hi || ids[0].Lo != ids[1].Lo || ids[0].Hi == ids[len(ids)-1].Hi || ids[0].Fingerprint == 0 || ids[0].IssuedMs == 0 {
		t.Errorf("ids: %v", ids)
	}
	r.want(r.do("PUT", keyPrefix+"k", "v", "Idempotency-Key", ""), 400, "invalid")
	r.want(r.do("PUT", keyPrefix+"k", "v", "Idempotency-Key", strings.Repeat("x", 256)), 400, "invalid")
	r.want(r.do("PUT", keyPrefix+"k", "v", "Idempotency-Key", "a", "Idempotency-Key", "b"), 400, "invalid")
	// A false condition and its replay are the same 412.
	a := r.want(r.do("PUT", keyPrefix+"k", "v", "Idempotency-Key", "c", "If-None-Match", "*"), 412)
	b := r.want(r.do("PUT", keyPrefix+"k", "v", "Idempotency-Key", "c", "If-None-Match", "*"), 412)
	if a.body != b.body || b.header.Get("Quorate-Replayed") != "true" {
		t.Errorf("replayed 412: %v", b.header)
	}
}

func TestIdempotencyKeyOfManyKeys(t *testing.T) {
	r := newRig(t)
	key := []string{"Idempotency-Key", "a"}
	batch := func(body string, headers ...string) {
		r.want(r.do("POST", "/v1/batch", body, append(headers, asJSON...)...), 200)
	}
	batch(`{"ops":[{"op":"delete","key":"a"}]}`, key...)
	batch(`{"ops":[{"op":"delete","key":"a"}]}`, key...)
	batch(`{"ops":[{"op":"delete","key":"b"}]}`, key...)
	batch(`{"ops":[{"op":"delete","key":"b"}]}`)
	r.want(r.do("DELETE", "/v1/kv?prefix=a", "", key...), 200)
	r.want(r.do("DELETE", "/v1/kv?prefix=b", "", key...), 200)
	ids := r.data.ids
	if len(ids) != 6 || ids[3] != nil || ids[0].Hi != ids[5].Hi {
		t.Fatalf("ids: %v", ids)
	}
	if ids[0].Fingerprint != ids[1].Fingerprint || ids[0].Fingerprint == ids[2].Fingerprint || ids[4].Fingerprint == ids[5].Fingerprint {
		t.Errorf("fingerprints do not tell requests apart: %v", ids)
	}
}
