package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/quorate-db/quorate/httpd"
	"github.com/quorate-db/quorate/internal/bench/memdata"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

const testNode kv.NodeID = 0xa1

// edge is the real HTTP edge over a map.
type edge struct {
	data    *memdata.Store
	cluster *memdata.Cluster
	admin   *memdata.Admin
	server  *httptest.Server
}

func newEdge(t *testing.T, id kv.NodeID) *edge {
	t.Helper()
	e := &edge{data: memdata.New(id, 7), cluster: &memdata.Cluster{}}
	e.admin = memdata.NewAdmin(e.cluster)
	e.server = httptest.NewServer(httpd.New(httpd.Options{Data: e.data, Cluster: e.cluster, Admin: e.admin, Health: e.cluster, Release: "v9", Self: id}).Handler())
	t.Cleanup(e.server.Close)
	return e
}

func (e *edge) address() string { return e.server.Listener.Addr().String() }

// overBoth runs a test over each transport.
func overBoth(t *testing.T, test func(t *testing.T, c *Client, e *edge)) {
	for _, lean := range []bool{false, true} {
		t.Run(fmt.Sprintf("lean=%t", lean), func(t *testing.T) {
			e := newEdge(t, testNode)
			c, err := New(Config{Endpoints: []string{e.address()}, Lean: lean, Retry: RetryPolicy{Attempts: 2}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			test(t, c, e)
		})
	}
}

func TestOneKey(t *testing.T) {
	overBoth(t, func(t *testing.T, c *Client, e *edge) {
		ctx := t.Context()
		if _, err := c.Get(ctx, "k", ReadOptions{}); !IsNotFound(err) || OutcomeOf(err) != "" {
			t.Fatalf("get of nothing: %v", err)
		}
		first, err := c.Put(ctx, "k", []byte("one"), PutOptions{ContentType: "text/plain", TTL: time.Hour})
		if err != nil || !first.Created || first.Version == 0 || first.Replayed {
			t.Fatalf("put: %+v, %v", first, err)
		}
		if want := (Served{Shard: 7, Node: testNode.String()}); first.Served != want {
			t.Errorf("served %+v, want %+v", first.Served, want)
		}
		item, err := c.Get(ctx, "k", ReadOptions{MinVersion: first.Version})
		want := Item{Key: "k", Value: []byte("one"), Version: first.Version, ContentType: "text/plain",
			Expires: item.Expires, Served: Served{7, testNode.String(), kv.Linearizable}}
		if err != nil || !reflect.DeepEqual(item, want) {
			t.Errorf("get: %+v, %v", item, err)
		}
		if at := first.Version.Time().Add(time.Hour); !item.Expires.Equal(at) {
			t.Errorf("expires %s, want %s", item.Expires, at)
		}
		stale, err := c.Get(ctx, "k", ReadOptions{Consistency: kv.Stale, MaxStaleness: time.Second})
		if err != nil || stale.Served.Consistency != kv.Stale {
			t.Errorf("stale get: %+v, %v", stale, err)
		}
		if _, err := c.Get(ctx, "k", ReadOptions{At: 5}); CodeOf(err) != kv.CodeVersionTooOld {
			t.Errorf("get of history: %v", err)
		}
		var e412 *Error
		if _, err = c.Put(ctx, "k", nil, PutOptions{IfAbsent: true}); !errors.As(err, &e412) || !IsConditionFailed(err) || e412.Version != first.Version {
			t.Errorf("put if absent: %v", err)
		}
		second, err := c.Put(ctx, "k", nil, PutOptions{IfMatch: first.Version})
		if err != nil || second.Created || second.Version <= first.Version {
			t.Errorf("put if match: %+v, %v", second, err)
		}
		if empty, err := c.Get(ctx, "k", ReadOptions{}); err != nil || empty.Value == nil || len(empty.Value) != 0 {
			t.Errorf("get of an empty value: %+v, %v", empty, err)
		}
		if _, err := c.Delete(ctx, "k", DeleteOptions{IfMatch: first.Version}); !IsConditionFailed(err) {
			t.Errorf("delete if match: %v", err)
		}
		for want := 1; want >= 0; want-- {
			if del, err := c.Delete(ctx, "k", DeleteOptions{}); err != nil || del.Deleted != want {
				t.Errorf("delete: %+v, %v", del, err)
			}
		}
	})
}

func TestAdd(t *testing.T) {
	overBoth(t, func(t *testing.T, c *Client, e *edge) {
		for i, delta := range []int64{5, -7, math.MaxInt64} {
			want := []int64{5, -2, math.MaxInt64 - 2}[i]
			res, err := c.Add(t.Context(), "n", delta, AddOptions{})
			if err != nil || res.Value != want || res.Version == 0 {
				t.Fatalf("add: %+v, %v", res, err)
			}
		}
		if _, err := c.Add(t.Context(), "n", 100, AddOptions{}); !IsConflict(err) || OutcomeOf(err) != kv.OutcomeNotApplied {
			t.Errorf("overflow: %v", err)
		}
	})
}

// TestSameIdempotencyKey: the same call again is answered from memory, another
// one under the same key is refused.
func TestSameIdempotencyKey(t *testing.T) {
	overBoth(t, func(t *testing.T, c *Client, e *edge) {
		o := AddOptions{IdempotencyKey: "once"}
		for i := range 3 {
			res, err := c.Add(t.Context(), "n", 1, o)
			if err != nil || res.Value != 1 || res.Replayed != (i > 0) {
				t.Errorf("%d: %+v, %v", i, res, err)
			}
		}
		if _, err := c.Add(t.Context(), "n", 2, o); CodeOf(err) != kv.CodeIdempotencyMismatch {
			t.Errorf("another call under the key: %v", err)
		}
	})
}

// TestAnyKeyAndValue writes keys and values of any bytes and finds them again,
// one by one, in scans, queries, transactions and batches.
func TestAnyKeyAndValue(t *testing.T) {
	keys := []string{"a//b", "..", ".", "a/../b", "/", "//", "/a", "a/", "%2F", "%00%ff", "\x00\xff", "a\nb", "+", "%25", "a b", "?a=b&c#d",
		"ü", "\u202e", strings.Repeat("k", kv.KeyBytesMax), strings.Repeat("\xff", kv.KeyBytesMax), strings.Repeat("/", kv.KeyBytesMax)}
	overBoth(t, func(t *testing.T, c *Client, e *edge) {
		for _, key := range keys {
			roundTrip(t, c, key, []byte(key))
		}
		rapid.Check(t, func(rt *rapid.T) {
			key := rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(rt, "key")
			value := rapid.SliceOf(rapid.Byte()).Draw(rt, "value")
			roundTrip(rt, c, string(key), value)
		})
	})
}

func roundTrip(t rapid.TB, c *Client, key string, value []byte) {
	t.Helper()
	ctx := context.Background()
	put, err := c.Put(ctx, key, value, PutOptions{})
	if err != nil {
		t.Fatalf("put %.40q: %v", key, err)
	}
	same := func(how string, item *Item, err error) {
		t.Helper()
		if err != nil || item == nil || item.Key != key || !bytes.Equal(item.Value, value) || item.Version != put.Version {
			t.Fatalf("%s %.40q: %+v, %v", how, key, item, err)
		}
	}
	item, err := c.Get(ctx, key, ReadOptions{})
	same("get", &item, err)
	page, err := c.Page(ctx, Range{Start: key, Limit: 1}, "")
	if err != nil || len(page.Items) != 1 {
		t.Fatalf("scan %.40q: %+v, %v", key, page, err)
	}
	same("scan", &page.Items[0], nil)
	q, err := c.Query(ctx, Query{Gets: []string{key}, Ranges: []Range{{Prefix: key, Limit: 1}}})
	if err != nil || len(q.Gets) != 1 || len(q.Ranges) != 1 || len(q.Ranges[0].Items) != 1 {
		t.Fatalf("query %.40q: %+v, %v", key, q, err)
	}
	same("query", q.Gets[0], nil)
	same("query", &q.Ranges[0].Items[0], nil)
	txn, err := c.Txn(ctx, Txn{If: []Guard{IfValue(key, value), IfVersion(key, put.Version), IfExists(key)}, Then: []Op{GetOp(key)}})
	if err != nil || !txn.Succeeded {
		t.Fatalf("txn %.40q: %+v, %v", key, txn, err)
	}
	same("txn", txn.Results[0].Item, nil)
	batch, err := c.Batch(ctx, []Op{{Kind: OpPut, Key: key, Value: value, IfMatch: put.Version}, DeleteOp(key), DeleteOp(key)})
	if err != nil || batch[0].Err != nil || batch[0].Created || batch[0].Status != 204 || !batch[1].Deleted || batch[2].Deleted {
		t.Fatalf("batch %.40q: %+v, %v", key, batch, err)
	}
}

func TestLimits(t *testing.T) {
	overBoth(t, func(t *testing.T, c *Client, e *edge) {
		ctx := t.Context()
		big := bytes.Repeat([]byte("0123456789abcdef"), kv.ValueBytesMax/16)
		if _, err := c.Put(ctx, "big", big, PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if item, err := c.Get(ctx, "big", ReadOptions{}); err != nil || !bytes.Equal(item.Value, big) {
			t.Fatalf("get of the largest value: %d bytes, %v", len(item.Value), err)
		}
		// The server answers without reading all of this, and hangs up.
		_, err := c.Put(ctx, "big", append(big, 'x'), PutOptions{})
		var over *Error
		if !errors.As(err, &over) || over.Code != kv.CodeTooLarge || over.Outcome != kv.OutcomeNotApplied || over.Limit != kv.ValueBytesMax {
			t.Errorf("put over the limit: %v", err)
		}
		if _, err := c.Get(ctx, strings.Repeat("k", kv.KeyBytesMax+1), ReadOptions{}); CodeOf(err) != kv.CodeKeyTooLong {
			t.Errorf("get of too long a key: %v", err)
		}
		if _, err := c.Put(ctx, "", nil, PutOptions{}); CodeOf(err) != kv.CodeInvalid {
			t.Errorf("put of the empty key: %v", err)
		}
		c.cfg.ResponseBytesMax = 100
		if c.cfg.Lean {
			c.transport = newLeanTransport(c.cfg)
		} else {
			c.transport.closeIdle()
			c.transport = newNetTransport(c.cfg)
		}
		if _, err := c.Get(ctx, "big", ReadOptions{}); CodeOf(err) != kv.CodeTooLarge {
			t.Errorf("get over ResponseBytesMax: %v", err)
		}
	})
}

// putThirty writes the keys 00/x to 29/x.
func putThirty(t *testing.T, c *Client) (keys []string) {
	t.Helper()
	for i := range 30 {
		keys = append(keys, fmt.Sprintf("%02d/x", i))
		if _, err := c.Put(t.Context(), keys[i], []byte{byte(i)}, PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return keys
}

func TestScan(t *testing.T) {
	overBoth(t, func(t *testing.T, c *Client, e *edge) {
		ctx := t.Context()
		all := putThirty(t, c)
		keys := func(r Range) (got []string) {
			t.Helper()
			for item, err := range c.Scan(ctx, r) {
				if err != nil {
					t.Fatal(err)
				}
				if r.KeysOnly != (item.Value == nil) {
					t.Errorf("value %v of %q", item.Value, item.Key)
				}
				got = append(got, item.Key)
			}
			return got
		}
		reversed := slices.Clone(all)
		slices.Reverse(reversed)
		for _, tc := range []struct {
			r    Range
			want []string
		}{
			{Range{}, all},
			{Range{PageItems: 7, KeysOnly: true}, all},
			{Range{PageItems: 7, Reverse: true}, reversed},
			{Range{Limit: 9, PageItems: 4}, all[:9]},
			{Range{Limit: 4}, all[:4]},
			{Range{Start: "10/x", End: "20/x", PageItems: 3}, all[10:20]},
			{Range{Prefix: "1"}, all[10:20]},
			{Range{Prefix: "1", Reverse: true, PageItems: 1, Limit: 3}, reversed[10:13]},
			{Range{Prefix: "none"}, nil},
		} {
			if got := keys(tc.r); !slices.Equal(got, tc.want) {
				t.Errorf("%+v: %v", tc.r, got)
			}
		}
		for range c.Scan(ctx, Range{PageItems: 2}) {
			break // must not go on behind our back
		}
		page, err := c.Page(ctx, Range{Delimiter: "/", Prefix: "0"}, "")
		if err != nil || len(page.Items) != 0 || len(page.CommonPrefixes) != 10 || page.CommonPrefixes[3] != "03/" {
			t.Errorf("folded: %+v, %v", page, err)
		}
		if _, err := c.Page(ctx, Range{}, "nonsense"); CodeOf(err) != kv.CodeInvalid {
			t.Errorf("bad cursor: %v", err)
		}
		for _, err := range c.Scan(ctx, Range{PageItems: kv.ScanItemsMax + 1}) {
			if CodeOf(err) != kv.CodeInvalid {
				t.Errorf("page too large: %v", err)
			}
		}
	})
}

func TestDeleteRange(t *testing.T) {
	overBoth(t, func(t *testing.T, c *Client, e *edge) {
		ctx := t.Context()
		putThirty(t, c)
		for _, tc := range []struct {
			do   func() (DeleteResult, error)
			want int
		}{
			{func() (DeleteResult, error) { return c.DeletePrefix(ctx, "1") }, 10},
			{func() (DeleteResult, error) { return c.DeleteRange(ctx, "25/x", "") }, 5},
			{func() (DeleteResult, error) { return c.DeleteRange(ctx, "", "05/x") }, 5},
			{func() (DeleteResult, error) { return c.DeleteRange(ctx, "05/x", "06/x") }, 1},
			{func() (DeleteResult, error) { return c.DeleteAll(ctx) }, 9},
		} {
			if res, err := tc.do(); err != nil || res.Deleted != tc.want {
				t.Errorf("deleted %+v, %v, want %d", res, err, tc.want)
			}
		}
		if _, err := c.DeletePrefix(ctx, ""); CodeOf(err) != kv.CodeInvalid {
			t.Errorf("deleting the empty prefix: %v", err)
		}
		if _, err := c.DeleteRange(ctx, "", ""); CodeOf(err) != kv.CodeInvalid {
			t.Errorf("deleting the unbounded range: %v", err)
		}
	})
}

func TestTxnAndBatch(t *testing.T) {
	overBoth(t, func(t *testing.T, c *Client, e *edge) {
		ctx := t.Context()
		lock := Txn{If: []Guard{IfAbsent("lock")}, Then: []Op{PutOp("lock", []byte("me")), AddOp("n", 2), GetOp("other")}}
		res, err := c.Txn(ctx, lock)
		if err != nil || !res.Succeeded || res.Version == 0 || !res.Results[0].Created || res.Results[1].Number != 2 || res.Results[2].Item != nil {
			t.Fatalf("%+v, %v", res, err)
		}
		var failed *Error
		if _, err := c.Txn(ctx, lock); !errors.As(err, &failed) || !IsConditionFailed(err) || failed.Version != res.Version {
			t.Errorf("without else: %v", err)
		}
		lock.Else = []Op{GetOp("lock")}
		if res, err := c.Txn(ctx, lock); err != nil || res.Succeeded || string(res.Results[0].Item.Value) != "me" {
			t.Errorf("with else: %+v, %v", res, err)
		}
		if _, err := c.Txn(ctx, Txn{}); CodeOf(err) != kv.CodeInvalid {
			t.Errorf("empty: %v", err)
		}
		out, err := c.Batch(ctx, []Op{
			{Kind: OpPut, Key: "a", Value: []byte("1"), TTL: time.Hour, ContentType: "text/plain"},
			{Kind: OpPut, Key: "lock", Value: nil, IfAbsent: true},
			AddOp("lock", 1), AddOp("n", 5),
		})
		if err != nil || out[0].Err != nil || !out[0].Created || out[0].Status != 201 || out[3].Number != 7 || out[3].Version == 0 {
			t.Fatalf("%+v, %v", out, err)
		}
		if !IsConditionFailed(out[1].Err) || out[1].Status != 412 || !IsConflict(out[2].Err) {
			t.Errorf("failures: %+v", out[1:3])
		}
		if _, err := c.Batch(ctx, nil); CodeOf(err) != kv.CodeInvalid {
			t.Errorf("empty batch: %v", err)
		}
	})
}

func TestClusterAndProbes(t *testing.T) {
	overBoth(t, func(t *testing.T, c *Client, e *edge) {
		ctx := t.Context()
		e.cluster.Set(
			[]kv.NodeInfo{{ID: testNode, Name: "north", Alive: true, LastSeenMs: 1_700_000_000_000, HTTPAddress: "h:1"}},
			[]kv.ShardInfo{
				{Descriptor: &kvpb.ShardDescriptor{Shard: 2, Generation: 4, End: []byte("\xff\x00"),
					Replicas: []*kvpb.ReplicaDescriptor{{Node: uint64(testNode), Incarnation: 1, Role: kvpb.ReplicaRole_ROLE_VOTER}}}, Leader: testNode, Term: 3},
				{Descriptor: &kvpb.ShardDescriptor{Shard: 3, Start: []byte("\xff\x00")}},
			})
		nodes, err := c.Nodes(ctx)
		if err != nil || len(nodes) != 1 || nodes[0].ID != testNode.String() || nodes[0].LastSeen.UnixMilli() != 1_700_000_000_000 {
			t.Errorf("nodes: %+v, %v", nodes, err)
		}
		shards, err := c.Shards(ctx)
		if err != nil || len(shards) != 2 || shards[0].End != "\xff\x00" || shards[1].Start != "\xff\x00" || shards[0].Leader != testNode.String() ||
			len(shards[0].Replicas) != 1 || !shards[0].Replicas[0].Voter {
			t.Errorf("shards: %+v, %v", shards, err)
		}
		if s, err := c.ShardOf(ctx, "\xff\x01"); err != nil || s.ID != 3 {
			t.Errorf("shard of a key: %+v, %v", s, err)
		}
		sum, err := c.Cluster(ctx)
		if err != nil || sum.Nodes != 1 || sum.NodesAlive != 1 || sum.Shards != 2 || sum.ShardsWithLeader != 1 {
			t.Errorf("cluster: %+v, %v", sum, err)
		}
		if v, err := c.Version(ctx); err != nil || v != "v9" {
			t.Errorf("version: %q, %v", v, err)
		}
		if err := c.Ready(ctx, e.server.URL); err != nil {
			t.Errorf("ready: %v", err)
		}
		if err := c.Live(ctx, e.address()); err != nil {
			t.Errorf("live: %v", err)
		}
		e.cluster.SetHealth(false, kv.Check{Name: "a", OK: true}, kv.Check{Name: "b", Detail: "why"})
		checks, err := c.Readiness(ctx, e.server.URL)
		if err == nil || len(checks) != 3 || checks[2] != (Check{Name: "b", Detail: "why"}) {
			t.Errorf("not ready: %+v, %v", checks, err)
		}
		if err := c.Live(ctx, e.server.URL); CodeOf(err) != kv.CodeUnavailable {
			t.Errorf("not alive: %v", err)
		}
	})
}
