package router

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/router/routerpb"
)

// searchesMax bounds the shards whose leaders this node searches for at once.
const searchesMax = 16

// watch looks, while another node is asked for the leader of a shard and does not
// answer, whether somebody else leads by now. A process that is stopped, a machine that
// stands still, and a network that swallows what it is given do not refuse anything: only
// silence tells, and the shard may have another leader long before patience ends. To give
// up such an attempt early costs nothing but the attempt: a write goes on under the same
// id, and is in doubt as after any silence.
type watch struct {
	r    *Router
	desc *kvpb.ShardDescriptor
	node kv.NodeID // that was asked

	// Who led when the attempt began, according to this node's replica and to what
	// requests have found. Only who differs from them is news: either may be behind.
	local, cached kv.NodeID

	ctx    context.Context // the attempt's
	cancel context.CancelFunc

	mu    sync.Mutex // held while look runs
	timer *time.Timer
	ended bool
	moved bool // somebody else leads
}

// watch begins to look, at first after Timing.Watch, and ends the attempt's context when
// another node leads. stop has to be called.
func (r *Router) watch(ctx context.Context, d *kvpb.ShardDescriptor, node kv.NodeID) *watch {
	shard := kv.ShardID(d.Shard)
	w := &watch{r: r, desc: d, node: node, local: r.localLeader(shard), cached: r.leaders.get(shard)}
	w.ctx, w.cancel = context.WithCancel(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(r.timing.Watch, w.look)
	return w
}

// stop ends the watch, waits for what it has begun, and reports whether it has ended
// the attempt.
func (w *watch) stop() (moved bool) {
	w.cancel()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
	return w.moved
}

func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	if !w.elsewhere() {
		w.r.search(w.ctx, w.desc, w.node)
	}
	if w.elsewhere() {
		w.moved = true
		w.cancel()
		return
	}
	w.timer.Reset(w.r.timing.Watch)
}

// elsewhere reports whether another node has become leader since the attempt began.
func (w *watch) elsewhere() bool {
	news := func(now, then kv.NodeID) bool { return now != 0 && now != then && now != w.node }
	shard := kv.ShardID(w.desc.Shard)
	return news(w.r.leaders.get(shard), w.cached) || news(w.r.localLeader(shard), w.local)
}

// search asks the voters but one, each for a short while, whether they lead, and
// remembers who does. What is asked for is a read index and not hearsay: a voter that
// is behind names leaders of the past. One request at a time searches for a shard's
// leader, at most every Timing.Watch; the others see what it finds.
func (r *Router) search(ctx context.Context, d *kvpb.ShardDescriptor, except kv.NodeID) {
	shard := kv.ShardID(d.Shard)
	if !r.searches.begin(shard, r.timing.Watch) {
		return
	}
	defer r.searches.end(shard)
	for rep := range r.remoteReplicas(d) {
		node := kv.NodeID(rep.Node)
		if rep.Role == kvpb.ReplicaRole_ROLE_NONVOTER || node == except {
			continue
		}
		msg := &routerpb.ForwardRead{Shard: d.Shard, Linearizable: true, Request: &kvpb.ReadRequest{}}
		if _, err := r.forwardRead(ctx, node, msg, r.timing.Watch); err == nil {
			r.leaders.set(shard, node)
			return
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// searches are the shards whose leaders are being searched for, or were a moment ago: many
// requests wait where a leader is slow, and shall not make it slower. The zero value is
// ready.
type searches struct {
	mu      sync.Mutex
	running int
	latest  map[kv.ShardID]time.Time // when a search ended; zero while it runs
}

// searchesKept bounds how many ended searches are remembered without a look at their age.
const searchesKept = 1024

// begin reports whether to search: nobody does, nobody has for a while, and there are
// not too many searches.
func (s *searches) begin(shard kv.ShardID, every time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	recent := func(at time.Time) bool { return at.IsZero() || time.Since(at) < every }
	if at, known := s.latest[shard]; known && recent(at) || s.running >= searchesMax {
		return false
	}
	if s.latest == nil {
		s.latest = map[kv.ShardID]time.Time{}
	}
	if len(s.latest) >= searchesKept {
		maps.DeleteFunc(s.latest, func(_ kv.ShardID, at time.Time) bool { return !recent(at) })
	}
	s.latest[shard] = time.Time{}
	s.running++
	return true
}

func (s *searches) end(shard kv.ShardID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest[shard] = time.Now()
	s.running--
}
