package bench

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	latencyMax     = 2 * time.Minute
	latencyDigits  = 3
	secondsMax     = int(DurationMax / time.Second)
	errorKindsMax  = 8 // distinct errors that are quoted
	errorQuoteSize = 300
)

// sample is one operation.
type sample struct {
	kind       Kind
	start, end time.Time
	missed     bool
	err        error
}

// recorder collects samples. Histograms are large, so clients share a few; the
// lock of one is held for about 20 ns.
type recorder struct {
	start  time.Time
	shards []recorderShard

	once   sync.Once
	usage  usage        // when what is measured began
	last   atomic.Int64 // the end of the latest success, nanoseconds after start
	gap    atomic.Int64 // the largest gap between two successes so far
	latest atomic.Int64 // the end of the latest sample, success or not

	mu     sync.Mutex
	errors map[string]int64 // by outcome
	quotes map[string]int64 // by text
}

type recorderShard struct {
	mu        sync.Mutex
	latency   [kindCount]*hdrhistogram.Histogram // of successes, in microseconds; nil until used
	failed    [kindCount]int64
	missed    int64
	perSecond []int64  // successes
	_         [64]byte // keeps the shards off each other's cache lines
}

func newRecorder(start time.Time, clients int) *recorder {
	return &recorder{
		start:  start,
		shards: make([]recorderShard, min(clients, 2*runtime.GOMAXPROCS(0))),
		errors: map[string]int64{},
		quotes: map[string]int64{},
	}
}

// begin marks the moment from which processor time counts.
func (r *recorder) begin() { r.once.Do(func() { r.usage = usageNow() }) }

func (r *recorder) record(client int, s sample, d Driver) {
	end := s.end.Sub(r.start).Nanoseconds()
	raise(&r.latest, end)
	if s.err != nil {
		r.failure(d.Outcome(s.err), s.err)
	} else if gap := end - r.last.Swap(end); gap > 0 {
		raise(&r.gap, gap)
	}
	sh := &r.shards[client%len(r.shards)]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if s.err != nil {
		sh.failed[s.kind]++
		return
	}
	if s.missed {
		sh.missed++
	}
	h := sh.latency[s.kind]
	if h == nil {
		h = newHistogram()
		sh.latency[s.kind] = h
	}
	micros := (s.end.Sub(s.start) + time.Microsecond - 1).Microseconds()
	// Within the range of the histogram, recording cannot fail.
	_ = h.RecordValue(max(1, min(micros, latencyMax.Microseconds())))
	second := min(int(end/int64(time.Second)), secondsMax)
	for len(sh.perSecond) <= second {
		sh.perSecond = append(sh.perSecond, 0)
	}
	sh.perSecond[second]++
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, latencyMax.Microseconds(), latencyDigits)
}

func raise(a *atomic.Int64, to int64) {
	for old := a.Load(); to > old; old = a.Load() {
		if a.CompareAndSwap(old, to) {
			return
		}
	}
}

func (r *recorder) failure(outcome string, err error) {
	text := err.Error()
	if len(text) > errorQuoteSize {
		text = text[:errorQuoteSize]
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors[outcome]++
	if _, known := r.quotes[text]; known || len(r.quotes) < errorKindsMax {
		r.quotes[text]++
	}
}
