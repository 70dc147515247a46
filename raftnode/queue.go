package raftnode

import (
	"sync"
	"sync/atomic"

	"github.com/quorate-db/quorate/kv"
)

const (
	// queueCommandsMax and queueBytesMax bound the proposals that wait at one
	// replica.
	queueCommandsMax = 8192
	queueBytesMax    = 64 << 20

	// pipelineCommandsMin and pipelineBytesMin are how much has to wait before an
	// entry is put in flight beside another one: for less, it is cheaper to wait and
	// let more commands share the entry.
	pipelineCommandsMin = 64
	pipelineBytesMin    = 128 << 10
)

// The states of a proposal. A proposal that its caller has left is dropped when it
// is next looked at.
const (
	proposalWaiting int32 = iota // in the queue: certainly not proposed
	proposalTaken                // in an entry: may be proposed
	proposalLeft                 // the caller has gone
)

// proposal is one command and its caller.
type proposal struct {
	command kv.EntryCommand
	state   atomic.Int32
	answer  chan proposed // holds one
}

type proposed struct {
	result []byte
	err    error
}

// queue holds the proposals of a replica that are in no entry yet.
type queue struct {
	wake chan struct{} // holds one when there may be something to do

	mu       sync.Mutex
	waiting  []*proposal
	bytes    int
	inFlight int // groups that were taken and not finished
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// push adds a proposal; false if the queue is full.
func (q *queue) push(p *proposal) bool {
	q.mu.Lock()
	if len(q.waiting) >= queueCommandsMax || q.bytes+len(p.command.Data) > queueBytesMax && len(q.waiting) > 0 {
		q.mu.Unlock()
		return false
	}
	q.waiting = append(q.waiting, p)
	q.bytes += len(p.command.Data)
	q.mu.Unlock()
	q.signal()
	return true
}

// take removes the proposals that go into the next entry, nil if there is none to
// be made now. What it gives is in flight until finish.
func (q *queue) take() []*proposal {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.inFlight > 0 && len(q.waiting) < pipelineCommandsMin && q.bytes < pipelineBytesMin {
		return nil
	}
	var group []*proposal
	size, n := 0, 0
	for _, p := range q.waiting {
		if len(group) == kv.EntryCommandsMax || len(group) > 0 && size+len(p.command.Data) > kv.EntryGroupBytesMax {
			break
		}
		n++
		q.bytes -= len(p.command.Data)
		if p.state.CompareAndSwap(proposalWaiting, proposalTaken) {
			size += len(p.command.Data)
			group = append(group, p)
		}
	}
	clear(q.waiting[:n])
	q.waiting = q.waiting[n:]
	if len(group) > 0 {
		q.inFlight++
	}
	if len(q.waiting) > 0 {
		q.signal() // for another lane
	}
	return group
}

// finish is called when a group was answered or put back.
func (q *queue) finish() {
	q.mu.Lock()
	q.inFlight--
	q.mu.Unlock()
	q.signal()
}

// putBack returns a group to the front, to be proposed again. Those whose callers
// have left are dropped: they were told that the outcome is unknown.
func (q *queue) putBack(group []*proposal) {
	back := make([]*proposal, 0, len(group))
	size := 0
	for _, p := range group {
		if p.state.CompareAndSwap(proposalTaken, proposalWaiting) {
			back = append(back, p)
			size += len(p.command.Data)
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(back, q.waiting...)
	q.bytes += size
}

// failAll answers everything that waits.
func (q *queue) failAll(err error) {
	q.mu.Lock()
	waiting := q.waiting
	q.waiting, q.bytes = nil, 0
	q.mu.Unlock()
	for _, p := range waiting {
		if p.state.CompareAndSwap(proposalWaiting, proposalTaken) {
			p.answer <- proposed{err: err}
		}
	}
}
