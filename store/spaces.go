package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"sync"

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
