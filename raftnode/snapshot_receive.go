package raftnode

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quorate-db/quorate/kv"
)

const (
	// stageIdle is how long a snapshot that is being received may see no message
	// before it is given up, stagesMax how many a node receives at once.
	stageIdle = 30 * time.Second
	stagesMax = 4
	// stageCallsMax bounds the messages of one that wait: there is one in flight,
	// and a few late doubles.
	stageCallsMax = 4
)

// stage collects a snapshot in a file (R11). It has a goroutine, because a disk
// may block, and ends when the state is installed, when the file turns out to be
// wrong, or when the sender falls silent.
type stage struct {
	r      *Replica
	stream uint64
	index  uint64
	term   uint64 // of the entry at index
	calls  chan stageCall
	start  time.Time

	// Of the goroutine only:
	path    string
	file    vfs.File
	offset  uint64
	sum     hash.Hash32
	install chan error // not nil once the keeper has been asked to install
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
		return kv.Errorf(kv.CodeOverloaded, kv.OutcomeNotApplied, "replica %s is receiving another snapshot", r.id)
	case call.c.offset > 0:
		return kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "replica %s does not know the beginning of this snapshot", r.id)
	case !r.host.stages.TryAcquire(1):
		return kv.Errorf(kv.CodeOverloaded, kv.OutcomeNotApplied, "node %s is receiving %d snapshots", r.id.Node, stagesMax)
	}
	r.stage = &stage{
		r:      r,
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
	err := s.collect()
	s.r.mu.Lock()
	s.r.stage = nil
	s.r.mu.Unlock()
	// Nobody adds to calls any more.
	for len(s.calls) > 0 {
		call := <-s.calls
		call.reply(chunkAnswer{}, kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "replica %s has given this snapshot up", s.r.id))
	}
	s.remove()
	if err != nil {
		s.r.log.Warn("could not install the state from the leader", "index", s.index, "bytes", s.offset, "err", err)
	}
	if hook := s.r.host.opts.Hooks.SnapshotReceived; hook != nil {
		hook(s.r.id, int64(s.offset), time.Since(s.start), err)
	}
}

// collect serves messages until the state is installed or there is no hope.
func (s *stage) collect() error {
	idle := time.NewTimer(stageIdle)
	defer idle.Stop()
	for {
		select {
		case call := <-s.calls:
			idle.Reset(stageIdle)
			answer, err := s.handle(call.c)
			call.reply(answer, err)
			if err != nil {
				return err
			}
		case err := <-s.install:
			return err
		case <-idle.C:
			if s.install == nil {
				return errors.New("the sender has fallen silent")
			}
		case <-s.r.ctx.Done():
			if s.install != nil {
				select { // the keeper may be reading the file
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
	if s.install != nil {
		return chunkAnswer{status: chunkInstalling}, nil
	}
	if c.offset < s.offset {
		// A double of what came before.
		return chunkAnswer{status: chunkNext, offset: s.offset}, nil
	}
	if c.offset > s.offset || c.index != s.index || c.terms != s.term {
		return chunkAnswer{}, kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "replica %s wants offset %d of the state at %d", s.r.id, s.offset, s.index)
	}
	if err := s.add(c.data); err != nil {
		return chunkAnswer{}, err
	}
	if !c.last {
		return chunkAnswer{status: chunkNext, offset: s.offset}, nil
	}
	if got := s.sum.Sum32(); got != c.sum {
		return chunkAnswer{}, kv.Errorf(kv.CodeCorrupt, kv.OutcomeNotApplied, "checksum of the snapshot is %08x, want %08x", got, c.sum)
	}
	s.install = make(chan error, 1)
	job := func() { s.install <- s.r.install(s.index, s.term, io.NewSectionReader(s.file, 0, int64(s.offset))) }
	if !s.r.tell(job) {
		return chunkAnswer{}, s.r.errStopped()
	}
	return chunkAnswer{status: chunkInstalling}, nil
}

func (s *stage) add(data []byte) error {
	if s.file == nil {
		s.path = s.r.host.stagePath(s.r.id)
		file, err := s.r.host.opts.FS.Create(s.path, WriteCategory)
		if err != nil {
			return kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "stage a snapshot: %w", err)
		}
		s.file = file
	}
	_, _ = s.sum.Write(data)     // never fails
	n, err := s.file.Write(data) // may change data, which is ours
	if err != nil {
		return kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "stage a snapshot: %w", err)
	}
	s.offset += uint64(n)
	return nil
}

// remove deletes the file. What a crash leaves behind is removed when the host
// opens.
func (s *stage) remove() {
	if s.file == nil {
		return
	}
	if err := errors.Join(s.file.Close(), s.r.host.opts.FS.Remove(s.path)); err != nil {
		s.r.log.Warn("could not remove a staged snapshot", "path", s.path, "err", err)
	}
}

// install replaces the state by a collected snapshot, with Raft stopped (R11).
// Only the keeper calls it. A crash at any point leaves the old state and its log,
// or the new state and a log that start reconciles with it (R9).
func (r *Replica) install(index, term uint64, content io.Reader) error {
	if r.failure.Load() != nil {
		return r.errStopped()
	}
	if r.machine.Applied().Index >= index {
		return nil
	}
	if err := r.stopInstance(installStop); err != nil {
		r.fail(replicaFailed, err)
		return err
	}
	// Applies that were on their way have ended with Raft.
	if r.machine.Applied().Index < index {
		if err := r.restore(index, term, content); err != nil {
			r.runInstance()
			return err
		}
	}
	r.runInstance()
	return nil
}

func (r *Replica) restore(index, term uint64, content io.Reader) error {
	if err := r.machine.Restore(content); err != nil {
		return fmt.Errorf("replica %s: restore: %w", r.id, err)
	}
	applied := r.machine.Applied()
	if applied.Index != index || applied.Term != term {
		err := kv.Errorf(kv.CodeCorrupt, kv.OutcomeUnknown, "replica %s: the state is at %d of term %d, but %d of term %d was announced",
			r.id, applied.Index, applied.Term, index, term)
		r.fail(replicaFailed, err)
		return err
	}
	if r.record.Kind == InMemory {
		if err := r.keepImage(); err != nil {
			r.fail(storageFailed, err)
			return err
		}
	}
	r.snaps.flushedTo(applied)
	r.waiters.advance(applied.Index)
	r.log.Info("installed the state from the leader", "index", index)
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
