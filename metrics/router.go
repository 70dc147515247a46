package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quorate-db/quorate/kv"
)

// routerStats counts what the router does beside answering on the spot. The
// operations are those that router.Op names.
type routerStats struct {
	ops     *table[string, *routed]
	retries *table[retryKey, prometheus.Counter]
}

type retryKey struct {
	op   string
	code kv.Code
}

// routed holds the children of one operation.
type routed struct {
	forwards, handled              pair
	forwardSeconds, handledSeconds prometheus.Observer
	shed                           prometheus.Counter
}

func newRouterStats(r maker) *routerStats {
	forwards := r.counter("quorate_router_forwards_total", "Requests that were sent on to another node.", "op", "result")
	forwardSeconds := r.histogram("quorate_router_forward_seconds", "Time until another node had answered a request that was sent on.", requestBuckets(), "op")
	handled := r.counter("quorate_router_handled_total", "Requests that another node sent on and that were served here.", "op", "result")
	handledSeconds := r.histogram("quorate_router_handled_seconds", "Time to serve a request that another node sent on.", requestBuckets(), "op")
	shed := r.counter("quorate_router_shed_total", "Requests of other nodes refused because too many were being served.", "op")
	retries := r.counter("quorate_router_retries_total", "Attempts that failed and were followed by another one, by the code of the failure.", "op", "code")
	resolve := func(op string) *routed {
		return &routed{
			forwards:       pair{forwards.WithLabelValues(op, result(true)), forwards.WithLabelValues(op, result(false))},
			handled:        pair{handled.WithLabelValues(op, result(true)), handled.WithLabelValues(op, result(false))},
			forwardSeconds: forwardSeconds.WithLabelValues(op),
			handledSeconds: handledSeconds.WithLabelValues(op),
			shed:           shed.WithLabelValues(op),
		}
	}
	s := &routerStats{
		ops: newTable(namesMax, resolve, func() *routed { return resolve(labelOther) }, nil),
		retries: newTable(codesMax,
			func(k retryKey) prometheus.Counter { return retries.WithLabelValues(k.op, string(k.code)) },
			func() prometheus.Counter { return retries.WithLabelValues(labelOther, labelOther) }, nil),
	}
	for _, op := range []string{"read", "write"} {
		s.ops.get(op)
		s.retries.get(retryKey{op, kv.CodeNotLeader})
	}
	return s
}

// Forwarded counts a request that was sent on to another node.
func (m *Metrics) Forwarded(op string, took time.Duration, err error) {
	o := m.router.ops.get(op)
	o.forwards.of(err == nil).Inc()
	o.forwardSeconds.Observe(took.Seconds())
}

// Handled counts a request of another node that was served here.
func (m *Metrics) Handled(op string, took time.Duration, err error) {
	o := m.router.ops.get(op)
	o.handled.of(err == nil).Inc()
	o.handledSeconds.Observe(took.Seconds())
}

// Shed counts a request of another node that was refused for lack of room.
func (m *Metrics) Shed(op string) { m.router.ops.get(op).shed.Inc() }

// Retried counts a failed attempt that is followed by another one.
func (m *Metrics) Retried(op string, code kv.Code) { m.router.retries.get(retryKey{op, code}).Inc() }
