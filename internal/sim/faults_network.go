package sim

import (
	"strings"
	"time"

	"github.com/quorate-db/quorate/internal/simnet"
	"github.com/quorate-db/quorate/kv"
)

// networkFaults are undone by making the whole network calm again: only one
// nemesis touches links.
var networkFaults = []fault{
	{4, (*nemesis).lossy},
	{3, (*nemesis).slow},
	{2, (*nemesis).slowLink},
	{4, (*nemesis).oneWay},
	{5, (*nemesis).partition},
	{3, (*nemesis).isolate},
	{3, (*nemesis).pauseNode},
}

func (n *nemesis) calm() { n.c.net.SetAll(n.c.calm()) }

// lossy loses, doubles and delays messages everywhere.
func (n *nemesis) lossy() {
	l := simnet.Link{
		Drop:      n.rng.Float64() * 0.2,
		Duplicate: n.rng.Float64() * 0.2,
		DelayMax:  time.Duration(n.rng.Int64N(int64(30 * time.Millisecond))),
	}
	n.c.fault("lossy", "drop %.2f, duplicate %.2f, delay to %s", l.Drop, l.Duplicate, l.DelayMax)
	n.c.net.SetAll(l)
	n.pause(n.about(3 * time.Second))
	n.calm()
}

// slow delays and reorders everything.
func (n *nemesis) slow() {
	l := simnet.Link{DelayMax: time.Duration(n.rng.Int64N(int64(400 * time.Millisecond))), Duplicate: 0.05}
	n.c.fault("slow", "delay to %s", l.DelayMax)
	defer n.c.delaying(l.DelayMax)()
	n.c.net.SetAll(l)
	n.pause(n.about(3 * time.Second))
	n.calm()
}

// slowLink makes one direction between two nodes slow: answers to heartbeats
// arrive when they are long out of date.
func (n *nemesis) slowLink() {
	two := n.some(2)
	d := time.Duration(n.rng.Int64N(int64(1500 * time.Millisecond)))
	n.c.fault("slow-link", "%s to %s takes %s", two[0].name, two[1].name, d)
	defer n.c.delaying(d)()
	n.c.net.SetLink(two[0].ID(), two[1].ID(), simnet.Link{DelayMin: d, DelayMax: d})
	n.pause(n.about(3 * time.Second))
	n.calm()
}

func (n *nemesis) oneWay() {
	two := n.some(2)
	n.c.fault("one-way", "%s does not reach %s", two[0].name, two[1].name)
	n.c.net.Cut(two[0].ID(), two[1].ID(), true)
	n.pause(n.about(3 * time.Second))
	n.calm()
}

// partition parts the nodes in two groups.
func (n *nemesis) partition() {
	nodes := n.some(len(n.c.nodes))
	k := 1 + n.rng.IntN(len(nodes)-1)
	n.c.fault("partition", "%s | %s", names(nodes[:k]), names(nodes[k:]))
	n.c.net.Partition(ids(nodes[:k]), ids(nodes[k:]))
	n.pause(n.about(4 * time.Second))
	n.calm()
}

// isolate cuts one off, and perhaps, right after, another one.
func (n *nemesis) isolate() {
	nodes := n.some(2)
	n.c.fault("isolate", "%s", nodes[0].name)
	n.c.net.Isolate(nodes[0].ID(), true)
	n.pause(n.about(2 * time.Second))
	if n.rng.IntN(2) == 0 {
		n.c.fault("isolate", "%s instead", nodes[1].name)
		n.calm()
		n.c.net.Isolate(nodes[1].ID(), true)
		n.pause(n.about(2 * time.Second))
	}
	n.calm()
}

// pauseNode holds everything from and to a node back, which then arrives at once.
func (n *nemesis) pauseNode() {
	node := n.node()
	d := n.about(1500 * time.Millisecond)
	n.c.fault("pause", "%s for %s", node.name, d)
	defer n.c.delaying(d)()
	id := node.ID()
	n.c.net.Pause(id)
	n.pause(d)
	n.c.net.Resume(id)
}

func names(nodes []*Node) string {
	list := make([]string, len(nodes))
	for i, n := range nodes {
		list[i] = n.name
	}
	return strings.Join(list, " ")
}

func ids(nodes []*Node) []kv.NodeID {
	list := make([]kv.NodeID, len(nodes))
	for i, n := range nodes {
		list[i] = n.ID()
	}
	return list
}
