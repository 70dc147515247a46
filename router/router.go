package router

import (
	"context"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// Op names what a request does, for hooks.
type Op string

const (
	OpRead  Op = "read"
	OpWrite Op = "write"
)

// Timing bounds how long the router tries. A zero field means its default.
type Timing struct {
	// Patience is how long a request goes on without meeting anybody who may
	// serve it (no leader, no quorum, nobody reachable), counted from its first
	// failure. A request that may have been carried out goes on to its deadline.
	Patience time.Duration
	// Attempt bounds the first attempt at another node; each further attempt
	// without an answer may take twice as long as the one before.
	Attempt time.Duration
	// Watch is how often a request that waits for another node looks whether somebody
	// else leads by now.
	Watch time.Duration
	// LastAttempt is the least time that an attempt after a pause must have left.
	LastAttempt time.Duration
	// BackoffMin and BackoffMax bound the pause between attempts.
	BackoffMin, BackoffMax time.Duration
	// MinVersionWait is how long a stale read waits for some replica to reach
	// its MinVersion before it is read at the leader.
	MinVersionWait time.Duration
}

func (t Timing) withDefaults() Timing {
	orDefault(&t.Patience, 5*time.Second)
	orDefault(&t.Attempt, 2*time.Second)
	orDefault(&t.Watch, 200*time.Millisecond)
	orDefault(&t.LastAttempt, 100*time.Millisecond)
	orDefault(&t.BackoffMin, 2*time.Millisecond)
	orDefault(&t.BackoffMax, 100*time.Millisecond)
	orDefault(&t.MinVersionWait, 100*time.Millisecond)
	return t
}

// Limits bound what a router holds at once. A zero field means its default.
type Limits struct {
	// Forwarded requests of other nodes being served, in number and in bytes.
	ForwardsMax     int
	ForwardBytesMax int
	// ParallelMax bounds the shards that one request asks at the same time.
	ParallelMax int
}

func (l Limits) withDefaults() Limits {
	orDefault(&l.ForwardsMax, 4096)
	orDefault(&l.ForwardBytesMax, 256<<20)
	orDefault(&l.ParallelMax, 16)
	return l
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Hooks observe a router. Each may be nil; they are called on the request's
// goroutine and must not block.
type Hooks struct {
	// Forwarded: a request was sent to another node and answered, or failed.
	Forwarded func(op Op, took time.Duration, err error)
	// Handled: a request that another node forwarded was served here.
	Handled func(op Op, took time.Duration, err error)
	// Shed: a forwarded request was refused because too many are being served.
	Shed func(op Op)
	// Retried: an attempt failed with this code and another one follows.
	Retried func(op Op, code kv.Code)
}

// Options make a Router. Self, Local, Map and Peers are required.
type Options struct {
	Self   kv.NodeID
	Local  Local
	Map    Map
	Peers  Peers
	Now    func() time.Time // wall clock, for request ids; nil = time.Now
	Logger *slog.Logger     // nil = none
	Hooks  Hooks
	Timing Timing
	Limits Limits
}

// Router serves the keys of all shards from this node. It is safe for
// concurrent use.
type Router struct {
	self   kv.NodeID
	local  Local
	shards Map
	peers  Peers
	now    func() time.Time
	log    *slog.Logger
	hooks  Hooks
	timing Timing
	limits Limits

	leaders  leaderCache
	searches searches
	turn     atomic.Uint32 // rotates what any replica can do over all of them
	seenMs   atomic.Int64  // the largest time that a shard has told

	handlers handlerGate
}

// New makes a Router. It starts nothing.
func New(o Options) *Router {
	r := &Router{
		self:   o.Self,
		local:  o.Local,
		shards: o.Map,
		peers:  o.Peers,
		now:    o.Now,
		log:    o.Logger,
		hooks:  o.Hooks,
		timing: o.Timing.withDefaults(),
		limits: o.Limits.withDefaults(),
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.leaders.nodes = map[kv.ShardID]kv.NodeID{}
	r.handlers.init(r.limits)
	return r
}

// Register tells Peers who serves forwarded requests.
func (r *Router) Register() {
	r.peers.Handle(methodForwardRead, r.handleRead)
	r.peers.Handle(methodForwardPropose, r.handlePropose)
}

// Close refuses what is new, ends the waits of what is being served, and
// returns when all handlers of forwarded requests have ended. Requests of
// this node's own clients fail with CodeDraining once they would have to wait.
func (r *Router) Close() { r.handlers.close() }

// bounded gives ctx a deadline if it has none: every request has one.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, nothing
	}
	return context.WithTimeout(ctx, kv.RequestTimeoutDefault)
}

func nothing() {}

// observe notes a shard's time, so that request ids are issued no earlier:
// a node whose clock is behind would otherwise mint ids that shards have
// already forgotten.
func (r *Router) observe(ms int64) {
	for {
		seen := r.seenMs.Load()
		if ms <= seen || r.seenMs.CompareAndSwap(seen, ms) {
			return
		}
	}
}

// leaderCache remembers who led a shard when it was last asked.
type leaderCache struct {
	mu    sync.RWMutex
	nodes map[kv.ShardID]kv.NodeID
}

func (c *leaderCache) get(shard kv.ShardID) kv.NodeID {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.nodes[shard]
}

func (c *leaderCache) set(shard kv.ShardID, node kv.NodeID) {
	if c.get(shard) == node {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[shard] = node
}

// forget drops node as the leader of shard, if that is what is remembered.
func (c *leaderCache) forget(shard kv.ShardID, node kv.NodeID) {
	if c.get(shard) != node {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nodes[shard] == node {
		delete(c.nodes, shard)
	}
}

// remoteReplicas gives the replicas of d on other nodes, beginning with another one each time.
func (r *Router) remoteReplicas(d *kvpb.ShardDescriptor) iter.Seq[*kvpb.ReplicaDescriptor] {
	return func(yield func(*kvpb.ReplicaDescriptor) bool) {
		for n, from := len(d.Replicas), int(r.turn.Add(1)); n > 0; n-- {
			if rep := d.Replicas[(from+n)%len(d.Replicas)]; kv.NodeID(rep.Node) != r.self && !yield(rep) {
				return
			}
		}
	}
}

// localLeader gives who leads a shard according to this node's own replica, 0 for nobody.
func (r *Router) localLeader(shard kv.ShardID) kv.NodeID {
	leader, known := r.local.Leader(shard)
	if !known {
		return 0
	}
	return leader
}

// owns reports whether key lies in the descriptor's range.
func owns(d *kvpb.ShardDescriptor, key []byte) bool {
	return string(d.Start) <= string(key) && (len(d.End) == 0 || string(key) < string(d.End))
}

// ownsRange reports whether [start, end) lies in the descriptor's range; an
// empty end has no bound.
func ownsRange(d *kvpb.ShardDescriptor, start, end []byte) bool {
	if !owns(d, start) {
		return false
	}
	return len(d.End) == 0 || len(end) > 0 && string(end) <= string(d.End)
}
