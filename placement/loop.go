package placement

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

const (
	// roundsApart bounds how often the loop plans, however many reports come.
	roundsApart = 50 * time.Millisecond
	// roundShare: a cluster that takes long to plan for is planned for less often, so
	// that planning takes at most about a tenth of a core while reports keep coming.
	roundShare = 9
	retryFirst = 500 * time.Millisecond
	retryLast  = 15 * time.Second
)

// loop plans and carries plans out, on the node that leads the meta shard. A
// deposed leader's steps fail at the meta shard or are refused in apply, so
// nothing more is needed to keep two loops apart.
type loop struct {
	machine  *Machine
	meta     Meta
	replicas Replicas
	actions  Actions
	peers    Peers
	nudge    func() // report soon: something was done to a local replica
	events   *eventLog
	self     kv.NodeID
	tracker  *tracker
	tuning   Tuning
	hooks    Hooks
	now      func() time.Time
	log      *slog.Logger
	finished chan struct{} // one slot: a step ended

	mu      sync.Mutex
	running map[string]Step
	retry   map[string]attempt
	moving  map[kv.ShardID]handover
	seen    map[changeKey]time.Time // of whoever plans
	wg      sync.WaitGroup
}

// attempt says when a step may be tried again, by its key.
type attempt struct {
	notBefore time.Time
	delay     time.Duration
	reason    string
}

// handover is a leader that was told to move.
type handover struct {
	to    kv.NodeID
	since time.Time
}

func (l *loop) run(ctx context.Context) {
	defer l.wg.Wait()
	ticker := time.NewTicker(l.tuning.Tick)
	defer ticker.Stop()
	var now *tenure
	rest := roundsApart
	defer func() { now.end() }()
	for {
		changed := l.machine.Changed()
		leads := l.meta.IsLeader()
		l.tracker.setLeading(leads, l.now())
		switch {
		case !leads:
			now.end()
			now = nil
		case now == nil:
			now = newTenure(ctx)
			l.log.Info("this node leads the meta shard")
			l.events.add(l.now(), EventMetaLeader, l.self, kv.MetaShard, "node "+l.machine.State().nodeName(uint64(l.self))+" leads the meta shard")
			fallthrough
		default:
			began := time.Now()
			l.round(now.ctx)
			rest = min(max(roundsApart, roundShare*time.Since(began)), l.tuning.Tick)
		}
		if pause(ctx, rest) != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-l.tracker.news:
		case <-l.finished:
		case <-ticker.C:
		}
	}
}

// tenure is the time during which this node leads the meta shard. Its steps are
// cut off when it ends.
type tenure struct {
	ctx    context.Context
	cancel context.CancelFunc
}

func newTenure(ctx context.Context) *tenure {
	ctx, cancel := context.WithCancel(ctx)
	return &tenure{ctx: ctx, cancel: cancel}
}

func (t *tenure) end() {
	if t != nil {
		t.cancel()
	}
}

// round plans once and starts what fits.
func (l *loop) round(ctx context.Context) {
	in, ok := l.input()
	if !ok {
		return
	}
	for _, step := range Plan(in) {
		l.start(ctx, step)
	}
	if step, ok := l.events.step(in.Now); ok {
		l.start(ctx, step)
	}
}

func (l *loop) input() (Input, bool) {
	now, state := l.now(), l.machine.State()
	status, ok := l.meta.Status()
	if !ok {
		return Input{}, false
	}
	health, leads, ok := l.tracker.view(state, now)
	if !ok {
		return Input{}, false
	}
	in := Input{
		State: state, Now: now, Self: l.self, Members: status.Members, Commit: status.CommitIndex,
		Health: health, Leads: leads, Seen: l.see(state, now),
		Moving: map[kv.ShardID]kv.NodeID{}, Busy: map[string]bool{}, Tuning: l.tuning,
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, step := range l.running {
		in.Busy[key] = true
		if step.Kind == StepTransfer {
			in.Moving[step.Shard] = step.To
		}
	}
	for key, a := range l.retry {
		switch {
		case now.Before(a.notBefore):
			in.Busy[key] = true
		case a.reason == "":
			delete(l.retry, key) // it only had to rest
		}
	}
	for shard, h := range l.moving {
		if leads[shard].Node == h.to || now.Sub(h.since) >= 3*l.tuning.ReportEvery {
			delete(l.moving, shard) // reports have said how it went
			continue
		}
		in.Moving[shard] = h.to
	}
	return in, true
}

// see notes which changes are under way, and gives since when this node has known
// each. Another leader begins anew.
func (l *loop) see(state *State, now time.Time) map[changeKey]time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := map[changeKey]time.Time{}
	note := func(key changeKey) {
		since, known := l.seen[key]
		if !known {
			since = now
		}
		seen[key] = since
	}
	for _, c := range state.Splits() {
		note(splitKey(c))
	}
	for _, m := range state.Merges() {
		note(mergeKey(m))
		note(stageKey(m))
	}
	l.seen = seen
	return seen
}

// whyWaiting gives why the last step of a key failed, "" if it did not.
func (l *loop) whyWaiting(key string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.retry[key].reason
}

// start runs a step on a goroutine of its own, if there is room.
func (l *loop) start(ctx context.Context, step Step) {
	key := step.Key()
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, busy := l.running[key]; busy || len(l.running) >= l.tuning.StepsAtOnce {
		return
	}
	l.running[key] = step
	l.wg.Go(func() {
		stepCtx, cancel := context.WithTimeout(ctx, step.timeout(l.tuning))
		defer cancel()
		began := l.now()
		err := l.execute(stepCtx, step)
		l.ended(step, err, ctx.Err() != nil)
		if l.hooks.OnStep != nil {
			l.hooks.OnStep(step, l.now().Sub(began), err)
		}
		select {
		case l.finished <- struct{}{}:
		default:
		}
	})
}

// ended records how a step went. A step that failed waits longer each time; one
// that was cut off with the leadership does not count.
func (l *loop) ended(step Step, err error, cutOff bool) {
	key, now := step.Key(), l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.running, key)
	switch {
	case err == nil && step.Kind == StepTransfer:
		l.moving[step.Shard] = handover{to: step.To, since: now}
		l.retry[key] = attempt{notBefore: now.Add(l.tuning.TransferRest)}
	case err == nil:
		delete(l.retry, key)
	case cutOff:
		return
	default:
		last := l.retry[key]
		next := attempt{delay: min(max(retryFirst, 2*last.delay), retryLast), reason: err.Error()}
		next.notBefore = now.Add(next.delay)
		l.retry[key] = next
		if last.reason != next.reason {
			l.log.Warn("a step failed and will be tried again", "step", step.String(), "err", err)
		}
		return
	}
	if step.Kind != StepEvents {
		l.log.Info("step done", "step", step.String())
	}
}

// propose puts a command to the meta shard and gives its answer; a refusal by
// the state machine is an error.
func propose(ctx context.Context, meta Meta, c *metapb.Command) (*metapb.Result, error) {
	c.Format = CommandFormat
	data, err := proto.Marshal(c)
	if err != nil {
		return nil, kv.Errorf(kv.CodeInternal, kv.OutcomeNotApplied, "encode command: %w", err)
	}
	answer, err := meta.Propose(ctx, data)
	if err != nil {
		return nil, err
	}
	var result metapb.Result
	if err := proto.Unmarshal(answer, &result); err != nil {
		return nil, kv.Errorf(kv.CodeInternal, kv.OutcomeUnknown, "decode the meta shard's answer: %w", err)
	}
	if result.Error != nil {
		return nil, kv.FromWire(result.Error)
	}
	return &result, nil
}
