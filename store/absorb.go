package store

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// This file applies the changes that make up a merge; see shape.go.

func (a *applier) freeze(ch *kvpb.ShapeChange) *kvpb.Result {
	st := &a.st
	if f := st.frozen; f.index != 0 {
		if uint64(f.into) != ch.Into || ch.Generation != st.desc.Generation {
			return conflict("the shard is frozen, to be absorbed by shard %d", f.into)
		}
		return &kvpb.Result{Status: kvpb.Status_STATUS_OK, Index: f.index}
	}
	if no := a.expected(ch, true); no != nil {
		return no
	}
	if ch.Into == st.desc.Shard || len(st.desc.Start) == 0 {
		return conflict("the shard has no such left neighbour")
	}
	a.shape.changed = true
	st.prepared = prepared{}
	st.frozen = frozen{
		index: st.applied.Index, into: kv.ShardID(ch.Into),
		last: st.applied.LastVersion, ceiling: st.applied.Ceiling, nowMs: st.applied.NowMs,
	}
	a.shape.events = append(a.shape.events, ShapeEvent{Kind: ShapeFrozen, Shard: st.shard(), Other: st.frozen.into})
	return a.done()
}

func (a *applier) unfreeze(ch *kvpb.ShapeChange) *kvpb.Result {
	switch at := a.st.frozen.index; at {
	case 0:
		return a.done()
	case ch.FrozenIndex:
		a.shape.changed = true
		a.st.frozen = frozen{}
		return a.done()
	default:
		return conflict("the shard was frozen at index %d, not %d", at, ch.FrozenIndex)
	}
}

func (a *applier) refuseAbsorb(ch *kvpb.ShapeChange) (*kvpb.Result, error) {
	if a.st.refused != 0 && a.st.refused == ch.Generation {
		return a.done(), nil
	}
	if no := a.expected(ch, false); no != nil {
		return no, nil
	}
	a.st.refused = ch.Generation
	return a.done(), a.reshaped(a.describeAs(func(d *kvpb.ShardDescriptor) { d.Generation++ }))
}

// absorb takes over the right neighbour, whose replica on this node has to be as it
// was frozen: anything else means that this node has lost state, and the replica
// stops (DESIGN §9 rule 12).
func (a *applier) absorb(ch *kvpb.ShapeChange) (*kvpb.Result, error) {
	st := &a.st
	other := kv.ShardID(ch.Other.Shard)
	if st.absorbed == other && st.absorbedAt == ch.FrozenIndex {
		return a.done(), nil
	}
	if no := a.expected(ch, true); no != nil {
		return no, nil
	}
	if !isRightOf(st.desc, ch.Other) {
		return conflict("shard %d is not the right neighbour", other), nil
	}
	right, err := a.frozenRight(ch)
	if err != nil {
		return nil, err
	}
	f := right.frozen
	st.applied.LastVersion = max(st.applied.LastVersion, f.last)
	st.applied.Ceiling = max(st.applied.Ceiling, f.ceiling)
	st.applied.NowMs = max(st.applied.NowMs, f.nowMs)
	st.floors = st.floors.union(right.floors)
	st.counters.keys += right.counters.keys
	st.counters.bytes += right.counters.bytes
	st.join(right.placement)
	st.absorbed, st.absorbedAt = other, ch.FrozenIndex
	if st.sibling.GetShard() == ch.Other.Shard {
		st.sibling, st.siblingEncoded = nil, nil
	}
	a.batch.Delete(stateKey(other))
	key := absorbedKey(other)
	a.setSealed(key, appendBlob([]byte{0, 0, 0, 0}, stateKey(st.shard())))
	a.shape.absorbed = other
	// What was known of keys and ids before is not enough any more.
	a.known = idFilter{attached: true, missingMs: math.MaxInt64}
	err = a.reshaped(a.describeAs(func(d *kvpb.ShardDescriptor) {
		d.End, d.Generation = right.desc.End, max(d.Generation, right.desc.Generation)+1
	}))
	a.shape.events = append(a.shape.events, ShapeEvent{Kind: ShapeAbsorbed, Shard: st.shard(), Other: other, Parent: st.desc})
	return a.done(), errors.Join(err, a.closeIter())
}

// isRightOf reports whether other begins where d ends.
func isRightOf(d, other *kvpb.ShardDescriptor) bool {
	return len(d.End) > 0 && bytes.Equal(d.End, other.Start) && d.Shard != other.Shard
}

// frozenRight reads the right neighbour's state. It is locked, and so is db.mu, so
// it stays as it is until the run is committed.
func (a *applier) frozenRight(ch *kvpb.ShapeChange) (*state, error) {
	other := kv.ShardID(ch.Other.Shard)
	a.lockSpaces()
	if a.shape.db.replicas[other] != a.shape.right {
		return nil, errRightOpened
	}
	right, err := readState(a.eng, other)
	if err != nil {
		return nil, fmt.Errorf("shard %s is to be absorbed: %w", other, err)
	}
	f, d := right.frozen, right.desc
	same := d.Generation == ch.Other.Generation && bytes.Equal(d.Start, ch.Other.Start) && bytes.Equal(d.End, ch.Other.End)
	if !same || f.index != ch.FrozenIndex || f.into != a.st.shard() {
		return nil, fmt.Errorf("shard %s is to be absorbed as generation %d, frozen at index %d, but is generation %d, frozen at %d into shard %s",
			other, ch.Other.Generation, ch.FrozenIndex, d.Generation, f.index, f.into)
	}
	return right, nil
}

// union gives the floors of two shards that become one.
func (f floors) union(o floors) floors {
	return floors{
		horizon:      max(f.horizon, o.horizon),
		requestFloor: max(f.requestFloor, o.requestFloor),
		changeFrom:   min(f.changeFrom, o.changeFrom),
		requestFrom:  min(f.requestFrom, o.requestFrom),
		expireFrom:   min(f.expireFrom, o.expireFrom),
	}
}
