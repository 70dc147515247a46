package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quorate-db/quorate/kv"
)

// Pebble reads a write-ahead log up to the first chunk that does not hold, and
// takes that for the place where a crash cut the log off. It looks for proof of
// the contrary only in later blocks of 32 KiB, so one flipped bit near the end
// would silently take away all that was acknowledged after it, which a Raft
// replica must not survive.
//
// The proof is in the log itself. A replica writes one batch after the other,
// each after the sync of the one before. So of what a crash cuts off at most one
// batch of each replica can be left, and that one continues what was
// recovered. Where two are left, or one that does not continue, everything up to
// there was synced, and something in it has rotted.
//
// What cannot be found is the loss of each replica's very last batch, and a file
// that was cut short.
const (
	walBlockBytes  = 32 << 10
	walHeaderBytes = 19 // checksum(4) length(2) type(1) log number(4) synced offset(8)

	walChunkFull  = 9
	walChunkFirst = 10
	walChunkLast  = 12

	batchHeaderBytes   = 12
	walKindRangeDelete = 15
)

// leftover is a batch behind the place where Pebble stops reading.
type leftover struct {
	offset int
	kind   byte   // of its first operation
	key    []byte // and that one's key
}

// writer says who wrote the batch: a replica, or the records.
func (l leftover) writer() string {
	if len(l.key) >= 17 && (l.key[0] == tagLog || l.key[0] == tagStable) {
		return string(l.key[1:17])
	}
	return string(l.key[:min(1, len(l.key))])
}

// continues says whether the batch can be the next of its replica after what
// was recovered.
func (l leftover) continues(recovered run) bool {
	if len(l.key) != 25 || l.key[0] != tagLog {
		return true
	}
	index := binary.BigEndian.Uint64(l.key[17:])
	if l.kind == walKindRangeDelete {
		return recovered.empty() || recovered.holds(index)
	}
	// An append, or a value written between two.
	return recovered.empty() || index == recovered.next()
}

// walChunk reads the chunk at an offset. Chunks do not cross blocks.
func walChunk(data []byte, at int, logNumber uint32) (kind byte, payload []byte, ok bool) {
	end := min(len(data), (at/walBlockBytes+1)*walBlockBytes)
	if end-at < walHeaderBytes {
		return 0, nil, false
	}
	head := data[at:end]
	kind = head[6]
	length := walHeaderBytes + int(binary.LittleEndian.Uint16(head[4:]))
	if kind < walChunkFull || kind > walChunkLast || binary.LittleEndian.Uint32(head[7:]) != logNumber || length > len(head) {
		return 0, nil, false
	}
	sum := crc32.Checksum(head[6:length], crc32.MakeTable(crc32.Castagnoli))
	if (sum>>15|sum<<17)+0xa282ead8 != binary.LittleEndian.Uint32(head) {
		return 0, nil, false
	}
	return kind, head[walHeaderBytes:length], true
}

// leftovers gives the batches that begin behind the place where Pebble stops
// reading, and that place.
func leftovers(data []byte, logNumber uint32) (left []leftover, stop int) {
	for stop < len(data) {
		if rest := walBlockBytes - stop%walBlockBytes; rest < walHeaderBytes {
			stop += rest // filled up with zeros
			continue
		}
		_, payload, ok := walChunk(data, stop, logNumber)
		if !ok {
			break
		}
		stop += walHeaderBytes + len(payload)
	}
	for at := stop; at < len(data); {
		kind, payload, ok := walChunk(data, at, logNumber)
		if !ok {
			at++
			continue
		}
		if kind == walChunkFull || kind == walChunkFirst {
			operation, key := firstOperation(payload)
			left = append(left, leftover{at, operation, key})
		}
		at += walHeaderBytes + len(payload)
	}
	return left, stop
}

// firstOperation gives the kind and the key of the first operation of a batch;
// no key if there is none.
func firstOperation(batch []byte) (kind byte, key []byte) {
	if len(batch) < batchHeaderBytes+1 {
		return 0, nil
	}
	kind = batch[batchHeaderBytes]
	rest := batch[batchHeaderBytes+1:]
	length, n := binary.Uvarint(rest)
	if n <= 0 || length > uint64(len(rest)-n) {
		return kind, nil
	}
	return kind, rest[n : n+int(length)]
}

// walTails is what checkWALs leaves to be compared with what was recovered.
type walTails struct {
	next map[string]leftover // by writer
	file string
}

// checkWALs looks through the write-ahead logs before Pebble does. The error is
// kv.CodeCorrupt.
func checkWALs(fs vfs.FS, dir string) (walTails, error) {
	tails := walTails{next: map[string]leftover{}}
	names, err := fs.List(dir)
	if err != nil {
		return tails, nil // there is no directory yet, or Pebble will say what is wrong
	}
	for _, name := range names {
		digits, ok := strings.CutSuffix(name, ".log")
		number, err := strconv.ParseUint(digits, 10, 64)
		if !ok || err != nil {
			continue
		}
		data, err := readAll(fs, fs.PathJoin(dir, name))
		if err != nil {
			return tails, err
		}
		left, stop := leftovers(data, uint32(number))
		seen := map[string]bool{}
		for _, l := range left {
			if seen[l.writer()] {
				return tails, corruptWAL(name, stop, l.offset)
			}
			seen[l.writer()] = true
			tails.next[l.writer()] = l
			tails.file = name
		}
	}
	return tails, nil
}

// compare checks the batches that were left out against what was recovered.
func (w walTails) compare(s *Shared) error {
	for _, l := range w.next {
		if len(l.key) != 25 || l.key[0] != tagLog {
			continue
		}
		found, err := s.findRun(replicaOf(l.key))
		if err != nil {
			return err
		}
		if !l.continues(found) {
			return corruptWAL(w.file, l.offset, l.offset)
		}
	}
	return nil
}

func corruptWAL(name string, stop, witness int) error {
	return kv.Errorf(kv.CodeCorrupt, kv.OutcomeNone,
		"raft log: write-ahead log %s is corrupt at or before byte %d: what was written at byte %d proves that it was synced",
		name, stop, witness)
}

func readAll(fs vfs.FS, name string) ([]byte, error) {
	f, err := fs.Open(name, vfs.SequentialReadsOption)
	if err != nil {
		return nil, fmt.Errorf("check write-ahead log: %w", err)
	}
	data, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("check write-ahead log: %w", err)
	}
	return data, nil
}
