package raftnode

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/raftnode/peer"
)

const (
	// pipelineWindow and pipelineBytesMax bound what is in flight to one follower,
	// unless it is a single message.
	pipelineWindow   = 32
	pipelineBytesMax = 32 << 20
	// pipelineBacklog bounds the answers that the library has not looked at yet.
	pipelineBacklog = 4 * pipelineWindow
)

// pipeline sends appends without waiting for each answer. It has no goroutine:
// answers arrive on the mesh's. After the first failure it is of no more use: the
// failed answer, or the next send, makes the library close it and fall back to
// one message at a time until that succeeds. Nothing in it waits without a bound,
// because every message in flight has a deadline.
type pipeline struct {
	t       *transport
	e       envelope
	answers chan raft.AppendFuture
	room    chan struct{} // holds one when something left the window
	told    uint64        // the newest commit index that was sent; of whoever sends

	mu       sync.Mutex
	inFlight int
	bytes    int
	failed   bool
}

func newPipeline(t *transport, e envelope) *pipeline {
	return &pipeline{
		t:       t,
		e:       e,
		answers: make(chan raft.AppendFuture, pipelineBacklog),
		room:    make(chan struct{}, 1),
	}
}

// appendFuture is one append in a pipeline.
type appendFuture struct {
	start time.Time
	req   *raft.AppendEntriesRequest
	resp  *raft.AppendEntriesResponse
	err   error
	done  chan struct{} // closed when resp and err are set
}

func (f *appendFuture) Error() error {
	<-f.done
	return f.err
}
func (f *appendFuture) Start() time.Time                      { return f.start }
func (f *appendFuture) Request() *raft.AppendEntriesRequest   { return f.req }
func (f *appendFuture) Response() *raft.AppendEntriesResponse { return f.resp }

// Consumer is where the library reads answers.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// Close makes later sends fail. Answers that still come go nowhere.
func (p *pipeline) Close() error {
	p.fail()
	return nil
}

// AppendEntries sends, and waits only for room in the window. It is called by one
// goroutine at a time.
func (p *pipeline) AppendEntries(m *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if p.t.mute.Load() > 0 {
		p.fail()
		return nil, errMute
	}
	made := time.Now()
	req := encodeAppend(p.e, m)
	if err := p.enter(len(req)); err != nil {
		return nil, err
	}
	f := &appendFuture{start: time.Now(), req: m, resp: resp, done: make(chan struct{})}
	p.send(m, req, made, f.start.Add(p.t.appendTimeout(m, len(req))), func(data []byte, err error) {
		if err == nil {
			err = decodeAppendResponse(data, resp)
		}
		if err != nil {
			*resp = raft.AppendEntriesResponse{} // not a success
		}
		p.leave(len(req), err)
		f.err = err
		close(f.done)
		select {
		case p.answers <- f:
		default:
			// The library has stopped reading, or is so far behind that it has to start
			// over: an answer that it does not see must not be taken for one that it saw.
			p.fail()
		}
	})
	return f, nil
}

// send lets an append wait for company if it tells the follower nothing new. How long
// it waited for that, or for room in the window, goes with it, because its commit
// index grows old (freshness).
func (p *pipeline) send(m *raft.AppendEntriesRequest, req []byte, made, deadline time.Time, done func([]byte, error)) {
	to := p.e.to.Node
	if len(m.Entries) == 0 && m.LeaderCommitIndex <= p.told {
		p.t.gather.send(to, heldMessage{
			t: p.t, method: peer.MethodAppendEntries, req: req, made: made, deadline: deadline, aged: true, done: done,
		})
		return
	}
	p.told = m.LeaderCommitIndex
	if held := time.Since(made).Microseconds(); held > 0 {
		req = appendUvarint(req, uint64(held))
	}
	p.t.gather.flush(to) // nothing is to overtake an earlier append
	p.t.mesh.Send(to, peer.MethodAppendEntries, req, deadline, done)
}

func (p *pipeline) enter(bytes int) error {
	for {
		p.mu.Lock()
		if p.failed {
			p.mu.Unlock()
			return raft.ErrPipelineShutdown
		}
		if p.inFlight == 0 || p.inFlight < pipelineWindow && p.bytes+bytes <= pipelineBytesMax {
			p.inFlight++
			p.bytes += bytes
			p.mu.Unlock()
			return nil
		}
		p.mu.Unlock()
		select {
		case <-p.room:
		case <-p.t.stop:
			return raft.ErrTransportShutdown
		}
	}
}

func (p *pipeline) leave(bytes int, err error) {
	p.mu.Lock()
	p.inFlight--
	p.bytes -= bytes
	p.failed = p.failed || err != nil
	p.mu.Unlock()
	p.signal()
}

func (p *pipeline) fail() {
	p.mu.Lock()
	p.failed = true
	p.mu.Unlock()
	p.signal()
}

func (p *pipeline) signal() {
	select {
	case p.room <- struct{}{}:
	default:
	}
}
