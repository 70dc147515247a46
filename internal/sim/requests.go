package sim

import (
	"context"
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv/kvpb"
)

// requestsKept bounds the requests that are asked again.
const requestsKept = 256

// requests remembers transactions that were acknowledged under a request id of the
// client's own. Asked again within the window, each has to be answered as it was,
// from what its shard remembers, wherever its keys have gone meanwhile (C9).
type requests struct {
	mu   sync.Mutex
	list []sentRequest
	next int // is replaced next when the list is full
}

type sentRequest struct {
	id      *kvpb.RequestID
	txn     *kvpb.Txn
	version uint64 // that it was acknowledged with
	at      time.Time
}

func (s *requests) add(r sentRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) < requestsKept {
		s.list = append(s.list, r)
		return
	}
	s.list[s.next] = r
	s.next = (s.next + 1) % requestsKept
}

func (s *requests) all() []sentRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]sentRequest(nil), s.list...)
}

// again asks a machine once more for what was done already. It reports whether it
// was answered. That a transaction is refused because a split has parted its keys is
// no answer, nor that a clock that ran ahead has closed the window.
func (c *Cluster) again(n *Node, r sentRequest, within time.Duration) bool {
	running, epoch := n.current()
	if running == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	written, err := running.Router().Txn(ctx, r.txn, r.id)
	if n.crashedSince(epoch) {
		return false
	}
	age := time.Since(r.at)
	switch {
	case err != nil:
		return false
	case !written.Replayed || written.Result.GetVersion() != r.version:
		c.watch.violation("C9: request %x%x of %s ago was acknowledged at version %d, and done again at %d by shard %s (replayed: %t)",
			r.id.Hi, r.id.Lo, age, r.version, written.Result.GetVersion(), written.Served.Shard, written.Replayed)
	}
	c.watch.count(func(k *Counts) { k.Resent++ })
	return true
}

// askAllAgain asks for all requests that are remembered, at the end of a run.
func (c *Cluster) askAllAgain() {
	members := c.members()
	for i, r := range c.sent.all() {
		c.again(members[i%len(members)], r, 10*time.Second)
	}
}
