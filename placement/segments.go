package placement

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/quorate-db/quorate/kv"
)

// segment says that shard owned the keys from start up to the next segment's
// start, as of generation.
type segment struct {
	start      []byte
	shard      kv.ShardID
	generation uint64
}

// segments is a whole map of the key space, or empty; invariant P1. Immutable.
type segments []segment

// check gives an error unless P1 holds.
func (s segments) check() error {
	if len(s) == 0 {
		return nil
	}
	if len(s[0].start) != 0 {
		return errors.New("the shard map does not begin at the least key")
	}
	for i := 1; i < len(s); i++ {
		if bytes.Compare(s[i-1].start, s[i].start) >= 0 {
			return fmt.Errorf("the shard map does not ascend at %q", s[i].start)
		}
	}
	return nil
}

// end gives the exclusive end of segment i, empty = no end.
func (s segments) end(i int) []byte {
	if i+1 < len(s) {
		return s[i+1].start
	}
	return nil
}

// find gives the segment that holds key. The map must not be empty.
func (s segments) find(key []byte) int {
	i, found := slices.BinarySearchFunc(s, key, func(e segment, k []byte) int { return bytes.Compare(e.start, k) })
	if found {
		return i
	}
	return i - 1
}

// overlapping gives the half-open interval of segments that meet [start, end);
// an empty end has no bound.
func (s segments) overlapping(start, end []byte) (from, to int) {
	if len(s) == 0 || !rangeOK(start, end) {
		return 0, 0
	}
	from = s.find(start)
	if len(end) == 0 {
		return from, len(s)
	}
	to, _ = slices.BinarySearchFunc(s, end, func(e segment, k []byte) int { return bytes.Compare(e.start, k) })
	return from, to
}

// news reports whether generation is above that of everything [start, end) meets
// (P2). In an empty map nothing is news: only CreateShards fills it.
func (s segments) news(start, end []byte, generation uint64) bool {
	from, to := s.overlapping(start, end)
	for _, e := range s[from:to] {
		if generation <= e.generation {
			return false
		}
	}
	return from < to
}

// put gives the map with [start, end) owned by shard as of generation. What it
// overlaps in part keeps the rest, so the key space stays covered (P1): a shard
// that has reported its shrinking before its child reported anything keeps the
// child's range, at the old generation, until the child does.
func (s segments) put(start, end []byte, shard kv.ShardID, generation uint64) segments {
	from, to := s.overlapping(start, end)
	if from == to {
		return s
	}
	out := make(segments, 0, len(s)+2)
	out = append(out, s[:from]...)
	if bytes.Compare(s[from].start, start) < 0 {
		out = append(out, s[from])
	}
	out = append(out, segment{start: start, shard: shard, generation: generation})
	if last := s.end(to - 1); len(end) > 0 && !bytes.Equal(last, end) {
		rest := s[to-1]
		rest.start = end
		out = append(out, rest)
	}
	return append(out, s[to:]...)
}

// rangeOK reports whether [start, end) holds a key; an empty end has no bound.
func rangeOK(start, end []byte) bool {
	return len(end) == 0 || bytes.Compare(start, end) < 0
}
