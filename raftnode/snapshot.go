package raftnode

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/planted"
)

const (
	// trailingBytes bounds what a snapshot leaves in the log for followers that are
	// a little behind; trailingEntriesMin entries are left even if they are larger.
	trailingEntriesMin = 128
	trailingBytes      = 32 << 20

	// A snapshot that is being sent keeps the log from being cut, because the follower
	// needs what follows it: until it has made no progress for sendingProtects, or
	// so much was applied meanwhile that the disk counts for more.
	sendingProtects      = 10 * time.Minute
	sendingProtectsBytes = 1 << 30

	// snapshotID names the one snapshot that there ever is: the state itself.
	snapshotID = "state"
)

// snapshots is raft.SnapshotStore. There is nothing to store: the snapshot of a
// replica is its state at the applied record that was last flushed (R9), and what
// a follower is sent is made from the state at that moment.
type snapshots struct {
	r *Replica

	mu      sync.Mutex
	flushed kv.Applied        // the newest applied record that is on disk
	sending map[int]time.Time // snapshots that are being sent, by a number of theirs: when last read
	nextKey int
}

var _ raft.SnapshotStore = (*snapshots)(nil)

// errSending: no snapshot is taken while one is sent.
var errSending = errors.New("a snapshot is being sent to a follower, which needs the log that follows it")

// metaOf describes the state at an applied record.
func (s *snapshots) metaOf(a kv.Applied) (*raft.SnapshotMeta, error) {
	c, err := decodeConfiguration(s.r.id.Shard, a.Config)
	if err != nil {
		return nil, fmt.Errorf("replica %s: state at %d: %w", s.r.id, a.Index, err)
	}
	return &raft.SnapshotMeta{
		Version:            raft.SnapshotVersionMax,
		ID:                 snapshotID,
		Index:              a.Index,
		Term:               a.Term,
		Configuration:      c,
		ConfigurationIndex: a.ConfigIndex,
	}, nil
}

// List gives the state as it is known to be on disk.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	flushed := s.flushed
	s.mu.Unlock()
	if flushed.Index == 0 {
		return nil, nil
	}
	meta, err := s.metaOf(flushed)
	if err != nil {
		return nil, err
	}
	return []*raft.SnapshotMeta{meta}, nil
}

// Open gives a view of the current state, which may be newer than what List told.
// Its size is not known beforehand; the receiver counts.
func (s *snapshots) Open(string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	image, err := s.r.machine.Image()
	if err != nil {
		return nil, nil, fmt.Errorf("replica %s: image: %w", s.r.id, err)
	}
	meta, err := s.metaOf(image.Applied())
	if err != nil {
		return nil, nil, errors.Join(err, image.Close())
	}
	return meta, s.stream(image), nil
}

// stream reads an image, which writes itself, and keeps the log from being cut
// until it is closed.
func (s *snapshots) stream(image Image) io.ReadCloser {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := s.nextKey
	s.nextKey++
	s.sending[key] = time.Now()
	r, w := io.Pipe()
	stream := &imageStream{PipeReader: r, s: s, key: key, ended: make(chan struct{})}
	go func() {
		defer close(stream.ended)
		_, err := image.WriteTo(w)
		w.CloseWithError(errors.Join(err, image.Close()))
	}()
	return stream
}

// imageStream is an image that is being read.
type imageStream struct {
	*io.PipeReader
	s     *snapshots
	key   int
	ended chan struct{}
}

// Read notes that the follower has come so far.
func (i *imageStream) Read(p []byte) (int, error) {
	i.s.mu.Lock()
	i.s.sending[i.key] = time.Now()
	i.s.mu.Unlock()
	return i.PipeReader.Read(p)
}

// Close ends the writer and waits for it.
func (i *imageStream) Close() error {
	_ = i.PipeReader.Close() // never fails
	<-i.ended
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	delete(i.s.sending, i.key)
	return nil
}

// protected tells whether a snapshot is being sent that needs the log.
func (s *snapshots) protected(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.r.sinceSnapshot.bytes.Load() >= sendingProtectsBytes {
		return false
	}
	for _, progress := range s.sending {
		if now.Sub(progress) < sendingProtects {
			return true
		}
	}
	return false
}

// flushedTo notes that the state is on disk at least up to an applied record.
func (s *snapshots) flushedTo(a kv.Applied) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.Index > s.flushed.Index {
		s.flushed = a
	}
}

func (s *snapshots) flushedIndex() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flushed.Index
}

// Create gives the library something to hand to Persist.
func (s *snapshots) Create(raft.SnapshotVersion, uint64, uint64, raft.Configuration, uint64, raft.Transport) (raft.SnapshotSink, error) {
	return noSink{}, nil
}

// noSink is a snapshot that is stored elsewhere: Persist does it.
type noSink struct{}

func (noSink) Write([]byte) (int, error) { return 0, errors.New("the state is the snapshot") }
func (noSink) Close() error              { return nil }
func (noSink) Cancel() error             { return nil }
func (noSink) ID() string                { return snapshotID }

// begin is called between two applies. What Persist makes durable includes
// everything applied before this call, so the library may cut the log up to here
// (R10).
func (s *snapshots) begin() (raft.FSMSnapshot, error) {
	if s.protected(time.Now()) {
		return nil, errSending
	}
	p := &persisted{s: s, applied: s.r.machine.Applied(), start: time.Now()}
	s.r.sinceSnapshot.entries.Store(0)
	s.r.sinceSnapshot.bytes.Store(0)
	if s.r.record.Kind == Durable {
		return p, nil
	}
	image, err := s.r.machine.Image()
	if err != nil {
		return nil, err
	}
	p.image, p.applied = image, image.Applied()
	return p, nil
}

// persisted is raft.FSMSnapshot.
type persisted struct {
	s       *snapshots
	applied kv.Applied
	image   Image // of machines in memory
	start   time.Time
}

// Persist puts the state on disk: a durable machine flushes itself, one in memory
// is written to a file.
func (p *persisted) Persist(raft.SnapshotSink) error {
	var err error
	switch {
	case p.image != nil:
		err = p.s.r.files.write(p.image)
	case !planted.On(planted.CutBeforeFlush):
		err = p.s.r.machine.Flush()
	}
	if hook := p.s.r.host.opts.Hooks.SnapshotTaken; hook != nil {
		hook(p.s.r.id, time.Since(p.start), err)
	}
	if err != nil {
		err = fmt.Errorf("flush the state: %w", err)
		p.s.r.fail(storageFailed, err)
		return err
	}
	p.s.flushedTo(p.applied)
	return nil
}

// Release is called when the library is done with it.
func (p *persisted) Release() {
	if p.image != nil {
		_ = p.image.Close() // nothing depends on it
	}
}

// trailing gives how many entries to leave in the log, at most limit, for a mean
// size of those applied lately. It is never zero (hashicorp/raft #86).
func trailing(entries, bytes, limit int64) uint64 {
	mean := int64(1)
	if entries > 0 {
		mean = max(bytes/entries, 1)
	}
	return uint64(min(max(trailingBytes/mean, trailingEntriesMin), limit))
}
