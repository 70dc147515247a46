package raftnode

import (
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

const (
	// clockInterval is how often a node asks the others for their clocks, and
	// clockValid how long an answer counts.
	clockInterval = time.Second
	clockValid    = 10 * time.Second
)

// clocks knows what the other nodes' clocks say (R8).
type clocks struct {
	mu      sync.Mutex
	samples map[kv.NodeID]clockSample
}

// clockSample is what a node's clock said at a moment of our monotonic clock, so
// that a jump of our own wall clock does not move it.
type clockSample struct {
	ms int64
	at time.Time
}

func (c *clocks) learn(node kv.NodeID, ms int64, sent, received time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// The answer was written some time between; take the middle.
	c.samples[node] = clockSample{ms: ms, at: sent.Add(received.Sub(sent) / 2)}
}

// append adds what the clocks of the given members' nodes say now, without our
// own, to readings.
func (c *clocks) append(readings []int64, self kv.NodeID, members []kv.Member, now time.Time) []int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range members {
		s, ok := c.samples[m.ID.Node]
		age := now.Sub(s.at)
		if ok && m.Voter && m.ID.Node != self && age < clockValid {
			readings = append(readings, s.ms+age.Milliseconds())
		}
	}
	return readings
}

// boundedMs gives own, but at most limit more than the median of all readings, of
// which own is one. Of an even number the lower one in the middle is the median.
func boundedMs(own, limit int64, readings []int64) int64 {
	slices.Sort(readings)
	return min(own, readings[(len(readings)-1)/2]+limit)
}

// NowMs is the wall clock as this replica's shard may see it, in milliseconds
// since the Unix epoch (R8).
func (r *Replica) NowMs() int64 {
	own := r.host.opts.Now().UnixMilli()
	var buf [8]int64
	readings := r.host.clocks.append(append(buf[:0], own), r.id.Node, r.members(), time.Now())
	return boundedMs(own, r.host.opts.Timing.ClockLimit.Milliseconds(), readings)
}

// askClocks asks the nodes that share a shard with this one.
func (h *Host) askClocks() {
	nodes := map[kv.NodeID]bool{}
	for _, r := range h.Replicas() {
		for _, m := range r.members() {
			nodes[m.ID.Node] = m.ID.Node != h.opts.Node
		}
	}
	for node, other := range nodes {
		if !other {
			continue
		}
		sent := time.Now()
		h.opts.Mesh.Send(node, peer.MethodClock, []byte{wireFormat}, sent.Add(clockInterval), func(resp []byte, err error) {
			in := wireReader{rest: resp}
			in.format()
			ms := int64(in.fixed64())
			if err == nil && !in.failed {
				h.clocks.learn(node, ms, sent, time.Now())
			}
		})
	}
}

func (h *Host) handleClock(_ kv.NodeID, _ []byte, reply func([]byte, error)) {
	reply(binary.LittleEndian.AppendUint64([]byte{wireFormat}, uint64(h.opts.Now().UnixMilli())), nil)
}
