package router

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/router/routerpb"
)

// strangeParts are parts of requests that no node sends: of no request, and with fewer
// transactions than they number.
func strangeParts(tb testing.TB) (commands [][]byte) {
	tb.Helper()
	txn := []*kvpb.Txn{{Then: []*kvpb.Op{{Kind: kvpb.OpKind_OP_PUT, Key: []byte("a")}}}}
	for _, cmd := range []*kvpb.Command{
		{Txns: txn, Ordinals: []uint32{0}},
		{Txns: txn, Ordinals: []uint32{0, 1}, Request: &kvpb.RequestID{Hi: 1, Lo: 1}},
	} {
		data, err := proto.Marshal(cmd)
		if err != nil {
			tb.Fatal(err)
		}
		commands = append(commands, data)
	}
	return commands
}

// FuzzForwarded: whatever another node forwards is answered, and with an error of the
// vocabulary where it cannot be served.
func FuzzForwarded(f *testing.F) {
	messages := []proto.Message{
		&routerpb.ForwardRead{Shard: 2, TimeoutUs: 1e6, Linearizable: true, Request: &kvpb.ReadRequest{Gets: [][]byte{[]byte("a"), {}}}},
		&routerpb.ForwardRead{Shard: 2, MaxStalenessUs: 1 << 62, Request: &kvpb.ReadRequest{Scan: &kvpb.Scan{Start: []byte("b"), End: []byte("a"), Limit: 1 << 31}}},
		&routerpb.ForwardPropose{Shard: 2, TimeoutUs: 1e6, Versions: 1 << 31, Command: []byte{0xff}},
	}
	for _, command := range strangeParts(f) {
		messages = append(messages, &routerpb.ForwardPropose{Shard: 2, TimeoutUs: 1e6, Versions: 1, Command: command})
	}
	for _, m := range messages {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
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
