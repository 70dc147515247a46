package router

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/router/routerpb"
)

// instant is a node whose replicas and peers answer at once with the same, so
// that what remains is the router.
type instant struct {
	self, leader kv.NodeID
	desc         *kvpb.ShardDescriptor
	read         *kvpb.ReadResponse
	readBytes    []byte
	result       []byte
}

func newInstant(tb testing.TB, leader kv.NodeID) (*Router, *instant) {
	n := &instant{self: 1, leader: leader,
		desc: &kvpb.ShardDescriptor{Shard: 1000, Generation: 1, Replicas: []*kvpb.ReplicaDescriptor{{Node: uint64(leader), Role: kvpb.ReplicaRole_ROLE_VOTER}}}}
	item := &kvpb.Item{Key: []byte("key"), Value: make([]byte, 100), Version: 1}
	n.read = &kvpb.ReadResponse{Status: kvpb.Status_STATUS_OK, Gets: []*kvpb.GetResult{{Found: true, Item: item}}, Descriptor_: n.desc, LastVersion: 1, NowMs: 1}
	var err error
	if n.readBytes, err = proto.Marshal(n.read); err != nil {
		tb.Fatal(err)
	}
	ok := &kvpb.Result{Status: kvpb.Status_STATUS_OK, Txns: []*kvpb.TxnResult{{Status: kvpb.Status_STATUS_OK, Succeeded: true, Version: 1, CommittedVersion: 1, Ops: []*kvpb.OpResult{{}}}}}
	if n.result, err = proto.Marshal(ok); err != nil {
		tb.Fatal(err)
	}
	r := New(Options{Self: 1, Local: n, Map: n, Peers: n})
	tb.Cleanup(r.Close)
	return r, n
}

func (n *instant) Propose(context.Context, kv.ShardID, []byte, uint32) ([]byte, error) {
	return n.result, nil
}
func (n *instant) ReadIndex(context.Context, kv.ShardID) error { return nil }
func (n *instant) Read(kv.ShardID, *kvpb.ReadRequest) (*kvpb.ReadResponse, error) {
	return n.read, nil
}
func (n *instant) Leader(kv.ShardID) (kv.NodeID, bool)          { return n.leader, true }
func (n *instant) LastContact(kv.ShardID) (time.Duration, bool) { return 0, true }
func (n *instant) Lookup([]byte) (*kvpb.ShardDescriptor, bool)  { return n.desc, true }
func (n *instant) Overlapping(_, _ []byte) []*kvpb.ShardDescriptor {
	return []*kvpb.ShardDescriptor{n.desc}
}
func (n *instant) Learn(*kvpb.ShardDescriptor) {}
func (n *instant) Handle(uint16, func(kv.NodeID, []byte, func([]byte, error))) {
}
func (n *instant) Call(_ context.Context, _ kv.NodeID, method uint16, _ []byte) ([]byte, error) {
	if method == methodForwardRead {
		return n.readBytes, nil
	}
	return n.result, nil
}

func BenchmarkRouter(b *testing.B) {
	for _, where := range []struct {
		name   string
		leader kv.NodeID
	}{{"local", 1}, {"forwarded", 2}} {
		r, _ := newInstant(b, where.leader)
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		b.Run("get/"+where.name, func(b *testing.B) {
			b.ReportAllocs()
			key := []byte("key")
			for b.Loop() {
				if _, err := r.Get(ctx, key, kv.ReadOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("put/"+where.name, func(b *testing.B) {
			b.ReportAllocs()
			txn := put("key", string(make([]byte, 100)))
			for b.Loop() {
				if _, err := r.Txn(ctx, txn, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	r, _ := newInstant(b, 1)
	b.Run("serve/propose", func(b *testing.B) {
		b.ReportAllocs()
		req := forwardedPut(b)
		for b.Loop() {
			done := make(chan struct{})
			r.handlePropose(2, req, func([]byte, error) { close(done) })
			<-done
		}
	})
}

func forwardedPut(b *testing.B) []byte {
	c, err := newCommand([]*kvpb.Txn{put("key", string(make([]byte, 100)))}, requestID{hi: 1}, true, nil)
	if err != nil {
		b.Fatal(err)
	}
	req, err := proto.Marshal(&routerpb.ForwardPropose{Shard: 1000, TimeoutUs: 10e6, Versions: 1, Command: c.encode(1)})
	if err != nil {
		b.Fatal(err)
	}
	return req
}
