package sim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement"
)

// finalClient is the client number of the reads at the end of a run.
const finalClient = 1 << 20

// stuckAfter is how long, in virtual time, a run may take.
const stuckAfter = 4 * time.Hour

// Result is what a run was.
type Result struct {
	Config     Config
	Violations []string // that were seen while it ran
	Ops        OpCounts
	Faults     map[string]int
	Counts     Counts
	Virtual    time.Duration // how long it took there
	Schedule   []string      // what happened when

	records []record
	denied  []record
	delays  []delay
}

// FaultsTotal is how many faults there were.
func (r *Result) FaultsTotal() int {
	n := 0
	for _, k := range r.Faults {
		n += k
	}
	return n
}

// Run runs a cluster under load and faults, heals it, and looks at it once more.
// It must be called inside a bubble of testing/synctest. Result.Check, which is
// to be called outside of it, has the verdict.
func Run(config Config) *Result {
	c := NewCluster(config)
	h := &history{}
	if err := c.Start(); err != nil {
		c.watch.violation("C7: the cluster is not founded: %v", err)
	} else {
		c.load(h)
		c.finish(h)
	}
	c.Close()
	return c.result(h)
}

// load runs clients and nemeses until enough was asked for.
func (c *Cluster) load(h *history) {
	stop := make(chan struct{})
	var clients, others sync.WaitGroup
	for i := range c.config.Clients {
		clients.Go(func() { newClient(c, h, i).run(stop) })
	}
	others.Go(func() { c.sampleUntil(stop) })
	for _, n := range nemeses(c) {
		others.Go(func() { n.run(stop) })
	}
	done := make(chan struct{})
	go func() { clients.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(stuckAfter):
		c.watch.violation("C7: %d of %d operations after %s", h.asked(), c.config.Ops, stuckAfter)
	}
	close(stop)
	clients.Wait()
	others.Wait()
}

// sampleUntil compares digests now and then.
func (c *Cluster) sampleUntil(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(500 * time.Millisecond):
			c.sampleDigests()
			c.countEvents()
		}
	}
}

// finish heals everything, waits until the cluster is whole and at rest, and looks
// at all of it.
func (c *Cluster) finish(h *history) {
	c.note("healing everything")
	c.net.SetAll(c.calm())
	for _, n := range c.nodes {
		n.Mend()
		c.net.Resume(n.ID())
	}
	c.sweepRemoved()
	for _, n := range c.members() {
		if err := n.Start(); err != nil {
			c.watch.violation("C8: %v", err)
		}
	}
	if c.config.ChangeEvery > 0 {
		if err := c.settle(); err != nil {
			c.watch.violation("C10: %v", err)
		}
	}
	if err := c.AwaitWhole(settleWithin); err != nil {
		c.watch.violation("C7: %v", err)
		return
	}
	c.askAllAgain()
	if down := c.firstDown(); down != "" {
		c.watch.violation("C7: %s is down although all is healed", down)
		return
	}
	c.readAll(h)
	if err := c.awaitEqual(settleWithin); err != nil {
		c.watch.violation("C7: %v", err)
	}
	c.sampleDigests()
	c.countEvents()
	if c.firstDown() == "" {
		c.checkMaps()
		c.checkShape()
	}
}

// firstDown names a member that does not run, "" if all do.
func (c *Cluster) firstDown() string {
	for _, n := range c.members() {
		if n.server() == nil {
			return n.name
		}
	}
	return ""
}

// readAll reads every group through every node, as the last operations of the
// history.
func (c *Cluster) readAll(h *history) {
	for _, n := range c.members() {
		running := n.server()
		if running == nil {
			continue // firstDown tells
		}
		for shard := range c.config.Shards {
			for group := range c.config.Groups {
				cl := newClient(c, h, finalClient)
				cl.home = n.index
				r := cl.begin(n, shard, group, request{read: true, cells: []int{0, 1, counter}})
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				keys := [][]byte{[]byte(keyOf(shard, group, 0)), []byte(keyOf(shard, group, 1)), []byte(keyOf(shard, group, counter))}
				readings, err := running.Router().MultiGet(ctx, keys, kv.ReadOptions{})
				cancel()
				if err != nil {
					c.watch.violation("C7: %s cannot read s%02d/g%02d when all is healed: %v", n.name, shard, group, err)
					continue
				}
				cl.end(&r)
				for _, part := range cl.parts(r, readings) {
					h.add(part)
				}
			}
		}
	}
}

// awaitEqual returns when all replicas of every shard, the meta shard's too, have
// applied the same.
func (c *Cluster) awaitEqual(within time.Duration) error {
	return c.await(within, 20*time.Millisecond, func() string {
		if behind := c.behind(); behind != "" {
			return behind
		}
		c.sampleDigests()
		return c.behind() // nothing was applied meanwhile
	})
}

func (c *Cluster) behind() string {
	applied := map[kv.ShardID]uint64{}
	for _, n := range c.members() {
		running := n.server()
		if running == nil {
			return n.name + " is down"
		}
		for _, r := range running.Host().Replicas() {
			s := r.Status()
			at, known := applied[s.ID.Shard]
			if known && at != s.AppliedIndex {
				return fmt.Sprintf("shard %s is applied to %d and to %d", s.ID.Shard, at, s.AppliedIndex)
			}
			applied[s.ID.Shard] = s.AppliedIndex
		}
	}
	return ""
}

// checkMaps holds every node's map against the key space (C7).
func (c *Cluster) checkMaps() {
	for _, n := range c.members() {
		m := placement.NewShardMap(n.server().Meta().State()).Range(nil, nil)
		var end []byte
		for i, d := range m {
			if string(d.Start) != string(end) || i > 0 && len(d.Start) == 0 {
				c.watch.violation("C7: the map of %s: shard %d begins at %q, the one before ends at %q", n.name, d.Shard, d.Start, end)
			}
			end = d.End
		}
		if c.config.ChangeEvery == 0 && len(m) != c.config.Shards || len(m) == 0 || len(end) != 0 {
			c.watch.violation("C7: the map of %s has %d shards and ends at %q", n.name, len(m), end)
		}
	}
}

func (c *Cluster) result(h *history) *Result {
	r := &Result{Config: c.config, Violations: c.watch.broken(), Virtual: c.now()}
	r.records, r.Ops = h.take()
	r.denied = h.denied // nobody asks any more
	c.watch.mu.Lock()
	r.Counts = c.watch.counts
	c.watch.mu.Unlock()
	c.log.mu.Lock()
	r.Schedule, r.Faults, r.delays = c.log.lines, c.log.kinds, c.log.delays
	c.log.mu.Unlock()
	return r
}
