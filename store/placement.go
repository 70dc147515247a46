package store

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/quorate-db/quorate/kv/kvpb"
)

// placement says where on this node a replica's tables are.
//
// A space may hold what is not this replica's: the other half of a split, and what
// a dropped half has left in the indexes. So whatever is read belongs to the
// replica only if its key is in a piece of the space that it was found in. A key
// of a space is in a piece of at most one replica of the node, and once it is in
// none it never is again: pieces are only cut, passed on and joined, and a restore
// takes a new space (S8).
type placement struct {
	pieces []piece // adjacent and ascending; together they are the shard's range
	// homes hold request ids. The first is written, the others are only read, and may
	// be other replicas' too. Where several hold the same, the first counts.
	homes []home
	// lower and upper bound the data tables of all pieces.
	lower, upper []byte
}

// piece is a part of a range, and the space that holds its records and indexes.
type piece struct {
	start, end []byte // [start, end); an empty end has no bound
	space      uint64
}

// home is a space with request ids.
type home struct {
	space uint64
	// from is where what counts begins. What is below is swept, though a home that is
	// only read still has it.
	from   requestAt
	count  int64 // ids at or above from
	lastMs int64 // the latest time of issue in it
}

// placeAt puts the whole range of a descriptor into one space.
func placeAt(d *kvpb.ShardDescriptor, space, homeSpace uint64) placement {
	p := placement{pieces: []piece{{start: d.Start, end: d.End, space: space}}, homes: []home{{space: homeSpace}}}
	p.bound()
	return p
}

// bound computes lower and upper.
func (p *placement) bound() {
	least, most := p.pieces[0].space, p.pieces[0].space
	for _, c := range p.pieces[1:] {
		least, most = min(least, c.space), max(most, c.space)
	}
	p.lower, p.upper = tablePrefix(nil, least, tableData), tablePrefix(nil, most, tableData+1)
}

// covers reports whether the pieces make up a range exactly.
func (p *placement) covers(start, end []byte) bool {
	if len(p.pieces) == 0 || len(p.homes) == 0 {
		return false
	}
	at := start
	for i, c := range p.pieces {
		last := i == len(p.pieces)-1
		if !bytes.Equal(c.start, at) || !last && (len(c.end) == 0 || bytes.Compare(c.start, c.end) >= 0) {
			return false
		}
		at = c.end
	}
	return bytes.Equal(at, end)
}

// holds reports whether the piece has a key.
func (c *piece) holds(key []byte) bool {
	return bytes.Compare(key, c.start) >= 0 && (len(c.end) == 0 || bytes.Compare(key, c.end) < 0)
}

// dataBounds gives the bounds of the piece's records.
func (c *piece) dataBounds() (lower, upper []byte) { return c.dataSpan(c.start, c.end) }

// dataSpan gives the bounds of the records of [start, end), of what is in the piece.
func (c *piece) dataSpan(start, end []byte) (lower, upper []byte) {
	if bytes.Compare(start, c.start) < 0 {
		start = c.start
	}
	if len(c.end) > 0 && (len(end) == 0 || bytes.Compare(end, c.end) > 0) {
		end = c.end
	}
	lower = escapeOpen(tablePrefix(nil, c.space, tableData), start)
	if len(end) == 0 {
		return lower, tablePrefix(nil, c.space, tableData+1)
	}
	return lower, escapeOpen(tablePrefix(nil, c.space, tableData), end)
}

// spaceOf gives the space of a key that the replica owns.
func (p *placement) spaceOf(key []byte) uint64 {
	last := len(p.pieces) - 1
	for i := range last {
		if bytes.Compare(key, p.pieces[i].end) < 0 {
			return p.pieces[i].space
		}
	}
	return p.pieces[last].space
}

// piecesIn gives the pieces that have something of [start, end), ascending.
func (p *placement) piecesIn(start, end []byte) []piece {
	from, to := 0, len(p.pieces)
	for from < to && len(p.pieces[from].end) > 0 && bytes.Compare(p.pieces[from].end, start) <= 0 {
		from++
	}
	for to > from && len(end) > 0 && bytes.Compare(p.pieces[to-1].start, end) >= 0 {
		to--
	}
	return p.pieces[from:to]
}

// indexSources gives the spaces of the change and the expiry index, with the
// entries that are the replica's.
func (p *placement) indexSources() []source {
	var out []source
	for i := range p.pieces {
		space := p.pieces[i].space
		if slices.ContainsFunc(out, func(s source) bool { return s.space == space }) {
			continue
		}
		out = append(out, source{space: space, keep: func(suffix []byte) bool {
			return len(suffix) < 8 || p.holds(space, suffix[8:])
		}})
	}
	return out
}

// holds reports whether a key of a space is the replica's.
func (p *placement) holds(space uint64, key []byte) bool {
	for i := range p.pieces {
		if c := &p.pieces[i]; c.space == space && c.holds(key) {
			return true
		}
	}
	return false
}

// homeSources gives the homes with what counts of a table of request ids.
func (p *placement) homeSources(table byte) []source {
	out := make([]source, len(p.homes))
	for i := range p.homes {
		from := p.homes[i].from
		out[i] = source{space: p.homes[i].space, keep: func(suffix []byte) bool {
			if table == tableRequests {
				at, ok := atOfRequest(suffix)
				return !ok || bytes.Compare(at[:], from[:]) >= 0
			}
			return bytes.Compare(suffix, from[:]) >= 0
		}}
	}
	return out
}

// requests is how many request ids are remembered.
func (p *placement) requests() (n int64) {
	for i := range p.homes {
		n += p.homes[i].count
	}
	return n
}

func appendBlob(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// appendPlacement appends what fieldReader.placement reads.
func appendPlacement(dst []byte, p *placement) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(p.pieces)))
	for i := range p.pieces {
		dst = binary.AppendUvarint(dst, p.pieces[i].space)
		dst = appendBlob(appendBlob(dst, p.pieces[i].start), p.pieces[i].end)
	}
	dst = binary.AppendUvarint(dst, uint64(len(p.homes)))
	for i := range p.homes {
		h := &p.homes[i]
		dst = append(binary.AppendUvarint(dst, h.space), h.from[:]...)
		dst = binary.AppendUvarint(dst, uint64(h.count))
		dst = binary.AppendUvarint(dst, uint64(h.lastMs))
	}
	return dst
}

// cut gives the pieces below a key and those from it on.
func (p *placement) cut(key []byte) (left, right []piece) {
	for _, c := range p.pieces {
		if bytes.Compare(c.start, key) < 0 {
			l := c
			if len(c.end) == 0 || bytes.Compare(c.end, key) > 0 {
				l.end = bytes.Clone(key)
			}
			left = append(left, l)
		}
		if len(c.end) == 0 || bytes.Compare(c.end, key) > 0 {
			r := c
			if bytes.Compare(c.start, key) < 0 {
				r.start = bytes.Clone(key)
			}
			right = append(right, r)
		}
	}
	return left, right
}

// join appends what the right neighbour has. Where both have the same ids, ours
// count: its homes come after ours. A home of both counts as far as it does for
// either.
func (p *placement) join(right placement) {
	pieces := slices.Clone(p.pieces)
	for _, c := range right.pieces {
		if last := &pieces[len(pieces)-1]; last.space == c.space {
			last.end = c.end
			continue
		}
		pieces = append(pieces, c)
	}
	p.pieces = pieces
	p.bound()
	homes := slices.Clone(p.homes)
	for _, h := range right.homes {
		i := slices.IndexFunc(homes, func(o home) bool { return o.space == h.space })
		if i < 0 {
			homes = append(homes, h)
		} else if bytes.Compare(h.from[:], homes[i].from[:]) < 0 {
			homes[i] = h
		}
	}
	p.homes = homes
}
