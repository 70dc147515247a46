package placement

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// Control is a node's control plane: the agent that every node runs, the loop
// that acts while this node leads the meta shard, and the answers to questions
// about the cluster.
//
// Life: New, Register before the mesh starts, Start once the mesh and the
// replicas on disk are up, Close before they go.
type Control struct {
	agent   *agent
	loop    *loop
	tracker *tracker
	workers *workers
	views   views

	joined chan struct{}
	failed chan error

	mu     sync.Mutex
	cancel context.CancelFunc // nil before Start
	closed bool
	wg     sync.WaitGroup
}

// New checks the options and gives a control plane that does nothing yet.
func New(o Options) (*Control, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	o.Tuning = o.Tuning.withDefaults()
	orInt(&o.ReplicationFactor, 3)
	o.Config.ReplicationFactor = o.ReplicationFactor
	o.Config = foundingConfig(o.Config)
	if err := checkConfig(o.Config); err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	events := &eventLog{names: func(node kv.NodeID) string { return o.Machine.State().nodeName(uint64(node)) }, now: o.Now}
	hooks := o.Hooks
	hooks.onLiveness, hooks.onLead = events.liveness, events.lead
	tracker, workers := newTracker(o.Tuning, hooks), newWorkers()
	a := &agent{
		opts: o, self: o.Identity.Node(), machine: o.Machine, identity: o.Identity, meta: o.Meta, replicas: o.Replicas, peers: o.Peers,
		tracker: tracker, workers: workers, now: o.Now, log: o.Logger, once: newOnceLog(o.Logger),
		rates: newRates(), nudged: make(chan struct{}, 1),
	}
	l := &loop{
		machine: o.Machine, meta: o.Meta, replicas: o.Replicas, peers: o.Peers, self: a.self, tracker: tracker,
		actions: o.Actions, nudge: a.nudge, events: events, tuning: o.Tuning, hooks: o.Hooks, now: o.Now, log: o.Logger, finished: make(chan struct{}, 1),
		running: map[string]Step{}, retry: map[string]attempt{}, moving: map[kv.ShardID]handover{},
	}
	c := &Control{
		agent: a, loop: l, tracker: tracker, workers: workers, views: views{agent: a, turn: make(chan struct{}, 1)},
		joined: make(chan struct{}), failed: make(chan error, 1),
	}
	a.control = c.serve
	return c, nil
}

func (o *Options) check() error {
	switch {
	case o.Machine == nil || o.Identity == nil || o.Meta == nil || o.Replicas == nil || o.Peers == nil || o.LearnAddresses == nil || o.Logger == nil:
		return errors.New("placement: an option that is required is missing")
	case o.Self.PeerAddress == "":
		return errors.New("placement: this node has no peer address")
	case o.Expect < 0 || len(o.Join) > introductionsMax || o.Expect > introductionsMax:
		return fmt.Errorf("placement: at most %d nodes can found a cluster together", introductionsMax)
	case o.ReplicationFactor < 0 || o.ReplicationFactor > replicationFactorMax:
		return fmt.Errorf("placement: replication factor %d: want 1 to %d", o.ReplicationFactor, replicationFactorMax)
	}
	return checkSplitPoints(o.SplitPoints)
}

// Register registers the handlers of other nodes' requests.
func (c *Control) Register() {
	c.agent.peers.Handle(MethodProbe, c.agent.onProbe)
	c.agent.peers.Handle(MethodJoin, c.agent.onJoin)
	c.agent.peers.Handle(MethodReport, c.agent.onReport)
	c.agent.peers.Handle(MethodAdmin, c.agent.onAdmin)
}

// Start begins to found, join or follow. It returns at once; Joined and Failed
// tell how it went.
func (c *Control) Start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.wg.Go(func() { c.run(ctx) })
}

func (c *Control) run(ctx context.Context) {
	if err := c.agent.enter(ctx); err != nil {
		c.fail(ctx, err)
		return
	}
	close(c.joined)
	c.wg.Go(func() { c.loop.run(ctx) })
	c.wg.Go(func() { c.agent.follow(ctx) })
	c.wg.Go(func() { c.agent.tidy(ctx) })
	c.fail(ctx, c.agent.speak(ctx))
}

// fail hands a fatal error to whoever watches Failed.
func (c *Control) fail(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	c.failed <- err // one slot, and run fails at most once
}

// Joined is closed when this node belongs to a cluster and follows its meta
// shard, or did so already when it started.
func (c *Control) Joined() <-chan struct{} { return c.joined }

// Failed gives at most one error: a reason why this node can never be part of
// the cluster as it was started. The process should end with it.
func (c *Control) Failed() <-chan error { return c.failed }

// Close stops everything and waits for it. Handlers that are called later refuse.
func (c *Control) Close() {
	c.mu.Lock()
	c.closed = true
	if c.cancel != nil {
		c.cancel()
	}
	c.mu.Unlock()
	c.workers.close()
	c.wg.Wait()
}
