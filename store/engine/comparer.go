package engine

import (
	"bytes"

	"github.com/cockroachdb/pebble/v2"
)

// comparerName is stored in the database; another order needs another name.
const comparerName = "quorate.bytes.v1"

// newComparer orders keys by their bytes and lets filters work on prefixes.
//
// split must make the set of prefixes prefix-free, so that bytewise order and
// "prefix first, then suffix" are the same order.
func newComparer(split func([]byte) int) *pebble.Comparer {
	base := pebble.DefaultComparer
	return &pebble.Comparer{
		Name:                 comparerName,
		Compare:              bytes.Compare,
		Equal:                bytes.Equal,
		ComparePointSuffixes: bytes.Compare,
		CompareRangeSuffixes: bytes.Compare,
		AbbreviatedKey:       base.AbbreviatedKey,
		FormatKey:            base.FormatKey,
		Split:                split,
		// Pebble bounds prefix seeks by it where they meet range deletions. No prefix of
		// keys with suffixes is the beginning of another, so the least key above all with
		// that prefix has its last byte raised, which is never the highest.
		ImmediateSuccessor: func(dst, prefix []byte) []byte {
			n := len(dst)
			dst = append(append(dst, prefix...), make([]byte, 8)...)
			if split(dst[n:]) != len(prefix) {
				return dst[:n+len(prefix)+1] // a key without suffix, and a zero
			}
			dst = dst[:n+len(prefix)]
			dst[len(dst)-1]++
			return dst
		},
		// A shortened key must never end inside a suffix: it would be taken for a
		// longer prefix than the one it belongs to and break the order of prefixes.
		Separator: func(dst, a, b []byte) []byte {
			ap, bp := a[:split(a)], b[:split(b)]
			if bytes.Equal(ap, bp) {
				return append(dst, a...)
			}
			n := len(dst)
			dst = base.Separator(dst, ap, bp)
			if bytes.Equal(dst[n:], ap) {
				return append(dst[:n], a...)
			}
			return dst
		},
		Successor: func(dst, a []byte) []byte {
			ap := a[:split(a)]
			n := len(dst)
			dst = base.Successor(dst, ap)
			if bytes.Equal(dst[n:], ap) {
				return append(dst[:n], a...)
			}
			return dst
		},
	}
}
