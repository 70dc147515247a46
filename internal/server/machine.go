package server

import (
	"context"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/raftnode"
	"github.com/quorate-db/quorate/store"
)

// dataMachine is a data shard's state machine as raftnode wants it.
type dataMachine struct{ *store.Replica }

// Image implements raftnode.StateMachine.
func (m dataMachine) Image() (raftnode.Image, error) { return m.Replica.Image() }

// shaped is a state machine that can split and merge.
type shaped interface {
	SplitKey(ctx context.Context) (key []byte, ok bool, err error)
	CountRight(ctx context.Context) (key []byte, prepared uint64, f *kvpb.Figures, err error)
	Frozen() (index uint64, into kv.ShardID)
}

func (m dataMachine) shaped() (shaped, error) {
	s, ok := any(m.Replica).(shaped)
	if !ok {
		return nil, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "this release cannot split or merge shard %s", m.Shard())
	}
	return s, nil
}

func (m dataMachine) splitKey(ctx context.Context) ([]byte, bool, error) {
	s, err := m.shaped()
	if err != nil {
		return nil, false, err
	}
	return s.SplitKey(ctx)
}

func (m dataMachine) countRight(ctx context.Context) (key []byte, prepared uint64, f *kvpb.Figures, err error) {
	s, err := m.shaped()
	if err != nil {
		return nil, 0, nil, err
	}
	return s.CountRight(ctx)
}

// frozen tells by which entry the shard was frozen, 0 = it is not, and which one is
// to absorb it.
func (m dataMachine) frozen() (index uint64, into kv.ShardID) {
	s, err := m.shaped()
	if err != nil {
		return 0, 0
	}
	return s.Frozen()
}

// sibling gives the shard that this one last gave keys to, nil if there is none
// that is known. The child of a split begins where its parent ends.
func (m dataMachine) sibling() *kvpb.ShardDescriptor {
	end := m.Descriptor().End
	if len(end) == 0 {
		return nil
	}
	return m.Read(&kvpb.ReadRequest{Gets: [][]byte{end}}).GetSibling()
}
