package httpd

import (
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/quorate-db/quorate/internal/access"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// twoWorlds are two servers whose data differs in nothing but what a token may not
// read.
type twoWorlds struct {
	data    [2]*fakeData
	servers [2]*Server
	tokens  *fakeAccess
}

func newTwoWorlds() *twoWorlds {
	w := &twoWorlds{tokens: &fakeAccess{}}
	for i := range w.servers {
		w.data[i] = newFakeData()
		w.servers[i] = New(Options{Data: w.data[i], Cluster: &fakeCluster{}, Health: &fakeHealth{}, Access: w.tokens, Self: testNode})
	}
	return w
}

// worldKeys are short keys over two letters, and what stands between prefixes.
var worldKeys = func() (keys []string) {
	for _, a := range []string{"a", "b", "c"} {
		for _, b := range []string{"", "a", "b", "/", "/a", "/b"} {
			keys = append(keys, a+b)
		}
	}
	return keys
}()

// fill gives both worlds the same keys, and other ones where the policy does not read.
func (w *twoWorlds) fill(r *rand.Rand, p *access.Policy) {
	for i := range w.data {
		clear(w.data[i].items)
		clear(w.data[i].seen)
		w.data[i].version = 1 << 60
	}
	for n, k := range worldKeys {
		readable := p.Allows(access.Op{Act: access.Read, Key: []byte(k)})
		shared := r.IntN(2) == 0
		for i := range w.data {
			there := shared
			if !readable {
				there = r.IntN(2) == 0
			}
			if there {
				it := &kvpb.Item{Key: []byte(k), Value: []byte(strconv.Itoa(n)), Version: uint64(n + 1)}
				if !readable {
					it.Version, it.Value = r.Uint64N(1<<50), fmt.Appendf(nil, "secret %d", r.Uint64())
				}
				w.data[i].items[k] = it
			}
		}
	}
}

// ask sends a request to both worlds.
func (w *twoWorlds) ask(token, method, target, body string, ifMatch bool) (got [2]*httptest.ResponseRecorder) {
	for i, s := range w.servers {
		req := httptest.NewRequest(method, target, strings.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+token)
		if strings.HasPrefix(body, "{") {
			req.Header.Set("Content-Type", "application/json")
		}
		if ifMatch && strings.HasPrefix(target, keyPrefix) {
			req.Header.Set("If-Match", `"3"`)
		}
		got[i] = httptest.NewRecorder()
		s.ServeHTTP(got[i], req)
	}
	return got
}

// nextPage gives the target of the page after an answer, "" if there is none.
func nextPage(target, answer string) string {
	_, rest, ok := strings.Cut(answer, `"next":"`)
	if !ok || !strings.HasPrefix(target, "/v1/kv?") {
		return ""
	}
	target, _, _ = strings.Cut(target, "&cursor=")
	return target + "&cursor=" + rest[:strings.IndexByte(rest, '"')]
}

// randomRequest gives method, target and body of something that a client may ask.
func randomRequest(r *rand.Rand) (method, target, body string) {
	key := func() string { return worldKeys[r.IntN(len(worldKeys))] }
	part := func() string { return []string{"", "a", "b", "c", "a/", "b/", "ab", "d"}[r.IntN(8)] }
	op := func() string {
		return []string{
			fmt.Sprintf(`{"op":"put","key":%q,"value":"1"}`, key()), fmt.Sprintf(`{"op":"delete","key":%q}`, key()),
			fmt.Sprintf(`{"op":"add","key":%q,"delta":"1"}`, key()),
		}[r.IntN(3)]
	}
	txnOp := func() string {
		if r.IntN(2) == 0 {
			return fmt.Sprintf(`{"op":"get","key":%q}`, key())
		}
		return op()
	}
	switch r.IntN(11) {
	case 0:
		return "GET", keyPrefix + key(), ""
	case 1:
		return "HEAD", keyPrefix + key(), ""
	case 2:
		return "PUT", keyPrefix + key(), "1"
	case 3:
		return "DELETE", keyPrefix + key(), ""
	case 4:
		return "POST", keyPrefix + key() + "?op=add&delta=2", ""
	case 5:
		return "GET", fmt.Sprintf("/v1/kv?prefix=%s&limit=2&delimiter=/", part()), ""
	case 6:
		target := fmt.Sprintf("/v1/kv?start=%s&limit=1", part())
		if end := part(); end != "" {
			target += "&end=" + end
		}
		return "GET", target, ""
	case 7:
		return "DELETE", "/v1/kv?prefix=" + part() + []string{"", "&all=true"}[r.IntN(2)], ""
	case 8:
		return "POST", "/v1/query", fmt.Sprintf(`{"gets":[{"key":%q},{"key":%q}],"ranges":[{"prefix":%q,"limit":3}]}`, key(), key(), part())
	case 9:
		return "POST", "/v1/batch", fmt.Sprintf(`{"ops":[%s,%s]}`, op(), op())
	default:
		guard := []string{`"exists":true`, `"exists":false`, `"value":"1"`, `"version":"3"`}[r.IntN(4)]
		return "POST", "/v1/txn", fmt.Sprintf(`{"if":[{"key":%q,%s}],"then":[%s,%s],"else":[%s]}`, key(), guard, txnOp(), txnOp(), txnOp())
	}
}

// TestWhatMayNotBeReadMakesNoDifference: random tokens ask at random in two worlds
// that differ only in what they may not read. Whatever is asked, both answer the
// same, to the byte and the header: results, counts, errors, versions and cursors
// tell nothing.
func TestWhatMayNotBeReadMakesNoDifference(t *testing.T) {
	rounds := 1000
	if n, err := strconv.Atoi(os.Getenv("QUORATE_SOAK")); err == nil && n > 0 {
		rounds *= max(n, 50)
	} else if testing.Short() {
		rounds /= 10
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 2))
	w := newTwoWorlds()
	answered, denied, pages := 0, 0, 0
	for round := range rounds {
		var grants []kv.Grant
		for range 1 + r.IntN(4) {
			grants = append(grants, kv.Grant{Role: []kv.TokenRole{kv.RoleReader, kv.RoleWriter, kv.RoleWriter, kv.RoleAdmin}[r.IntN(4)],
				Prefix: []byte([]string{"", "a", "b", "a/", "b/", "ab", "c"}[r.IntN(7)]), Deny: r.IntN(4) == 0})
		}
		w.tokens.setLocked(nil)
		text, _ := w.tokens.token(kv.TokenOrder{Grants: grants})
		w.fill(r, access.NewPolicy(grants))
		follow := ""
		for range 12 {
			method, target, body := randomRequest(r)
			if follow != "" && r.IntN(2) == 0 {
				method, target, body = "GET", follow, ""
			}
			got := w.ask(text, method, target, body, r.IntN(6) == 0)
			a, b := got[0], got[1]
			if a.Code != b.Code || a.Body.String() != b.Body.String() || !reflect.DeepEqual(a.Header(), b.Header()) {
				t.Fatalf("seed %d, round %d, %+v: %s %s %s\n%d %v %s\n%d %v %s", seed, round, grants, method, target, body,
					a.Code, a.Header(), a.Body, b.Code, b.Header(), b.Body)
			}
			follow = nextPage(target, a.Body.String())
			pages += strings.Count(target, "&cursor=")
			switch {
			case a.Code == 403:
				denied++
			case a.Code < 300 || slices.Contains([]int{404, 409, 412}, a.Code):
				answered++
			}
		}
	}
	if min(answered, denied, 10*pages) < rounds {
		t.Errorf("%d requests were answered, %d of them by a cursor, and %d denied: that proves little", answered, pages, denied)
	}
}
