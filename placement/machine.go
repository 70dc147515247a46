package placement

import (
	"fmt"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

// CommandFormat is the newest format of metapb.Command that this release writes
// and the newest it applies.
const CommandFormat = 1

// Machine is the meta shard's state machine. It lives in memory: after a restart
// the newest snapshot and the log bring it back. Apply, Image and installing an
// image are for one goroutine at a time; everything else is for any.
type Machine struct {
	current atomic.Pointer[version]

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when the state changes
}

// version is a state and how far in the log it stands. Immutable.
type version struct {
	state   *State
	applied kv.Applied
}

// NewMachine gives a machine at index 0: not founded, no nodes, no shards.
func NewMachine() *Machine {
	m := &Machine{changed: make(chan struct{})}
	m.current.Store(&version{state: emptyState()})
	return m
}

// State gives the current state. It costs an atomic load.
func (m *Machine) State() *State { return m.current.Load().state }

// Applied tells how far the machine has come.
func (m *Machine) Applied() kv.Applied { return m.current.Load().applied }

// Changed gives a channel that is closed at the next change of State. Take it
// before reading State, and no change is missed; changes in between coalesce.
func (m *Machine) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// Flush returns at once: nothing of the machine is on disk.
func (m *Machine) Flush() error { return nil }

// Apply applies entries in order of index and answers each. An error means that
// an entry is of a newer release: nothing of the call is applied and the replica
// must stop, because to skip it would fork the state. A bad command of a known
// kind is answered with an error in its metapb.Result.
func (m *Machine) Apply(entries []kv.Entry) ([]kv.EntryResult, error) {
	next := *m.current.Load()
	before := next.state
	results := make([]kv.EntryResult, len(entries))
	for i := range entries {
		if entries[i].Index <= next.applied.Index {
			continue
		}
		result, err := next.apply(&entries[i])
		if err != nil {
			return nil, fmt.Errorf("meta shard, entry %d: %w", entries[i].Index, err)
		}
		results[i] = result
	}
	m.publish(&next, next.state != before)
	return results, nil
}

func (m *Machine) publish(next *version, changed bool) {
	m.current.Store(next)
	if !changed {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.changed)
	m.changed = make(chan struct{})
}

// apply applies one entry that is above the applied index.
func (v *version) apply(e *kv.Entry) (kv.EntryResult, error) {
	v.applied.Index, v.applied.Term = e.Index, e.Term
	if e.Config != nil {
		v.applied.Config, v.applied.ConfigIndex = e.Config, e.Index
		return kv.EntryResult{}, nil
	}
	if e.Stale() {
		return kv.EntryResult{Rejected: true}, nil
	}
	ceiling := max(v.applied.Ceiling, e.Stamp.Ceiling)
	if len(e.Commands) == 0 {
		v.startTerm(e)
		return kv.EntryResult{}, nil
	}
	var versions kv.Version
	for _, c := range e.Commands {
		versions += kv.Version(c.Versions)
	}
	if versions > 0 {
		last := e.Stamp.Version + versions - 1
		if e.Stamp.Version <= v.applied.LastVersion || last < e.Stamp.Version || last > ceiling {
			return kv.EntryResult{Rejected: true}, nil
		}
		v.applied.LastVersion = last
	}
	v.applied.Ceiling = ceiling
	v.applied.NowMs = max(v.applied.NowMs, e.Stamp.NowMs)
	out := kv.EntryResult{Results: make([][]byte, len(e.Commands))}
	for i, c := range e.Commands {
		result, err := v.command(c.Data)
		if err != nil {
			return kv.EntryResult{}, err
		}
		if out.Results[i], err = proto.Marshal(result); err != nil {
			return kv.EntryResult{}, err
		}
	}
	return out, nil
}

// startTerm applies the first entry of a leader's term (kv.Entry.Commands).
func (v *version) startTerm(e *kv.Entry) {
	a := &v.applied
	a.LastVersion = max(a.LastVersion, a.Ceiling)
	a.Ceiling = max(a.Ceiling+kv.VersionAt(1), e.Stamp.Ceiling)
	a.NowMs = max(a.NowMs, e.Stamp.NowMs)
}

// command applies one command. An error is for commands of a newer release only.
func (v *version) command(data []byte) (*metapb.Result, error) {
	var c metapb.Command
	if err := proto.Unmarshal(data, &c); err != nil {
		return refuse(kv.CodeInvalid, "not a command: %v", err), nil
	}
	if c.Format > CommandFormat {
		return nil, fmt.Errorf("command format %d is not known to this release (newest: %d): %w", c.Format, CommandFormat, kv.ErrNewerRelease)
	}
	if c.Body == nil && len(c.ProtoReflect().GetUnknown()) > 0 {
		return nil, fmt.Errorf("a kind of command that is not known to this release: %w", kv.ErrNewerRelease)
	}
	if c.Format == 0 || c.Body == nil {
		return refuse(kv.CodeInvalid, "a command without a format or a body"), nil
	}
	next, result := v.state.command(&c, v.applied.NowMs)
	v.state = next
	return result, nil
}
