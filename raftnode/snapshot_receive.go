package raftnode

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/quorate-db/quorate/kv"
)

const (
	// stageIdle is how long a snapshot that is being received may see no message
	// before it is given up, stagesMax how many a node receives at once.
	stageIdle = 30 * time.Second
	stagesMax = 4
	// stageCallsMax bounds the messages of one that wait: a window of them, and a few
	// late doubles.
	stageCallsMax = sendWindow + 4
)

// stage hands a snapshot on to the machine while it arrives (R11). It has a goroutine,
// because a disk may block, and ends when the state is installed, when the snapshot
// turns out to be wrong, or when the sender falls silent.
type stage struct {
	r      *Replica
	stream uint64
	index  uint64
	term   uint64 // of the entry at index
	leader uint64 // the term of the leader that sends
	calls  chan stageCall
	start  time.Time
	giveUp context.CancelFunc
	given  context.Context // ends when a newer leader sends its own

	// Of the goroutine only:
	offset uint64
	sum    hash.Hash32
	whole  bool           // the last chunk was taken
	pipe   *io.PipeWriter // to the machine
	read   chan stageRead // what the machine made of it
	staged Staged         // that, once it is there
	// install is not nil once the keeper has been asked to install.
	install chan error
}

// stageRead is what the machine made of a snapshot.
type stageRead struct {
	staged Staged
	err    error
}

type stageCall struct {
	c     *chunk
	reply func(chunkAnswer, error)
}

// receiveChunk takes one message of a snapshot. It does not block.
func (r *Replica) receiveChunk(c *chunk, reply func(chunkAnswer, error)) {
	inst := r.inst.Load()
	term := uint64(0)
	if inst != nil {
		term = inst.raft.CurrentTerm()
	}
	switch {
	case c.term < term:
		reply(chunkAnswer{status: chunkStale, term: term}, nil)
		return
	case r.machine.Applied().Index >= c.index:
		// Also the answer to a sender that did not hear of its success. The state is
		// committed up to its applied index, whoever sent it (rule 4).
		reply(chunkAnswer{status: chunkHave, term: term}, nil)
		return
	}
	if err := r.stageChunk(stageCall{c: c, reply: reply}); err != nil {
		reply(chunkAnswer{}, err)
	}
}

// stageChunk hands a message to the stage it belongs to, and makes one for the
// first message of a snapshot.
func (r *Replica) stageChunk(call stageCall) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closing:
		return r.errStopped()
	case r.stage != nil && r.stage.stream == call.c.stream:
		select {
		case r.stage.calls <- call:
			return nil
		default:
			return kv.Errorf(kv.CodeOverloaded, kv.OutcomeNotApplied, "replica %s: chunks are waiting", r.id)
		}
	case r.stage != nil:
		if call.c.term > r.stage.leader {
			r.stage.giveUp() // whoever sent it leads no more
		}
		return kv.Errorf(kv.CodeOverloaded, kv.OutcomeNotApplied, "replica %s is receiving another snapshot", r.id)
	case call.c.offset > 0:
		return kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "replica %s does not know the beginning of this snapshot", r.id)
	case !r.host.stages.TryAcquire(1):
		return kv.Errorf(kv.CodeOverloaded, kv.OutcomeNotApplied, "node %s is receiving %d snapshots", r.id.Node, stagesMax)
	}
	given, giveUp := context.WithCancel(r.ctx)
	r.stage = &stage{
		r:      r,
		leader: call.c.term,
		given:  given,
		giveUp: giveUp,
		stream: call.c.stream,
		index:  call.c.index,
		term:   call.c.terms,
		calls:  make(chan stageCall, stageCallsMax),
		start:  time.Now(),
		sum:    castagnoli(),
	}
	r.stage.calls <- call
	r.wg.Add(1)
	go r.stage.run()
	return nil
}

// run is the goroutine of a stage.
func (s *stage) run() {
	defer s.r.wg.Done()
	defer s.r.host.stages.Release(1)
	defer s.giveUp()
	s.feed()
	// A machine that does not read must not keep the replica from ending.
	unblock := context.AfterFunc(s.given, func() { _ = s.pipe.CloseWithError(context.Canceled) }) // never fails
	err := s.collect()
	unblock()
	s.r.mu.Lock()
	s.r.stage = nil
	s.r.mu.Unlock()
	// Nobody adds to calls any more.
	for len(s.calls) > 0 {
		call := <-s.calls
		call.reply(chunkAnswer{}, kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "replica %s has given this snapshot up", s.r.id))
	}
	s.forget(err)
	if err != nil {
		s.r.log.Warn("could not install the state from the leader", "index", s.index, "bytes", s.offset, "err", err)
	}
	if hook := s.r.host.opts.Hooks.SnapshotReceived; hook != nil {
		hook(s.r.id, int64(s.offset), time.Since(s.start), err)
	}
}

// feed lets the machine read what arrives.
func (s *stage) feed() {
	var source *io.PipeReader
	source, s.pipe = io.Pipe()
	s.read = make(chan stageRead, 1)
	go func() {
		staged, err := s.r.machine.Stage(source)
		_ = source.CloseWithError(errors.Join(err, io.ErrClosedPipe)) // never fails
		s.read <- stageRead{staged, err}
	}()
}

// forget waits for the machine and drops what was not installed.
func (s *stage) forget(reason error) {
	_ = s.pipe.CloseWithError(errors.Join(reason, io.ErrClosedPipe)) // never fails
	if s.read != nil {
		s.staged = (<-s.read).staged
	}
	if s.staged == nil {
		return
	}
	if err := s.staged.Close(); err != nil {
		s.r.log.Warn("could not remove a snapshot that was not installed", "err", err)
	}
}

// collect serves messages until the state is installed or there is no hope.
func (s *stage) collect() error {
	idle := time.NewTimer(stageIdle)
	defer idle.Stop()
	superseded := s.given.Done()
	for {
		select {
		case call := <-s.calls:
			idle.Reset(stageIdle)
			answer, err := s.handle(call.c)
			call.reply(answer, err)
			if err != nil {
				return err
			}
		case read := <-s.read:
			s.read = nil
			if err := s.haveRead(read); err != nil {
				return err
			}
		case err := <-s.install:
			return err
		case <-idle.C:
			if !s.whole {
				return errors.New("the sender has fallen silent")
			}
		case <-superseded:
			if !s.whole && s.r.ctx.Err() == nil {
				return errors.New("a newer leader sends its own")
			}
			superseded = nil // all of it is here, and what it has is committed
		case <-s.r.ctx.Done():
			if s.install != nil {
				select { // the keeper may be installing
				case <-s.install:
				case <-s.r.kept:
				}
			}
			return s.r.ctx.Err()
		}
	}
}

// handle takes one chunk. An error ends the stage.
func (s *stage) handle(c *chunk) (chunkAnswer, error) {
	next := chunkAnswer{status: chunkNext, offset: s.offset}
	switch {
	case c.index != s.index || c.terms != s.term:
		return chunkAnswer{}, kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "replica %s receives the state at %d, not at %d", s.r.id, s.index, c.index)
	case s.whole:
		return chunkAnswer{status: chunkInstalling}, nil
	case c.offset != s.offset:
		// A double of what came before, or the one before this was lost.
		return next, nil
	}
	_, _ = s.sum.Write(c.data) // never fails
	if c.last && s.sum.Sum32() != c.sum {
		return chunkAnswer{}, kv.Errorf(kv.CodeCorrupt, kv.OutcomeNotApplied, "checksum of the snapshot is %08x, want %08x", s.sum.Sum32(), c.sum)
	}
	if len(c.data) > 0 {
		if _, err := s.pipe.Write(c.data); err != nil {
			return chunkAnswer{}, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "stage a snapshot: %w", err)
		}
	}
	s.offset += uint64(len(c.data))
	if !c.last {
		next.offset = s.offset
		return next, nil
	}
	s.whole = true
	_ = s.pipe.Close() // never fails; only now does the machine see the end
	return chunkAnswer{status: chunkInstalling}, nil
}

// haveRead has the keeper install what the machine made of the snapshot.
func (s *stage) haveRead(read stageRead) error {
	s.staged = read.staged
	switch {
	case read.err != nil:
		return read.err
	case !s.whole:
		return errors.New("the machine did not read the whole snapshot")
	}
	if at := s.staged.Applied(); at.Index != s.index || at.Term != s.term {
		return kv.Errorf(kv.CodeCorrupt, kv.OutcomeNotApplied, "the state is at %d of term %d, but %d of term %d was announced", at.Index, at.Term, s.index, s.term)
	}
	s.install = make(chan error, 1)
	if !s.r.tell(func() { s.install <- s.r.install(s.staged) }) {
		return s.r.errStopped()
	}
	return nil
}

// install replaces the state by a snapshot that is staged, with Raft stopped (R11).
// Only the keeper calls it. A crash at any point leaves the old state and its log,
// or the new state and a log that start reconciles with it (R9).
func (r *Replica) install(staged Staged) error {
	if r.failure.Load() != nil {
		return r.errStopped()
	}
	index := staged.Applied().Index
	if r.machine.Applied().Index >= index {
		return nil
	}
	if err := r.stopInstance(installStop); err != nil {
		r.fail(replicaFailed, err)
		return err
	}
	// Applies that were on their way have ended with Raft.
	if r.machine.Applied().Index < index {
		if err := r.restore(staged); err != nil {
			r.runInstance()
			return err
		}
	}
	r.runInstance()
	return nil
}

func (r *Replica) restore(staged Staged) error {
	if err := staged.Install(); err != nil {
		return fmt.Errorf("replica %s: restore: %w", r.id, err)
	}
	if r.record.Kind == InMemory {
		if err := r.keepImage(); err != nil {
			r.fail(storageFailed, err)
			return err
		}
	}
	applied := r.machine.Applied()
	r.snaps.flushedTo(applied)
	r.waiters.advance(applied.Index)
	r.log.Info("installed the state from the leader", "index", applied.Index)
	return nil
}

// keepImage writes the state of a machine in memory to a snapshot file.
func (r *Replica) keepImage() error {
	image, err := r.machine.Image()
	if err != nil {
		return err
	}
	return errors.Join(r.files.write(image), image.Close())
}
