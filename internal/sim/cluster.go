package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/quorate-db/quorate/internal/simnet"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement"
)

// settleWithin bounds how long a cluster may take to be founded, and to be whole
// again once everything is healed (C7).
const settleWithin = 2 * time.Minute

// Cluster is the nodes of a run, their network and their disks. Its methods may
// be called from any goroutine of the bubble.
type Cluster struct {
	config Config
	net    *simnet.Network
	nodes  []*Node
	start  time.Time
	watch  watch
	log    schedule
	sent   requests
	ids    sync.Map // every kv.NodeID that a machine ever had → its name
}

// NewCluster makes a cluster of which nothing runs.
func NewCluster(config Config) *Cluster {
	c := &Cluster{config: config.withDefaults(), start: time.Now()}
	c.net = simnet.New(c.config.Seed)
	c.net.SetAll(c.calm())
	c.watch.init()
	for i := range c.config.Nodes + c.config.Spares {
		n := newNode(c, i)
		n.out = i >= c.config.Nodes
		c.nodes = append(c.nodes, n)
	}
	return c
}

// calm is the network without faults: a little jitter, so messages overtake one
// another.
func (c *Cluster) calm() simnet.Link {
	return simnet.Link{DelayMin: 100 * time.Microsecond, DelayMax: 900 * time.Microsecond}
}

// rng gives a source of randomness of the run for one purpose.
func (c *Cluster) rng(purpose uint64) *rand.Rand {
	return rand.New(rand.NewPCG(c.config.Seed, purpose))
}

// Node gives the i-th node.
func (c *Cluster) Node(i int) *Node { return c.nodes[i] }

// Net gives the network.
func (c *Cluster) Net() *simnet.Network { return c.net }

// Start starts all nodes and returns when they have founded a cluster that
// serves.
func (c *Cluster) Start() error {
	for _, n := range c.nodes {
		if err := n.Start(); err != nil {
			return err
		}
	}
	return c.AwaitWhole(settleWithin)
}

// Close stops all nodes and waits for everything.
func (c *Cluster) Close() {
	var wg sync.WaitGroup
	for _, n := range c.nodes {
		wg.Go(n.Close)
	}
	wg.Wait()
	c.net.Close()
}

// now is the virtual time since the run began.
func (c *Cluster) now() time.Duration { return time.Since(c.start) }

// AwaitWhole returns when every node runs and follows the meta shard, every
// shard has its replicas and a leader that takes writes, and every node can read
// every shard. The error says what is still missing after so long.
func (c *Cluster) AwaitWhole(within time.Duration) error {
	return c.await(within, 50*time.Millisecond, c.missing)
}

// await returns when what says in words what is missing says nothing any more.
func (c *Cluster) await(within, every time.Duration, what func() string) error {
	deadline := time.Now().Add(within)
	for {
		missing := what()
		if missing == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %s still: %s\n%s", within, missing, c.describe())
		}
		time.Sleep(every)
	}
}

// members gives the machines that are of the cluster, whether they run or not.
func (c *Cluster) members() []*Node {
	var out []*Node
	for _, n := range c.nodes {
		if !n.isOut() {
			out = append(out, n)
		}
	}
	return out
}

// missing says in words what a whole cluster lacks, "" for nothing.
func (c *Cluster) missing() string {
	for _, n := range c.members() {
		running := n.server()
		if running == nil {
			return n.name + " is down"
		}
		select {
		case <-running.Control().Joined():
		default:
			return n.name + " has not joined"
		}
		if got := len(running.Meta().State().Shards()); got == 0 || c.config.ChangeEvery == 0 && got != c.config.Shards {
			return fmt.Sprintf("%s knows %d of %d shards", n.name, got, c.config.Shards)
		}
		for shard := range c.config.Shards {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			_, err := running.Router().Get(ctx, []byte(keyOf(shard, 0, 0)), kv.ReadOptions{})
			cancel()
			if err != nil {
				return fmt.Sprintf("%s cannot read range %d: %v", n.name, shard, err)
			}
		}
	}
	for shard, want := range c.shardMembers() {
		if have := len(c.replicasOf(shard)); have != want {
			return fmt.Sprintf("shard %s has %d of %d replicas: %s", shard, have, want, c.replicasText(shard))
		}
	}
	return ""
}

// shardMembers gives the data shards of the first running node's map, with how many
// replicas each is to have.
func (c *Cluster) shardMembers() map[kv.ShardID]int {
	out := map[kv.ShardID]int{}
	if state := c.state(); state != nil {
		for _, s := range state.Shards() {
			out[kv.ShardID(s.Current.Shard)] = len(s.Current.Replicas)
		}
	}
	return out
}

// state gives the meta shard's state as the member has it that has applied most of
// it, nil if none runs.
func (c *Cluster) state() *placement.State {
	var best *placement.State
	var most uint64
	for _, n := range c.members() {
		if running := n.server(); running != nil {
			m := running.Meta()
			if at := m.Applied().Index; best == nil || at > most {
				best, most = m.State(), at
			}
		}
	}
	return best
}

// describe gives the status of all replicas, one a line.
func (c *Cluster) describe() string {
	var b strings.Builder
	for _, n := range c.nodes {
		running := n.server()
		if running == nil {
			fmt.Fprintf(&b, "%s: down\n", n.name)
			continue
		}
		for _, r := range running.Host().Replicas() {
			s := r.Status()
			fmt.Fprintf(&b, "%s shard %s: %s ready=%t term %d leader %s last %d commit %d applied %d members %d %s\n", n.name, s.ID.Shard,
				s.Role, s.LeaderReady, s.Term, c.nameOf(s.Leader), s.LastIndex, s.CommitIndex, s.AppliedIndex, len(s.Members), s.Failure)
		}
	}
	return b.String()
}

func (c *Cluster) nameOf(id kv.NodeID) string {
	if name, ok := c.ids.Load(id); ok {
		return name.(string)
	}
	return "-"
}

// keyOf names a key: all keys of a shard begin alike, and split points lie
// between.
func keyOf(shard, group, cell int) string {
	return fmt.Sprintf("s%02d/g%02d/%c", shard, group, 'a'+cell)
}

func splitPoints(shards int) []string {
	var points []string
	for i := 1; i < shards; i++ {
		points = append(points, fmt.Sprintf("s%02d", i))
	}
	return points
}

// schedule is what happened when, for the report of a failure.
type schedule struct {
	mu     sync.Mutex
	lines  []string
	kinds  map[string]int
	delays []delay
}

// delay is a time in which messages may have taken so long.
type delay struct{ from, to, by time.Duration }

// delaying notes that from now on messages take up to so long, and gives what ends
// it.
func (c *Cluster) delaying(by time.Duration) func() {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	i := len(c.log.delays)
	c.log.delays = append(c.log.delays, delay{from: c.now(), to: stuckAfter, by: by})
	return func() {
		c.log.mu.Lock()
		defer c.log.mu.Unlock()
		c.log.delays[i].to = c.now()
	}
}

// fault notes a fault of a kind, and in words what it was.
func (c *Cluster) fault(kind, format string, args ...any) {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	if c.log.kinds == nil {
		c.log.kinds = map[string]int{}
	}
	c.log.kinds[kind]++
	c.lineLocked(kind, fmt.Sprintf(format, args...))
}

// note adds to the schedule something that is no fault.
func (c *Cluster) note(format string, args ...any) {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	c.lineLocked("", fmt.Sprintf(format, args...))
}

func (c *Cluster) lineLocked(kind, text string) {
	line := fmt.Sprintf("%10.4fs %-14s %s", c.now().Seconds(), kind, text)
	c.log.lines = append(c.log.lines, line)
	if c.config.Trace != nil {
		fmt.Fprintln(c.config.Trace, line)
	}
}
