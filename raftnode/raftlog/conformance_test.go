package raftlog

import (
	"bytes"
	"math"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/quorate-db/quorate/kv"
)

// machine drives one node's stores and their twins with random operations.
type machine struct {
	node  node
	twins map[kv.ShardID]*twin
}

func (m *machine) pick(t *rapid.T) (ReplicaStore, *twin) {
	shard := kv.ShardID(rapid.Uint64Range(2, 4).Draw(t, "shard"))
	if m.twins[shard] == nil {
		m.twins[shard] = newTwin()
	}
	return m.node.store(t, shard), m.twins[shard]
}

func drawLog(t *rapid.T, index uint64) *raft.Log {
	l := &raft.Log{
		Index: index,
		Term:  rapid.Uint64().Draw(t, "term"),
		Type:  raft.LogType(rapid.Uint8().Draw(t, "type")),
		Data:  rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "data"),
	}
	if rapid.Bool().Draw(t, "extended") {
		l.Extensions = rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "extensions")
	}
	if rapid.Bool().Draw(t, "timed") {
		l.AppendedAt = time.Unix(rapid.Int64Range(-1<<40, 1<<40).Draw(t, "seconds"), rapid.Int64Range(0, 1e9-1).Draw(t, "nanos"))
	}
	return l
}

func (m *machine) append(t *rapid.T) {
	s, w := m.pick(t)
	_, last := w.bounds()
	next := last + 1
	if last == 0 {
		next = rapid.Uint64Range(1, 1<<40).Draw(t, "first")
	}
	var logs []*raft.Log
	for i := range rapid.IntRange(0, 6).Draw(t, "n") {
		logs = append(logs, drawLog(t, next+uint64(i)))
	}
	must(t, s.StoreLogs(logs))
	w.store(logs)
	w.check(t, s)
}

// appendWrong tries what would leave a gap or overwrite.
func (m *machine) appendWrong(t *rapid.T) {
	s, w := m.pick(t)
	first, last := w.bounds()
	good := last + 1
	if last == 0 {
		good = 10
	}
	var logs []*raft.Log
	switch rapid.IntRange(0, 4).Draw(t, "how") {
	case 0:
		logs = entries(good, 3, 9)
		logs[2].Index++ // a gap inside
	case 1:
		logs = entries(good, 2, 9)
		logs[1].Index = logs[0].Index // twice
	case 2:
		logs = entries(0, 2, 9) // no such index
	case 3:
		if last == 0 {
			return
		}
		logs = entries(good+rapid.Uint64Range(1, 9).Draw(t, "gap"), 2, 9)
	case 4:
		if last == 0 {
			return
		}
		logs = entries(rapid.Uint64Range(first, last).Draw(t, "again"), 1, 9)
	}
	wantCode(t, s.StoreLogs(logs), kv.CodeInternal)
	w.check(t, s)
}

// cut deletes from either end, everything, or nothing.
func (m *machine) cut(t *rapid.T) {
	s, w := m.pick(t)
	first, last := w.bounds()
	var from, to uint64
	switch rapid.IntRange(0, 3).Draw(t, "where") {
	case 0: // front
		from, to = rapid.Uint64Range(0, first).Draw(t, "from"), rapid.Uint64Range(first, last).Draw(t, "to")
	case 1: // back
		from, to = rapid.Uint64Range(first, last).Draw(t, "from"), rapid.Uint64Range(last, math.MaxUint64).Draw(t, "to")
	case 2: // all
		from, to = rapid.Uint64Range(0, first).Draw(t, "from"), rapid.Uint64Range(last, math.MaxUint64).Draw(t, "to")
	case 3: // nothing
		from, to = last+1, last+rapid.Uint64Range(0, 9).Draw(t, "past")
	}
	must(t, s.DeleteRange(from, to))
	w.delete(from, to)
	w.check(t, s)
}

func (m *machine) cutMiddle(t *rapid.T) {
	s, w := m.pick(t)
	first, last := w.bounds()
	if last < first+2 || last == 0 {
		return
	}
	from := rapid.Uint64Range(first+1, last-1).Draw(t, "from")
	wantCode(t, s.DeleteRange(from, rapid.Uint64Range(from, last-1).Draw(t, "to")), kv.CodeInternal)
	w.check(t, s)
}

func (m *machine) set(t *rapid.T) {
	s, w := m.pick(t)
	name := rapid.SampledFrom([]string{"CurrentTerm", "LastVoteCand", "x", "\x00\xff"}).Draw(t, "name")
	if _, known := w.values[name]; !known {
		if _, err := s.Get([]byte(name)); err == nil || err.Error() != "not found" {
			t.Fatalf("a value that was never set: %v", err)
		}
		if _, err := s.GetUint64([]byte(name)); err == nil || err.Error() != "not found" {
			t.Fatalf("a number that was never set: %v", err)
		}
	}
	if rapid.Bool().Draw(t, "number") {
		v := rapid.Uint64().Draw(t, "v")
		must(t, s.SetUint64([]byte(name), v))
		got, err := s.GetUint64([]byte(name))
		if err != nil || got != v {
			t.Fatalf("number is %d (%v), want %d", got, err, v)
		}
		w.values[name], err = s.Get([]byte(name))
		must(t, err)
		return
	}
	v := rapid.SliceOfN(rapid.Byte(), 0, 30).Draw(t, "value")
	must(t, s.Set([]byte(name), v))
	w.values[name] = v
	w.check(t, s)
}

func (m *machine) reopen(t *rapid.T) {
	m.node.reopen(t)
	for shard, w := range m.twins {
		w.check(t, m.node.store(t, shard))
	}
}

func (m *machine) run(t *rapid.T) {
	defer m.node.close(t)
	t.Repeat(map[string]func(*rapid.T){
		"append": m.append, "append more": m.append, "append wrong": m.appendWrong,
		"cut": m.cut, "cut middle": m.cutMiddle, "set": m.set, "reopen": m.reopen,
	})
	m.reopen(t)
}

func TestConformsToTwinShared(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Small memtables and caches, so that tables and evictions take part.
		n := newSharedNode(t, Options{MemTableBytes: 16 << 10, EntryCacheBytes: 4 << 10})
		(&machine{n, map[kv.ShardID]*twin{}}).run(t)
	})
}

func TestConformsToTwinBolt(t *testing.T) {
	top, left := t.TempDir(), 25*soak(t) // real syncs take their time
	rapid.Check(t, func(t *rapid.T) {
		if left--; left < 0 {
			return
		}
		dir, err := os.MkdirTemp(top, "")
		must(t, err)
		(&machine{newBoltNode(dir), map[kv.ShardID]*twin{}}).run(t)
	})
}

func TestIsMonotonic(t *testing.T) {
	eachKind(t, func(t *testing.T, n node) {
		if s := n.store(t, 2); !s.IsMonotonic() {
			t.Fatal("not monotonic: the library would livelock after an installed snapshot")
		}
	})
}

func TestBigEntries(t *testing.T) {
	eachKind(t, func(t *testing.T, n node) {
		w, s := newTwin(), n.store(t, 2)
		for i := range uint64(2) {
			logs := entries(i*2+1, 2, 1)
			for _, l := range logs {
				l.Data = bytes.Repeat([]byte{byte(l.Index), 'x'}, 4<<20)
			}
			must(t, s.StoreLogs(logs))
			w.store(logs)
		}
		w.check(t, s)
		must(t, s.DeleteRange(1, 3))
		w.delete(1, 3)
		n.reopen(t)
		w.check(t, n.store(t, 2))
	})
}

func TestConcurrentShards(t *testing.T) {
	const shards, rounds = 8, 40
	eachKind(t, func(t *testing.T, n node) {
		var writers sync.WaitGroup
		twins := make([]*twin, shards)
		for i := range twins {
			s, w := n.store(t, kv.ShardID(i+2)), newTwin()
			twins[i] = w
			writers.Go(func() { writeAndCut(t, s, w, rounds) })
		}
		writers.Wait()
		n.reopen(t)
		for i, w := range twins {
			w.check(t, n.store(t, kv.ShardID(i+2)))
		}
	})
}

// writeAndCut appends and reads back and, on a second goroutine as the library
// does it, cuts from the front. It leaves in w what must be in s.
func writeAndCut(t *testing.T, s ReplicaStore, w *twin, rounds uint64) {
	var others sync.WaitGroup
	stored := make(chan uint64, rounds)
	others.Go(func() {
		for last := range stored {
			if last%8 == 0 && last > 20 {
				if err := s.DeleteRange(0, last-20); err != nil {
					t.Errorf("cut to %d: %v", last-20, err)
				}
			}
		}
	})
	for i := range rounds {
		logs := entries(i*2+1, 2, i)
		if err := s.StoreLogs(logs); err != nil {
			t.Errorf("store: %v", err)
		}
		for _, l := range logs {
			var got raft.Log
			if err := s.GetLog(l.Index, &got); err != nil || !sameLog(&got, l) {
				t.Errorf("entry %d after it was stored: %s, %v", l.Index, brief(&got), err)
			}
		}
		stored <- logs[1].Index
	}
	close(stored)
	others.Wait()
	w.logs = map[uint64]raft.Log{}
	first, _ := s.FirstIndex()
	for i := range rounds {
		for _, l := range entries(i*2+1, 2, i) {
			if l.Index >= first {
				w.logs[l.Index] = *l
			}
		}
	}
	if first == 1 || len(w.logs) < 20 {
		t.Errorf("cut to %d: %d entries are left", first, len(w.logs))
	}
	w.check(t, s)
}
