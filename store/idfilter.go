package store

import (
	"encoding/binary"
	"math/bits"

	"github.com/quorate-db/quorate/store/engine"
)

// The sizes of an idFilter. A segment's block is one cache line; with 12 bits an id
// and 7 of them set, about one unknown id in a hundred is looked up in vain.
const (
	filterBitsPerID  = 12
	filterProbes     = 7
	filterBlockBits  = 512
	filterFirstIDs   = 1 << 10
	filterLargestIDs = 1 << 20
	// filterPrefill is how many remembered ids are read when a replica is opened.
	filterPrefill = 1 << 16
)

// idFilter knows which request ids are certainly not remembered, so that a
// command with a new id, that is nearly every command, costs no lookup. It changes
// no answer: whatever it does not rule out is looked up.
type idFilter struct {
	attached bool
	// complete: every remembered id is in a segment. Until then nothing is ruled out;
	// what is missing was issued at or before missingMs.
	complete  bool
	missingMs int64
	segments  []filterSegment
}

// filterSegment is a blocked Bloom filter.
type filterSegment struct {
	words    []uint64 // filterBlockBits/64 to a block
	ids, cap int
	lastMs   int64 // the latest time of issue in it
}

// attach fills the filter with what the homes hold, if that is not too much.
func (f *idFilter) attach(r engine.Reader, homes []home) error {
	*f = idFilter{attached: true, complete: true}
	n := 0
	for i := range homes {
		if err := f.attachHome(r, homes[i].space, &n); err != nil {
			return err
		}
	}
	return nil
}

// attachHome adds the ids of one home; n counts those of all. When it is past
// filterPrefill only the latest time of issue is looked at.
func (f *idFilter) attachHome(r engine.Reader, space uint64, n *int) (err error) {
	it, err := r.NewIter(tablePrefix(nil, space, tableByIssued), tablePrefix(nil, space, tableByIssued+1))
	if err != nil {
		return err
	}
	defer func() { err = closeWith(it, err) }()
	for ok := it.First(); ok; ok = it.Next() {
		if *n++; *n > filterPrefill {
			f.complete = false
			it.Last()
		}
		at, parsed := atOfIssued(it.Key()[headerBytes:])
		if !parsed {
			return errChecksum
		}
		if !f.complete {
			f.missingMs = max(f.missingMs, at.issuedMs())
			break
		}
		f.add(at.id(), at.issuedMs())
	}
	return it.Error()
}

// add notes an id that is remembered from now on.
func (f *idFilter) add(id requestID, issuedMs int64) {
	n := len(f.segments)
	if n == 0 || f.segments[n-1].ids >= f.segments[n-1].cap {
		size := filterFirstIDs
		if n > 0 {
			size = min(2*f.segments[n-1].cap, filterLargestIDs)
		}
		words := size * filterBitsPerID / 64
		words -= words % (filterBlockBits / 64)
		f.segments = append(f.segments, filterSegment{words: make([]uint64, words), cap: size, lastMs: issuedMs})
		n++
	}
	s := &f.segments[n-1]
	s.ids++
	s.lastMs = max(s.lastMs, issuedMs)
	block, probes := s.locate(hashID(id))
	for range filterProbes {
		block[probes>>6&7] |= 1 << (probes & 63)
		probes >>= 9
	}
}

// excludes reports that an id is certainly not remembered.
func (f *idFilter) excludes(id requestID) bool {
	if !f.complete {
		return false
	}
	a, b := hashID(id)
	for i := range f.segments {
		if f.segments[i].mayHold(a, b) {
			return false
		}
	}
	return true
}

// forget drops what is certainly swept: everything issued before fromMs.
func (f *idFilter) forget(fromMs int64) {
	if !f.complete && f.missingMs < fromMs {
		f.complete = true
	}
	kept := f.segments[:0]
	for _, s := range f.segments {
		if s.lastMs >= fromMs {
			kept = append(kept, s)
		}
	}
	clear(f.segments[len(kept):])
	f.segments = kept
}

func (s *filterSegment) locate(a, b uint64) (block []uint64, probes uint64) {
	const words = filterBlockBits / 64
	n, _ := bits.Mul64(a, uint64(len(s.words)/words))
	return s.words[n*words : n*words+words], b
}

func (s *filterSegment) mayHold(a, b uint64) bool {
	block, probes := s.locate(a, b)
	for range filterProbes {
		if block[probes>>6&7]&(1<<(probes&63)) == 0 {
			return false
		}
		probes >>= 9
	}
	return true
}

// hashID gives two hashes of an id. They are of its first half alone, which all
// parts of a request share: one question rules out all of them.
func hashID(id requestID) (a, b uint64) {
	a = mix(binary.BigEndian.Uint64(id[:8]) ^ 0x9e3779b97f4a7c15)
	return a, mix(a ^ 0xd1b54a32d192ed03)
}

// mix is the finaliser of MurmurHash3: every input bit changes about half of the
// output bits.
func mix(x uint64) uint64 {
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
