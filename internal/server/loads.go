package server

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

const (
	// loadSampleEvery: of so many operations one leaves its key in the sample.
	loadSampleEvery = 64
	// loadSamplesMax and loadKeyBytesMax bound a shard's sample. A prefix is enough of
	// a key to split at.
	loadSamplesMax  = 256
	loadKeyBytesMax = 128
	// loadSamplesMin is how many keys have to be known before a shard is split by them,
	// and loadShareMin the part of the load, one in so many, that has to be on either
	// side for a split to help.
	loadSamplesMin = 32
	loadShareMin   = 8
)

// loads counts what each local replica serves.
type loads struct {
	shards sync.Map // kv.ShardID → *shardLoad
}

// shardLoad is what one replica has served since the process began, and a sample
// of the keys that were asked for lately.
type shardLoad struct {
	reads, writes atomic.Uint64

	mu     sync.Mutex
	sample [][]byte // at most loadSamplesMax; the oldest is replaced
	next   int
}

func (l *loads) of(shard kv.ShardID) *shardLoad {
	if s, ok := l.shards.Load(shard); ok {
		return s.(*shardLoad)
	}
	s, _ := l.shards.LoadOrStore(shard, &shardLoad{})
	return s.(*shardLoad)
}

// forget drops what is known of a shard that this node holds no more.
func (l *loads) forget(shard kv.ShardID) { l.shards.Delete(shard) }

// served gives the counts of a shard.
func (l *loads) served(shard kv.ShardID) (reads, writes uint64) {
	s := l.of(shard)
	return s.reads.Load(), s.writes.Load()
}

// read counts a request that was answered: each key, and a scan as one.
func (s *shardLoad) read(req *kvpb.ReadRequest) {
	n := len(req.Gets)
	if req.Scan != nil {
		n++
	}
	s.reads.Add(uint64(n))
	if n == 0 || rand.Uint32()%loadSampleEvery != 0 {
		return
	}
	switch at := rand.IntN(n); {
	case at < len(req.Gets):
		s.keep(req.Gets[at])
	default:
		s.keep(req.Scan.Start)
	}
}

// wrote counts a command that was applied, by its transactions.
func (s *shardLoad) wrote(command []byte, transactions uint32) {
	s.writes.Add(uint64(transactions))
	if rand.Uint32()%loadSampleEvery != 0 {
		return
	}
	var c kvpb.Command
	if proto.Unmarshal(command, &c) != nil || len(c.Txns) == 0 {
		return
	}
	ops := c.Txns[rand.IntN(len(c.Txns))].Then
	if len(ops) > 0 {
		s.keep(ops[rand.IntN(len(ops))].Key)
	}
}

func (s *shardLoad) keep(key []byte) {
	key = bytes.Clone(key[:min(len(key), loadKeyBytesMax)])
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sample) < loadSamplesMax {
		s.sample = append(s.sample, key)
		return
	}
	s.sample[s.next] = key
	s.next = (s.next + 1) % loadSamplesMax
}

// splitKey gives the key that halves the load of a range as well as can be. It
// refuses (kv.CodeConflict) where no key would take a fair part of the load away,
// as when all of it is on one key, or where too little is known.
func (s *shardLoad) splitKey(d *kvpb.ShardDescriptor) ([]byte, error) {
	s.mu.Lock()
	keys := slices.Clone(s.sample)
	s.mu.Unlock()
	keys = slices.DeleteFunc(keys, func(k []byte) bool {
		return bytes.Compare(k, d.Start) < 0 || len(d.End) > 0 && bytes.Compare(k, d.End) >= 0
	})
	refuse := func(why string) error {
		return &kv.Error{Code: kv.CodeConflict, Outcome: kv.OutcomeNotApplied, Shard: kv.ShardID(d.Shard), Detail: "no key to split at by load: " + why}
	}
	if len(keys) < loadSamplesMin {
		return nil, refuse("too little was asked of the shard lately")
	}
	slices.SortFunc(keys, bytes.Compare)
	best := 0 // how many are before the key
	for i := 1; i < len(keys); i++ {
		if !bytes.Equal(keys[i-1], keys[i]) && imbalance(i, len(keys)) < imbalance(best, len(keys)) {
			best = i
		}
	}
	if min(best, len(keys)-best) < max(len(keys)/loadShareMin, 1) {
		return nil, refuse("nearly all of it is on one key")
	}
	return keys[best], nil
}

func imbalance(before, all int) int { return max(before, all-before) - min(before, all-before) }
