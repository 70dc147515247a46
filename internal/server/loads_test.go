package server

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

func TestLoadSplitKey(t *testing.T) {
	whole := &kvpb.ShardDescriptor{Shard: 7}
	repeat := func(key string, n int) []string {
		out := make([]string, n)
		for i := range out {
			out[i] = key
		}
		return out
	}
	var spread []string
	for i := range 100 {
		spread = append(spread, fmt.Sprintf("k%02d", i))
	}
	for _, tc := range []struct {
		name string
		keys []string
		d    *kvpb.ShardDescriptor
		want string // "": refused
	}{
		{name: "nothing", d: whole},
		{name: "little", keys: spread[:loadSamplesMin-1], d: whole},
		{name: "even", keys: spread, d: whole, want: "k50"},
		{name: "one key has it all", keys: repeat("hot", 100), d: whole},
		{name: "one key has nearly all", keys: append(repeat("hot", 200), "a", "b", "x", "z"), d: whole},
		{name: "two keys", keys: append(repeat("a", 60), repeat("b", 60)...), d: whole, want: "b"},
		{name: "a hot key first", keys: append(repeat("a", 100), spread...), d: whole, want: "k00"},
		{name: "a hot key last", keys: append(repeat("z", 100), spread...), d: whole, want: "z"},
		{name: "only what is in the range", keys: spread, d: &kvpb.ShardDescriptor{Shard: 7, Start: []byte("k40"), End: []byte("k80")}, want: "k60"},
		{name: "never the first key", keys: repeat("k", 100), d: &kvpb.ShardDescriptor{Shard: 7, Start: []byte("k")}},
	} {
		s := &shardLoad{}
		for _, k := range tc.keys {
			s.keep([]byte(k))
		}
		got, err := s.splitKey(tc.d)
		if string(got) != tc.want || (tc.want == "") != (kv.CodeOf(err) == kv.CodeConflict) {
			t.Errorf("%s: got %q, %v; want %q", tc.name, got, err, tc.want)
		}
	}
}

// The sample is bounded, whatever is asked, and follows the load.
func TestLoadSampleIsBounded(t *testing.T) {
	l := &loads{}
	s := l.of(7)
	long := make([]byte, kv.KeyBytesMax)
	for i := range 200_000 {
		s.read(&kvpb.ReadRequest{Gets: [][]byte{long, fmt.Appendf(nil, "old%d", i)}})
	}
	for i := range 200_000 {
		command, err := proto.Marshal(&kvpb.Command{Txns: []*kvpb.Txn{{Then: []*kvpb.Op{{Key: fmt.Appendf(nil, "new%d", i)}}}}})
		if err != nil {
			t.Fatal(err)
		}
		s.wrote(command, 1)
	}
	s.read(&kvpb.ReadRequest{Scan: &kvpb.Scan{}})
	if reads, writes := l.served(7); reads != 400_001 || writes != 200_000 {
		t.Fatalf("counted %d reads, %d writes", reads, writes)
	}
	if len(s.sample) != loadSamplesMax {
		t.Fatalf("%d keys are kept", len(s.sample))
	}
	for _, k := range s.sample {
		if len(k) > loadKeyBytesMax || string(k[:min(len(k), 3)]) != "new" && len(k) > 0 {
			t.Fatalf("kept %q", k)
		}
	}
	l.forget(7)
	if reads, _ := l.served(7); reads != 0 {
		t.Fatal("not forgotten")
	}
}

func BenchmarkLoadCount(b *testing.B) {
	l := &loads{}
	req := &kvpb.ReadRequest{Gets: [][]byte{[]byte("some key")}}
	for b.Loop() {
		l.of(7).read(req)
	}
}
