package store

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// twinShape is what a twin remembers of changes of its range.
type twinShape struct {
	seen, joined bool // in this entry
	prepared     uint64
	key          []byte
	frozen       *twinFrozen
	sibling      *kvpb.ShardDescriptor
	absorbed     [2]uint64 // shard, frozen index
	refused      uint64
	// neighbours gives the twin of another shard; born is told those that are split off.
	neighbours func(kv.ShardID) *twin
	born       func(*twin)
}

// twinFrozen is a copy of a twin as it was frozen.
type twinFrozen struct {
	index, into uint64
	last, ceil  kv.Version
	now         int64
}

func (w *twin) copy() *twin {
	out := *w
	out.desc = proto.Clone(w.desc).(*kvpb.ShardDescriptor)
	out.keys = map[string][]twinVersion{}
	for k, h := range w.keys {
		out.keys[k] = slices.Clone(h)
	}
	out.changes, out.requests = slices.Clone(w.changes), slices.Clone(w.requests)
	return &out
}

func (w *twin) change(c *kvpb.Command) *kvpb.Result {
	no := &kvpb.Result{Status: kvpb.Status_STATUS_CONFLICT}
	yes := &kvpb.Result{Status: kvpb.Status_STATUS_OK, Index: w.index}
	if w.shape.seen {
		return no
	}
	w.shape.seen = true
	s, ch := &w.shape, c.Shape
	if s.frozen != nil {
		switch {
		case c.Kind == kvpb.CommandKind_COMMAND_FREEZE && ch.Into == s.frozen.into && ch.Generation == w.desc.Generation:
			return &kvpb.Result{Status: kvpb.Status_STATUS_OK, Index: s.frozen.index}
		case c.Kind == kvpb.CommandKind_COMMAND_UNFREEZE && ch.FrozenIndex == s.frozen.index:
			s.frozen = nil
			return yes
		}
		return no
	}
	asExpected := ch.Generation == w.desc.Generation
	if c.Kind == kvpb.CommandKind_COMMAND_SPLIT || c.Kind == kvpb.CommandKind_COMMAND_FREEZE || c.Kind == kvpb.CommandKind_COMMAND_ABSORB {
		asExpected = asExpected && ch.ConfigIndex == w.configIndex
	}
	ok, again := false, false
	switch c.Kind {
	case kvpb.CommandKind_COMMAND_SPLIT_PREPARE:
		if ok = asExpected && w.owns(ch.SplitKey) && !bytes.Equal(ch.SplitKey, w.desc.Start); ok {
			s.prepared, s.key = w.index, ch.SplitKey
			return yes
		}
	case kvpb.CommandKind_COMMAND_SPLIT:
		again = s.sibling.GetShard() == ch.Child.Shard
		ok = asExpected && s.prepared != 0 && s.prepared == ch.PreparedIndex && bytes.Equal(s.key, ch.SplitKey)
		if ok && !again {
			w.split(ch)
		}
	case kvpb.CommandKind_COMMAND_FREEZE:
		if ok = asExpected && ch.Into != w.desc.Shard; ok {
			s.frozen = &twinFrozen{w.index, ch.Into, w.last, w.ceiling, w.now}
		}
	case kvpb.CommandKind_COMMAND_UNFREEZE:
		return yes
	case kvpb.CommandKind_COMMAND_ABSORB:
		again = s.absorbed == [2]uint64{ch.Other.Shard, ch.FrozenIndex}
		if ok = asExpected && bytes.Equal(w.desc.End, ch.Other.Start); ok && !again {
			w.absorb(ch)
		}
	case kvpb.CommandKind_COMMAND_REFUSE_ABSORB:
		again = s.refused != 0 && s.refused == ch.Generation
		if ok = asExpected; ok && !again {
			s.refused = ch.Generation
			w.desc = w.copy().desc
			w.desc.Generation++
		}
	}
	if again {
		return yes
	}
	if !ok {
		return no
	}
	s.prepared = 0
	return yes
}

func (w *twin) split(ch *kvpb.ShapeChange) {
	child := w.copy()
	child.desc.Shard, child.desc.Start, child.desc.Replicas = ch.Child.Shard, ch.SplitKey, ch.Child.Replicas
	child.desc.Generation++
	child.index, child.configIndex = kv.ChildStartIndex, kv.ChildStartIndex
	child.shape = twinShape{neighbours: w.shape.neighbours, born: w.shape.born}
	w.desc = w.copy().desc
	w.desc.End, w.desc.Generation = ch.SplitKey, w.desc.Generation+1
	for _, half := range []*twin{w, child} {
		maps.DeleteFunc(half.keys, func(k string, _ []twinVersion) bool { return !half.owns([]byte(k)) })
		half.changes = slices.DeleteFunc(half.changes, func(c twinChange) bool { return !half.owns([]byte(c.key)) })
	}
	w.shape.sibling = child.desc
	w.shape.born(child)
}

func (w *twin) absorb(ch *kvpb.ShapeChange) {
	right := w.shape.neighbours(kv.ShardID(ch.Other.Shard))
	f := right.shape.frozen
	w.last, w.ceiling, w.now = max(w.last, f.last), max(w.ceiling, f.ceil), max(w.now, f.now)
	w.horizon, w.requestFloor = max(w.horizon, right.horizon), max(w.requestFloor, right.requestFloor)
	maps.Copy(w.keys, right.keys)
	w.changes = append(w.changes, right.changes...)
	slices.SortFunc(w.changes, func(a, b twinChange) int {
		return cmp.Or(cmp.Compare(a.version, b.version), cmp.Compare(a.key, b.key))
	})
	for _, q := range right.requests {
		if !slices.ContainsFunc(w.requests, func(o *twinRequest) bool { return proto.Equal(o.id, q.id) }) {
			w.requests = append(w.requests, q)
		}
	}
	w.desc = w.copy().desc
	w.desc.End, w.desc.Generation = right.desc.End, max(w.desc.Generation, right.desc.Generation)+1
	w.shape.absorbed, w.shape.joined = [2]uint64{ch.Other.Shard, ch.FrozenIndex}, true
	if w.shape.sibling.GetShard() == ch.Other.Shard {
		w.shape.sibling = nil
	}
}
