package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quorate-db/quorate/internal/server"
	"github.com/quorate-db/quorate/internal/simnet"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement"
	"github.com/quorate-db/quorate/raftnode"
)

// closeWithin bounds how long a process may take to end after its crash. It has
// ended for everybody else by then; the simulator waits for its goroutines.
const closeWithin = 90 * time.Second

// restartAfter is how long a supervisor waits before it starts a process again.
const restartAfter = time.Second

// Node is one machine: a disk, a clock, and a process that runs or not.
type Node struct {
	c       *Cluster
	index   int
	name    string
	address string
	skew    atomic.Int64 // of the wall clock, nanoseconds
	rng     *rand.Rand   // of the disk

	// changing is held over a start or a crash. It is no mutex, because who waits for a
	// mutex does not let virtual time pass.
	changing chan struct{}

	supervisors sync.WaitGroup

	mu    sync.Mutex
	id    kv.NodeID // of the data directory; zero before the first start
	disk  *disk
	run   *server.Node
	epoch int // counts crashes: what a process says after its crash nobody hears
	sick  bool
	over  bool          // the run is over: nothing starts any more
	out   bool          // it is not of the cluster: nothing starts until it joins
	life  int           // counts how often the disk was replaced by an empty one
	quit  chan struct{} // closed when the process that runs is being ended
}

func newNode(c *Cluster, index int) *Node {
	n := &Node{c: c, index: index, name: fmt.Sprintf("n%d", index+1), rng: c.rng(uint64(1000 + index)), changing: make(chan struct{}, 1)}
	n.address = n.name + ":7101"
	n.disk = n.newDisk(vfs.NewCrashableMem())
	return n
}

func (n *Node) newDisk(mem *vfs.MemFS) *disk {
	return newDisk(mem, rand.New(rand.NewPCG(n.rng.Uint64(), 1)), n.c.config.SyncLag)
}

// ID gives the node's id, zero before it ran first.
func (n *Node) ID() kv.NodeID {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.id
}

// server gives the running process, nil if there is none.
func (n *Node) server() *server.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.run
}

// current is server with the epoch it runs in.
func (n *Node) current() (*server.Node, int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.run, n.epoch
}

// crashedSince reports whether the process of an epoch is gone.
func (n *Node) crashedSince(epoch int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.epoch != epoch
}

// Clock sets how far the node's wall clock is ahead.
func (n *Node) Clock(ahead time.Duration) { n.skew.Store(int64(ahead)) }

// Start starts the process on what is on the disk. One that runs is left alone.
func (n *Node) Start() error {
	n.changing <- struct{}{}
	defer func() { <-n.changing }()
	n.mu.Lock()
	d, quit, none := n.disk, make(chan struct{}), n.run != nil || n.over || n.out
	n.mu.Unlock()
	if none {
		return nil
	}
	run, err := server.Open(context.Background(), n.config(), server.World{
		FS:             d.fs(),
		BeforeLogWrite: d.logWrite,
		Mesh:           n.mesh,
		Now:            func() time.Time { return time.Now().Add(time.Duration(n.skew.Load())) },
		Steady:         time.Now, // a wall clock that is set does not make intervals longer
		Logger:         n.c.config.Logger.With("process", n.name),
		Timing:         raftnode.Timing{SnapshotEntries: 512, TrailingEntries: 48},
		Hooks:          server.Hooks{Raft: n.c.watch.hooks(n.c), Placement: placement.Hooks{OnStep: n.c.watch.step}},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	d.lag.on.Store(true)
	n.mu.Lock()
	n.id, n.run, n.quit = run.Identity().Node(), run, quit
	n.c.ids.Store(n.id, n.nameLocked())
	n.mu.Unlock()
	n.supervisors.Go(func() { n.supervise(run, quit) })
	return nil
}

// nameLocked is what the node calls itself: one whose disk was replaced is another
// node on the same machine.
func (n *Node) nameLocked() string {
	if n.life == 0 {
		return n.name
	}
	return fmt.Sprintf("%s-%d", n.name, n.life+1)
}

func (n *Node) config() server.Config {
	c := n.c.config
	var join []string
	for _, other := range n.c.nodes[:c.Nodes] {
		join = append(join, other.address)
	}
	n.mu.Lock()
	name, zone := n.nameLocked(), ""
	n.mu.Unlock()
	if c.Zones > 0 {
		zone = fmt.Sprintf("z%d", n.zone())
	}
	return server.Config{
		DataDir: "/var/data",
		Name:    name,
		Zone:    zone,
		Cluster: founding(c),
		HTTP:    server.Address{Listen: n.name + ":7001"},
		Peer:    server.Address{Listen: n.address},
		Join:    join,
		Expect:  c.Nodes,
		Initial: server.InitialShards{Count: c.Shards, SplitPoints: splitPoints(c.Shards), ReplicationFactor: 3},
		Timing:  server.Timing{WriteStall: 1500 * time.Millisecond, Retention: 20 * time.Second},
	}.Defaulted()
}

func (n *Node) mesh(id *server.Identity, _ func(kv.NodeID) (string, bool), _ func(map[kv.NodeID]string)) (server.Mesh, error) {
	n.c.net.SetAddress(id.Node(), n.address)
	return n.c.net.Node(id.Node()), nil
}

// supervise ends a process that cannot go on, as it would end itself, and starts
// it again on a disk that works, as a supervisor would.
func (n *Node) supervise(run *server.Node, quit chan struct{}) {
	var why error
	select {
	case <-quit:
		return
	case why = <-run.Fatal():
	case why = <-run.Control().Failed():
	}
	n.c.note("%s cannot go on: %v", n.name, why)
	if n.c.removed(run.Identity().Node()) {
		n.end(run, simnet.Killed)
		n.leave()
		return
	}
	if !n.isSick() {
		n.c.watch.violation("C8: %s: the process has to end, and its disk is well: %v", n.name, why)
	}
	n.end(run, simnet.Killed)
	time.Sleep(restartAfter)
	if err := n.Start(); err != nil {
		n.c.watch.violation("C8: %v", err)
	}
}

// zone gives the number of the machine's zone, from 1; without zones every machine
// is alone in one.
func (n *Node) zone() int {
	if n.c.config.Zones == 0 {
		return n.index + 1
	}
	return n.index%n.c.config.Zones + 1
}

// isOut reports whether the machine is not of the cluster.
func (n *Node) isOut() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.out
}

// leave takes a machine that does not run out of the cluster.
func (n *Node) leave() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.out = true
}

// Join starts a machine that is not of the cluster with an empty disk.
func (n *Node) Join() error {
	n.Wipe(simnet.Killed)
	n.mu.Lock()
	n.out = false
	n.mu.Unlock()
	return n.Start()
}

// Wipe ends the process and replaces the disk by an empty one: what starts next on
// this machine is another node.
func (n *Node) Wipe(kind simnet.DownKind) {
	n.changing <- struct{}{}
	defer func() { <-n.changing }()
	if n.server() != nil {
		n.crashLocked(kind, 0, nil)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.id != 0 {
		n.disk, n.id = n.newDisk(vfs.NewCrashableMem()), 0
		n.life++
	}
}

func (n *Node) isSick() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sick
}

// end ends a process, unless it has been ended already.
func (n *Node) end(run *server.Node, kind simnet.DownKind) {
	n.changing <- struct{}{}
	defer func() { <-n.changing }()
	if n.server() == run {
		n.crashLocked(kind, 100, nil)
	}
}

// Crash ends the process and loses what was not synced but for some percent of
// its blocks; with 100 it is the process alone that is killed. kind is what the
// others see of it. It returns when nothing of the process runs any more. A node
// that is down is left alone.
func (n *Node) Crash(kind simnet.DownKind, unsyncedPercent int, rng *rand.Rand) {
	n.changing <- struct{}{}
	defer func() { <-n.changing }()
	if n.server() != nil {
		n.crashLocked(kind, unsyncedPercent, rng)
	}
}

// Close is Crash at the end of the run. A supervisor that is between the end of a
// process and the start of the next starts nothing any more.
func (n *Node) Close() {
	n.mu.Lock()
	n.over = true
	n.mu.Unlock()
	n.Crash(simnet.Killed, 100, nil)
	n.supervisors.Wait()
}

// CrashAt is Crash before the ops-th operation on the disk that changes it, or
// after a while if there are not that many.
func (n *Node) CrashAt(kind simnet.DownKind, unsyncedPercent, ops int, rng *rand.Rand, within time.Duration) {
	n.changing <- struct{}{}
	defer func() { <-n.changing }()
	if n.server() == nil {
		return
	}
	var mem *vfs.MemFS
	done := make(chan struct{})
	d := n.disk
	d.freeze.arm(ops, func() {
		mem = d.crashLocked(unsyncedPercent, rng, func() { n.cutOff(kind) })
		close(done)
	})
	select {
	case <-done:
	case <-time.After(within):
		if d.freeze.arm(0, nil) {
			n.crashLocked(kind, unsyncedPercent, rng)
			return
		}
		<-done
	}
	n.bury(mem)
}

func (n *Node) crashLocked(kind simnet.DownKind, percent int, rng *rand.Rand) {
	if rng == nil {
		rng = n.rng
	}
	n.bury(n.disk.crash(percent, rng, func() { n.cutOff(kind) }))
}

// cutOff is the moment of the crash: nobody hears of the process any more.
func (n *Node) cutOff(kind simnet.DownKind) {
	n.mu.Lock()
	n.epoch++
	id := n.id
	n.mu.Unlock()
	n.c.net.Down(id, kind)
}

// bury waits for what is left of a process that was cut off, and puts the disk in
// its place that the crash has left.
func (n *Node) bury(mem *vfs.MemFS) {
	n.mu.Lock()
	run, old, sick := n.run, n.disk, n.sick
	n.run, n.sick = nil, false
	close(n.quit)
	n.mu.Unlock()
	old.stall.Open()
	old.lag.on.Store(false)
	ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	if err := run.Close(ctx); err != nil && !sick && !onlyCut(err) {
		n.c.watch.violation("C8: %s: closing: %v", n.name, err)
	}
	n.mu.Lock()
	n.disk = n.newDisk(mem)
	n.mu.Unlock()
}

// onlyCut reports whether an error is one that a process without its disk may
// end with.
func onlyCut(err error) bool {
	return errors.Is(err, errDisk) || strings.Contains(err.Error(), errDisk.Error())
}

// Stall holds the writes of the Raft log up, or lets them go on.
func (n *Node) Stall(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if on {
		n.disk.stall.Close()
	} else {
		n.disk.stall.Open()
	}
}

// Fill has the disk say that it is nearly full, or that it is not.
func (n *Node) Fill(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.disk.full.Store(on)
}

// Mend ends what was done to the disk and the clock. A process whose disk has failed
// ends.
func (n *Node) Mend() {
	n.Clock(0)
	n.Stall(false)
	n.Fill(false)
	n.mu.Lock()
	failed := n.disk.errors.Fired() > 0
	n.disk.errors.Heal()
	n.sick = n.sick && failed
	n.mu.Unlock()
	if failed {
		n.Crash(simnet.Killed, 100, nil)
	}
}

// FailDisk makes the next write or sync of the Raft log after some more fail.
func (n *Node) FailDisk(skip int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.run != nil {
		n.sick = true
		n.disk.errors.Fail(errDisk, skip, -1)
	}
}
