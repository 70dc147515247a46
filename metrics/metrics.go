package metrics

import (
	"log/slog"
	"net/http"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Bounds of labels (M1). What is beyond them is counted under "other".
const (
	shardsMax   = 512 // replicas with series of their own, on one node
	requestsMax = 256 // (route, method, status class)
	codesMax    = 64  // codes of problems
	peersMax    = 128 // other nodes
	namesMax    = 32  // reasons and kinds that other rooms name
	labelOther  = "other"

	scrapesMax = 4 // at the same time
)

// Options say whose metrics these are.
type Options struct {
	Release string // of the binary; "" = unknown
	// PeerClasses names the classes of connections between nodes: class c of the
	// hooks is PeerClasses[c].
	PeerClasses []string
	Logger      *slog.Logger // nil = none
}

// Metrics holds all metrics of one node. Its methods may be called from any
// goroutine and do not block.
type Metrics struct {
	registry *prometheus.Registry
	log      *slog.Logger
	source   atomic.Pointer[func() Snapshot]

	shards    *shards
	requests  *requests
	router    *routerStats
	mesh      *meshStats
	placement *placementStats
	logSync   prometheus.Histogram
}

// New makes the metrics of a node, all zero.
func New(o Options) *Metrics {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Release == "" {
		o.Release = "unknown"
	}
	m := &Metrics{registry: prometheus.NewRegistry(), log: o.Logger}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	r := maker{m.registry}
	r.gauge("quorate_build_info", "Always 1; the labels say what the binary is.", "release", "go").
		WithLabelValues(o.Release, runtime.Version()).Set(1)
	m.logSync = r.histogram("quorate_log_sync_seconds",
		"Time that one sync of the shared Raft log took.", syncBuckets()).WithLabelValues().(prometheus.Histogram)
	m.shards = newShards(r)
	m.requests = newRequests(r)
	m.router = newRouterStats(r)
	m.mesh = newMeshStats(r, o.PeerClasses)
	m.placement = newPlacementStats(r)
	m.registry.MustRegister(newStatus(m))
	return m
}

// Watch has every scrape from now on ask source how the node stands. It must
// answer within a second or so.
func (m *Metrics) Watch(source func() Snapshot) { m.source.Store(&source) }

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(m.log.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: scrapesMax,
	})
}

// LogSync counts a sync of the shared Raft log.
func (m *Metrics) LogSync(took time.Duration) { m.logSync.Observe(took.Seconds()) }

// maker makes and registers.
type maker struct{ registry *prometheus.Registry }

func (r maker) counter(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	r.registry.MustRegister(v)
	return v
}

func (r maker) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	r.registry.MustRegister(v)
	return v
}

func (r maker) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	r.registry.MustRegister(v)
	return v
}

// requestBuckets are for what a client waits for.
func requestBuckets() []float64 {
	return []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
}

// syncBuckets are for what a disk does.
func syncBuckets() []float64 {
	return []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5}
}

// shardBuckets are for histograms that each shard has: fewer.
func shardBuckets() []float64 {
	return []float64{.00025, .001, .0025, .005, .01, .025, .1, .25, 1, 5}
}

// result names how something ended.
func result(ok bool) string {
	if ok {
		return "ok"
	}
	return "failed"
}

func asNumber(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func decimal[T ~uint64](v T) string { return strconv.FormatUint(uint64(v), 10) }
