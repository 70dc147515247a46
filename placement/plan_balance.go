package placement

import (
	"cmp"
	"slices"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

// bytesShare: bytes are even enough when two nodes differ by at most such a part
// of the average, or by one shard.
const bytesShare = 0.2

// bytesLeast: less than that is not worth a move. Figures are not all of the same
// moment either, and near zero a fifth of them is nothing.
const bytesLeast = 8 << 20

// balancing reports whether evenness is wanted.
func (b *board) balancing() bool { return b.cfg.AutoBalance || b.in.State.rebalancing() != nil }

// planBalance evens out first how many replicas nodes hold, then how many bytes.
// Each move lowers the potential of P8, so it ends. It waits until every node has
// been heard of, or is known to be dead.
func (b *board) planBalance() {
	if !b.balancing() {
		return
	}
	var nodes []*holder
	for _, h := range b.nodes {
		if b.in.Health[kv.NodeID(h.node.Id)].Liveness == Unheard {
			return
		}
		if h.alive && h.node.State == metapb.NodeState_NODE_ACTIVE {
			nodes = append(nodes, h)
		}
	}
	if len(nodes) < 2 {
		return
	}
	for i := range b.parts {
		p := &b.parts[i]
		for _, h := range p.holders {
			if !p.busy && p.leader != nil {
				h.held = append(h.held, p)
			}
		}
	}
	for b.tries > 0 && !b.fullUp() && (b.evenCount(nodes) || b.evenBytes(nodes)) {
		b.planned++
	}
}

// evenCount moves one replica from a node that has at least two more than another.
func (b *board) evenCount(nodes []*holder) bool {
	sorted := slices.SortedStableFunc(slices.Values(nodes), func(x, y *holder) int { return cmp.Compare(x.replicas, y.replicas) })
	for i := len(sorted) - 1; i > 0; i-- {
		from := sorted[i]
		if from.replicas-sorted[0].replicas < 2 {
			return false
		}
		if !b.room(from) {
			continue
		}
		for _, to := range sorted[:i] {
			if from.replicas-to.replicas < 2 || b.tries <= 0 {
				break
			}
			if p := b.choose(from, to); p != nil {
				b.begin(p, to, from, metapb.MoveReason_MOVE_BALANCE)
				return true
			}
		}
	}
	return false
}

// choose gives the shard whose replica to move: one that makes bytes most even,
// and rather not the leader's.
func (b *board) choose(from, to *holder) *part {
	if !to.target || !b.room(to) {
		return nil
	}
	want := (from.bytes - to.bytes) / 2
	var best *part
	off := func(p *part) int64 { return max(want-p.bytes, p.bytes-want) }
	b.tries -= len(from.held)
	for _, p := range from.held {
		if !b.movable(p, from, to) {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(off(p), off(best)), boolean(p.leader == from, best.leader == from)) < 0 {
			best = p
		}
	}
	return best
}

// movable reports whether a replica may move for evenness' sake: no zone is lost.
func (b *board) movable(p *part, from, to *holder) bool {
	if p.busy || p.holds(to) || !to.fits(p.bytes) {
		return false
	}
	after := make([]*holder, 0, 2*replicationFactorMax)
	for _, h := range p.holders {
		if h != from {
			after = append(after, h)
		}
	}
	return distinct(append(after, to)) >= distinct(p.holders) && b.quorumWithout(p, from.node.Id, to.node.Id)
}

// evenBytes moves one replica, or has two nodes swap replicas, so that two nodes
// differ less in bytes and not more in replicas than before.
func (b *board) evenBytes(nodes []*holder) bool {
	total, largest := int64(0), int64(0)
	for _, h := range nodes {
		total += h.bytes
	}
	for i := range b.parts {
		largest = max(largest, b.parts[i].bytes)
	}
	enough := max(int64(bytesShare*float64(total)/float64(len(nodes))), largest, bytesLeast)
	sorted := slices.SortedStableFunc(slices.Values(nodes), func(x, y *holder) int { return cmp.Compare(x.bytes, y.bytes) })
	const ends = 4 // of the nodes with the most and the fewest bytes are looked at
	for i := len(sorted) - 1; i > 0 && i >= len(sorted)-ends; i-- {
		for _, to := range sorted[:min(i, ends)] {
			from := sorted[i]
			if from.bytes-to.bytes <= enough || !b.room(from) || !b.room(to) || !to.target {
				continue
			}
			if b.exchange(from, to) {
				return true
			}
		}
	}
	return false
}

// exchange takes from a node what halves its distance to another best: a replica,
// if it has one more than the other, or else one for a smaller one.
func (b *board) exchange(from, to *holder) bool {
	gap := from.bytes - to.bytes
	var there, back *part
	// What moves is between an eighth and seven eighths of the gap: less is not worth
	// the copying, more would turn the gap around.
	best := gap/2 - gap/8 + 1
	consider := func(p, q *part, shift int64) {
		if off := max(gap/2-shift, shift-gap/2); off < best {
			there, back, best = p, q, off
		}
	}
	swap := from.target && b.cfg.MovesPerNode-max(from.moves, to.moves) >= 2 && b.cfg.MovesPerCluster-b.moves >= 2
	b.tries -= len(from.held) * (1 + len(to.held))
	for _, p := range from.held {
		if !b.movable(p, from, to) {
			continue
		}
		if from.replicas > to.replicas {
			consider(p, nil, p.bytes)
		}
		for _, q := range to.held {
			if shift := p.bytes - q.bytes; swap && shift > 0 && max(gap/2-shift, shift-gap/2) < best && b.movable(q, to, from) {
				consider(p, q, shift)
			}
		}
	}
	if there == nil {
		return false
	}
	b.begin(there, to, from, metapb.MoveReason_MOVE_BALANCE)
	if back != nil {
		b.begin(back, from, to, metapb.MoveReason_MOVE_BALANCE)
	}
	return true
}

// endRebalance ends an ordered rebalance when nothing is left to do for it.
func (b *board) endRebalance() {
	op := b.in.State.rebalancing()
	if op == nil || b.planned > 0 || b.waiting > 0 {
		return
	}
	for _, m := range b.in.State.Moves() {
		if m.Reason == metapb.MoveReason_MOVE_BALANCE {
			return
		}
	}
	for _, h := range b.nodes {
		if b.in.Health[kv.NodeID(h.node.Id)].Liveness == Unheard {
			return
		}
	}
	for _, s := range b.steps {
		if s.Kind == StepTransfer {
			return
		}
	}
	b.steps = append(b.steps, Step{Kind: StepEndOperation, Text: "the rebalance is done",
		Command: &metapb.Command{Body: &metapb.Command_EndOperation{EndOperation: &metapb.EndOperation{Id: op.Id, State: string(kv.OperationDone)}}}})
}
