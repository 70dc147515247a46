package store

import (
	"fmt"
	"math"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/kv/planted"
	"github.com/quorate-db/quorate/store/engine"
)

// applier is the working set of one Apply call: the state as it becomes, the
// batch, and what the batch has changed as far as later commands need it.
type applier struct {
	eng   engine.Engine
	st    state
	batch engine.Batch
	it    engine.Iterator // over the engine as it was before the call; nil until needed
	// indexed: the batch can be read. Needed by commands that walk over ranges.
	indexed bool

	// heads are the newest records of keys, as this batch leaves them. They are kept
	// from call to call; used are those that this call has looked at.
	heads    map[string]*head
	used     []*head
	known    idFilter               // of remembered request ids; kept from call to call
	requests map[requestID]*request // ids that were remembered in this call
	txn      overlay                // of the transaction that is being evaluated

	unused []uint64 // spaces that the state referred to and does not any more

	arena      arena  // contents of records, until the call ends
	kbuf, vbuf []byte // scratch of one engine call
}

// Apply implements raftnode.StateMachine. Beside what is said there: entries
// whose stamp is not acceptable (S2) are answered as rejected and move nothing
// but the applied index. After an error the replica applies nothing any more.
func (r *Replica) Apply(entries []kv.Entry) ([]kv.EntryResult, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed != nil {
		return nil, asError(kv.OutcomeUnknown, "apply", r.failed)
	}
	if err := r.db.enter(); err != nil {
		return nil, asError(kv.OutcomeUnknown, "apply", err)
	}
	defer r.db.leave()
	results, err := r.applyLocked(entries)
	if err != nil {
		r.failed = err
		r.log.Error("apply failed, the replica stops", "error", err)
		return nil, asError(kv.OutcomeUnknown, "apply", err)
	}
	return results, nil
}

func (r *Replica) applyLocked(entries []kv.Entry) (results []kv.EntryResult, err error) {
	results = make([]kv.EntryResult, len(entries))
	commands, needIndex := decodeCommands(entries)
	a := &r.applier
	if err := a.begin(r.db.eng, r.current.Load(), needIndex); err != nil {
		return nil, err
	}
	defer func() {
		if cerr := a.end(); err == nil {
			err = cerr
		}
	}()
	moved := false
	for i := range entries {
		e := &entries[i]
		if e.Index <= a.st.applied.Index {
			continue
		}
		if results[i], err = a.entry(e, commands[i]); err != nil {
			return nil, fmt.Errorf("entry %d: %w", e.Index, err)
		}
		moved = true
	}
	if !moved {
		return results, nil
	}
	key := stateKey(r.shard)
	a.vbuf = sealedState(a.vbuf, key, &a.st)
	if !planted.On(planted.AppliedApart) || a.st.applied.Index%16 == 0 {
		a.batch.Set(key, a.vbuf)
	}
	st := a.st
	if err := r.publish(a.batch, &st); err != nil {
		return nil, err
	}
	if len(a.unused) > 0 {
		if err := r.db.removeUnused(placement{homes: unusedHomes(a.unused)}); err != nil {
			r.log.Warn("spaces that are not used any more stay until the next start", "error", err)
		}
	}
	return results, nil
}

// decodedCommand is a command, or why it is none.
type decodedCommand struct {
	cmd *kvpb.Command
	bad string
}

// decodeCommands decodes and checks all commands of the entries. needIndex
// tells that some of them have to walk over what others changed.
func decodeCommands(entries []kv.Entry) (commands [][]decodedCommand, needIndex bool) {
	commands = make([][]decodedCommand, len(entries))
	for i := range entries {
		if len(entries[i].Commands) == 0 {
			continue
		}
		commands[i] = make([]decodedCommand, len(entries[i].Commands))
		for j, c := range entries[i].Commands {
			d := &commands[i][j]
			d.cmd = &kvpb.Command{}
			if err := proto.Unmarshal(c.Data, d.cmd); err != nil {
				d.bad = "the command cannot be decoded"
				continue
			}
			var walks bool
			d.bad, walks = checkCommand(d.cmd, c.Versions)
			needIndex = needIndex || walks
		}
	}
	return commands, needIndex
}

func (a *applier) begin(eng engine.Engine, st *state, indexed bool) error {
	if !a.known.attached {
		if err := a.known.attach(eng, st.homes); err != nil {
			return err
		}
	}
	a.eng = eng
	a.st = *st
	a.st.homes = slices.Clone(st.homes) // their figures change
	a.batch, a.indexed = eng.NewBatch(indexed), indexed
	if a.heads == nil {
		a.heads = map[string]*head{}
	}
	if a.requests == nil {
		a.requests = map[requestID]*request{}
	}
	return nil
}

// headsKept bounds the heads that are kept from call to call, about 200 bytes each.
// When there are more, all are dropped: they cost a seek to get back.
const headsKept = 8192

func (a *applier) end() error {
	for _, h := range a.used {
		h.content = nil // it is in the arena; the engine has it now
	}
	clear(a.used)
	a.used = a.used[:0]
	if len(a.heads) > headsKept {
		a.heads = nil
	}
	clear(a.requests)
	a.unused = a.unused[:0]
	a.known.forget(a.st.floors.requestFrom)
	a.txn.reset()
	a.arena.reset()
	if cap(a.vbuf) > arenaChunkBytes {
		a.vbuf = nil
	}
	err := a.batch.Close()
	a.batch = nil
	if a.it != nil {
		if cerr := a.it.Close(); err == nil {
			err = cerr
		}
		a.it = nil
	}
	return err
}

// entry applies one entry whose index is above the applied one.
func (a *applier) entry(e *kv.Entry, commands []decodedCommand) (kv.EntryResult, error) {
	st := &a.st
	st.applied.Index, st.applied.Term = e.Index, e.Term
	if e.Config != nil {
		st.applied.Config = append([]byte(nil), e.Config...)
		st.applied.ConfigIndex = e.Index
		return kv.EntryResult{}, nil
	}
	if e.Stale() {
		return kv.EntryResult{Rejected: true}, nil
	}
	if len(e.Commands) == 0 {
		a.startTerm(e)
		return kv.EntryResult{}, nil
	}
	last, ok := lastVersion(e)
	stale := e.Stamp.Version <= st.applied.LastVersion && !planted.On(planted.VersionsByClock)
	if !ok || stale || last > st.applied.Ceiling {
		return kv.EntryResult{Rejected: true}, nil
	}
	st.applied.NowMs = max(st.applied.NowMs, e.Stamp.NowMs)
	out := kv.EntryResult{Results: make([][]byte, len(commands))}
	version := e.Stamp.Version
	for i, c := range commands {
		encoded, err := a.command(c, version)
		if err != nil {
			return kv.EntryResult{}, err
		}
		out.Results[i] = encoded
		version += kv.Version(e.Commands[i].Versions)
		st.applied.LastVersion = max(st.applied.LastVersion, version-1)
	}
	st.applied.Ceiling = max(st.applied.Ceiling, e.Stamp.Ceiling)
	return out, nil
}

// startTerm applies the first entry of a leader's term: it starts above
// everything that an earlier leader may have used (DESIGN §4).
func (a *applier) startTerm(e *kv.Entry) {
	ap := &a.st.applied
	ap.LastVersion = max(ap.LastVersion, ap.Ceiling)
	step := kv.VersionAt(1)
	if ap.Ceiling > math.MaxUint64-step {
		step = math.MaxUint64 - ap.Ceiling
	}
	ap.Ceiling = max(ap.Ceiling+step, e.Stamp.Ceiling)
	ap.NowMs = max(ap.NowMs, e.Stamp.NowMs)
}

// lastVersion gives the last version that an entry's commands use; not ok if
// there is no such number.
func lastVersion(e *kv.Entry) (last kv.Version, ok bool) {
	if e.Stamp.Version == 0 {
		return 0, false
	}
	last = e.Stamp.Version - 1
	for _, c := range e.Commands {
		if uint64(last) > math.MaxUint64-uint64(c.Versions) {
			return 0, false
		}
		last += kv.Version(c.Versions)
	}
	return last, true
}

// command applies one command, whose first version is given, and gives its
// encoded result.
func (a *applier) command(c decodedCommand, version kv.Version) ([]byte, error) {
	if c.bad != "" {
		return encodeResult(&kvpb.Result{Status: kvpb.Status_STATUS_BAD_COMMAND, Detail: c.bad})
	}
	if c.cmd.Kind == kvpb.CommandKind_COMMAND_SWEEP {
		res, err := a.sweep(c.cmd.Sweep, version)
		if err != nil {
			return nil, err
		}
		return encodeResult(res)
	}
	if len(c.cmd.Ordinals) > 0 {
		return a.part(c.cmd, version)
	}
	if c.cmd.Request != nil {
		if encoded, done, err := a.remembered(c.cmd.Request); done || err != nil {
			return encoded, err
		}
	}
	if !a.ownsAll(c.cmd) {
		return encodeResult(a.wrongShard())
	}
	res := &kvpb.Result{Status: kvpb.Status_STATUS_OK, Txns: make([]*kvpb.TxnResult, len(c.cmd.Txns))}
	budget := newBudget()
	for i, t := range c.cmd.Txns {
		var err error
		if res.Txns[i], err = a.transaction(t, version+kv.Version(i), &budget); err != nil {
			return nil, err
		}
	}
	encoded, err := encodeResult(res)
	if err == nil && c.cmd.Request != nil {
		a.remember(c.cmd.Request, encoded)
	}
	return encoded, err
}

// wrongShard answers a command that names what the shard does not own.
func (a *applier) wrongShard() *kvpb.Result {
	return &kvpb.Result{Status: kvpb.Status_STATUS_WRONG_SHARD, Descriptor_: a.st.desc}
}

func encodeResult(res *kvpb.Result) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(res)
}
