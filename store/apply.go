package store

import (
	"errors"
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

	shape shapeRun // what the run does to ranges

	arena      arena  // contents of records, until the call ends
	kbuf, vbuf []byte // scratch of one engine call
}

// Apply implements raftnode.StateMachine. Beside what is said there: entries
// whose stamp is not acceptable (S2) are answered as rejected and move nothing
// but the applied index. After an error the replica applies nothing any more.
func (r *Replica) Apply(entries []kv.Entry) ([]kv.EntryResult, error) {
	results, events, err := r.apply(entries)
	if r.db.onShape != nil {
		for _, e := range events {
			r.db.onShape(e)
		}
	}
	return results, err
}

func (r *Replica) apply(entries []kv.Entry) (results []kv.EntryResult, events []ShapeEvent, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed != nil {
		return nil, nil, asError(kv.OutcomeUnknown, "apply", r.failed)
	}
	results = make([]kv.EntryResult, len(entries))
	commands, needIndex := decodeCommands(entries)
	for from := 0; from < len(entries); {
		to := from + runLength(commands[from:])
		run := applyRun{entries: entries[from:to], commands: commands[from:to], results: results[from:to], indexed: needIndex}
		more, err := r.applyLocked(run)
		events = append(events, more...)
		if err != nil {
			if !errors.Is(err, ErrClosed) {
				r.failed = err
				r.log.Error("apply failed, the replica stops", "error", err)
			}
			return nil, events, asError(kv.OutcomeUnknown, "apply", err)
		}
		from = to
	}
	return results, events, nil
}

// applyRun is a run of entries that are applied in one batch. Only the last one may
// change the shard's range.
type applyRun struct {
	entries  []kv.Entry
	commands [][]decodedCommand
	results  []kv.EntryResult
	indexed  bool
}

// runLength gives the length of the run that the entries begin with.
func runLength(commands [][]decodedCommand) int {
	for i := range commands {
		if shapeCommand(commands[i]) != nil {
			return i + 1
		}
	}
	return len(commands)
}

// shapeCommand gives the first change of a range among an entry's commands, nil if
// there is none.
func shapeCommand(commands []decodedCommand) *kvpb.Command {
	for _, c := range commands {
		if c.bad == "" && isShape(c.cmd.Kind) {
			return c.cmd
		}
	}
	return nil
}

// applyLocked applies a run. The neighbour that it may absorb is locked before the
// engine is entered, by the order of locks.
func (r *Replica) applyLocked(run applyRun) (events []ShapeEvent, err error) {
	for {
		right := r.lockRight(shapeCommand(run.commands[len(run.commands)-1]))
		events, err = r.applyInside(run, right)
		if right != nil {
			right.mu.Unlock()
		}
		if !errors.Is(err, errRightOpened) {
			return events, err
		}
	}
}

func (r *Replica) applyInside(run applyRun, right *Replica) ([]ShapeEvent, error) {
	if err := r.db.enter(); err != nil {
		return nil, err
	}
	defer r.db.leave()
	return r.applyOnce(run, right)
}

func (r *Replica) applyOnce(run applyRun, right *Replica) (events []ShapeEvent, err error) {
	a := &r.applier
	if err := a.begin(r.db.eng, r.current.Load(), run.indexed); err != nil {
		return nil, err
	}
	a.shape = shapeRun{db: r.db, right: right}
	defer func() {
		if cerr := a.end(); err == nil {
			err = cerr
		}
	}()
	moved := false
	for i := range run.entries {
		e := &run.entries[i]
		if e.Index <= a.st.applied.Index {
			continue
		}
		if run.results[i], err = a.entry(e, run.commands[i]); err != nil {
			a.abandon()
			return nil, fmt.Errorf("entry %d: %w", e.Index, err)
		}
		moved = true
	}
	if !moved {
		return nil, nil
	}
	key := stateKey(r.shard)
	a.vbuf = sealedState(a.vbuf, key, &a.st)
	if !planted.On(planted.AppliedApart) || a.st.applied.Index%16 == 0 {
		a.batch.Set(key, a.vbuf)
	}
	st := a.st
	err = r.publish(a.batch, &st)
	r.settleShape(&a.shape, &st, err)
	return a.shape.events, err
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
	if len(a.heads) > headsKept || a.shape.changed {
		a.heads = nil
	}
	if a.shape.absorbed != 0 {
		a.known.attached = false
	}
	clear(a.requests)
	a.known.forget(a.st.floors.requestFrom)
	a.txn.reset()
	a.arena.reset()
	if cap(a.vbuf) > arenaChunkBytes {
		a.vbuf = nil
	}
	err := a.batch.Close()
	a.batch = nil
	return errors.Join(err, a.closeIter())
}

// closeIter closes the iterator over the engine: what it shows is not enough any
// more.
func (a *applier) closeIter() error {
	if a.it == nil {
		return nil
	}
	err := a.it.Close()
	a.it = nil
	return err
}

// abandon forgets what a run that is not committed has made of the kept heads.
func (a *applier) abandon() {
	a.heads = nil
	if a.shape.locked {
		a.shape.db.mu.Unlock()
		a.shape.locked = false
	}
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
	a.shape.seen = false
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
	if version <= a.st.applied.LastVersion && a.shape.absorbed != 0 {
		// An ABSORB before it in the entry has brought later versions (S2).
		return encodeResult(&kvpb.Result{Status: kvpb.Status_STATUS_REJECTED, Detail: "its version is not above the shard's last one"})
	}
	if isShape(c.cmd.Kind) {
		res, err := a.changeShape(c.cmd)
		return encodeOr(res, err)
	}
	if a.st.frozen.index != 0 && !planted.On(planted.FrozenAnswers) {
		return encodeResult(&kvpb.Result{Status: kvpb.Status_STATUS_FROZEN, Detail: frozenDetail})
	}
	if c.cmd.Kind == kvpb.CommandKind_COMMAND_SWEEP {
		res, err := a.sweep(c.cmd.Sweep, version)
		return encodeOr(res, err)
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
	return &kvpb.Result{Status: kvpb.Status_STATUS_WRONG_SHARD, Descriptor_: a.st.desc, Sibling: a.st.sibling}
}

func encodeResult(res *kvpb.Result) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(res)
}

func encodeOr(res *kvpb.Result, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return encodeResult(res)
}
