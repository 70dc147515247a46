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
	installPoll   = 100 * time.Millisecond
)

// sending is one snapshot on its way to a follower. One message is in flight at a
// time: at 256 KiB that fills a local network, and leaves room for others.
type sending struct {
	r   *Replica
	t   *transport
	to  kv.ServerID
	c   chunk
	sum hash.Hash32
}

// sendSnapshot carries the state to a follower and returns when it is installed
// there, or fails. The library calls it from the goroutine that replicates to
// this one follower; heartbeats have another.
func (r *Replica) sendSnapshot(t *transport, to kv.ServerID, m *raft.InstallSnapshotRequest, data io.Reader) (*raft.InstallSnapshotResponse, error) {
	start := time.Now()
	s := &sending{r: r, t: t, to: to, sum: castagnoli()}
	s.c = chunk{term: m.Term, stream: rand.Uint64(), index: m.LastLogIndex, terms: m.LastLogTerm}
	answer, err := s.run(data)
	if hook := r.host.opts.Hooks.SnapshotSent; hook != nil {
		hook(r.id, to.Node, int64(s.c.offset), time.Since(start), err)
	}
	if err != nil {
		return nil, fmt.Errorf("send the state at %d to %s: %w", m.LastLogIndex, to, err)
	}
	if answer.status == chunkStale {
		return &raft.InstallSnapshotResponse{Term: answer.term}, nil
	}
	// It has the state at index, which is committed, so it agrees with this leader
	// up to there, whatever its term is.
	r.log.Info("a follower has installed the state", "to", to.Node, "index", m.LastLogIndex, "bytes", s.c.offset)
	return &raft.InstallSnapshotResponse{Term: m.Term, Success: true}, nil
}

func (s *sending) run(data io.Reader) (chunkAnswer, error) {
	buf := make([]byte, snapshotChunkBytes)
	for !s.c.last {
		n, err := io.ReadFull(data, buf)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			s.c.last = true
		case err != nil:
			return chunkAnswer{}, err
		}
		s.c.data = buf[:n]
		_, _ = s.sum.Write(s.c.data) // never fails
		if s.c.last {
			s.c.sum = s.sum.Sum32()
		}
		if err := s.pace(n); err != nil {
			return chunkAnswer{}, err
		}
		answer, err := s.deliver()
		if err != nil || answer.status != chunkNext {
			return answer, err
		}
		s.c.offset += uint64(n)
	}
	return chunkAnswer{}, errors.New("the receiver wants more than there is")
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
			empty := sending{r: s.r, t: s.t, to: s.to, c: s.c}
			empty.c.data, empty.c.last, empty.c.sum = nil, false, 0
			_, _ = empty.once() // the chunk itself finds out what is wrong
		}
	}
	return nil
}

// deliver sends the current chunk until the receiver has it. After the last one
// it asks until the state is installed.
func (s *sending) deliver() (chunkAnswer, error) {
	want := s.c.offset + uint64(len(s.c.data))
	heard := time.Now()                      // the last answer of any kind
	patience := time.Now().Add(sendPatience) // for progress
	installing := false
	for {
		answer, err := s.once()
		if err == nil {
			heard = time.Now()
		}
		wait := chunkRetry
		switch {
		case err == nil && (answer.status == chunkHave || answer.status == chunkStale):
			return answer, nil
		case err == nil && answer.status == chunkInstalling && s.c.last:
			if !installing {
				installing, patience = true, time.Now().Add(installPatience)
			}
			wait = installPoll
		case err == nil && answer.status == chunkNext && answer.offset == want && !s.c.last:
			return answer, nil
		case err == nil && answer.offset != s.c.offset:
			return answer, fmt.Errorf("the receiver is at %d, this is at %d", answer.offset, s.c.offset)
		}
		if now := time.Now(); now.After(patience) || now.Sub(heard) > sendPatience {
			return answer, fmt.Errorf("no progress at %d: %w", s.c.offset, err)
		}
		select {
		case <-time.After(wait):
		case <-s.t.stop:
			return answer, raft.ErrTransportShutdown
		}
	}
}

func (s *sending) once() (chunkAnswer, error) {
	req := s.c.encode(envelope{from: s.r.id, to: s.to})
	data, err := s.t.call(peer.MethodSnapshotChunk, s.to, req, chunkTimeout)
	if err != nil {
		return chunkAnswer{}, err
	}
	return decodeChunkAnswer(data)
}
