package placement

import (
	"cmp"
	"slices"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// tryMax bounds the pairs of shard and node that one round looks at beyond the
// necessary, so that a round with nothing possible ends as quickly as any other.
const tryMax = 4_000_000

// board is the cluster as one round of planning sees it. What is under way, and
// what this round has planned, counts as done.
type board struct {
	in    *Input
	cfg   kv.ClusterConfig
	nodes []*holder // members, in order of registration
	byID  map[uint64]*holder
	parts []part // of all shards, by id
	moves int    // that copy something, under way or planned
	zones int    // that replicas can be in
	tries int    // left
	steps []Step
	// planned counts the balancing moves of this round, waiting those that are needed
	// but found no room.
	planned, waiting int
}

// holder is a node.
type holder struct {
	node  *metapb.Node
	zone  string
	alive bool
	gone  bool // silent for longer than the grace
	// target: may be given replicas, as far as it does not depend on the shard.
	target   bool
	replicas int
	bytes    int64
	moves    int   // that it takes part in
	free     int64 // bytes, less what is on its way; -1 = not known
	capacity int64
	held     []*part // filled when balancing needs it
}

// part is a shard.
type part struct {
	record  *metapb.Shard
	id      kv.ShardID
	bytes   int64 // of one replica
	load    float64
	leader  *holder // settled, alive and ready; nil = none
	busy    bool    // something is under way or planned
	holders []*holder
}

func newBoard(in *Input) *board {
	s := in.State
	b := &board{in: in, cfg: s.Config(), byID: make(map[uint64]*holder, len(s.nodes)), tries: tryMax}
	zones := map[string]bool{}
	for _, n := range s.Members() {
		h := b.holderOf(n)
		b.nodes = append(b.nodes, h)
		b.byID[n.Id] = h
		if h.stays() {
			zones[h.zone] = true
		}
	}
	b.zones = len(zones)
	b.parts = make([]part, len(s.shards))
	slab := make([]*holder, 0, 4*len(s.shards))
	for i, record := range s.shards {
		p := &b.parts[i]
		p.record, p.id = record, kv.ShardID(record.Current.Shard)
		from := len(slab)
		for _, r := range record.Current.Replicas {
			if h := b.byID[r.Node]; h != nil {
				slab = append(slab, h)
			}
		}
		p.holders = slab[from:len(slab):len(slab)]
		b.hear(p)
	}
	b.countChanges()
	for i := range b.parts {
		for _, h := range b.parts[i].holders {
			h.replicas++
			h.bytes += b.parts[i].bytes
		}
	}
	return b
}

func (b *board) holderOf(n *metapb.Node) *holder {
	health := b.in.Health[kv.NodeID(n.Id)]
	h := &holder{
		node: n, zone: zoneOf(n), free: -1, alive: health.Liveness == Alive,
		gone: health.Liveness == Dead && health.SilentFor >= b.cfg.DeadGrace,
	}
	h.target = h.alive && health.Steady && n.State == metapb.NodeState_NODE_ACTIVE
	if used, free := health.Report.GetDiskBytes(), health.Report.GetDiskFreeBytes(); used > 0 || free > 0 {
		h.free, h.capacity = free, used+free
	}
	return h
}

// stays reports whether replicas on the node may stay there.
func (h *holder) stays() bool {
	return !h.gone && h.node.State != metapb.NodeState_NODE_REMOVING
}

// fits reports whether a node's disk can take a replica of so many bytes: a tenth
// stays free, and twice what it brings has to be free.
func (h *holder) fits(bytes int64) bool {
	return h.free < 0 || h.free >= 2*bytes && h.free-bytes >= h.capacity/10
}

// hear takes in what the shard's leader said of it, or any replica if there is none.
func (b *board) hear(p *part) {
	p.busy = p.record.State != metapb.ShardState_SHARD_ACTIVE
	lead, led := b.in.Leads[p.id]
	if _, moving := b.in.Moving[p.id]; led && !moving {
		if h := b.byID[uint64(lead.Node)]; h != nil && h.alive {
			p.leader = h
		}
	}
	if led {
		if r := b.in.replicaReport(lead.Node, p.id); r != nil {
			p.bytes, p.load = r.Bytes, r.Reads+r.Writes
			return
		}
	}
	for _, h := range p.holders {
		if r := b.in.replicaReport(kv.NodeID(h.node.Id), p.id); r != nil {
			p.bytes = max(p.bytes, r.Bytes)
		}
	}
}

// countChanges counts what is under way as done.
func (b *board) countChanges() {
	s := b.in.State
	for _, m := range s.Moves() {
		p := b.part(m.Shard)
		if p == nil {
			continue
		}
		p.busy = true
		if !m.Cancelled {
			b.account(p, b.byID[m.Add.GetNode()], b.byID[m.Remove.GetNode()])
		}
	}
	for _, c := range s.Splits() {
		if p := b.part(c.Shard); p != nil {
			p.busy = true
		}
	}
	for _, m := range s.Merges() {
		for _, id := range []uint64{m.Left, m.Right} {
			if p := b.part(id); p != nil {
				p.busy = true
			}
		}
	}
}

// account counts a move: its shard is busy, and its nodes have one more move each,
// as far as they live. Only what copies data counts.
func (b *board) account(p *part, add, remove *holder) {
	p.busy = true
	holders := make([]*holder, 0, len(p.holders)+1)
	for _, h := range p.holders {
		if h != remove && h != add {
			holders = append(holders, h)
		}
	}
	if add != nil {
		holders = append(holders, add)
		b.moves++
		add.moves++
		if add.free >= 0 {
			add.free -= p.bytes
		}
		if remove != nil && remove.alive {
			remove.moves++
		}
	}
	p.holders = holders
}

// accountPlanned is account for a move of this round, whose nodes are counted
// already.
func (b *board) accountPlanned(p *part, add, remove *holder) {
	if add != nil {
		add.replicas++
		add.bytes += p.bytes
	}
	if remove != nil {
		remove.replicas--
		remove.bytes -= p.bytes
	}
	b.account(p, add, remove)
}

func (b *board) part(shard uint64) *part {
	i, ok := slices.BinarySearchFunc(b.parts, kv.ShardID(shard), func(p part, id kv.ShardID) int { return cmp.Compare(p.id, id) })
	if !ok {
		return nil
	}
	return &b.parts[i]
}

// room reports whether a node may take part in one more move.
func (b *board) room(h *holder) bool { return h.moves < b.cfg.MovesPerNode }

// fullUp reports whether the cluster may not have one more move.
func (b *board) fullUp() bool { return b.moves >= b.cfg.MovesPerCluster }

// holds reports whether a node has, or is about to have, a replica of the shard,
// by the configuration or by what is planned.
func (p *part) holds(h *holder) bool {
	return slices.Contains(p.holders, h) || replicaOf(p.record.Current, h.node.Id) != nil
}

// propose plans a command.
func (b *board) propose(kind StepKind, p *part, c *metapb.Command, why, text string) {
	b.steps = append(b.steps, Step{Kind: kind, Shard: p.id, Command: c, Why: why, Text: text})
}

// begin plans a move.
func (b *board) begin(p *part, add, remove *holder, reason metapb.MoveReason) {
	c := &metapb.BeginMove{Shard: uint64(p.id), ConfigIndex: p.record.ConfigIndex, Reason: reason}
	step := Step{Kind: StepBeginMove, Shard: p.id, Why: reasonText(reason)}
	text := ""
	if remove != nil {
		c.Remove, step.From = remove.node.Id, kv.NodeID(remove.node.Id)
		text = " off node " + step.From.String()
	}
	if add != nil {
		c.Add, step.To, step.Bytes = add.node.Id, kv.NodeID(add.node.Id), p.bytes
		text += " to node " + step.To.String()
	}
	step.Text = "move shard " + p.id.String() + text + " (" + step.Why + ")"
	step.Command = &metapb.Command{Body: &metapb.Command_BeginMove{BeginMove: c}}
	b.accountPlanned(p, add, remove)
	b.steps = append(b.steps, step)
}

// voterOn gives the replica of a shard with a vote on a node, nil if there is none.
func (p *part) voterOn(node uint64) *kvpb.ReplicaDescriptor {
	if r := replicaOf(p.record.Current, node); r != nil && r.Role == kvpb.ReplicaRole_ROLE_VOTER {
		return r
	}
	return nil
}

// quorumWithout reports whether the voters of a shard, less one node and plus
// another (0 = none), have a living majority.
func (b *board) quorumWithout(p *part, less, plus uint64) bool {
	all, alive := 0, 0
	count := func(node uint64) {
		all++
		if h := b.byID[node]; h != nil && h.alive && b.failure(node, p.id) == "" {
			alive++
		}
	}
	for _, r := range p.record.Current.Replicas {
		if r.Role == kvpb.ReplicaRole_ROLE_VOTER && r.Node != less && r.Node != plus {
			count(r.Node)
		}
	}
	if plus != 0 {
		count(plus)
	}
	return alive > all/2
}

func (b *board) failure(node uint64, shard kv.ShardID) string {
	return b.in.replicaReport(kv.NodeID(node), shard).GetFailure()
}
