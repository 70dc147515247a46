package placement

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

// tracker holds the reports of all nodes on the node that leads the meta shard.
// They are never replicated: a new leader starts with none and hears from
// everybody within a second or so.
type tracker struct {
	tuning Tuning
	hooks  Hooks
	news   chan struct{} // one slot: something was reported

	mu      sync.Mutex
	leading bool
	since   time.Time // when this node began to lead
	nodes   map[kv.NodeID]*heard
	leads   map[kv.ShardID]Lead
}

type heard struct {
	report     *metapb.NodeReport
	lastSeen   time.Time
	firstKnown time.Time
	streak     int // reports in time since it was last dead
	aliveSince time.Time
	died       bool // at some time since this node began to lead
	failed     map[kv.ShardID]time.Time
	dead       bool // until streak reaches Tuning.AliveAfter
	told       Liveness
}

func newTracker(tuning Tuning, hooks Hooks) *tracker {
	return &tracker{tuning: tuning, hooks: hooks, news: make(chan struct{}, 1), nodes: map[kv.NodeID]*heard{}, leads: map[kv.ShardID]Lead{}}
}

// setLeading forgets everything when leadership begins or ends.
func (t *tracker) setLeading(leading bool, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if leading == t.leading {
		return
	}
	t.leading, t.since = leading, now
	clear(t.nodes)
	clear(t.leads)
}

// leadingFor gives how long this node has led, 0 if it does not.
func (t *tracker) leadingFor(now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.leading {
		return 0
	}
	return now.Sub(t.since)
}

// take holds a report and owns it from then on. It does nothing unless this node
// leads.
func (t *tracker) take(report *metapb.NodeReport, now time.Time) {
	sortReplicas(report)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.leading {
		return
	}
	node := kv.NodeID(report.Node)
	h := t.heardLocked(node, now)
	if !h.lastSeen.IsZero() && now.Sub(h.lastSeen) >= t.tuning.DeadAfter {
		h.dead, h.streak = true, 0
	}
	h.report, h.lastSeen = report, now
	h.streak++
	if h.streak == 1 {
		h.aliveSince = now
	}
	h.takeFailures(now)
	for _, r := range report.Replicas {
		t.takeLeadLocked(node, r, now)
	}
	select {
	case t.news <- struct{}{}:
	default:
	}
}

func (t *tracker) takeLeadLocked(node kv.NodeID, r *metapb.ReplicaReport, now time.Time) {
	shard := kv.ShardID(r.Shard)
	known, ok := t.leads[shard]
	switch {
	case shard == kv.MetaShard:
	case r.LeaderReady && (!ok || r.Term > known.Term):
		known = Lead{Node: node, Term: r.Term, Since: now, FrozenSince: known.FrozenSince}
		known.takeFrozen(r, now)
		t.leads[shard] = known
		// What a new meta leader hears at first is not news.
		if t.hooks.onLead != nil && now.Sub(t.since) >= t.tuning.DeadAfter {
			t.hooks.onLead(shard, node, r.Term)
		}
	case r.LeaderReady && known.Node == node && known.FrozenSince.IsZero() != (r.FrozenIndex == 0):
		known.takeFrozen(r, now)
		t.leads[shard] = known
	case !r.LeaderReady && ok && known.Node == node && r.Term >= known.Term:
		delete(t.leads, shard)
	}
}

func (l *Lead) takeFrozen(r *metapb.ReplicaReport, now time.Time) {
	switch {
	case r.FrozenIndex == 0:
		l.FrozenSince = time.Time{}
	case l.FrozenSince.IsZero():
		l.FrozenSince = now
	}
}

// takeFailures keeps since when the node's replicas have been stopped.
func (h *heard) takeFailures(now time.Time) {
	var failed map[kv.ShardID]time.Time // stays nil nearly always
	for _, r := range h.report.Replicas {
		if r.Failure == "" {
			continue
		}
		if failed == nil {
			failed = map[kv.ShardID]time.Time{}
		}
		since, ok := h.failed[kv.ShardID(r.Shard)]
		if !ok {
			since = now
		}
		failed[kv.ShardID(r.Shard)] = since
	}
	h.failed = failed
}

// health gives what the planner is to know of the node.
func (h *heard) health(liveness Liveness, tuning Tuning, now time.Time) Health {
	out := Health{Liveness: liveness, LastSeen: h.lastSeen, Report: h.report, FailedSince: h.failed, SilentFor: now.Sub(h.firstKnown)}
	if !h.lastSeen.IsZero() {
		out.SilentFor = now.Sub(h.lastSeen)
	}
	rest := tuning.SteadyAfter
	if h.died {
		rest = tuning.FlapRest
	}
	out.Steady = liveness == Alive && now.Sub(h.aliveSince) >= rest
	return out
}

func (t *tracker) heardLocked(node kv.NodeID, now time.Time) *heard {
	h := t.nodes[node]
	if h == nil {
		h = &heard{firstKnown: now}
		t.nodes[node] = h
	}
	return h
}

// view judges every member of the cluster. It returns false if this node does not lead.
func (t *tracker) view(state *State, now time.Time) (map[kv.NodeID]Health, map[kv.ShardID]Lead, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.leading {
		return nil, nil, false
	}
	health := make(map[kv.NodeID]Health, len(state.Nodes()))
	for _, n := range state.Members() {
		node := kv.NodeID(n.Id)
		h := t.heardLocked(node, now)
		liveness := h.judge(t.tuning, now)
		if liveness != h.told {
			was := h.told
			h.told = liveness
			if t.hooks.OnLiveness != nil {
				t.hooks.OnLiveness(node, liveness)
			}
			if t.hooks.onLiveness != nil {
				t.hooks.onLiveness(node, was, liveness)
			}
		}
		health[node] = h.health(liveness, t.tuning, now)
	}
	return health, maps.Clone(t.leads), true
}

// judge has hysteresis: one late report makes a node dead, several in a row
// bring it back, so that a node which flaps stays dead.
func (h *heard) judge(tuning Tuning, now time.Time) Liveness {
	if h.lastSeen.IsZero() {
		if now.Sub(h.firstKnown) < tuning.DeadAfter {
			return Unheard
		}
		return Dead
	}
	if now.Sub(h.lastSeen) >= tuning.DeadAfter {
		h.dead, h.streak = true, 0
	}
	if h.dead && h.streak >= tuning.AliveAfter {
		h.dead = false
	}
	if h.dead {
		h.died = true
		return Dead
	}
	return Alive
}

// sortReplicas puts a report's replicas in order of shard, as Health wants them.
func sortReplicas(report *metapb.NodeReport) {
	slices.SortFunc(report.Replicas, func(a, b *metapb.ReplicaReport) int { return cmp.Compare(a.Shard, b.Shard) })
}
