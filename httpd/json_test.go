package httpd

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/quorate-db/quorate/kv"
)

var asJSON = []string{"Content-Type", "application/json"}

// badJSON is wrong in all bodies alike; OBJ stands for the start of a member that
// the route knows and whose value is an array.
var badJSON = []string{
	``, ` `, `null`, `[]`, `"x"`, `1`, `{`, `{"`, `{}x`, `{} {}`, `{"unknown":1}`, `{OBJ:[]`, `{OBJ:[}`, `{OBJ:[]},`, `{OBJ:[],}`, `{,OBJ:[]}`,
	`{OBJ:[],OBJ:[]}`, `{OBJ}`, `{OBJ:}`, `{OBJ:null}`, `{OBJ:{}}`, `{OBJ:[null]}`, `{OBJ:[1]}`, `{OBJ:[[]]}`, `{OBJ:[{}]}`, `{OBJ:[{"key":"a"},]}`,
	`{OBJ:[{"key":1}]}`, `{OBJ:[{"key":"a`, `{OBJ:[{"key":"` + "\n" + `"}]}`, `{OBJ:[{"key":"` + "\xff" + `"}]}`, `{OBJ:[{"key":"\ud800"}]}`,
	`{OBJ:[{"key":"\ud800\u0041"}]}`, `{OBJ:[{"key":"\udc00\ud800"}]}`, `{OBJ:[{"key":"\u12"}]}`, `{OBJ:[{"key":"\x41"}]}`, `{OBJ:[{"key":"a" "b"}]}`,
	`{'a':1}`, "{OBJ:[]/**/}", "\ufeff{OBJ:[]}", `{"OBJ\u0000":[]}`, strings.Repeat(`{"then":[`, 5000), strings.Repeat("[", 100000),
	`{OBJ:[{"key":"","key":""}]}`, `{OBJ:[{"key":"a","key_b64":"YQ=="}]}`, `{OBJ:[{"key_b64":"YQ"}]}`, `{OBJ:[{"key_b64":"Y Q="}]}`, `{OBJ:[{"key_b64":"YR=="}]}`,
	`{OBJ:[{"key_b64":"\nYQ=="}]}`, `{OBJ:[{"key":""}]}`, `{OBJ:[{"key_b64":""}]}`, `{OBJ: tru}`, `{OBJ:[{"key":"a"}`, "\x00", `{OBJ:[` + "\x00" + `]}`,
}

func TestBadJSON(t *testing.T) {
	r := newRig(t)
	for route, member := range map[string]string{"/v1/txn": `"then"`, "/v1/batch": `"ops"`, "/v1/query": `"gets"`} {
		for _, text := range badJSON {
			body := strings.ReplaceAll(text, "OBJ", member)
			a := r.do("POST", route, body, asJSON...)
			if a.status != 400 || !strings.Contains(a.body, `"code":"invalid"`) {
				t.Errorf("%s with %.60q: %d %.200s", route, body, a.status, a.body)
			}
		}
	}
	a := r.do("POST", "/v1/txn", `{"then":[{"op":"put","key":"a","value":"b"},{"op":"put","key":"a","ttl":"x"}]}`, asJSON...)
	if !strings.Contains(a.body, "then[1].ttl: want a duration") {
		t.Errorf("the error does not name its place: %s", a.body)
	}
}

func TestBadOperations(t *testing.T) {
	r := newRig(t)
	both := []string{
		`{"op":"put","key":"a"}`, `{"op":"put","value":"a"}`, `{"op":"put","key":"a","value":"b","value_b64":"Yg=="}`, `{"op":"put","key":"a","value":"b","delta":"1"}`,
		`{"op":"delete","key":"a","value":"b"}`, `{"op":"delete","key":"a","ttl":"1s"}`, `{"op":"add","key":"a"}`, `{"op":"add","key":"a","delta":1}`,
		`{"op":"add","key":"a","delta":"x"}`, `{"op":"add","key":"a","delta":"9223372036854775808"}`, `{"op":"add","key":"a","delta":"1","value":"1"}`,
		`{"op":"cas","key":"a"}`, `{"key":"a"}`, `{"op":"PUT","key":"a","value":"b"}`, `{"op":"put","key":"a","value":"b","ttl":"0s"}`, `{"op":"put","key":"a","value":"b","ttl":5}`,
		`{"op":"put","key":"a","value":"b","content_type":"a\nb"}`, `{"op":"put","key":"a","value":"b","content_type":"` + strings.Repeat("x", 256) + `"}`,
		`{"op":"put","key":"a","value":"b","version":"1"}`, `{"op":"put","key":"a","value":"b","op":"put"}`,
	}
	txn := []string{`{"op":"put","key":"a","value":"b","if_match":"1"}`, `{"op":"put","key":"a","value":"b","if_absent":true}`, `{"op":"get","key":"a","value":"b"}`, `{"op":"get"}`}
	batch := []string{`{"op":"get","key":"a"}`, `{"op":"delete","key":"a","if_absent":true}`, `{"op":"put","key":"a","value":"b","if_match":"x"}`, `{"op":"put","key":"a","value":"b","if_match":[]}`,
		`{"op":"put","key":"a","value":"b","if_match":["*"]}`, `{"op":"put","key":"a","value":"b","if_match":1}`, `{"op":"put","key":"a","value":"b","if_absent":"true"}`}
	for _, op := range append(both, txn...) {
		r.badBody("/v1/txn", `{"then":[`+op+`]}`)
		r.badBody("/v1/txn", `{"if":[{"key":"a","exists":true}],"else":[`+op+`]}`)
	}
	for _, op := range append(both, batch...) {
		r.badBody("/v1/batch", `{"ops":[`+op+`]}`)
		r.want(r.do("POST", "/v1/batch", op, "Content-Type", "application/x-ndjson"), 400, "invalid", "not-applied")
	}
	for _, guard := range []string{`{"key":"a"}`, `{"version":"1"}`, `{"key":"a","version":1}`, `{"key":"a","version":"0"}`, `{"key":"a","version":"1","exists":true}`,
		`{"key":"a","exists":"true"}`, `{"key":"a","exists":null}`, `{"key":"a","value":"x","value_b64":"eA=="}`, `{"key":"a","key_b64":"YQ==","exists":true}`} {
		r.badBody("/v1/txn", `{"if":[`+guard+`],"then":[]}`)
	}
	r.badBody("/v1/txn", `{"else":[{"op":"get","key":"a"}]}`)
	for _, q := range []string{`{"gets":[]}`, `{"ranges":[{"prefix":"a","start":"b"}]}`, `{"ranges":[{"prefix":"a","prefix_b64":"YQ=="}]}`, `{"ranges":[{"limit":0}]}`, `{"ranges":[{"limit":"5"}]}`,
		`{"ranges":[{"limit":10001}]}`, `{"ranges":[{"limit":1.5}]}`, `{"ranges":[{"limit":05}]}`, `{"ranges":[{"cursor":""}]}`, `{"ranges":[{"cursor":"AAAA"}]}`, `{"ranges":[{"end":""}]}`, `{"ranges":[{"delimiter":""}]}`,
		`{"gets":[{"key":"a"}],"consistency":"x"}`, `{"gets":[{"key":"a"}],"at":5}`, `{"gets":[{"key":"a"}],"max_staleness":"1s"}`, `{"ranges":[{"reverse":1}]}`, `{"ranges":[{"prefx":"a"}]}`} {
		r.badBody("/v1/query", q)
	}
	if len(r.data.items) != 0 {
		t.Error("a refused body wrote")
	}
}

func (r *rig) badBody(route, body string) {
	r.t.Helper()
	if a := r.do("POST", route, body, asJSON...); a.status != 400 || !strings.Contains(a.body, `"code":"invalid"`) {
		r.t.Errorf("%s with %.100s: %d %s", route, body, a.status, a.body)
	}
}

func TestTxn(t *testing.T) {
	r := newRig(t)
	post := func(body string, headers ...string) answer {
		t.Helper()
		return r.do("POST", "/v1/txn", body, append(headers, asJSON...)...)
	}
	a := r.want(post(`{"if":[{"key":"a","exists":false}],"then":[{"op":"put","key":"a","value":"1","ttl":"1s","content_type":"text/plain"},{"op":"add","key":"n","delta":"-5"},{"op":"get","key":"a"},{"op":"delete","key":"x"},{"op":"get","key":"x"},{"op":"put","key_b64":"/w==","value_b64":"AP8="}],"else":[{"op":"get","key":"a"}]}`), 200)
	want := `{"succeeded":true,"version":"1152921504606846977","results":[{"created":true,"expires":"2030-01-02T03:04:06.006Z"},{"value":"-5"},` +
		`{"found":true,"key":"a","value":"1","version":"1152921504606846977","content_type":"text/plain","expires":"2030-01-02T03:04:06.006Z"},{"deleted":0},{"found":false,"key":"x"},{"created":true}]}`
	if a.body != want {
		t.Errorf("got  %s\nwant %s", a.body, want)
	}
	version := a.header.Get("Quorate-Version")
	a = r.want(post(`{"if":[{"key":"a","exists":false}],"then":[{"op":"delete","key":"a"}],"else":[{"op":"get","key":"a"}]}`), 200)
	if !strings.HasPrefix(a.body, `{"succeeded":false,"results":[{"found":true,"key":"a"`) || a.header.Get("Quorate-Version") != "" {
		t.Errorf("else: %s %v", a.body, a.header)
	}
	a = r.want(post(`{"if":[{"key":"a","value":"1"},{"key":"a","version":"7"}],"then":[{"op":"delete","key":"a"}]}`), 412, "condition_failed", "not-applied")
	if !strings.Contains(a.body, `"failed_guard":1`) || !strings.Contains(a.body, `"version":"`+version+`"`) || a.header.Get("ETag") != `"`+version+`"` {
		t.Errorf("412: %s", a.body)
	}
	r.want(post(`{"if":[{"key":"a","version":"`+version+`"},{"key":"x","exists":false},{"key_b64":"/w==","value_b64":"AP8="}],"then":[{"op":"delete","key":"a"}]}`), 200)
	r.want(post(`{"if":[{"key":"a","exists":true}]}`), 412)
	a = r.want(post(`{"then":[{"op":"put","key":"\u0061\ud83d\ude00\n\t\/\b\f\r\"\\","value":"x"}]}`), 200)
	if r.data.items["a😀\n\t/\b\f\r\"\\"] == nil {
		t.Errorf("escapes: %v %s", r.data.items, a.body)
	}
	r.want(post(`{"then":[{"op":"get","key":"a"}]}`, "Idempotency-Key", "t1"), 200)
	if a := r.want(post(`{"then":[{"op":"get","key":"a"}]}`, "Idempotency-Key", "t1"), 200); a.header.Get("Quorate-Replayed") != "true" {
		t.Errorf("replay: %v", a.header)
	}
	r.want(r.do("POST", "/v1/txn?x=1", `{"then":[{"op":"get","key":"a"}]}`, asJSON...), 400)
}

func TestMediaTypes(t *testing.T) {
	r := newRig(t)
	body := `{"then":[{"op":"get","key":"a"}]}`
	for ct, status := range map[string]int{"": 415, "text/plain": 415, "application/x-www-form-urlencoded": 415, "application/json; charset=utf-8": 200, "Application/JSON": 200,
		"application/json; charset=latin1": 415, "application/json; x": 415, "application/x-ndjson": 415} {
		r.want(r.do("POST", "/v1/txn", body, "Content-Type", ct), status)
	}
	r.want(r.do("POST", "/v1/txn", body), 415, "unsupported_media_type", "not-applied")
	r.want(r.do("POST", "/v1/txn", body, "Content-Type", "application/json", "Content-Encoding", "gzip"), 415)
	r.want(r.do("POST", "/v1/txn", body, "Content-Type", "application/json", "Content-Type", "application/json"), 400)
	for accept, status := range map[string]int{"*/*": 200, "application/*": 200, "application/json;q=0.1, text/html": 200, "text/html": 406, "application/json;q=0": 406,
		"application/json;q=0, */*": 406, "application/x-ndjson": 406, "application/json;q=x": 406, "APPLICATION/JSON": 200} {
		r.want(r.do("POST", "/v1/txn", body, "Content-Type", "application/json", "Accept", accept), status)
	}
	for accept, want := range map[string]string{"application/x-ndjson, application/json": "application/json", "application/x-ndjson, application/json;q=0.9": "application/x-ndjson",
		"*/*": "application/json", "application/json;q=0.5, */*": "application/x-ndjson"} {
		if a := r.want(r.do("GET", "/v1/kv", "", "Accept", accept), 200); a.header.Get("Content-Type") != want {
			t.Errorf("Accept: %s gave %s, want %s", accept, a.header.Get("Content-Type"), want)
		}
	}
}

func TestBatch(t *testing.T) {
	r := newRig(t)
	r.want(r.do("PUT", keyPrefix+"old", "1"), 201)
	v := kv.Version(r.data.items["old"].Version).String()
	r.want(r.do("PUT", keyPrefix+"text", "x"), 201)
	ops := []string{`{"op":"put","key":"new","value":"1","ttl":"1s"}`, `{"op":"put","key":"old","value":"2","if_match":"` + v + `"}`, `{"op":"put","key":"old","value":"3","if_match":["` + v + `","8"]}`,
		`{"op":"put","key":"old","value":"3","if_absent":true}`, `{"op":"add","key":"text","delta":"1"}`, `{"op":"add","key":"n","delta":"4"}`, `{"op":"delete","key":"new","if_match":"*"}`, `{"op":"put","key":"z","value":"","if_absent":false}`}
	a := r.want(r.do("POST", "/v1/batch", `{"ops":[`+strings.Join(ops, ",")+`]}`, asJSON...), 200)
	var got struct {
		Results []struct {
			Status        int
			Code, Outcome string
			Version       string
		}
	}
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatal(err)
	}
	var statuses []int
	for _, g := range got.Results {
		statuses = append(statuses, g.Status)
	}
	if want := []int{201, 204, 412, 412, 409, 200, 204, 201}; !equal(statuses, want) {
		t.Errorf("statuses %v, want %v: %s", statuses, want, a.body)
	}
	if g := got.Results[2]; g.Code != "condition_failed" || g.Outcome != "not-applied" || g.Version != got.Results[1].Version {
		t.Errorf("412 in a batch: %+v", g)
	}
	a = r.want(r.do("POST", "/v1/batch", "\r\n"+ops[5]+"\r\n\n"+ops[6]+"\n", "Content-Type", "application/x-ndjson"), 200)
	if strings.Count(a.body, "\n") != 2 || a.header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("NDJSON: %s %v", a.body, a.header)
	}
	a = r.want(r.do("POST", "/v1/batch", ops[5], "Content-Type", "application/x-ndjson", "Accept", "application/json"), 200)
	if a.header.Get("Content-Type") != "application/json" {
		t.Errorf("NDJSON in, JSON out: %v", a.header)
	}
	a = r.want(r.do("POST", "/v1/batch", ops[5]+"\n"+ops[5]+"x\n", "Content-Type", "application/x-ndjson"), 400, "invalid")
	if !strings.Contains(a.body, "line[1]") {
		t.Errorf("the error does not name its line: %s", a.body)
	}
	r.want(r.do("POST", "/v1/batch", "\n\n", "Content-Type", "application/x-ndjson"), 400)
}

func equal(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestQuery(t *testing.T) {
	r := newRig(t)
	fill(r, "a", "b", "c", "\xff")
	post := func(body string) answer { return r.do("POST", "/v1/query", body, asJSON...) }
	a := r.want(post(`{"gets":[{"key":"a"},{"key":"zz"},{"key_b64":"/w=="}],"ranges":[{"prefix":"a"},{"start":"b","limit":1,"keys_only":true},{"start_b64":"/w==","reverse":true}],"consistency":"stale","max_staleness":"2s"}`), 200)
	for _, part := range []string{`{"gets":[{"found":true,"key":"a","value":"va","version":"`, `{"found":false,"key":"zz"}`, `{"found":true,"key_b64":"/w==","value_b64":"dv8="`, `"ranges":[{"items":[{"key":"a"`, `"next":"`} {
		if !strings.Contains(a.body, part) {
			t.Errorf("no %s in %s", part, a.body)
		}
	}
	if r.data.lastRead != (kv.ReadOptions{Consistency: kv.Stale, MaxStaleness: 2e9}) || a.header.Get("Quorate-Consistency") != "stale" {
		t.Errorf("read with %+v, %v", r.data.lastRead, a.header)
	}
	next := strings.Split(strings.Split(a.body, `"next":"`)[1], `"`)[0]
	a = r.want(post(`{"ranges":[{"start":"b","keys_only":true,"cursor":"`+next+`"}]}`), 200)
	if !strings.HasPrefix(a.body, `{"gets":[],"ranges":[{"items":[{"key":"c"`) {
		t.Errorf("with a cursor: %s", a.body)
	}
	r.want(post(`{"ranges":[{"start":"c","cursor":"`+next+`"}]}`), 400)
}

func TestQueryBoundsWhatItReads(t *testing.T) {
	r := newRig(t)
	big := itemOf("big")
	big.Value = bytes.Repeat([]byte("x"), 2<<20)
	r.data.items["big"], r.data.items["small"] = big, itemOf("small")
	query := func(key string, n int) string {
		return `{"gets":[` + strings.TrimSuffix(strings.Repeat(`{"key":"`+key+`"},`, n), ",") + `]}`
	}
	r.want(r.do("POST", "/v1/query", query("small", 1000), asJSON...), 200)
	if !equal(r.data.gets, []int{16, 984}) {
		t.Errorf("groups of small values: %v", r.data.gets)
	}
	r.data.gets = nil
	r.want(r.do("POST", "/v1/query", query("big", 1000), asJSON...), 413, "too_large")
	if !equal(r.data.gets, []int{16}) {
		t.Errorf("groups of large values: %v", r.data.gets)
	}
	r.want(r.do("POST", "/v1/query", query("big", 5), asJSON...), 200)
}
