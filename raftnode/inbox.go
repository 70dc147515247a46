package raftnode

import (
	"sync"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
)

const (
	// inboxMessagesMax and inboxBytesMax bound what waits for one replica's Raft. A
	// message over them is refused; its sender tries again.
	inboxMessagesMax = 256
	inboxBytesMax    = 64 << 20
)

// inbox hands messages to one Raft, in order, and its answers back. Raft takes
// messages one at a time and answers each before it takes the next, so answers
// belong to messages in the order of both, and one goroutine serves them all.
type inbox struct {
	id        kv.ServerID
	consumer  chan raft.RPC         // what Raft reads
	responses chan raft.RPCResponse // what Raft answers
	stop      chan struct{}         // closed by close
	drained   chan struct{}         // closed when the goroutine has ended

	mu      sync.Mutex
	closed  bool
	bytes   int
	waiting []inboxCall // oldest first
}

// inboxCall is a message that Raft has not answered.
type inboxCall struct {
	bytes int
	reply func(resp any, err error)
}

func newInbox(id kv.ServerID) *inbox {
	b := &inbox{
		id:        id,
		consumer:  make(chan raft.RPC, inboxMessagesMax),
		responses: make(chan raft.RPCResponse, inboxMessagesMax),
		stop:      make(chan struct{}),
		drained:   make(chan struct{}),
	}
	go b.run()
	return b
}

// deliver queues a message without blocking and has reply called exactly once,
// from another goroutine, unless it gives an error.
func (b *inbox) deliver(message any, bytes int, reply func(resp any, err error)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "replica %s is not running", b.id)
	}
	full := len(b.waiting) >= inboxMessagesMax || b.bytes+bytes > inboxBytesMax
	if full && len(b.waiting) > 0 {
		return kv.Errorf(kv.CodeOverloaded, kv.OutcomeNotApplied, "replica %s: %d messages wait", b.id, len(b.waiting))
	}
	b.bytes += bytes
	b.waiting = append(b.waiting, inboxCall{bytes: bytes, reply: reply})
	// Never blocks: at most len(waiting) are in the channel.
	b.consumer <- raft.RPC{Command: message, RespChan: b.responses}
	return nil
}

func (b *inbox) run() {
	defer close(b.drained)
	for {
		select {
		case r := <-b.responses:
			b.pop().reply(r.Response, r.Error)
		case <-b.stop:
			b.refuseAll()
			return
		}
	}
}

func (b *inbox) pop() inboxCall {
	b.mu.Lock()
	defer b.mu.Unlock()
	call := b.waiting[0]
	b.waiting = b.waiting[1:]
	b.bytes -= call.bytes
	return call
}

func (b *inbox) refuseAll() {
	b.mu.Lock()
	waiting := b.waiting
	b.waiting, b.bytes = nil, 0
	b.mu.Unlock()
	for _, call := range waiting {
		call.reply(nil, kv.Errorf(kv.CodeUnavailable, kv.OutcomeUnknown, "replica %s has stopped", b.id))
	}
}

// close refuses what waits and what comes, and returns when the goroutine has
// ended. It may be called while Raft still runs: what Raft answers then fits the
// channel.
func (b *inbox) close() {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		<-b.drained
		return
	}
	b.closed = true
	b.mu.Unlock()
	close(b.stop)
	<-b.drained
}
