package router

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/router/routerpb"
)

// FuzzForwarded: whatever another node forwards is answered, and with an error of the
// vocabulary where it cannot be served.
func FuzzForwarded(f *testing.F) {
	txn := []*kvpb.Txn{{Then: []*kvpb.Op{{Kind: kvpb.OpKind_OP_PUT, Key: []byte("a")}}}}
	for _, m := range []proto.Message{
		&routerpb.ForwardRead{Shard: 2, TimeoutUs: 1e6, Linearizable: true, Request: &kvpb.ReadRequest{Gets: [][]byte{[]byte("a"), {}}}},
		&routerpb.ForwardRead{Shard: 2, MaxStalenessUs: 1 << 62, Request: &kvpb.ReadRequest{Scan: &kvpb.Scan{Start: []byte("b"), End: []byte("a"), Limit: 1 << 31}}},
		&routerpb.ForwardPropose{Shard: 2, TimeoutUs: 1e6, Versions: 1 << 31, Command: []byte{0xff}},
		// Parts that no node sends: of no request, and with fewer transactions than they number.
		&routerpb.ForwardPropose{Shard: 2, TimeoutUs: 1e6, Versions: 1, Command: encoded(f, &kvpb.Command{Txns: txn, Ordinals: []uint32{0}})},
		&routerpb.ForwardPropose{Shard: 2, TimeoutUs: 1e6, Versions: 1, Command: encoded(f, &kvpb.Command{
			Txns: txn, Ordinals: []uint32{0, 1}, Request: &kvpb.RequestID{Hi: 1, Lo: 1},
		})},
	} {
		data := encoded(f, m)
		f.Add(data, true)
		f.Add(data, false)
	}
	c := newCluster(f, 2)
	f.Fuzz(func(t *testing.T, data []byte, read bool) {
		method := methodForwardPropose
		if read {
			method = methodForwardRead
		}
		resp, err := c.ask(method, data)
		var e *kv.Error
		if err != nil && (!errors.As(err, &e) || e.Code == "" || e.Code == kv.CodeInternal) {
			t.Errorf("%v", err)
		}
		if err == nil && read && proto.Unmarshal(resp, &kvpb.ReadResponse{}) != nil {
			t.Errorf("an answer that does not decode: %x", resp)
		}
	})
}
