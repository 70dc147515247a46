package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
	"sync"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/store/engine"
)

// spacesReserved is how many ids one durable write hands out, so that most
// allocations cost no sync.
const spacesReserved = 64

// spaceIDs allocates space ids that are never used twice, not even after a
// crash: tables of a forgotten restore may be durable under an id whose
// allocation was only in memory (DESIGN §9 rule 3).
type spaceIDs struct {
	fs   engine.FS
	path string

	mu    sync.Mutex
	next  uint64 // guarded by mu
	bound uint64 // guarded by mu; ids below it are on disk as handed out
}

// openSpaceIDs reads the file at path; found tells whether there was one.
func openSpaceIDs(fsys engine.FS, path string) (ids *spaceIDs, found bool, err error) {
	ids = &spaceIDs{fs: fsys, path: path, next: 1, bound: 1}
	f, err := fsys.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ids, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	data, err := io.ReadAll(io.LimitReader(f, 64))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, false, err
	}
	if len(data) != 12 || crc32.Checksum(data[:8], castagnoli) != binary.BigEndian.Uint32(data[8:]) {
		return nil, false, fmt.Errorf("store: %s is damaged: %w", path, engine.ErrCorrupt)
	}
	ids.next = binary.BigEndian.Uint64(data)
	ids.bound = ids.next
	return ids, true, nil
}

// allocatePair gives the ids of a space and of a later home.
func (ids *spaceIDs) allocatePair() (space, homeSpace uint64, err error) {
	if space, err = ids.allocate(); err == nil {
		homeSpace, err = ids.allocate()
	}
	return space, homeSpace, err
}

// allocate gives an id that was never given before.
func (ids *spaceIDs) allocate() (uint64, error) {
	ids.mu.Lock()
	defer ids.mu.Unlock()
	if ids.next == ids.bound {
		bound := ids.bound + spacesReserved
		data := binary.BigEndian.AppendUint64(nil, bound)
		data = binary.BigEndian.AppendUint32(data, crc32.Checksum(data, castagnoli))
		if err := engine.WriteFileSynced(ids.fs, ids.path, data); err != nil {
			return 0, fmt.Errorf("store: reserving space ids: %w", err)
		}
		ids.bound = bound
	}
	id := ids.next
	ids.next++
	return id, nil
}

// listSpaces finds the spaces that hold any key, by one seek for each.
func listSpaces(r engine.Reader) ([]uint64, error) {
	it, err := r.NewIter([]byte{rootSpace}, []byte{rootSpace + 1})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var out []uint64
	for ok := it.First(); ok; {
		key := it.Key()
		if len(key) < spaceBytes {
			return nil, fmt.Errorf("store: a key of %d bytes is in no space: %w", len(key), engine.ErrCorrupt)
		}
		id := binary.BigEndian.Uint64(key[1:])
		out = append(out, id)
		ok = it.SeekGE(spacePrefix(nil, id+1))
	}
	return out, it.Error()
}

// referredSpaces gives the spaces that states refer to.
func referredSpaces(states []*state) map[uint64]bool {
	out := map[uint64]bool{}
	for _, s := range states {
		for i := range s.pieces {
			out[s.pieces[i].space] = true
		}
		for i := range s.homes {
			out[s.homes[i].space] = true
		}
	}
	return out
}

// removeUnused removes what a replica referred to and, going by its record, does
// not any more.
func (db *DB) removeUnused(gone placement) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	b := db.eng.NewBatch(false)
	err := db.deleteUnused(b, 0, gone)
	if err == nil {
		err = b.Commit()
	}
	return errors.Join(err, b.Close())
}

// deleteUnused adds to b the removal of what a replica referred to: spaces that no
// record of another shard than except refers to, and of others the records in its
// pieces. Index entries of those pieces stay until their space goes: nobody finds
// them (S8). The caller holds mu.
func (db *DB) deleteUnused(b engine.Batch, except kv.ShardID, gone placement) error {
	states, err := db.states()
	if err != nil {
		return err
	}
	states = slices.DeleteFunc(states, func(s *state) bool { return s.desc.Shard == uint64(except) })
	referred := referredSpaces(states)
	for i := range gone.pieces {
		if c := &gone.pieces[i]; referred[c.space] {
			b.DeleteRange(c.dataBounds())
		} else {
			b.DeleteRange(spacePrefix(nil, c.space), spacePrefix(nil, c.space+1))
		}
	}
	for i := range gone.homes {
		if id := gone.homes[i].space; !referred[id] {
			b.DeleteRange(spacePrefix(nil, id), spacePrefix(nil, id+1))
		}
	}
	return nil
}

// deleteGaps adds to b the removal of records that are in a space of somebody's and
// in nobody's piece: a crash came between a restore or a split and the removal.
func deleteGaps(r engine.Reader, b engine.Batch, states []*state) error {
	pieces := map[uint64][]piece{}
	for _, s := range states {
		for _, c := range s.pieces {
			pieces[c.space] = append(pieces[c.space], c)
		}
	}
	for space, all := range pieces {
		slices.SortFunc(all, func(x, y piece) int { return bytes.Compare(x.start, y.start) })
		lower := tablePrefix(nil, space, tableData)
		for i := range all {
			from, to := all[i].dataBounds()
			if err := deletePresent(r, b, lower, from); err != nil {
				return err
			}
			lower = to
		}
		if err := deletePresent(r, b, lower, tablePrefix(nil, space, tableData+1)); err != nil {
			return err
		}
	}
	return nil
}

// deletePresent adds to b the removal of [lower, upper) if anything is there.
func deletePresent(r engine.Reader, b engine.Batch, lower, upper []byte) error {
	if bytes.Compare(lower, upper) >= 0 {
		return nil
	}
	it, err := r.NewIter(lower, upper)
	if err != nil {
		return err
	}
	if it.First() {
		b.DeleteRange(lower, upper)
	}
	return closeWith(it, it.Error())
}
