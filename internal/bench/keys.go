package bench

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
)

// keyLen is the length of a generated key without its prefix.
const keyLen = 11

// keyOf gives the i-th key: eleven of 0-9A-Za-z, different for each i, in no order.
// The first is spread evenly over all 62, so that any shard gets its share.
func keyOf(prefix string, i uint64) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	b := make([]byte, len(prefix)+keyLen)
	copy(b, prefix)
	for h, at := mix(i), len(prefix); at < len(b); at++ {
		b[at] = digits[h%62]
		h /= 62
	}
	return string(b)
}

// mix is the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a
// bijection of 64 bits.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// keyCounter knows how many keys there are while clients insert more. A key
// counts once its insert and those of all before it have been answered, so that nobody
// reads what is not there yet.
type keyCounter struct {
	next  atomic.Uint64 // the next index to insert
	ready atomic.Uint64 // all below were answered

	mu    sync.Mutex
	ahead map[uint64]struct{} // answered, but not all below were; guarded by mu
}

func newKeyCounter(n uint64) *keyCounter {
	c := &keyCounter{ahead: map[uint64]struct{}{}}
	c.next.Store(n)
	c.ready.Store(n)
	return c
}

func (c *keyCounter) count() uint64 { return c.ready.Load() }

// take gives an index to insert; answered must follow.
func (c *keyCounter) take() uint64 { return c.next.Add(1) - 1 }

func (c *keyCounter) answered(i uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead[i] = struct{}{}
	n := c.ready.Load()
	for {
		if _, ok := c.ahead[n]; !ok {
			break
		}
		delete(c.ahead, n)
		n++
	}
	c.ready.Store(n)
}

// values gives random bytes to write, cheaply: slices of one random buffer.
type values struct {
	buf  []byte
	size int
}

// valuesSpread is how many different offsets there are in the buffer.
const valuesSpread = 64 << 10

func newValues(size int, seed uint64) *values {
	buf := make([]byte, size+valuesSpread)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range buf {
		buf[i] = byte(r.Uint32())
	}
	return &values{buf: buf, size: size}
}

func (v *values) draw(r *rand.Rand) []byte {
	at := r.IntN(valuesSpread)
	return v.buf[at : at+v.size : at+v.size]
}
