package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quorate-db/quorate/kv"
)

// placementStats counts what the control plane does while this node leads it.
type placementStats struct {
	steps    *table[string, *step]
	liveness *table[string, prometheus.Counter]
	changes  map[string]pair // by the step that makes a change
}

// changeSteps says which steps of the planner count as which change of a shard.
var changeSteps = map[string]kv.OperationKind{
	"begin-move": kv.OperationMove,
	"split":      kv.OperationSplit,
	"absorb":     kv.OperationMerge,
}

// step holds the children of one kind of step.
type step struct {
	done    pair
	seconds prometheus.Observer
}

func newPlacementStats(r maker) *placementStats {
	steps := r.counter("quorate_placement_steps_total", "Steps of the planner that were carried out, by kind.", "kind", "result")
	seconds := r.histogram("quorate_placement_step_seconds", "Time that a step of the planner took.", requestBuckets(), "kind")
	liveness := r.counter("quorate_placement_liveness_changes_total", "Times that the meta leader here changed its mind about a node, by what it now thinks.", "now")
	resolve := func(kind string) *step {
		return &step{
			done:    pair{steps.WithLabelValues(kind, result(true)), steps.WithLabelValues(kind, result(false))},
			seconds: seconds.WithLabelValues(kind),
		}
	}
	changes := r.counter("quorate_placement_changes_total", "Moves that the meta leader here began, splits and merges that it had carried out.", "kind", "result")
	byStep := map[string]pair{}
	for step, kind := range changeSteps {
		byStep[step] = pair{changes.WithLabelValues(string(kind), result(true)), changes.WithLabelValues(string(kind), result(false))}
	}
	return &placementStats{
		changes: byStep,
		steps:   newTable(namesMax, resolve, func() *step { return resolve(labelOther) }, nil),
		liveness: newTable(namesMax,
			func(now string) prometheus.Counter { return liveness.WithLabelValues(now) },
			func() prometheus.Counter { return liveness.WithLabelValues(labelOther) }, nil),
	}
}

// Step counts a step of the planner.
func (m *Metrics) Step(kind string, took time.Duration, err error) {
	s := m.placement.steps.get(kind)
	s.done.of(err == nil).Inc()
	s.seconds.Observe(took.Seconds())
	if change, ok := m.placement.changes[kind]; ok {
		change.of(err == nil).Inc()
	}
}

// Liveness counts that the meta leader changed its mind about a node.
func (m *Metrics) Liveness(now string) { m.placement.liveness.get(now).Inc() }
