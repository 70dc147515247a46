package raftnode

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

const (
	// sendWindow is how many chunks of a snapshot are on their way at once: 2 MiB, which
	// fills a network of 1 GiB/s with answers after 2 ms, and bounds what both ends
	// hold of it.
	sendWindow = 8
	// chunkTimeout bounds one message of a snapshot, sendPatience how long a
	// receiver may answer nothing useful, installPatience how long it may take to
	// restore.
	chunkTimeout    = 5 * time.Second
	sendPatience    = 15 * time.Second
	installPatience = 10 * time.Minute
	chunkRetry      = 50 * time.Millisecond
	// paceKeepAlive is how long the receiver may hear nothing while this node keeps to
	// its limit; well below stageIdle.
	paceKeepAlive = 5 * time.Second
	installPoll   = 20 * time.Millisecond
)

// sending is one snapshot on its way to a follower. Chunks travel in a window, and the
// receiver takes them in order. That nearly always works; where it does not, each
// chunk that is not known to have arrived is sent again by itself.
type sending struct {
	r    *Replica
	t    *transport
	to   kv.ServerID
	sum  hash.Hash32
	next chunk // what follows the window; without data

	flight []flying // oldest first, at most sendWindow
	spare  [][]byte // buffers that no chunk needs any more
}

// flying is a chunk whose answer has not been looked at.
type flying struct {
	c       chunk
	message []byte // the mesh's until there is an answer
	answer  <-chan chunkReply
}

type chunkReply struct {
	chunkAnswer
	err error
}

// sendSnapshot carries the state to a follower and returns when it is installed
// there, or fails. The library calls it from the goroutine that replicates to
// this one follower; heartbeats have another.
func (r *Replica) sendSnapshot(t *transport, to kv.ServerID, m *raft.InstallSnapshotRequest, data io.Reader) (*raft.InstallSnapshotResponse, error) {
	start := time.Now()
	s := &sending{r: r, t: t, to: to, sum: castagnoli()}
	s.next = chunk{term: m.Term, stream: rand.Uint64(), index: m.LastLogIndex, terms: m.LastLogTerm}
	answer, err := s.run(data)
	if hook := r.host.opts.Hooks.SnapshotSent; hook != nil {
		hook(r.id, to.Node, int64(s.next.offset), time.Since(start), err)
	}
	if err != nil {
		return nil, fmt.Errorf("send the state at %d to %s: %w", m.LastLogIndex, to, err)
	}
	if answer.status == chunkStale {
		return &raft.InstallSnapshotResponse{Term: answer.term}, nil
	}
	// It has the state at index, which is committed, so it agrees with this leader
	// up to there, whatever its term is.
	r.log.Info("a follower has installed the state", "to", to.Node, "index", m.LastLogIndex, "bytes", s.next.offset)
	return &raft.InstallSnapshotResponse{Term: m.Term, Success: true}, nil
}

// run sends everything and gives the receiver's last word. The first chunk and the
// last travel alone: one opens the snapshot at the receiver, the other ends it.
func (s *sending) run(data io.Reader) (chunkAnswer, error) {
	for {
		c, err := s.read(data)
		if err != nil {
			return chunkAnswer{}, err
		}
		room := sendWindow - 1
		if c.last {
			room = 0
		}
		if answer, err := s.makeRoom(room); err != nil || answer.status != chunkNext {
			return answer, err
		}
		if c.last || c.offset == 0 {
			answer, err := s.deliver(&c)
			if err != nil || answer.status != chunkNext {
				return answer, err
			}
			s.spare = append(s.spare, c.data)
			continue
		}
		s.launch(c)
	}
}

// read gives the next chunk, no sooner than the node's limit allows.
func (s *sending) read(data io.Reader) (chunk, error) {
	c := s.next
	buf := s.buffer()
	n, err := io.ReadFull(data, buf)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		c.last = true
	case err != nil:
		return c, err
	}
	c.data = buf[:n]
	_, _ = s.sum.Write(c.data) // never fails
	if c.last {
		c.sum = s.sum.Sum32()
	}
	s.next.offset += uint64(n)
	return c, s.pace(n)
}

func (s *sending) buffer() []byte {
	if n := len(s.spare); n > 0 {
		buf := s.spare[n-1]
		s.spare = s.spare[:n-1]
		return buf[:snapshotChunkBytes]
	}
	return make([]byte, snapshotChunkBytes, snapshotChunkBytes+chunkOverhead)
}

// launch sends a chunk and does not wait.
func (s *sending) launch(c chunk) {
	answer := make(chan chunkReply, 1)
	message := c.append(s.buffer()[:0], s.envelope())
	s.flight = append(s.flight, flying{c, message, answer})
	s.t.send(peer.MethodSnapshotChunk, s.to, message, chunkTimeout, func(data []byte, err error) {
		reply := chunkReply{err: err}
		if err == nil {
			reply.chunkAnswer, reply.err = decodeChunkAnswer(data)
		}
		answer <- reply
	})
}

// makeRoom waits until at most so many chunks are on their way, and if one was lost,
// none: those behind it are refused, as would be any that follow.
func (s *sending) makeRoom(room int) (chunkAnswer, error) {
	for len(s.flight) > room {
		answer, lost, err := s.land()
		if err != nil || answer.status != chunkNext {
			return answer, err
		}
		if lost {
			room = 0
		}
	}
	return chunkAnswer{status: chunkNext}, nil
}

// land waits until the receiver has the oldest chunk of the window, and tells whether
// it had to be sent again.
func (s *sending) land() (answer chunkAnswer, lost bool, err error) {
	f := s.flight[0]
	select {
	case reply := <-f.answer:
		answer = reply.chunkAnswer
		if lost = reply.err != nil || answer.status == chunkNext && answer.offset < f.c.end(); lost {
			if answer, err = s.deliver(&f.c); err != nil {
				return answer, true, err
			}
		}
		s.flight = append(s.flight[:0], s.flight[1:]...)
		s.spare = append(s.spare, f.c.data, f.message)
		return answer, lost, nil
	case <-s.t.stop:
		return chunkAnswer{}, false, raft.ErrTransportShutdown
	}
}

// pace keeps to the node's limit for snapshots. A receiver that would otherwise
// hear nothing for long is sent a chunk without content.
func (s *sending) pace(n int) error {
	limiter := s.r.host.opts.SnapshotRate
	if limiter == nil {
		return nil
	}
	for wait := limiter.ReserveN(time.Now(), min(n, limiter.Burst())).Delay(); wait > 0; wait -= paceKeepAlive {
		select {
		case <-time.After(min(wait, paceKeepAlive)):
		case <-s.t.stop:
			return raft.ErrTransportShutdown
		}
		if wait > paceKeepAlive {
			empty := s.next
			_, _ = s.once(&empty) // the chunk itself finds out what is wrong
		}
	}
	return nil
}

// deliver sends a chunk until the receiver has it. After the last one it asks until
// the state is installed.
func (s *sending) deliver(c *chunk) (chunkAnswer, error) {
	heard := time.Now()                      // the last answer of any kind
	patience := time.Now().Add(sendPatience) // for progress
	installing := false
	for {
		answer, err := s.once(c)
		if err == nil {
			heard = time.Now()
		}
		wait := chunkRetry
		switch {
		case err == nil && (answer.status == chunkHave || answer.status == chunkStale):
			return answer, nil
		case err == nil && answer.status == chunkInstalling && c.last:
			if !installing {
				installing, patience = true, time.Now().Add(installPatience)
			}
			wait = installPoll
		case err == nil && answer.status == chunkNext && answer.offset >= c.end() && !c.last:
			return answer, nil
		case err == nil && answer.status == chunkNext && answer.offset < c.offset:
			return answer, fmt.Errorf("the receiver is at %d, which it had already: this is %d", answer.offset, c.offset)
		case gaveUp(err):
			return answer, err
		}
		if now := time.Now(); now.After(patience) || now.Sub(heard) > sendPatience {
			return answer, fmt.Errorf("no progress at %d: the receiver is at %d, %v", c.offset, answer.offset, err)
		}
		select {
		case <-time.After(wait):
		case <-s.t.stop:
			return answer, raft.ErrTransportShutdown
		}
	}
}

// gaveUp: the receiver has dropped what it had of this snapshot, or does not want it.
func gaveUp(err error) bool {
	code := kv.CodeOf(err)
	return err != nil && (code == kv.CodeConflict || code == kv.CodeCorrupt)
}

func (s *sending) envelope() envelope { return envelope{from: s.r.id, to: s.to} }

func (s *sending) once(c *chunk) (chunkAnswer, error) {
	data, err := s.t.call(peer.MethodSnapshotChunk, s.to, c.encode(s.envelope()), chunkTimeout)
	if err != nil {
		return chunkAnswer{}, err
	}
	return decodeChunkAnswer(data)
}
