package kv

import (
	"fmt"
	"strconv"
	"time"
)

// Version is a hybrid logical timestamp (Kulkarni et al., 2014) in 64 bits: the
// upper 44 are milliseconds since the Unix epoch, the lower 20 a counter. The
// leader of a shard gives one to every command; within a shard versions strictly
// grow, whatever the clocks do. A key's version is its ETag, its compare-and-swap
// token and its fencing token. Zero is no version.
type Version uint64

const versionCounterBits = 20

// VersionAt gives the smallest version of a wall-clock time, for ms ≥ 0
// milliseconds since the Unix epoch.
func VersionAt(ms int64) Version { return Version(uint64(ms) << versionCounterBits) }

// Millis gives the version's time in milliseconds since the Unix epoch.
func (v Version) Millis() int64 { return int64(uint64(v) >> versionCounterBits) }

// Time gives the version's time to the millisecond. It reads like a time; that
// is all it is good for (DESIGN §3.4).
func (v Version) Time() time.Time { return time.UnixMilli(v.Millis()) }

// String gives decimal digits, as in ETags and JSON.
func (v Version) String() string { return strconv.FormatUint(uint64(v), 10) }

// ParseVersion reads what String writes; no sign, no leading zero, not zero.
func ParseVersion(s string) (Version, error) {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil || v == 0 || Version(v).String() != s {
		return 0, fmt.Errorf("version %q: want a positive decimal number", s)
	}
	return Version(v), nil
}
