package server

import (
	"errors"
	"fmt"
	"io"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/raftnode"
	"github.com/quorate-db/quorate/store"
)

// dataMachine is a data shard's state machine as raftnode wants it.
type dataMachine struct{ *store.Replica }

// Image implements raftnode.StateMachine.
func (m dataMachine) Image() (raftnode.Image, error) { return m.Replica.Image() }

// Stage implements raftnode.StateMachine.
func (m dataMachine) Stage(r io.Reader) (raftnode.Staged, error) { return m.Replica.Stage(r) }

// Apply implements raftnode.StateMachine.
func (m dataMachine) Apply(entries []kv.Entry) ([]kv.EntryResult, error) {
	results, err := m.Replica.Apply(entries)
	if errors.Is(err, store.ErrAbsorbed) {
		err = fmt.Errorf("%w: %w", raftnode.ErrGone, err)
	}
	return results, err
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
