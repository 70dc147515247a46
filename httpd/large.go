package httpd

import (
	"hash/maphash"
	"sync/atomic"

	"github.com/quorate-db/quorate/kv/kvpb"
)

// largeKeys remembers which keys were read that hold large values, and how large. How
// large a value is shows when it has been fetched, and then the work is done: what is
// remembered lets the next read of it wait for its turn, and no other read. It is a
// guess: one key may push out another, and two that hash alike are taken for one.
//
// Its zero value is empty.
type largeKeys struct {
	slots [largeSlots]atomic.Uint64 // 32 bits of the hash, 32 of the size; 0 = none
}

const largeSlots = 1024

var largeSeed = maphash.MakeSeed()

func (l *largeKeys) slot(key []byte) (slot *atomic.Uint64, mark uint64) {
	h := maphash.Bytes(largeSeed, key)
	return &l.slots[h%largeSlots], h >> 32 << 32
}

// size gives how many bytes the value of a key had, 0 if it is not known to be large.
func (l *largeKeys) size(key []byte) int64 {
	slot, mark := l.slot(key)
	if v := slot.Load(); v>>32<<32 == mark {
		return int64(v & (1<<32 - 1))
	}
	return 0
}

// note remembers a large value, and forgets one that is so no more.
func (l *largeKeys) note(key []byte, size int64) {
	slot, mark := l.slot(key)
	if size > paceFree {
		slot.Store(mark | uint64(size))
	} else if v := slot.Load(); v != 0 && v>>32<<32 == mark {
		slot.CompareAndSwap(v, 0)
	}
}

// settleValue remembers what was read, and counts it in place of what was known before.
// A value of which nothing was known is not counted: who reads many such might never
// come to the end of what they owe.
func (x *exchange) settleValue(key []byte, known int64, item *kvpb.Item) {
	size := int64(0)
	if item != nil {
		size = int64(len(item.Value))
	}
	if known > 0 || size > paceFree {
		x.s.large.note(key, size)
	}
	if known > 0 {
		x.settlePace(known, size)
	}
}
