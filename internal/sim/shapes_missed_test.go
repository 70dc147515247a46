package sim

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// A node is cut off while the control plane splits a shard, for so long that its
// replica of the parent comes back by a snapshot: it never sees the split, and has to
// get the child all the same.
func TestSplitThatOneNodeDoesNotSee(t *testing.T) {
	inCluster(t, 7, func(c *Cluster, a *adders) {
		_, followers := (&stage{c, nil}).leader()
		late := followers[0]
		c.net.Isolate(late.ID(), true)
		err := eventually(func(ctx context.Context) error {
			_, err := followers[1].server().Control().Split(ctx, onlyShard, []byte("m"))
			return err
		})
		if err != nil {
			t.Error(err)
			return
		}
		child := kv.ShardID(0)
		err = eventually(func(context.Context) error {
			for _, s := range followers[1].server().Meta().State().Shards() {
				if id := kv.ShardID(s.Current.Shard); id != onlyShard && s.Current.Generation > 0 {
					child = id
				}
			}
			if _, ok := followers[1].server().Host().Replica(child); !ok {
				return errors.New("no child yet")
			}
			return nil
		})
		if err != nil {
			t.Error(err)
			return
		}
		// Until nobody has the log any more that the split is in.
		filler := &kvpb.Txn{Then: []*kvpb.Op{{Kind: kvpb.OpKind_OP_PUT, Key: []byte("filler"), Value: []byte("x")}}}
		for range 1200 {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			_, err := followers[1].server().Router().Txn(ctx, filler, nil)
			cancel()
			if err != nil {
				t.Error(err)
				return
			}
		}
		time.Sleep(3 * time.Second) // the host looks once a second for what is to be cut
		c.watch.mu.Lock()
		before := c.watch.counts.Installs
		c.watch.mu.Unlock()
		c.net.SetAll(c.calm())
		err = eventually(func(context.Context) error {
			r, ok := late.server().Host().Replica(child)
			if !ok || r.Status().AppliedIndex == 0 {
				return fmt.Errorf("%s has no replica of shard %s\n%s", late.name, child, c.describe())
			}
			return nil
		})
		if err == nil {
			err = c.hold(onlyShard, child)
		}
		if err != nil {
			t.Error(err)
		}
		c.watch.mu.Lock()
		if c.watch.counts.Installs < before+2 {
			t.Errorf("%d snapshots were installed: the split was seen", c.watch.counts.Installs-before)
		}
		c.watch.mu.Unlock()
		a.finish(t)
	})
}
