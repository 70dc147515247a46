package sim

import (
	"sync"
	"time"

	"github.com/quorate-db/quorate/internal/simnet"
)

var processFaults = []fault{
	{5, (*nemesis).crashOne},
	{3, (*nemesis).crashAtOp},
	{2, (*nemesis).killOne},
	{2, (*nemesis).crashMost},
	{2, (*nemesis).crashAll},
	{3, (*nemesis).stallDisk},
	{2, (*nemesis).failDisk},
}

// kind draws what the others see of a crash.
func (n *nemesis) kind() simnet.DownKind {
	if n.rng.IntN(2) == 0 {
		return simnet.Lost
	}
	return simnet.Killed
}

// surviving draws how much of what was not synced survives.
func (n *nemesis) surviving() int { return []int{0, 0, 30, 70}[n.rng.IntN(4)] }

func (n *nemesis) restart(node *Node) {
	if err := node.Start(); err != nil {
		n.c.watch.violation("C8: %v", err)
	}
}

// crashOne takes the power of one machine.
func (n *nemesis) crashOne() {
	node, percent := n.node(), n.surviving()
	n.c.fault("crash", "%s, %d %% of what was not synced survives", node.name, percent)
	node.Crash(n.kind(), percent, n.rng)
	n.pause(n.about(2 * time.Second))
	n.restart(node)
}

// crashAtOp does so in the middle of what the node writes.
func (n *nemesis) crashAtOp() {
	node, percent, at := n.node(), n.surviving(), 1+n.rng.IntN(200)
	n.c.fault("crash-at-op", "%s at its write %d, %d %% of what was not synced survives", node.name, at, percent)
	node.CrashAt(n.kind(), percent, at, n.rng, 3*time.Second)
	n.pause(n.about(time.Second))
	n.restart(node)
}

// killOne ends one process; its machine goes on, and its files are whole.
func (n *nemesis) killOne() {
	node := n.node()
	n.c.fault("kill", "%s", node.name)
	node.Crash(simnet.Killed, 100, n.rng)
	n.pause(n.about(500 * time.Millisecond))
	n.restart(node)
}

// crashMost takes the power of a majority at once.
func (n *nemesis) crashMost() { n.crashTogether("crash-majority", n.some(len(n.c.nodes)/2+1)) }

// crashAll takes the power of all.
func (n *nemesis) crashAll() { n.crashTogether("crash-all", n.some(len(n.c.nodes))) }

func (n *nemesis) crashTogether(name string, nodes []*Node) {
	percent := n.surviving()
	n.c.fault(name, "%s, %d %% of what was not synced survives", names(nodes), percent)
	var wg sync.WaitGroup
	for _, node := range nodes {
		wg.Go(func() { node.Crash(simnet.Lost, percent, nil) })
	}
	wg.Wait()
	n.pause(n.about(time.Second))
	for _, node := range nodes {
		n.restart(node)
		if n.rng.IntN(2) == 0 {
			n.pause(n.about(500 * time.Millisecond))
		}
	}
}

// stallDisk lets no sync of a node's Raft log end for a while.
func (n *nemesis) stallDisk() {
	node, d := n.node(), n.about(3*time.Second)
	n.c.fault("disk-stall", "%s for %s", node.name, d)
	node.Stall(true)
	n.pause(d)
	node.Stall(false)
}

// failDisk makes the Raft log's disk fail; the process ends itself, and is started
// again by its supervisor on a disk that works.
func (n *nemesis) failDisk() {
	node, skip := n.node(), n.rng.IntN(50)
	n.c.fault("disk-error", "%s after %d writes", node.name, skip)
	node.FailDisk(skip)
	n.pause(n.about(2 * time.Second))
}
