package router

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// fill writes n keys below each of the prefixes.
func (c *cluster) fill(n int, prefixes ...string) {
	c.tb.Helper()
	var txns []*kvpb.Txn
	flush := func() {
		for _, o := range c.router(1).Batch(context.Background(), txns, nil) {
			if o.Err != nil {
				c.tb.Fatal(o.Err)
			}
		}
		txns = nil
	}
	for _, p := range prefixes {
		for i := range n {
			if txns = append(txns, put(fmt.Sprintf("%s%05d", p, i), "v")); len(txns) == kv.OpsMax {
				flush()
			}
		}
	}
	flush()
}

func (c *cluster) count(start, end string) int {
	c.tb.Helper()
	n := 0
	req := kv.ScanRequest{Start: []byte(start), End: []byte(end), Limit: kv.ScanItemsMax, KeysOnly: true}
	for {
		page, err := c.router(1).Scan(context.Background(), req)
		if err != nil {
			c.tb.Fatal(err)
		}
		n += len(page.Items)
		if !page.More {
			return n
		}
		req.Start = page.Resume
	}
}

func TestDeleteRange(t *testing.T) {
	long := strings.Repeat("\xff", kv.KeyBytesMax)
	for name, x := range map[string]struct {
		start, end string
		deleted    int
	}{
		"everything":           {"", "", 4*30 + 1},
		"over shards":          {"b", "d", 60},
		"within a shard":       {"b00010", "b00015", 5},
		"to a border":          {"a", "c", 60},
		"from a border":        {"c", "", 61},
		"the last key of all":  {long, "", 1},
		"nothing there":        {"bz", "c", 0},
		"nothing in the range": {"d", "b", 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 3, "b", "c", "d")
			c.fill(30, "a", "b", "c", "d")
			c.mustPut(long)
			c.split(3, "b00012", 9) // which the map does not know
			before := c.count("", "")
			n, err := c.router(2).DeleteRange(context.Background(), []byte(x.start), []byte(x.end), nil)
			if err != nil || n != x.deleted {
				t.Fatalf("deleted %d, %v; want %d", n, err, x.deleted)
			}
			if left := c.count("", ""); left != before-n {
				t.Fatalf("%d left of %d", left, before)
			}
			if x.start < x.end && c.count(x.start, x.end) != 0 {
				t.Fatal("some of the range are left")
			}
		})
	}
}

func TestDeleteRangeGoesOnAndIsReplayed(t *testing.T) {
	c := newCluster(t, 2, "b")
	c.fill(kv.OpsMax+500, "a", "b")
	id := &kvpb.RequestID{Hi: 4, Lo: 5, IssuedMs: time.Now().UnixMilli()}
	n, err := c.router(1).DeleteRange(context.Background(), nil, nil, id)
	if err != nil || n != 2*(kv.OpsMax+500) {
		t.Fatalf("deleted %d, %v", n, err)
	}
	// What is written afterwards is safe from the same request.
	c.mustPut("a1", "b1")
	again, err := c.router(2).DeleteRange(context.Background(), nil, nil, id)
	if err != nil || again != n {
		t.Fatalf("again: %d, %v", again, err)
	}
	c.split(2, "a00500", 9)
	c.nodes[2].view.refresh()
	again, err = c.router(2).DeleteRange(context.Background(), nil, nil, id)
	if err != nil || again != n {
		t.Fatalf("after a split: %d, %v", again, err)
	}
	c.absorb(9, 3)
	c.nodes[1].view.refresh()
	again, err = c.router(1).DeleteRange(context.Background(), nil, nil, id)
	if err != nil || again != n {
		t.Fatalf("after a merge: %d, %v", again, err)
	}
	// Another range under the same id is another request.
	_, err = c.router(1).DeleteRange(context.Background(), nil, []byte("b"), id)
	wantError(t, err, kv.CodeIdempotencyMismatch, kv.OutcomeNotApplied)
	if left := c.count("", ""); left != 2 {
		t.Fatalf("%d left, want the two later ones", left)
	}
}

// TestAnOpenRangeIsNotNarrowed has the last shard split when the command for
// "everything to the end" is already on its way.
func TestAnOpenRangeIsNotNarrowed(t *testing.T) {
	c := newCluster(t, 1)
	c.fill(10, "a", "z")
	once := true
	c.propose = func(kv.NodeID, kv.ShardID) error {
		if once {
			once = false
			c.split(2, "m", 9)
		}
		return nil
	}
	n, err := c.router(1).DeleteRange(context.Background(), []byte("a"), nil, nil)
	if err != nil || n != 20 {
		t.Fatalf("deleted %d, %v", n, err)
	}
}

func TestDeleteRangeThatFailsHalfWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2, "b")
		c.fill(10, "a", "b")
		c.locked(func() { c.shards[3].leader = 0 })
		n, err := c.router(1).DeleteRange(context.Background(), nil, nil, nil)
		wantError(t, err, kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
		if n != 10 || !strings.Contains(err.Error(), "10 keys were deleted") {
			t.Fatalf("deleted %d, %v", n, err)
		}
		n, err = c.router(1).DeleteRange(context.Background(), []byte("b"), nil, nil)
		wantError(t, err, kv.CodeUnavailable, kv.OutcomeNotApplied)
		if n != 0 {
			t.Fatal(n)
		}
	})
	c := newCluster(t, 1)
	_, err := c.router(1).DeleteRange(context.Background(), make([]byte, kv.KeyBytesMax+1), nil, nil)
	wantError(t, err, kv.CodeKeyTooLong, kv.OutcomeNotApplied)
}
