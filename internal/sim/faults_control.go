package sim

import (
	"context"
	"time"

	"github.com/quorate-db/quorate/kv"
)

var controlFaults = []fault{
	{3, (*nemesis).clockJump},
	{4, (*nemesis).transfer},
	{5, (*nemesis).snapshots},
}

// clockJump moves a node's wall clock by up to an hour, and back later.
func (n *nemesis) clockJump() {
	nodes := n.some(1 + n.rng.IntN(len(n.c.nodes)))
	for _, node := range nodes {
		ahead := time.Duration(n.rng.Int64N(int64(2*time.Hour))) - time.Hour
		n.c.fault("clock", "%s by %s", node.name, ahead.Round(time.Second))
		node.Clock(ahead)
	}
	n.pause(n.about(2 * time.Second))
	if n.rng.IntN(4) > 0 {
		for _, node := range nodes {
			node.Clock(0)
		}
	}
}

// transfer moves the leaderships of a node away.
func (n *nemesis) transfer() {
	running := n.node().server()
	if running == nil {
		return
	}
	n.c.fault("transfer", "all that %s leads", running.Identity().Node())
	for _, r := range running.Host().Replicas() {
		if r.Status().Role != kv.RoleLeader {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_ = r.Transfer(ctx, kv.ServerID{}) // under faults it may well fail
		cancel()
	}
}

// snapshots has a node put all states on disk and cut all logs, so that who is
// behind has to install.
func (n *nemesis) snapshots() {
	running := n.node().server()
	if running == nil {
		return
	}
	n.c.fault("snapshot", "all of %s", running.Identity().Node())
	for _, r := range running.Host().Replicas() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_ = r.Snapshot(ctx) // may fail while another one is sent
		cancel()
	}
}
