//go:build blackbox

package blackbox

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/test/proc"
)

// limit is the deadline that requests of these tests have where nothing should
// hold them up.
const limit = 10 * time.Second

// TestAnyNode writes through each node and reads through every other.
func TestAnyNode(t *testing.T) {
	c := proc.Start(t, binary(t), proc.Shape{})
	t.Run("keys", func(t *testing.T) { testKeys(t, c) })
	t.Run("scan", func(t *testing.T) { testScan(t, c) })
	t.Run("conditions", func(t *testing.T) { testConditions(t, c) })
	t.Run("transactions", func(t *testing.T) { testTransactions(t, c) })
	t.Run("command line", func(t *testing.T) { testCommandLine(t, c) })
}

func testKeys(t *testing.T, c *proc.Cluster) {
	for i := 1; i <= c.Size; i++ {
		for _, letter := range []string{"0", "C", "M", "Z", "k", "z"} {
			key := "/v1/kv/" + letter + "/any/key" + fmt.Sprint(i)
			value := fmt.Sprintf("value %d\x00\xff\n%s", i, letter)
			put := proc.MustDo(t, http.MethodPut, c.Endpoint(i)+key, value, limit)
			if put.Status != http.StatusCreated {
				t.Fatalf("PUT %s at node %d: %d %s", key, i, put.Status, put.Body)
			}
			for k := 1; k <= c.Size; k++ {
				get := proc.MustDo(t, http.MethodGet, c.Endpoint(k)+key, "", limit)
				if get.Status != http.StatusOK || get.Body != value || get.Header.Get("Etag") != put.Header.Get("Etag") {
					t.Fatalf("GET %s at node %d after a PUT at node %d: %d %q etag %s, want 200 %q etag %s",
						key, k, i, get.Status, get.Body, get.Header.Get("Etag"), value, put.Header.Get("Etag"))
				}
			}
		}
	}
}

// testScan reads a range over all shards, in pages, at every node, both ways.
func testScan(t *testing.T, c *proc.Cluster) {
	admin := c.Client(t, client.Config{})
	layout := c.Layout(t)
	var want []string
	for i := range layout.Shards {
		for k := range 7 {
			key := proc.KeyIn(&layout.Shards[i], fmt.Sprintf("scan%d", k))
			if _, err := admin.Put(t.Context(), key, []byte("v"+key), client.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			want = append(want, key)
		}
	}
	slices.Sort(want)
	for i := 1; i <= c.Size; i++ {
		one := c.Client(t, client.Config{Endpoints: []string{c.Endpoint(i)}})
		for _, reverse := range []bool{false, true} {
			var got []string
			for item, err := range one.Scan(t.Context(), client.Range{Reverse: reverse, PageItems: 10}) {
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(item.Key, "!scan") {
					continue
				}
				if string(item.Value) != "v"+item.Key {
					t.Fatalf("%q holds %q", item.Key, item.Value)
				}
				got = append(got, item.Key)
			}
			if reverse {
				slices.Reverse(got)
			}
			if !slices.Equal(got, want) {
				t.Errorf("scan at node %d, reverse %t: %q, want %q", i, reverse, got, want)
			}
		}
	}
}

func testConditions(t *testing.T, c *proc.Cluster) {
	one, other := c.Client(t, client.Config{Endpoints: []string{c.Endpoint(1)}}), c.Client(t, client.Config{Endpoints: []string{c.Endpoint(4)}})
	first, err := one.Put(t.Context(), "cond", []byte("1"), client.PutOptions{IfAbsent: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Put(t.Context(), "cond", []byte("2"), client.PutOptions{IfAbsent: true}); !client.IsConditionFailed(err) {
		t.Errorf("second put if absent: %v, want condition failed", err)
	}
	second, err := other.Put(t.Context(), "cond", []byte("3"), client.PutOptions{IfMatch: first.Version})
	if err != nil || second.Version <= first.Version {
		t.Errorf("put if match: version %s after %s, %v", second.Version, first.Version, err)
	}
	if _, err := one.Put(t.Context(), "cond", []byte("4"), client.PutOptions{IfMatch: first.Version}); !client.IsConditionFailed(err) {
		t.Errorf("put if match with the old version: %v, want condition failed", err)
	}
	old, err := one.Get(t.Context(), "cond", client.ReadOptions{At: first.Version})
	if err != nil || string(old.Value) != "1" {
		t.Errorf("get at %s: %q, %v, want the first value", first.Version, old.Value, err)
	}
}

func testTransactions(t *testing.T, c *proc.Cluster) {
	one, other := c.Client(t, client.Config{Endpoints: []string{c.Endpoint(2)}}), c.Client(t, client.Config{Endpoints: []string{c.Endpoint(5)}})
	move := client.Txn{
		If:   []client.Guard{client.IfAbsent("t/done")},
		Then: []client.Op{client.AddOp("t/a", -5), client.AddOp("t/b", 5), client.PutOp("t/done", nil)},
		Else: []client.Op{client.GetOp("t/a"), client.GetOp("t/b")},
	}
	res, err := one.Txn(t.Context(), move)
	if err != nil || !res.Succeeded {
		t.Fatalf("transaction: %+v, %v", res, err)
	}
	res, err = other.Txn(t.Context(), move)
	if err != nil || res.Succeeded || string(res.Results[0].Item.Value) != "-5" || string(res.Results[1].Item.Value) != "5" {
		t.Fatalf("the same at another node: %+v, %v", res, err)
	}
	wide := proc.MustDo(t, http.MethodPost, c.Endpoint(3)+"/v1/txn",
		`{"then":[{"op":"put","key":"0first","value":"1"},{"op":"put","key":"zlast","value":"1"}]}`, limit)
	if wide.Status != http.StatusUnprocessableEntity || wide.Outcome != "not-applied" || wide.Code != "cross_shard_txn" {
		t.Errorf("transaction over two shards: %d %s", wide.Status, wide.Body)
	}
	if got := proc.MustDo(t, http.MethodGet, c.Endpoint(3)+"/v1/kv/0first", "", limit); got.Status != http.StatusNotFound {
		t.Errorf("half of a refused transaction: %d %s", got.Status, got.Body)
	}
}

// testCommandLine runs the commands against the cluster.
func testCommandLine(t *testing.T, c *proc.Cluster) {
	endpoint := func(i int) string { return "--endpoint=" + c.Endpoint(i) }
	run := func(want int, args ...string) proc.Finished {
		t.Helper()
		got := proc.Run(t, binary(t), "", args...)
		if got.Code != want {
			t.Fatalf("quorate %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got.Code, want, got.Stdout, got.Stderr)
		}
		return got
	}
	version := strings.TrimSpace(run(0, "put", "cli/a", "one", endpoint(1)).Stdout)
	if got := run(0, "get", "cli/a", endpoint(3)).Stdout; got != "one" {
		t.Errorf("get prints %q, want %q", got, "one")
	}
	run(4, "put", "cli/a", "two", "--if-absent", endpoint(2))
	run(0, "put", "cli/a", "two", "--if-match", version, endpoint(2))
	run(0, "put", "cli/b", "three", endpoint(4))
	if got := run(0, "scan", "--prefix", "cli/", "-o", "plain", endpoint(5)).Stdout; !strings.Contains(got, "cli/a") || !strings.Contains(got, "three") {
		t.Errorf("scan prints %q", got)
	}
	if got := strings.TrimSpace(run(0, "del", "cli/a", endpoint(4)).Stdout); got != "1" {
		t.Errorf("del prints %q, want 1", got)
	}
	run(3, "get", "cli/a", endpoint(1))
	run(2, "get", endpoint(1))
	run(2, "get", "cli/a", "--no-such-flag")
	run(5, "get", "cli/b", "--endpoint=http://127.0.0.1:1", "--timeout=2s")
	run(5, "health", "--endpoint=http://127.0.0.1:1")
	run(0, "health", endpoint(2))

	var nodes []client.Node
	if err := json.Unmarshal([]byte(run(0, "nodes", "-o", "json", endpoint(2)).Stdout), &nodes); err != nil || len(nodes) != c.Size {
		t.Errorf("nodes: %d, %v, want %d", len(nodes), err, c.Size)
	}
	var shards []json.RawMessage
	if err := json.Unmarshal([]byte(run(0, "shards", "-o", "json", endpoint(2)).Stdout), &shards); err != nil || len(shards) < 8 {
		t.Errorf("shards: %d, %v, want at least 8", len(shards), err)
	}
	if got := run(0, "version").Stdout; !strings.HasPrefix(got, "quorate ") {
		t.Errorf("version prints %q", got)
	}
	// A key that only bytes can name, by the environment instead of flags.
	t.Setenv("QUORATE_ENDPOINT", c.Endpoint(3))
	t.Setenv("QUORATE_KEY_ENCODING", "hex")
	run(0, "put", "00ff0a2f", "bytes")
	if got := run(0, "get", "00ff0a2f").Stdout; got != "bytes" {
		t.Errorf("get prints %q", got)
	}
	key := "/v1/kv/" + url.PathEscape("\x00\xff\n/")
	if got := proc.MustDo(t, http.MethodGet, c.Endpoint(1)+key, "", limit); got.Body != "bytes" {
		t.Errorf("GET %s: %d %q", key, got.Status, got.Body)
	}
}
