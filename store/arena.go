package store

const arenaChunkBytes = 64 << 10

// arena hands out byte slices that live until reset, in few allocations.
type arena struct {
	chunk []byte
}

// alloc gives an empty slice with room for n bytes.
func (a *arena) alloc(n int) []byte {
	if n > arenaChunkBytes/4 {
		return make([]byte, 0, n)
	}
	if cap(a.chunk)-len(a.chunk) < n {
		a.chunk = make([]byte, 0, arenaChunkBytes)
	}
	at := len(a.chunk)
	a.chunk = a.chunk[:at+n]
	return a.chunk[at : at : at+n]
}

// reset takes all slices back. Only the newest chunk is used again.
func (a *arena) reset() { a.chunk = a.chunk[:0] }
