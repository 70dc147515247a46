package router

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// twin holds all keys in one sorted list.
type twin struct{ keys []string }

func (w twin) page(req kv.ScanRequest) *kvpb.ReadResponse {
	s := &kvpb.Scan{Start: req.Start, End: req.End, Reverse: req.Reverse, Limit: uint32(req.Limit), LimitBytes: uint32(req.LimitBytes),
		KeysOnly: req.KeysOnly, Delimiter: req.Delimiter, PrefixLen: uint32(req.PrefixLen)}
	orDefault(&s.Limit, uint32(kv.ScanItemsDefault))
	orDefault(&s.LimitBytes, uint32(kv.ScanBytesMax))
	resp := &kvpb.ReadResponse{}
	scanSorted(w.keys, func(key string) *kvpb.Item {
		it := &kvpb.Item{Key: []byte(key)}
		if !req.KeysOnly {
			it.Value = []byte("v:" + key)
		}
		return it
	}, s, resp)
	return resp
}

func flat(items []*kvpb.Item, prefixes [][]byte) string {
	var b bytes.Buffer
	for _, it := range items {
		fmt.Fprintf(&b, "%q=%q ", it.Key, it.Value)
	}
	for _, p := range prefixes {
		fmt.Fprintf(&b, "%q… ", p)
	}
	return b.String()
}

// key draws keys in which the delimiter, the greatest byte and shared prefixes are frequent.
func drawKey(t *rapid.T, label string) string {
	return string(rapid.SliceOfN(rapid.SampledFrom([]byte{'a', 'b', '/', 0xff, 0}), 1, 6).Draw(t, label))
}

// TestScanEqualsOneSortedMap scans random contents through random shards, whose
// borders the map knows or not, and compares every page with the answer of one sorted
// list.
func TestScanEqualsOneSortedMap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		keys := map[string]bool{}
		for range rapid.IntRange(0, 40).Draw(rt, "keys") {
			keys[drawKey(rt, "key")] = true
		}
		borders := map[string]bool{}
		for range rapid.IntRange(0, 8).Draw(rt, "shards") {
			borders[drawKey(rt, "border")] = true
		}
		w := twin{sortedKeys(keys)}
		splits := sortedKeys(borders)
		known := rapid.IntRange(0, len(splits)).Draw(rt, "known")
		c := newCluster(t, 3, splits[:known]...)
		c.mustPut(w.keys...)
		for i, at := range splits[known:] {
			c.splitAt(at, kv.ShardID(100+i))
		}
		req := kv.ScanRequest{
			Reverse:  rapid.Bool().Draw(rt, "reverse"),
			KeysOnly: rapid.Bool().Draw(rt, "keysOnly"),
			Limit:    rapid.IntRange(0, 5).Draw(rt, "limit"),
		}
		if rapid.Bool().Draw(rt, "limitBytes?") {
			req.LimitBytes = rapid.IntRange(1, 60).Draw(rt, "limitBytes")
		}
		if rapid.Bool().Draw(rt, "start?") {
			req.Start = []byte(drawKey(rt, "start"))
		}
		if rapid.Bool().Draw(rt, "end?") {
			req.End = []byte(drawKey(rt, "end"))
		}
		if rapid.Bool().Draw(rt, "fold?") {
			req.Delimiter = []byte(rapid.SampledFrom([]string{"/", "//", "/\xff", "\xff"}).Draw(rt, "delimiter"))
			req.PrefixLen = rapid.IntRange(0, 2).Draw(rt, "prefixLen")
		}
		if rapid.Bool().Draw(rt, "stale") {
			req.Read.Consistency = kv.Stale
		}
		comparePages(rt, c.router(kv.NodeID(1+rapid.IntRange(0, 2).Draw(rt, "node"))), w, req)
	})
}

func sortedKeys(set map[string]bool) []string {
	var keys []string
	for key := range set {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// splitAt parts the shard that owns the key.
func (c *cluster) splitAt(at string, child kv.ShardID) {
	for id, s := range c.shards {
		if owns(s.desc, []byte(at)) {
			c.split(id, at, child)
			return
		}
	}
}

// comparePages walks the pages of a scan beside the twin's answers.
func comparePages(t *rapid.T, r *Router, w twin, req kv.ScanRequest) {
	for page := 0; ; page++ {
		if page > 200 {
			t.Fatal("no end")
		}
		want := w.page(req)
		got, err := r.Scan(context.Background(), req)
		if err != nil {
			t.Fatalf("page %d: %v", page, err)
		}
		if g, w := flat(got.Items, got.CommonPrefixes), flat(want.Items, want.CommonPrefixes); g != w {
			t.Fatalf("page %d of %+v:\n got %s\nwant %s", page, req, g, w)
		}
		if !got.More {
			if len(want.Resume) > 0 {
				t.Fatalf("page %d ends before %q", page, want.Resume)
			}
			if len(got.Resume) > 0 {
				t.Fatalf("page %d is the last and resumes at %q", page, got.Resume)
			}
			return
		}
		if len(got.Resume) == 0 {
			t.Fatalf("page %d: more, but not where", page)
		}
		bound := &req.Start
		if req.Reverse {
			bound = &req.End
		}
		if len(got.Items)+len(got.CommonPrefixes) == 0 || bytes.Equal(*bound, got.Resume) {
			t.Fatalf("page %d goes nowhere", page)
		}
		*bound = got.Resume
	}
}

// TestAFoldedPrefixOverShardsIsReportedOnce has a border in the middle of it,
// and one of the pages end there.
func TestAFoldedPrefixOverShardsIsReportedOnce(t *testing.T) {
	keys := []string{"a", "d/1", "d/2", "d/3", "d/4", "x"}
	c := newCluster(t, 2, "d/2", "d/3", "e")
	c.mustPut(keys...)
	for _, reverse := range []bool{false, true} {
		for _, limit := range []int{0, 1, 2} {
			req := kv.ScanRequest{Reverse: reverse, Limit: limit, Delimiter: []byte("/"), KeysOnly: true}
			var got []string
			for more := true; more; {
				page, err := c.router(1).Scan(context.Background(), req)
				if err != nil {
					t.Fatal(err)
				}
				for _, it := range page.Items {
					got = append(got, string(it.Key))
				}
				for _, p := range page.CommonPrefixes {
					got = append(got, string(p))
				}
				if more = page.More; reverse {
					req.End = page.Resume
				} else {
					req.Start = page.Resume
				}
			}
			slices.Sort(got)
			if want := []string{"a", "d/", "x"}; !slices.Equal(got, want) {
				t.Errorf("reverse %v, limit %d: %q, want %q", reverse, limit, got, want)
			}
		}
	}
}

func TestScanMeetsASplit(t *testing.T) {
	for _, reverse := range []bool{false, true} {
		t.Run(fmt.Sprintf("reverse=%v", reverse), func(t *testing.T) {
			c := newCluster(t, 2, "m")
			c.mustPut("a", "c", "e", "n", "p", "r")
			// The map of node 1 does not learn of the split but from the shards. It
			// happens when the first shard has been read.
			reads := 0
			c.readIndex = func(context.Context, kv.NodeID, kv.ShardID) error {
				if reads++; reads == 2 {
					c.splitAt("c", 10)
					c.splitAt("p", 11)
				}
				return nil
			}
			page, err := c.router(1).Scan(context.Background(), kv.ScanRequest{Reverse: reverse, KeysOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, it := range page.Items {
				got = append(got, string(it.Key))
			}
			want := []string{"a", "c", "e", "n", "p", "r"}
			if reverse {
				slices.Reverse(want)
			}
			if !slices.Equal(got, want) || page.More {
				t.Fatalf("got %v, more %v", got, page.More)
			}
			if len(page.Served) != 3 {
				t.Fatalf("served by %v, want the whole first shard and the halves of the second", page.Served)
			}
		})
	}
}

func TestScanRefusals(t *testing.T) {
	r := newCluster(t, 1).router(1)
	for _, req := range []kv.ScanRequest{
		{Limit: -1}, {Limit: kv.ScanItemsMax + 1}, {LimitBytes: -1}, {LimitBytes: kv.ScanBytesMax + 1},
		{PrefixLen: -1}, {PrefixLen: kv.KeyBytesMax + 1}, {Read: kv.ReadOptions{Consistency: "eventual"}}, {Read: kv.ReadOptions{MaxStaleness: -1}},
	} {
		_, err := r.Scan(context.Background(), req)
		wantError(t, err, kv.CodeInvalid, kv.OutcomeNone)
	}
	page, err := r.Scan(context.Background(), kv.ScanRequest{Start: []byte("b"), End: []byte("a")})
	if err != nil || page.More || len(page.Items)+len(page.Served) > 0 {
		t.Fatalf("an empty range: %+v, %v", page, err)
	}
}

// TestAnAnswerThatGoesNowhereIsABug keeps a faulty shard from holding a scan for ever.
func TestAnAnswerThatGoesNowhereIsABug(t *testing.T) {
	d := &kvpb.ShardDescriptor{Shard: 2, Start: []byte("a"), End: []byte("z")}
	for name, c := range map[string]struct {
		req    kv.ScanRequest
		resume string
	}{
		"forwards":  {kv.ScanRequest{Start: []byte("k")}, "k"},
		"backwards": {kv.ScanRequest{End: []byte("k"), Reverse: true}, "k"},
	} {
		w := newWalk(c.req)
		err := w.take(d, &kvpb.ReadResponse{Resume: []byte(c.resume)}, kv.Served{})
		if kv.CodeOf(err) != kv.CodeInternal {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPrefixEnd(t *testing.T) {
	for in, want := range map[string]string{"a": "b", "a/": "a0", "a\xff": "b", "\xff\xff": "", "a\xff\xff": "b", "\xfe\xff": "\xff"} {
		if got := string(prefixEnd([]byte(in))); got != want {
			t.Errorf("prefixEnd(%q) = %q, want %q", in, got, want)
		}
	}
}
