package store

import (
	"bytes"
	"slices"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// scanStepsMax bounds the records that one page looks at. A page over many deleted
// keys ends there, perhaps empty, with a resume key.
const scanStepsMax = 100_000

// scan fills one page of a range.
type scan struct {
	view
	at   kv.Version
	req  *kvpb.Scan
	resp *kvpb.ReadResponse

	start, end []byte // what is left, within the shard's range; an empty end has no bound
	done       bool   // the page is full, or there cannot be more
	limit      int
	limitBytes int
	bytes      int // on the page so far
	steps      int

	prefix []byte // escaped key under the iterator, with the table before it
	key    []byte // the same unescaped
	seek   []byte
}

// visible is the version of a key that the scan sees. It is valid until the
// iterator moves.
type visible struct {
	version kv.Version
	rec     record
}

func (s *scan) run() error {
	s.start, s.end = s.req.Start, s.req.End
	if bytes.Compare(s.start, s.desc.Start) < 0 {
		s.start = s.desc.Start
	}
	if len(s.desc.End) > 0 && (len(s.end) == 0 || bytes.Compare(s.end, s.desc.End) > 0) {
		s.end = s.desc.End
	}
	if len(s.end) > 0 && bytes.Compare(s.start, s.end) >= 0 {
		return nil
	}
	s.limit = pageLimit(s.req.Limit, kv.ScanItemsDefault, kv.ScanItemsMax)
	s.limitBytes = pageLimit(s.req.LimitBytes, kv.ScanBytesMax, kv.ScanBytesMax)
	pieces := s.piecesIn(s.start, s.end)
	for i := range pieces {
		c, walk := &pieces[i], s.forward
		if s.req.Reverse {
			c, walk = &pieces[len(pieces)-1-i], s.backward
		}
		// A common prefix that was folded may reach into this piece or over it.
		if len(c.end) > 0 && bytes.Compare(s.start, c.end) >= 0 || len(s.end) > 0 && bytes.Compare(s.end, c.start) <= 0 {
			continue
		}
		s.it.SetBounds(c.dataSpan(s.start, s.end))
		if err := walk(c.space); err != nil || s.done {
			return err
		}
	}
	return nil
}

// full ends the page. resume is where the next one begins.
func (s *scan) full(resume []byte) error {
	s.resp.Resume, s.done = resume, true
	return nil
}

func pageLimit(asked uint32, def, most int) int {
	if asked == 0 {
		return def
	}
	return int(min(asked, uint32(most)))
}

// load takes the key under the iterator.
func (s *scan) load() error {
	k := s.it.Key()
	n := splitKey(k)
	if n == len(k) {
		return errChecksum
	}
	key, ok := unescape(s.key[:0], k[headerBytes:n])
	if !ok {
		return errChecksum
	}
	s.key = key
	s.prefix = append(s.prefix[:0], k[:n]...)
	return nil
}

// sameKey reports whether the iterator is on the loaded key.
func (s *scan) sameKey() bool {
	k := s.it.Key()
	return len(k) == len(s.prefix)+versionBytes && bytes.Equal(k[:len(s.prefix)], s.prefix)
}

func (s *scan) open() (visible, error) {
	value, err := s.it.Value()
	if err != nil {
		return visible{}, err
	}
	rec, err := openRecord(s.it.Key(), value)
	return visible{version: versionOf(s.it.Key()), rec: rec}, err
}

// forward goes up through the bounds of the iterator, which are in one space. It
// stands on the newest record of a key at the head of the loop.
func (s *scan) forward(space uint64) error {
	for ok := s.it.First(); ok; {
		if err := s.load(); err != nil {
			return err
		}
		if s.steps++; s.steps > scanStepsMax {
			return s.full(slices.Clone(s.key))
		}
		on, valid := s.descend()
		if !on {
			ok = valid
			continue
		}
		v, err := s.open()
		if err != nil {
			return err
		}
		if v.rec.tombstone {
			ok = skipKey(s.it, s.prefix)
			continue
		}
		folded, full := s.take(v)
		switch {
		case full:
			return s.full(slices.Clone(s.key))
		case folded != nil:
			next := prefixEnd(folded)
			if next == nil {
				s.done = true
				return nil
			}
			s.start = next
			s.seek = escapeOpen(tablePrefix(s.seek[:0], space, tableData), next)
			ok = s.it.SeekGE(s.seek)
		default:
			ok = skipKey(s.it, s.prefix)
		}
	}
	return s.it.Error()
}

// descend moves from the newest record of the loaded key to the newest that the
// scan may see. If the key has none, it is not on the key any more: then the
// iterator stands on the newest record of the next one, if it is valid.
func (s *scan) descend() (on, valid bool) {
	for i := 0; versionOf(s.it.Key()) > s.at; i++ {
		s.steps++
		moved := false
		if i < nextsBeforeSeek {
			moved = s.it.Next()
		} else {
			s.seek = appendVersion(append(s.seek[:0], s.prefix...), s.at)
			moved = s.it.SeekGE(s.seek)
		}
		if !moved || !s.sameKey() {
			return false, moved
		}
	}
	return true, true
}

// backward goes down through the bounds of the iterator, which are in one space.
// It stands on the oldest record of a key at the head of the loop.
func (s *scan) backward(space uint64) error {
	for ok := s.it.Last(); ok; {
		if err := s.load(); err != nil {
			return err
		}
		if s.steps++; s.steps > scanStepsMax {
			return s.full(append(slices.Clone(s.key), 0))
		}
		found, err := s.ascend()
		if err != nil {
			return err
		}
		s.seek = append(s.seek[:0], s.prefix...)
		if found != nil {
			folded, full := s.take(*found)
			if full {
				return s.full(append(slices.Clone(s.key), 0))
			}
			if folded != nil {
				s.end = folded
				s.seek = escapeOpen(tablePrefix(s.seek[:0], space, tableData), folded)
			}
		}
		ok = s.it.SeekLT(s.seek)
	}
	return s.it.Error()
}

// ascend moves from the oldest record of the loaded key to the one that the scan
// sees; nil if the key did not exist then.
func (s *scan) ascend() (*visible, error) {
	if versionOf(s.it.Key()) > s.at {
		return nil, nil
	}
	s.seek = appendVersion(append(s.seek[:0], s.prefix...), s.at)
	if !s.it.SeekGE(s.seek) {
		if err := s.it.Error(); err != nil {
			return nil, err
		}
		return nil, errChecksum // it stood on a record that the seek must find
	}
	s.steps++
	v, err := s.open()
	if err != nil || v.rec.tombstone {
		return nil, err
	}
	return &v, nil
}

// take adds what is visible under the iterator to the page: an item, or the common
// prefix that it is folded into. full tells that there was no room.
func (s *scan) take(v visible) (folded []byte, full bool) {
	if len(s.resp.Items)+len(s.resp.CommonPrefixes) >= s.limit {
		return nil, true
	}
	folded = s.fold()
	size := len(s.key)
	if folded != nil {
		size = len(folded)
	} else if !s.req.KeysOnly {
		size += len(v.rec.value)
	}
	if s.bytes > 0 && s.bytes+size > s.limitBytes {
		return nil, true
	}
	s.bytes += size
	if folded != nil {
		s.resp.CommonPrefixes = append(s.resp.CommonPrefixes, folded)
		return folded, false
	}
	item := &kvpb.Item{
		Key:         slices.Clone(s.key),
		Version:     uint64(v.version),
		ContentType: string(v.rec.contentType),
		ExpiresMs:   v.rec.expiresMs,
	}
	if !s.req.KeysOnly {
		item.Value = slices.Clone(v.rec.value)
	}
	s.resp.Items = append(s.resp.Items, item)
	return nil, false
}

// fold gives the loaded key up to and including the first delimiter after the
// prefix, nil if it has none.
func (s *scan) fold() []byte {
	n := int(s.req.PrefixLen)
	if len(s.req.Delimiter) == 0 || n > len(s.key) {
		return nil
	}
	i := bytes.Index(s.key[n:], s.req.Delimiter)
	if i < 0 {
		return nil
	}
	return slices.Clone(s.key[:n+i+len(s.req.Delimiter)])
}

// prefixEnd gives the least key above all that begin with prefix, nil if there
// is none.
func prefixEnd(prefix []byte) []byte {
	end := slices.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] != 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return nil
}
