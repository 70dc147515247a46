package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/kv/planted"
	"github.com/quorate-db/quorate/placement"
	"github.com/quorate-db/quorate/raftnode"
	"github.com/quorate-db/quorate/store"
)

const (
	// shapeRetryMin and shapeRetryMax bound the pause before what failed is tried
	// again; it doubles.
	shapeRetryMin = 100 * time.Millisecond
	shapeRetryMax = 5 * time.Second
	// standLimit bounds how long a node tries to have a new shard led. After it the
	// election timeouts do.
	standLimit = 30 * time.Second
	// destroyLimit bounds one attempt to end a replica.
	destroyLimit = 10 * time.Second
	// missedEvery is how often a node looks for replicas that it should have got by
	// a split, missedAfter how long one has to be missing: a node that is a little behind
	// makes it from its own state, which costs nothing.
	missedEvery = 5 * time.Second
	missedAfter = 20 * time.Second
)

// shapes does on this node what follows when a shard's range has changed
// (docs/decisions/0011): it puts the change on disk, and then makes the child's
// replica, or ends that of the shard that was absorbed. State machines tell it from
// within Apply, so it takes note and works on a goroutine of its own. What is lost
// when the process ends is found again at the next start (recover.go).
type shapes struct {
	host   *raftnode.Host
	db     *store.DB
	shards *placement.Map
	loads  *loads
	self   kv.NodeID
	log    *slog.Logger
	kind   raftnode.LogKind // of the logs of children
	state  func() *placement.State
	known  func(kv.ServerID) bool

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{}

	mu      sync.Mutex
	pending []store.ShapeEvent // oldest first; one for each kind and pair of shards

	missed map[kv.ServerID]time.Time // since when; of run
}

func newShapes(self kv.NodeID, kind raftnode.LogKind, shards *placement.Map, loads *loads, log *slog.Logger) *shapes {
	s := &shapes{
		self: self, kind: kind, shards: shards, loads: loads, log: log,
		wake: make(chan struct{}, 1), missed: map[kv.ServerID]time.Time{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// start begins to work on what was noted so far and on what comes. state gives the
// meta shard's state on this node, known whether a replica is or was here.
func (s *shapes) start(host *raftnode.Host, db *store.DB, state func() *placement.State, known func(kv.ServerID) bool) {
	s.host, s.db, s.state, s.known = host, db, state, known
	s.wg.Go(s.run)
}

// close stops the work and waits for it. What is noted later is dropped.
func (s *shapes) close() {
	s.cancel()
	s.wg.Wait()
}

// note takes an event. It does not block. Of the same event, as replays give it, one
// is kept, so there are never more than a few for each shard.
func (s *shapes) note(e store.ShapeEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, p := range s.pending {
		if p.Kind == e.Kind && p.Shard == e.Shard && p.Other == e.Other {
			e.Adopted = e.Adopted || p.Adopted
			s.pending[i] = e
			return
		}
	}
	s.pending = append(s.pending, e)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *shapes) take() []store.ShapeEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.pending
	s.pending = nil
	return all
}

// run works until close. Events are carried out in their order; what fails is tried
// again after a pause, together with what has come meanwhile.
func (s *shapes) run() {
	pause := shapeRetryMin
	look := time.NewTicker(missedEvery)
	defer look.Stop()
	for {
		select {
		case <-s.wake:
		case now := <-look.C:
			s.makeMissed(now)
			continue
		case <-s.ctx.Done():
			return
		}
		failed := s.carryOut(s.take())
		for _, e := range failed {
			s.note(e)
		}
		if len(failed) == 0 {
			pause = shapeRetryMin
			continue
		}
		select {
		case <-time.After(pause):
		case <-s.ctx.Done():
			return
		}
		pause = min(2*pause, shapeRetryMax)
	}
}

// carryOut carries events out, all after one flush: many shards that split at the same
// time would else wait for one flush after the other, and each holds up a child's writes.
// It gives back those that failed.
func (s *shapes) carryOut(events []store.ShapeEvent) (failed []store.ShapeEvent) {
	flush := false
	for _, e := range events {
		s.learn(e)
		switch e.Kind {
		case store.ShapePrepared: // so that little is left to flush when the split itself holds up the child
			flush = true
		case store.ShapeSplit:
			flush = flush || e.Adopted
		case store.ShapeAbsorbed:
			flush = true
			if r, ok := s.host.Replica(e.Other); ok {
				r.GiveUp() // whoever waits for it is to ask the neighbour
			}
		}
	}
	var flushed error
	if flush && !planted.On(planted.ChildBeforeFlush) {
		flushed = s.db.Flush()
	}
	for _, e := range events {
		err := flushed
		if err == nil {
			err = s.follow(e)
		}
		if err != nil && s.ctx.Err() == nil {
			s.log.Warn("could not follow a change of a shard's range; trying again", "shard", e.Shard, "other", e.Other, "err", err)
			failed = append(failed, e)
		}
	}
	return failed
}

// follow does what an event asks for when it is on disk.
func (s *shapes) follow(e store.ShapeEvent) error {
	switch e.Kind {
	case store.ShapeSplit:
		if !e.Adopted {
			return nil // it is here already, or was
		}
		return s.split(e)
	case store.ShapeAbsorbed:
		return s.absorbed(e.Other)
	default: // a freeze is on disk before it shows
		return nil
	}
}

// learn has requests routed by what has changed before the control plane hears of
// it.
func (s *shapes) learn(e store.ShapeEvent) {
	for _, d := range []*kvpb.ShardDescriptor{e.Parent, e.Child} {
		if d != nil {
			s.shards.Learn(d)
		}
	}
}

// split makes the replica of a child whose state a split has left here, on disk, and has
// the child led from where its parent is.
func (s *shapes) split(e store.ShapeEvent) error {
	if _, err := s.db.ReplicaDescriptor(e.Other); errors.Is(err, store.ErrNoReplica) {
		return nil // it was absorbed again, or dropped
	}
	if err := s.adopt(e.Other, e.Child); err != nil {
		return err
	}
	parent, ok := s.host.Replica(e.Shard)
	child, there := s.host.Replica(e.Other)
	if !ok || !there || parent.Status().Role != kv.RoleLeader {
		return nil
	}
	s.wg.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, standLimit)
		defer cancel()
		if err := child.StandUntilLed(ctx); err != nil && s.ctx.Err() == nil {
			s.log.Info("a new shard has no leader yet", "shard", e.Other, "err", err)
		}
	})
	return nil
}

// adopt makes the replica of a shard whose state is here, on disk, and is that of a
// child as its split has left it. One that exists is left alone.
func (s *shapes) adopt(shard kv.ShardID, d *kvpb.ShardDescriptor) error {
	incarnation := uint64(0)
	for _, r := range d.GetReplicas() {
		if kv.NodeID(r.Node) == s.self {
			incarnation = r.Incarnation
		}
	}
	if incarnation == 0 {
		return fmt.Errorf("the state of shard %s is here, but it has no replica on this node", shard)
	}
	payload, err := proto.Marshal(d)
	if err != nil {
		return err
	}
	err = s.host.Create(s.ctx, raftnode.Record{
		ID:   kv.ServerID{Node: s.self, Shard: shard, Incarnation: incarnation},
		Kind: raftnode.Durable, Log: s.kind, Payload: payload,
	})
	if kv.CodeOf(err) == kv.CodeConflict {
		return nil // this one or a later one is there
	}
	return err
}

// absorbed ends the replica of a shard that its left neighbour has taken over, which is
// on disk.
func (s *shapes) absorbed(right kv.ShardID) error {
	if r, ok := s.host.Replica(right); ok {
		ctx, cancel := context.WithTimeout(s.ctx, destroyLimit)
		defer cancel()
		if err := s.host.Destroy(ctx, r.ID()); err != nil {
			return err
		}
	}
	s.loads.forget(right)
	return s.db.ForgetAbsorbed(right)
}

// makeMissed makes replicas of children whose splits this node has not seen: its
// replica of the parent has come by a snapshot that was taken later. They have no
// state and no configuration, and wait for the child's leader, as those do that moves
// bring. A server that the child's own configuration names, and of which there is
// neither record nor tombstone here, has never voted.
func (s *shapes) makeMissed(now time.Time) {
	missing := map[kv.ServerID]time.Time{}
	for _, h := range s.state().Shards() {
		id, ok := s.lacks(h.Current, h.Initial)
		if !ok {
			continue
		}
		since, before := s.missed[id]
		if !before {
			since = now
		}
		missing[id] = since
		if now.Sub(since) < missedAfter {
			continue
		}
		s.log.Info("making a replica of a shard whose split this node has not seen", "replica", id)
		// Should the split come now after all, it finds the state on disk.
		if err := errors.Join(s.adopt(id.Shard, h.Current), s.db.Flush()); err != nil {
			s.log.Warn("could not make a replica", "replica", id, "err", err)
		}
	}
	s.missed = missing
}

// lacks gives the replica that a shard counts as its member here and that is not. A
// shard's initial replicas are made by the control plane, with their members.
func (s *shapes) lacks(current, initial *kvpb.ShardDescriptor) (kv.ServerID, bool) {
	if current == nil || kv.ShardID(current.Shard) == kv.MetaShard {
		return kv.ServerID{}, false
	}
	for _, r := range initial.GetReplicas() {
		if kv.NodeID(r.Node) == s.self {
			return kv.ServerID{}, false
		}
	}
	for _, r := range current.Replicas {
		id := kv.ServerID{Node: s.self, Shard: kv.ShardID(current.Shard), Incarnation: r.Incarnation}
		if kv.NodeID(r.Node) == s.self && !s.known(id) {
			_, err := s.db.ReplicaDescriptor(id.Shard)
			return id, errors.Is(err, store.ErrNoReplica)
		}
	}
	return kv.ServerID{}, false
}
