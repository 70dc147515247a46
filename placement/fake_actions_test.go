package placement

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// fakeActions changes the world's data shards, on the node that leads them.
type fakeActions struct{ *fakeNode }

// led gives a shard if this node leads it, as every action wants it. The world is
// locked until done is called.
func (f fakeActions) led(shard kv.ShardID) (d *dataShard, done func(), err error) {
	f.w.mu.Lock()
	d = f.w.data[dataKey{f.disk.founder, shard}]
	if d == nil || !f.up || d.leader != f.id {
		f.w.mu.Unlock()
		return nil, nil, kv.Errorf(kv.CodeNotLeader, kv.OutcomeNotApplied, "not the leader")
	}
	return d, func() { f.w.electLocked(); f.w.mu.Unlock() }, nil
}

func (f fakeActions) change(shard kv.ShardID, server kv.ServerID, to *kv.Member) error {
	d, done, err := f.led(shard)
	if err != nil {
		return err
	}
	defer done()
	if to == nil && server.Node == f.id {
		return kv.Errorf(kv.CodeNotLeader, kv.OutcomeNotApplied, "it leads")
	}
	d.members = slices.DeleteFunc(slices.Clone(d.members), func(m kv.Member) bool { return m.ID == server })
	if to != nil {
		d.members = append(d.members, *to)
	}
	d.config++
	d.index++
	return nil
}

func (f fakeActions) AddNonvoter(_ context.Context, shard kv.ShardID, server kv.ServerID) error {
	return f.change(shard, server, &kv.Member{ID: server})
}

func (f fakeActions) Promote(_ context.Context, shard kv.ShardID, server kv.ServerID) error {
	return f.change(shard, server, &kv.Member{ID: server, Voter: true})
}

func (f fakeActions) Remove(_ context.Context, shard kv.ShardID, server kv.ServerID) error {
	return f.change(shard, server, nil)
}

func (f fakeActions) Members(_ context.Context, shard kv.ShardID) ([]kv.Member, uint64, error) {
	d, done, err := f.led(shard)
	if err != nil {
		return nil, 0, err
	}
	defer done()
	return slices.Clone(d.members), d.config, nil
}

func (f fakeActions) Split(_ context.Context, s SplitOrder) error {
	d, done, err := f.led(s.Shard)
	if err != nil {
		return err
	}
	defer done()
	key := dataKey{f.disk.founder, s.Child}
	if f.w.data[key] != nil {
		return nil
	}
	at := s.Key
	if len(at) == 0 {
		at = append(slices.Clone(d.desc.Start), '1')
	}
	if d.desc.Generation != s.Generation || bytes.Compare(at, d.desc.Start) <= 0 || len(d.desc.End) > 0 && bytes.Compare(at, d.desc.End) >= 0 {
		return kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "generation %d", d.desc.Generation)
	}
	child := &dataShard{created: map[kv.NodeID]bool{}, config: 10, index: 10, bytes: d.bytes / 2, desc: cloneOf(d.desc)}
	child.desc.Shard, child.desc.Start, child.desc.Generation = uint64(s.Child), at, d.desc.Generation+1
	d.desc = cloneOf(d.desc)
	d.desc.End, d.desc.Generation = at, d.desc.Generation+1
	for _, m := range d.members {
		id := kv.ServerID{Node: m.ID.Node, Shard: s.Child, Incarnation: 1}
		child.members = append(child.members, kv.Member{ID: id, Voter: m.Voter})
		child.created[id.Node] = true
		f.w.nodes[id.Node].disk.records[id] = ReplicaSpec{ID: id}
	}
	f.w.data[key] = child
	return nil
}

func (f fakeActions) Freeze(_ context.Context, shard, into kv.ShardID, generation uint64) (uint64, error) {
	d, done, err := f.led(shard)
	if err != nil {
		return 0, err
	}
	defer done()
	if d.desc.Generation != generation || d.frozen != 0 && d.into != into {
		return 0, kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "generation %d", d.desc.Generation)
	}
	if d.frozen == 0 {
		d.index++
		d.frozen, d.into = d.index, into
	}
	return d.frozen, nil
}

func (f fakeActions) Absorb(_ context.Context, shard kv.ShardID, generation uint64, right *kvpb.ShardDescriptor, frozenIndex uint64) error {
	d, done, err := f.led(shard)
	if err != nil {
		return err
	}
	defer done()
	key := dataKey{f.disk.founder, kv.ShardID(right.Shard)}
	r := f.w.data[key]
	if f.w.refuseAbsorb || d.desc.Generation != generation || r == nil || r.frozen != frozenIndex || r.into != shard {
		return kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "not as expected")
	}
	d.desc = cloneOf(d.desc)
	d.desc.End, d.desc.Generation = r.desc.End, max(d.desc.Generation, r.desc.Generation)+1
	d.absorptions++
	delete(f.w.data, key)
	return nil
}

func (f fakeActions) RefuseAbsorb(_ context.Context, shard kv.ShardID, generation uint64) error {
	d, done, err := f.led(shard)
	if err != nil {
		return err
	}
	defer done()
	if d.desc.Generation != generation {
		return kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "generation %d", d.desc.Generation)
	}
	d.desc = cloneOf(d.desc)
	d.desc.Generation++
	return nil
}

func (f fakeActions) Unfreeze(_ context.Context, shard kv.ShardID, frozenIndex uint64) error {
	d, done, err := f.led(shard)
	if err != nil {
		return err
	}
	defer done()
	if d.frozen == frozenIndex {
		d.frozen, d.into = 0, 0
	}
	return nil
}

func (f fakeActions) Destroy(_ context.Context, id kv.ServerID) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	d := f.w.data[dataKey{f.disk.founder, id.Shard}]
	if d != nil && slices.ContainsFunc(d.members, func(m kv.Member) bool { return m.ID == id }) {
		f.w.t.Errorf("node %s destroys %s, which is a member", f.id, id)
	}
	f.disk.tombs[id] = true
	return nil
}

func (f fakeActions) SnapshotRate(rate int64) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.disk.rate = rate
}

func (f fakeReplicas) Transfer(_ context.Context, shard kv.ShardID, to kv.NodeID) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	d := f.w.data[dataKey{f.disk.founder, shard}]
	if d == nil || d.leader != f.id || !f.w.upLocked(to) || !d.created[to] {
		return errors.New("cannot transfer")
	}
	f.w.transfers++
	f.w.asked[shard]++
	if !f.w.reluctant {
		d.leader = to
		d.term++
	}
	return nil
}
