package placement

import (
	"context"
	"log/slog"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// lateMeta applies what is missing when it is asked for all that was acknowledged.
type lateMeta struct {
	Meta
	catchUp func()
}

func (m lateMeta) ReadIndex(context.Context) error {
	m.catchUp()
	return nil
}

// partedPeers say of every shard that it has other members than this node's.
type partedPeers struct{ Peers }

func (partedPeers) Call(context.Context, kv.NodeID, uint16, []byte) ([]byte, error) {
	return proto.Marshal(&metapb.AdminAnswer{Members: []*kvpb.ReplicaDescriptor{{Node: 1, Incarnation: 1}}})
}

type destroyed struct {
	Actions
	ids []kv.ServerID
}

func (d *destroyed) Destroy(_ context.Context, id kv.ServerID) error {
	d.ids = append(d.ids, id)
	return nil
}

// A node that has not applied the move which brought a replica must not take it for a
// stray; one that has parted with its shard is destroyed.
func TestReplicaOfAMoveThatIsNotAppliedYetStays(t *testing.T) {
	for _, moved := range []bool{true, false} {
		d, actions := active(t), &destroyed{}
		catchUp := func() {
			if moved {
				d.must(t, cmdMove(2, 4, 1))
			}
		}
		a := &agent{
			self: 4, machine: d.m, meta: lateMeta{catchUp: catchUp}, peers: partedPeers{}, nudged: make(chan struct{}, 1),
			log: slog.New(slog.DiscardHandler), opts: Options{Actions: actions, Tuning: Tuning{}.withDefaults()},
		}
		id := kv.ServerID{Node: 4, Shard: 2, Incarnation: 2}
		a.destroyStrays(t.Context(), []ReplicaState{{Status: kv.ReplicaStatus{ID: id}}}, newOnceLog(a.log))
		if got := len(actions.ids) > 0; got == moved {
			t.Errorf("moved here: %t, destroyed: %v", moved, actions.ids)
		}
	}
}
