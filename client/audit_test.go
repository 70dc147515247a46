package client

import (
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/quorate-db/quorate/httpd"
	"github.com/quorate-db/quorate/internal/bench/memdata"
	"github.com/quorate-db/quorate/kv"
)

// TestAudit reads all pages over both transports.
func TestAudit(t *testing.T) {
	for _, lean := range []bool{false, true} {
		t.Run(fmt.Sprintf("lean=%t", lean), func(t *testing.T) {
			cluster, log := &memdata.Cluster{}, memdata.NewAudit(testNode, "one", 25)
			cluster.Set([]kv.NodeInfo{{ID: testNode, Name: "one"}, {ID: 0xb2, Name: "two"}}, nil)
			log.Missing = []kv.AuditGap{{Node: 0xb2, Name: "two", Why: "no answer"}}
			s := httptest.NewServer(httpd.New(httpd.Options{Data: memdata.New(testNode, 7), Cluster: cluster, Health: cluster, Audit: log, Self: testNode}).Handler())
			t.Cleanup(s.Close)
			c, err := New(Config{Endpoints: []string{s.URL}, Lean: lean})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			seq := uint64(25)
			for q, pages := (AuditQuery{Limit: 10, Node: "one"}), 1; ; pages++ {
				page, err := c.Audit(t.Context(), q)
				if err != nil || len(page.Missing) != 1 || page.Missing[0].Name != "two" {
					t.Fatalf("%+v, %v", page, err)
				}
				for _, e := range page.Entries {
					if want := log.Entries[25-seq]; e.Seq != seq || !e.Time.Equal(want.Time) || e.Node != testNode.String() || e.Status != want.Status || e.Unlogged != want.Unlogged {
						t.Errorf("%+v, want %+v", e, want)
					}
					seq--
				}
				if q.Before = page.Next; q.Before.IsZero() {
					if seq != 0 || pages != 3 {
						t.Errorf("%d entries are left after %d pages", seq, pages)
					}
					break
				}
			}
			some, err := c.Audit(t.Context(), AuditQuery{Since: log.Entries[2].Time, Before: log.Entries[0].Time.In(time.FixedZone("x", 3600))})
			if err != nil || len(some.Entries) != 2 || some.Entries[0].Seq != 24 || !some.Next.IsZero() {
				t.Errorf("%+v, %v", some, err)
			}
			if none, err := c.Audit(t.Context(), AuditQuery{Node: "two"}); err != nil || len(none.Entries) != 0 {
				t.Errorf("%+v, %v", none, err)
			}
		})
	}
}
