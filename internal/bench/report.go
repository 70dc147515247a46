package bench

import (
	"runtime"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Report is what a run measured. Latencies are microseconds, of successes.
type Report struct {
	Driver     string `json:"driver"`
	Workload   string `json:"workload"`
	Clients    int    `json:"clients"`
	Keys       uint64 `json:"keys"`     // before the run
	Inserted   uint64 `json:"inserted"` // attempted by it
	ValueBytes int    `json:"value_bytes"`
	Seed       uint64 `json:"seed"`

	Seconds      float64      `json:"seconds"` // of what was measured
	Ops          int64        `json:"ops"`     // successes
	OpsPerSecond float64      `json:"ops_per_second"`
	Kinds        []KindReport `json:"kinds"`
	All          Latency      `json:"all"`

	Failed       int64            `json:"failed"`
	Errors       map[string]int64 `json:"errors"`         // by outcome
	ErrorQuotes  map[string]int64 `json:"error_quotes"`   // some of them, in words
	Missed       int64            `json:"missed"`         // reads that found nothing
	LargestGapMs float64          `json:"largest_gap_ms"` // between two successes
	PerSecond    []int64          `json:"per_second"`     // successes

	Processor Processor `json:"processor"`
}

// Processor is what the generator itself took.
type Processor struct {
	MicrosPerOp float64 `json:"micros_per_op"` // 0 where it cannot be measured
	Cores       float64 `json:"cores"`         // on average
	CoresMax    int     `json:"cores_max"`
}

// KindReport is about one kind of operation.
type KindReport struct {
	Kind         string  `json:"kind"`
	Failed       int64   `json:"failed"`
	OpsPerSecond float64 `json:"ops_per_second"`
	Latency
}

// Latency is a distribution of latencies in microseconds, exact to three digits.
type Latency struct {
	Ops  int64   `json:"ops"`
	Mean float64 `json:"mean_us"`
	P50  int64   `json:"p50_us"`
	P90  int64   `json:"p90_us"`
	P99  int64   `json:"p99_us"`
	P999 int64   `json:"p999_us"`
	Max  int64   `json:"max_us"`
}

func (r *Report) describe(d Driver, c *Config, inserted uint64) {
	r.Driver, r.Workload = d.Name(), c.Workload.Name
	r.Clients, r.Keys, r.Inserted, r.ValueBytes, r.Seed = c.Clients, c.Keys, inserted, c.ValueBytes, c.Seed
}

// report sums up. end is when the run was to end, zero if it was bounded by
// operations: what is missing after the last success then is a gap as well.
func (r *recorder) report(end time.Time) Report {
	span := time.Duration(r.latest.Load())
	gap := max(r.gap.Load(), int64(span)-r.last.Load())
	if !end.IsZero() {
		gap = max(gap, end.Sub(r.start).Nanoseconds()-r.last.Load())
	}
	out := Report{
		Seconds: span.Seconds(), Errors: r.errors, ErrorQuotes: r.quotes,
		LargestGapMs: float64(gap) / float64(time.Millisecond),
	}
	all := newHistogram()
	for k := range kindCount {
		sum := newHistogram()
		kind := KindReport{Kind: k.String()}
		for i := range r.shards {
			sh := &r.shards[i]
			if sh.latency[k] != nil {
				sum.Merge(sh.latency[k])
			}
			kind.Failed += sh.failed[k]
		}
		kind.Latency = latencyOf(sum)
		if kind.Ops+kind.Failed == 0 {
			continue
		}
		kind.OpsPerSecond = perSecond(kind.Ops, span)
		out.Failed += kind.Failed
		out.Kinds = append(out.Kinds, kind)
		all.Merge(sum)
	}
	out.All = latencyOf(all)
	out.Ops, out.OpsPerSecond = out.All.Ops, perSecond(out.All.Ops, span)
	r.sumShards(&out)
	out.Processor = r.processor(out.Ops+out.Failed, span)
	return out
}

func (r *recorder) sumShards(out *Report) {
	for i := range r.shards {
		sh := &r.shards[i]
		out.Missed += sh.missed
		for s, n := range sh.perSecond {
			for len(out.PerSecond) <= s {
				out.PerSecond = append(out.PerSecond, 0)
			}
			out.PerSecond[s] += n
		}
	}
}

func (r *recorder) processor(ops int64, span time.Duration) Processor {
	p := Processor{CoresMax: runtime.GOMAXPROCS(0)}
	used := usageNow().processor - r.usage.processor
	if used <= 0 || ops == 0 || span <= 0 {
		return p
	}
	p.MicrosPerOp = float64(used.Nanoseconds()) / 1e3 / float64(ops)
	p.Cores = used.Seconds() / span.Seconds()
	return p
}

func perSecond(n int64, span time.Duration) float64 {
	if span <= 0 {
		return 0
	}
	return float64(n) / span.Seconds()
}

func latencyOf(h *hdrhistogram.Histogram) Latency {
	if h.TotalCount() == 0 {
		return Latency{}
	}
	return Latency{
		Ops:  h.TotalCount(),
		Mean: h.Mean(),
		P50:  h.ValueAtQuantile(50),
		P90:  h.ValueAtQuantile(90),
		P99:  h.ValueAtQuantile(99),
		P999: h.ValueAtQuantile(99.9),
		Max:  h.Max(),
	}
}
