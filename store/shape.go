package store

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/kv/planted"
	"github.com/quorate-db/quorate/store/engine"
)

// This file applies what changes a shard's range; docs/decisions/0011 says why it is
// as it is. A change is refused with STATUS_CONFLICT, and nothing happens, unless
// the shard is as the change expects it. What has been done already is answered with
// STATUS_OK again and changes nothing:
//
//	SPLIT_PREPARE   never: a later one takes the place of an earlier
//	SPLIT           the child is the last one that the shard split off
//	FREEZE          frozen for the same neighbour; Result.index is that of the first
//	UNFREEZE        not frozen
//	ABSORB          the right neighbour is the last one that was absorbed, at the same index
//	REFUSE_ABSORB   the generation is the last one that was refused
//
// An entry holds at most one change: further ones are refused.

// ShapeKind says what happened to a shard's range.
type ShapeKind int

const (
	ShapePrepared ShapeKind = iota + 1 // a split was prepared
	ShapeSplit
	ShapeAbsorbed // the shard took over its right neighbour
	ShapeFrozen
)

// ShapeEvent tells what an entry did to a shard's range. Descriptors are shared:
// do not change them.
type ShapeEvent struct {
	Kind  ShapeKind
	Shard kv.ShardID
	Other kv.ShardID // ShapeSplit: the child; ShapeAbsorbed: the right neighbour; ShapeFrozen: the left one
	// Parent is what the shard is now, ShapeSplit and ShapeAbsorbed. Child is what was
	// split off.
	Parent, Child *kvpb.ShardDescriptor
	// Adopted: this node's store made the child's state. Else the node is none of the
	// child's, or has or had a replica of it already.
	Adopted bool
}

// shape is what a state remembers of changes of its range. It is replicated.
type shape struct {
	prepared prepared
	frozen   frozen
	// sibling is the shard that was split off last, nil before the first and once it was
	// absorbed again; given to those who ask for keys that are not here.
	sibling        *kvpb.ShardDescriptor
	siblingEncoded []byte
	// absorbed is the right neighbour that was taken over last, absorbedAt its frozen
	// index; refused the generation whose ABSORB was refused last.
	absorbed   kv.ShardID
	absorbedAt uint64
	refused    uint64
}

// prepared is a split that is being prepared; none if index is zero.
type prepared struct {
	key   []byte
	index uint64
	right counters // change of the right half's counters since
}

// frozen is a shard that is to be absorbed; it is not if index is zero. What last
// version, ceiling and time were at the entry stands, whatever comes after it.
type frozen struct {
	index         uint64
	into          kv.ShardID
	last, ceiling kv.Version
	nowMs         int64
}

// shapeRun is what one run of apply does to ranges, beside the state.
type shapeRun struct {
	db *DB
	// right is the neighbour that an ABSORB of this run names, locked; nil if it is not
	// open, or there is no such command.
	right *Replica

	seen     bool // the entry holds a change
	changed  bool // the state's shape was changed
	locked   bool // db.mu is held
	absorbed kv.ShardID
	events   []ShapeEvent
	gone     placement // what the state does not refer to any more
}

// errRightOpened: the right neighbour was opened while it was looked for. The run
// begins anew.
var errRightOpened = errors.New("store: the right neighbour was opened meanwhile")

func isShape(k kvpb.CommandKind) bool {
	return k >= kvpb.CommandKind_COMMAND_SPLIT_PREPARE && k <= kvpb.CommandKind_COMMAND_REFUSE_ABSORB
}

// checkShape gives the reason why a change can never be applied.
func checkShape(c *kvpb.Command, versions uint32) string {
	s := c.Shape
	switch {
	case s == nil:
		return "a change of a range needs arguments"
	case len(c.Txns) > 0 || c.Request != nil || c.Sweep != nil:
		return "a change of a range has no transactions, no request id and no sweep"
	case versions < 1:
		return "a change of a range uses one version"
	}
	switch c.Kind {
	case kvpb.CommandKind_COMMAND_SPLIT_PREPARE:
		return checkKey(s.SplitKey)
	case kvpb.CommandKind_COMMAND_SPLIT:
		return checkSplit(s)
	case kvpb.CommandKind_COMMAND_FREEZE:
		if s.Into == 0 {
			return "a freeze needs the shard that is to absorb"
		}
	case kvpb.CommandKind_COMMAND_UNFREEZE, kvpb.CommandKind_COMMAND_ABSORB:
		if s.FrozenIndex == 0 {
			return "the index of the freeze is missing"
		}
		if c.Kind == kvpb.CommandKind_COMMAND_ABSORB && checkDescriptor(s.Other) != nil {
			return "what is to be absorbed is not described"
		}
	}
	return ""
}

func checkSplit(s *kvpb.ShapeChange) string {
	if bad := checkKey(s.SplitKey); bad != "" {
		return bad
	}
	switch {
	case s.Child.GetShard() == 0:
		return "a split needs the child's id"
	case len(s.Child.Replicas) == 0:
		return "a split needs the child's replicas"
	case len(s.ChildConfig) == 0:
		return "a split needs the child's configuration"
	case s.Right == nil || s.Right.Keys < 0 || s.Right.Bytes < 0:
		return "a split needs the figures of the right half"
	}
	nodes := map[uint64]bool{}
	for _, r := range s.Child.Replicas {
		if r.Node == 0 || r.Incarnation == 0 || nodes[r.Node] || r.Role != kvpb.ReplicaRole_ROLE_VOTER && r.Role != kvpb.ReplicaRole_ROLE_NONVOTER {
			return "a split needs complete replicas on different nodes"
		}
		nodes[r.Node] = true
	}
	return ""
}

func conflict(format string, args ...any) *kvpb.Result {
	return &kvpb.Result{Status: kvpb.Status_STATUS_CONFLICT, Detail: fmt.Sprintf(format, args...)}
}

// changeShape applies COMMAND_SPLIT_PREPARE to COMMAND_REFUSE_ABSORB.
func (a *applier) changeShape(c *kvpb.Command) (*kvpb.Result, error) {
	if a.shape.seen {
		return conflict("another change of the range is in the same entry"), nil
	}
	a.shape.seen = true
	ch := c.Shape
	switch c.Kind {
	case kvpb.CommandKind_COMMAND_FREEZE:
		return a.freeze(ch), nil
	case kvpb.CommandKind_COMMAND_UNFREEZE:
		return a.unfreeze(ch), nil
	}
	if a.st.frozen.index != 0 {
		return conflict("the shard is frozen, to be absorbed by shard %d", a.st.frozen.into), nil
	}
	switch c.Kind {
	case kvpb.CommandKind_COMMAND_SPLIT_PREPARE:
		return a.prepareSplit(ch), nil
	case kvpb.CommandKind_COMMAND_SPLIT:
		return a.split(ch)
	case kvpb.CommandKind_COMMAND_ABSORB:
		return a.absorb(ch)
	default: // COMMAND_REFUSE_ABSORB; checkCommand lets no other pass
		return a.refuseAbsorb(ch)
	}
}

// expected gives the reason why the shard is not as a change expects it, nil if
// it is.
func (a *applier) expected(ch *kvpb.ShapeChange, config bool) *kvpb.Result {
	if g := a.st.desc.Generation; ch.Generation != g {
		return conflict("the shard is at generation %d, not %d", g, ch.Generation)
	}
	if at := a.st.applied.ConfigIndex; config && ch.ConfigIndex != at {
		return conflict("the shard's configuration is of index %d, not %d", at, ch.ConfigIndex)
	}
	return nil
}

// done answers a change that is in force.
func (a *applier) done() *kvpb.Result {
	return &kvpb.Result{Status: kvpb.Status_STATUS_OK, Index: a.st.applied.Index}
}

// reshaped notes that the shape changes now, to a descriptor unless it is nil.
func (a *applier) reshaped(d *kvpb.ShardDescriptor) error {
	a.shape.changed = true
	a.st.prepared = prepared{}
	if d == nil {
		return nil
	}
	return a.st.describe(d)
}

func (a *applier) describeAs(change func(d *kvpb.ShardDescriptor)) *kvpb.ShardDescriptor {
	d := proto.Clone(a.st.desc).(*kvpb.ShardDescriptor)
	change(d)
	return d
}

func (a *applier) prepareSplit(ch *kvpb.ShapeChange) *kvpb.Result {
	if no := a.expected(ch, false); no != nil {
		return no
	}
	if no := a.splitsAt(ch.SplitKey); no != nil {
		return no
	}
	a.shape.changed = true
	a.st.prepared = prepared{key: bytes.Clone(ch.SplitKey), index: a.st.applied.Index}
	a.shape.events = append(a.shape.events, ShapeEvent{Kind: ShapePrepared, Shard: a.st.shard()})
	return a.done()
}

// splitsAt gives the reason why the shard cannot split at a key.
func (a *applier) splitsAt(key []byte) *kvpb.Result {
	if !a.st.owns(key) || bytes.Equal(key, a.st.desc.Start) {
		return conflict("the key is not inside the shard's range")
	}
	return nil
}

// split gives the range from the key on to a child (DESIGN §9 rules 9 to 11).
func (a *applier) split(ch *kvpb.ShapeChange) (*kvpb.Result, error) {
	st := &a.st
	if st.sibling.GetShard() == ch.Child.Shard {
		return a.done(), nil
	}
	if no := a.expected(ch, true); no != nil {
		return no, nil
	}
	if no := a.splitsAt(ch.SplitKey); no != nil {
		return no, nil
	}
	p := st.prepared
	if p.index == 0 || p.index != ch.PreparedIndex || !bytes.Equal(p.key, ch.SplitKey) {
		return conflict("the split that is prepared is of index %d at another key or index", p.index), nil
	}
	right := counters{keys: ch.Right.Keys + p.right.keys, bytes: ch.Right.Bytes + p.right.bytes}
	left := counters{keys: st.counters.keys - right.keys, bytes: st.counters.bytes - right.bytes}
	if min(right.keys, right.bytes, left.keys, left.bytes) < 0 {
		return conflict("the right half was counted wrong"), nil
	}
	if ch.Child.Shard == st.desc.Shard {
		return conflict("the child has the shard's own id"), nil
	}
	child, err := a.childOf(ch, right)
	if err != nil {
		return nil, err
	}
	if err := a.shrink(child, left); err != nil {
		return nil, err
	}
	adopted, err := a.adopt(child)
	if err != nil {
		return nil, err
	}
	a.shape.events = append(a.shape.events, ShapeEvent{
		Kind: ShapeSplit, Shard: st.shard(), Other: child.shard(), Parent: st.desc, Child: child.desc, Adopted: adopted,
	})
	return a.done(), nil
}

// childOf makes the state of a child, but for its homes.
func (a *applier) childOf(ch *kvpb.ShapeChange, right counters) (*state, error) {
	st := &a.st
	child := &state{applied: st.applied, floors: st.floors, counters: right}
	child.applied.Index, child.applied.Term, child.applied.ConfigIndex = kv.ChildStartIndex, kv.ChildStartTerm, kv.ChildStartIndex
	if planted.On(planted.ChildFromZero) {
		child.applied.Index, child.applied.Term = 0, 0
	}
	child.applied.Config = bytes.Clone(ch.ChildConfig)
	d := proto.Clone(ch.Child).(*kvpb.ShardDescriptor)
	d.Generation, d.Start, d.End = st.desc.Generation+1, bytes.Clone(ch.SplitKey), st.desc.End
	if err := child.describe(d); err != nil {
		return nil, err
	}
	_, child.pieces = st.cut(ch.SplitKey)
	child.bound()
	return child, nil
}

// shrink takes what is the child's from the shard, and gives both new homes, with the
// old ones to read.
func (a *applier) shrink(child *state, left counters) error {
	st := &a.st
	ownHome, childHome, err := a.shape.db.spaces.allocatePair()
	if err != nil {
		return err
	}
	var old []home
	for _, h := range st.homes {
		if h.count > 0 {
			old = append(old, h)
		} else {
			a.shape.gone.homes = append(a.shape.gone.homes, h)
		}
	}
	st.homes = append([]home{{space: ownHome}}, old...)
	child.homes = append([]home{{space: childHome}}, old...)
	if planted.On(planted.SplitWithoutRequests) {
		child.homes = child.homes[:1]
	}
	st.pieces, _ = st.cut(child.desc.Start)
	st.bound()
	st.counters = left
	st.sibling, st.siblingEncoded = child.desc, child.descriptor
	return a.reshaped(a.describeAs(func(d *kvpb.ShardDescriptor) {
		d.End, d.Generation = child.desc.Start, d.Generation+1
	}))
}

// adopt makes the child a replica of this node, if it is to have one. If it has or
// had one already, or none of the child's replicas is this node's, what was the
// shard's there is nobody's and goes.
func (a *applier) adopt(child *state) (bool, error) {
	db := a.shape.db
	at := slices.IndexFunc(child.desc.Replicas, func(r *kvpb.ReplicaDescriptor) bool { return kv.NodeID(r.Node) == db.node })
	adopted := db.node != 0 && at >= 0
	if adopted && db.hosted != nil {
		adopted = !db.hosted(kv.ServerID{Node: db.node, Shard: child.shard(), Incarnation: child.desc.Replicas[at].Incarnation})
	}
	a.lockSpaces()
	key := stateKey(child.shard())
	if adopted {
		switch _, closer, err := a.eng.Get(key); {
		case err == nil:
			adopted = false
			if err := closer.Close(); err != nil {
				return false, err
			}
		case !errors.Is(err, engine.ErrNotFound):
			return false, err
		}
	}
	if adopted {
		a.batch.Set(key, sealedState(nil, key, child))
		return true, nil
	}
	for i := range child.pieces {
		a.batch.DeleteRange(child.pieces[i].dataBounds())
	}
	a.shape.gone.pieces = append(a.shape.gone.pieces, child.pieces...)
	a.shape.gone.homes = append(a.shape.gone.homes, child.homes[0])
	return false, nil
}

// lockSpaces keeps others from changing what refers to which space, until the run
// has been committed.
func (a *applier) lockSpaces() {
	if !a.shape.locked {
		a.shape.db.mu.Lock()
		a.shape.locked = true
	}
}
