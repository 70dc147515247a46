package raftnode

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/time/rate"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// Options is what a Host is made of.
type Options struct {
	Node kv.NodeID
	// Dir is the host's own directory on FS, for snapshots.
	Dir string
	FS  vfs.FS
	// Mesh must not have been started: Open registers handlers. Its owner starts it
	// after Open and closes it after Close.
	Mesh peer.Mesh
	Logs Logs
	// Machine opens a replica's state machine, or makes an empty one. The host never
	// closes it. It is called once per replica, from Open and Create.
	Machine func(Record) (StateMachine, error)
	// Drop removes what the machine of a destroyed replica holds, so that a later
	// incarnation finds nothing of it; nil: nothing has to be. It may be called again
	// for what it has removed.
	Drop func(kv.ServerID) error
	// Now is the wall clock; nil is time.Now.
	Now    func() time.Time
	Timing Timing
	// EntriesInFlight is how many of a leader's entries may be on their way at
	// once; 0 is 2.
	EntriesInFlight int
	// SnapshotRate limits the bytes of snapshots that leave the node; nil: no limit.
	SnapshotRate *rate.Limiter
	Logger       *slog.Logger
	Hooks        Hooks
}

// Timing is everything that is measured in time. The zero value of a field is its
// default.
type Timing struct {
	Heartbeat     time.Duration // without a leader for so long, a follower begins an election; 1 s
	Election      time.Duration // an election without a winner is repeated after so long; 1 s
	Lease         time.Duration // a leader that no majority answers for so long steps down; half of Heartbeat
	Commit        time.Duration // a leader without writes tells the commit index so often; 200 ms
	Append        time.Duration // an append without an answer is repeated after so long; 3 s
	WriteDeadline time.Duration // a write to the log that takes longer is a stall (R13); 3 s
	ClockLimit    time.Duration // how far a leader's clock may be ahead of its voters' (R8); 1 s
	// SnapshotEntries and SnapshotBytes: a snapshot is taken when so much was applied
	// since the last one; 16384 and 64 MiB.
	SnapshotEntries int64
	SnapshotBytes   int64
	// TrailingEntries is how many entries a snapshot leaves in the log at most, for
	// followers that are a little behind; 8192.
	TrailingEntries int64
}

func (t *Timing) setDefaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&t.Heartbeat, time.Second)
	set(&t.Election, time.Second)
	set(&t.Lease, t.Heartbeat/2)
	set(&t.Commit, 200*time.Millisecond)
	set(&t.Append, 3*time.Second)
	set(&t.WriteDeadline, 3*time.Second)
	set(&t.ClockLimit, time.Second)
	if t.SnapshotEntries == 0 {
		t.SnapshotEntries = 16384
	}
	if t.SnapshotBytes == 0 {
		t.SnapshotBytes = 64 << 20
	}
	if t.TrailingEntries == 0 {
		t.TrailingEntries = 8192
	}
}

func (o *Options) setDefaults() {
	o.Timing.setDefaults()
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.EntriesInFlight == 0 {
		o.EntriesInFlight = 2
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// validate checks options with defaults.
func (o *Options) validate() error {
	var missing []error
	require := func(ok bool, what string) {
		if !ok {
			missing = append(missing, fmt.Errorf("raftnode: %s is missing", what))
		}
	}
	require(o.Node != 0, "Node")
	require(o.Dir != "", "Dir")
	require(o.FS != nil, "FS")
	require(o.Mesh != nil, "Mesh")
	require(o.Logs != nil, "Logs")
	require(o.Machine != nil, "Machine")
	if o.Mesh != nil && o.Mesh.Self() != o.Node {
		missing = append(missing, fmt.Errorf("raftnode: the mesh is of node %s, not %s", o.Mesh.Self(), o.Node))
	}
	if o.EntriesInFlight < 1 || o.EntriesInFlight > 3 {
		// Each may bring a raise of the ceiling with it, and all must fit Raft's queue.
		missing = append(missing, fmt.Errorf("raftnode: %d entries in flight, 1 to 3 are allowed", o.EntriesInFlight))
	}
	require(o.Timing.TrailingEntries > 0, "a positive TrailingEntries")
	if o.Timing.Heartbeat < 20*time.Millisecond || o.Timing.Election < o.Timing.Heartbeat || o.Timing.Lease > o.Timing.Heartbeat {
		missing = append(missing, errors.New("raftnode: want 20ms ≤ Heartbeat ≤ Election, and Lease ≤ Heartbeat"))
	}
	return errors.Join(missing...)
}
