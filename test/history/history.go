// Package history records what clients of a cluster did and saw, and decides
// whether one correct register per key explains it (linearizability, Herlihy and Wing).
//
// Every written value is unique to its write, so a value names the write that a
// read saw. A write of which nobody knows whether it was applied may take effect
// at any time after its call, or never. A write that was reported as not applied
// is left out: if it was applied after all, somebody reads a value that nobody
// wrote, and the check fails.
package history

import (
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// Kind is what an operation does.
type Kind int

// The operations. A key is used either with Add and Get, or with the others.
const (
	Get    Kind = iota // Seen is what was read, "" if there was no key
	Put                // Value is written
	Delete             // Seen is "1" if there was a key to delete, else "0"
	Swap               // Value is written if the key holds Expect ("" = if there is no key)
	Add                // 1 is added; Seen is the sum
)

// Result says what became of an operation.
type Result int

// The results. A read that failed is not recorded: it says nothing.
const (
	OK      Result = iota
	Refused        // a Swap whose condition was false
	Unknown        // a write that may or may not have been applied, now or later
)

// Op is one operation of one client.
type Op struct {
	Client  int
	Kind    Kind
	Key     string
	Value   string
	Expect  string
	Result  Result
	Seen    string
	Version kv.Version // of the value written or read; 0 = not told
	Call    int64      // nanoseconds since the recorder began
	Return  int64      // of an operation with an Unknown result: ignored
}

// Recorder collects operations. It is safe for concurrent use.
type Recorder struct {
	begin time.Time

	mu  sync.Mutex
	ops []Op
}

// NewRecorder makes an empty Recorder whose clock starts now.
func NewRecorder() *Recorder { return &Recorder{begin: time.Now()} }

// Now gives the time for Op.Call and Op.Return.
func (r *Recorder) Now() int64 { return int64(time.Since(r.begin)) }

// Record adds an operation that has returned.
func (r *Recorder) Record(op Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, op)
}

// Ops gives a copy of what was recorded so far.
func (r *Recorder) Ops() []Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Op(nil), r.ops...)
}

// Keys gives every key that was written, each once, in the order of its first use.
func (r *Recorder) Keys() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]bool{}
	var keys []string
	for i := range r.ops {
		if key := r.ops[i].Key; r.ops[i].Kind != Get && !seen[key] {
			seen[key] = true
			keys = append(keys, key)
		}
	}
	return keys
}
