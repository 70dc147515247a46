package raftnode

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
)

// fsm gives the state machine to the library. As a raft.BatchingFSM it is also
// given the configurations, which the machine keeps with its applied index (R9).
type fsm struct{ r *Replica }

var _ raft.BatchingFSM = fsm{}

// errApply answers a proposal whose entry the machine could not apply: it is
// committed, and the other replicas will apply it.
var errApply = errors.New("the state machine failed")

// ApplyBatch applies committed entries. After the first failure nothing is
// applied any more, whatever the library still hands over (R12): to skip an entry
// would fork the state.
func (f fsm) ApplyBatch(logs []*raft.Log) []any {
	answers := make([]any, len(logs))
	for i := range answers {
		answers[i] = errApply
	}
	if f.r.failure.Load() != nil {
		return answers
	}
	entries := make([]kv.Entry, 0, len(logs))
	bytes := 0
	var broken error
	for _, l := range logs {
		e, err := f.entry(l)
		if err != nil {
			broken = err
			break
		}
		bytes += len(l.Data)
		entries = append(entries, e)
	}
	start := time.Now()
	results, err := f.r.machine.Apply(entries)
	if err == nil && len(results) != len(entries) {
		err = fmt.Errorf("the machine answered %d of %d entries", len(results), len(entries))
	}
	if errors.Is(err, ErrGone) {
		f.r.giveUp(err)
		return answers
	}
	if err != nil {
		what := storageFailed
		if errors.Is(err, kv.ErrNewerRelease) {
			what = replicaFailed // nothing is wrong with the disk
		}
		f.r.fail(what, fmt.Errorf("apply: %w", err))
		return answers
	}
	for i := range results {
		answers[i] = &results[i]
	}
	f.r.appliedEntries(len(entries), bytes, time.Since(start))
	if broken != nil {
		f.r.fail(replicaFailed, fmt.Errorf("apply: %w", broken))
	}
	return answers
}

func (f fsm) entry(l *raft.Log) (kv.Entry, error) {
	switch l.Type {
	case raft.LogCommand:
		return kv.DecodeEntry(l.Index, l.Term, l.Data)
	case raft.LogConfiguration:
		if _, err := decodeConfiguration(f.r.id.Shard, l.Data); err != nil {
			return kv.Entry{}, fmt.Errorf("log entry %d: %w", l.Index, err)
		}
		return kv.Entry{Index: l.Index, Term: l.Term, Config: l.Data}, nil
	default:
		return kv.Entry{}, fmt.Errorf("log entry %d: unexpected type %s", l.Index, l.Type)
	}
}

// Apply applies one entry. The library calls ApplyBatch instead.
func (f fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// Snapshot begins to take a snapshot.
func (f fsm) Snapshot() (raft.FSMSnapshot, error) { return f.r.snaps.begin() }

// Restore is never called: the replica installs with Raft stopped (R11), and
// Raft is told not to restore when it starts (R9).
func (f fsm) Restore(rc io.ReadCloser) error {
	return errors.Join(errors.New("restore inside Raft"), rc.Close())
}

// entryResponse waits for an entry that was given to Raft.Apply and gives what
// the machine answered. It is the one place that reads a future's response.
func (r *Replica) entryResponse(future raft.ApplyFuture) (*kv.EntryResult, error) {
	if err := future.Error(); err != nil {
		return nil, raftError(r.id, err, future.Index())
	}
	switch answer := future.Response().(type) {
	case *kv.EntryResult:
		return answer, nil
	case error:
		return nil, withShard(r.id, kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown, "replica %s: %w", r.id, answer))
	default:
		return nil, withShard(r.id, kv.Errorf(kv.CodeInternal, kv.OutcomeUnknown, "replica %s: the machine answered with %T", r.id, answer))
	}
}

// appliedEntries is told after entries were applied.
func (r *Replica) appliedEntries(entries, bytes int, took time.Duration) {
	r.sinceSnapshot.entries.Add(int64(entries))
	r.sinceSnapshot.bytes.Add(int64(bytes))
	r.waiters.advance(r.machine.Applied().Index)
	if hook := r.host.opts.Hooks.Applied; hook != nil {
		hook(r.id, entries, took)
	}
}
