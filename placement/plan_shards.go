package placement

import (
	"cmp"
	"slices"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// metaVotersBeforeData: no shard is made before as many copies of the cluster's
// own state have votes, if there are nodes enough. To lose the only copy would
// be to lose the way to all data.
const metaVotersBeforeData = 3

// descriptorsPerStep bounds one report to the meta shard.
const descriptorsPerStep = 256

// planShards makes the initial shards when the expected nodes have registered
// and what can be known of them is known.
func planShards(b *board) []Step {
	in := b.in
	settings := in.State.Settings()
	registered := in.State.Members()
	if len(in.State.Shards()) > 0 || len(registered) < int(max(1, settings.ExpectedNodes)) {
		return nil
	}
	var living []*metapb.Node
	active := 0
	for _, n := range registered {
		if in.Health[kv.NodeID(n.Id)].Liveness == Unheard {
			return nil // it may be about to report; without it the spread would be uneven
		}
		if n.State != metapb.NodeState_NODE_ACTIVE {
			continue
		}
		active++
		if in.alive(kv.NodeID(n.Id)) {
			living = append(living, n)
		}
	}
	factor := min(b.cfg.ReplicationFactor, active)
	m := b.members()
	if len(living) < factor || factor == 0 || len(m.voters) < min(metaVotersBeforeData, m.wanted) {
		return nil
	}
	shards := place(settings.SplitPoints, factor, living, in.State.nextShard)
	return []Step{{Kind: StepCreateShards, Shards: shards}}
}

// planReports carries what leaders say of their shards into the map.
func planReports(in *Input) []Step {
	var reports []*metapb.DescriptorReport
	for _, n := range in.State.Nodes() {
		for _, r := range in.Health[kv.NodeID(n.Id)].Report.GetReplicas() {
			if r.Leads == nil || len(reports) == descriptorsPerStep || in.State.news(r.Leads) == newsNone {
				continue
			}
			reports = append(reports, r.Leads)
		}
	}
	if len(reports) == 0 {
		return nil
	}
	return []Step{{Kind: StepReport, Reports: reports}}
}

// EvenSplitPoints gives the n-1 keys that divide the text keys [0-9A-Za-z] into
// n even ranges. Over raw bytes nearly all text would land in one shard.
func EvenSplitPoints(n int) [][]byte {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	width, span := 1, len(digits)
	for span < 16*n {
		width, span = width+1, span*len(digits)
	}
	var points [][]byte
	for i := 1; i < n; i++ {
		key := make([]byte, width)
		at := i * span / n
		for d := width - 1; d >= 0; d-- {
			key[d] = digits[at%len(digits)]
			at /= len(digits)
		}
		// A trailing least digit only makes the key longer.
		for len(key) > 1 && key[len(key)-1] == digits[0] {
			key = key[:len(key)-1]
		}
		points = append(points, key)
	}
	return points
}

// place spreads the replicas of the shards between the split points: over zones
// first, then evenly over nodes. The first replica of each is its preferred
// leader; those are spread evenly too. Nodes come in order of registration, and
// ties fall to the earlier one.
func place(points [][]byte, factor int, nodes []*metapb.Node, firstShard uint64) []*kvpb.ShardDescriptor {
	replicas := make(map[uint64]int, len(nodes))
	out := make([]*kvpb.ShardDescriptor, len(points)+1)
	for i := range out {
		d := &kvpb.ShardDescriptor{Shard: firstShard + uint64(i), Generation: firstShardGeneration}
		if i > 0 {
			d.Start = points[i-1]
		}
		if i < len(points) {
			d.End = points[i]
		}
		for _, n := range pickNodes(nodes, factor, replicas) {
			replicas[n.Id]++
			d.Replicas = append(d.Replicas, &kvpb.ReplicaDescriptor{
				Node: n.Id, Incarnation: firstShardIncarnation, Role: kvpb.ReplicaRole_ROLE_VOTER,
			})
		}
		out[i] = d
	}
	preferEvenly(out)
	return out
}

// pickNodes chooses factor nodes: in the zones that this shard uses least, of
// those the ones that hold the fewest replicas.
func pickNodes(nodes []*metapb.Node, factor int, replicas map[uint64]int) []*metapb.Node {
	left := slices.Clone(nodes)
	zones := map[string]int{}
	var picked []*metapb.Node
	for len(picked) < factor && len(left) > 0 {
		best := slices.MinFunc(left, func(a, b *metapb.Node) int {
			return cmp.Or(
				cmp.Compare(zones[zoneOf(a)], zones[zoneOf(b)]),
				cmp.Compare(replicas[a.Id], replicas[b.Id]),
				cmp.Compare(a.Ordinal, b.Ordinal))
		})
		zones[zoneOf(best)]++
		picked = append(picked, best)
		left = slices.DeleteFunc(left, func(n *metapb.Node) bool { return n.Id == best.Id })
	}
	return picked
}

// preferEvenly puts the preferred leaders first, as evenly as the replica sets
// allow: each shard takes its least used node, and then preferences are handed
// along chains of shards from a node with two more to a node with two fewer,
// until there is no such chain (which is optimal, as for any such flow).
func preferEvenly(shards []*kvpb.ShardDescriptor) {
	count := map[uint64]int{}
	for _, d := range shards {
		best := 0
		for i, r := range d.Replicas {
			if count[r.Node] < count[d.Replicas[best].Node] {
				best = i
			}
		}
		swapFirst(d, best)
		count[d.Replicas[0].Node]++
	}
	for levelOnce(shards, count) {
	}
}

func swapFirst(d *kvpb.ShardDescriptor, i int) {
	d.Replicas[0], d.Replicas[i] = d.Replicas[i], d.Replicas[0]
}

// hand is one step of a chain: shard's preference goes to its replica index.
type hand struct{ shard, index int }

// levelOnce finds one chain that evens the counts out and hands along it.
func levelOnce(shards []*kvpb.ShardDescriptor, count map[uint64]int) bool {
	byFirst := map[uint64][]int{}
	var from []uint64
	for i, d := range shards {
		first := d.Replicas[0].Node
		if byFirst[first] == nil {
			from = append(from, first)
		}
		byFirst[first] = append(byFirst[first], i)
	}
	for _, source := range from {
		came := map[uint64]hand{source: {}}
		for queue := []uint64{source}; len(queue) > 0; queue = queue[1:] {
			for _, s := range byFirst[queue[0]] {
				for i, r := range shards[s].Replicas {
					if _, seen := came[r.Node]; seen {
						continue
					}
					came[r.Node] = hand{s, i}
					queue = append(queue, r.Node)
					if count[source]-count[r.Node] >= 2 {
						handAlong(shards, came, source, r.Node)
						count[source]--
						count[r.Node]++
						return true
					}
				}
			}
		}
	}
	return false
}

func handAlong(shards []*kvpb.ShardDescriptor, came map[uint64]hand, source, target uint64) {
	for target != source {
		h := came[target]
		previous := shards[h.shard].Replicas[0].Node
		swapFirst(shards[h.shard], h.index)
		target = previous
	}
}
