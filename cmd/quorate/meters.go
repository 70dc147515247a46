package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"math"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/quorate-db/quorate/client"
)

// traffic is what a node was asked on keys between two looks.
type traffic struct {
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_seconds"` // upper bounds of the histogram's buckets, interpolated
	P99       float64 `json:"p99_seconds"`
}

// metersTimeout bounds one look at a node, metersBytesMax what it may send,
// metersAtOnce how many are asked at a time.
const (
	metersTimeout  = 2 * time.Second
	metersBytesMax = 8 << 20
	metersAtOnce   = 16
)

// meters reads the histogram of operations from the /metrics of nodes.
type meters struct {
	http   http.Client
	scheme string

	mu   sync.Mutex
	last map[string]meter // by node id; guarded by mu
}

// meter is the histogram at one time: bucket bound → count of all below.
type meter struct {
	at      time.Time
	buckets map[float64]float64
}

func newMeters(secure bool, trust *tls.Config) *meters {
	m := &meters{scheme: "http", last: map[string]meter{}}
	if secure {
		m.scheme = "https"
	}
	m.http = http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second, TLSClientConfig: trust}, Timeout: metersTimeout}
	return m
}

func (m *meters) close() { m.http.CloseIdleConnections() }

// read asks all living nodes and gives what happened since the last time. A node that
// does not answer, or that is asked for the first time, is left out.
func (m *meters) read(ctx context.Context, nodes []client.Node) map[string]traffic {
	out := map[string]traffic{}
	places := make(chan struct{}, metersAtOnce)
	var wg sync.WaitGroup
	for _, n := range nodes {
		if !n.Alive {
			continue
		}
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			now, err := m.ask(ctx, n.HTTPAddress)
			m.mu.Lock()
			defer m.mu.Unlock()
			before, known := m.last[n.ID]
			if err != nil {
				delete(m.last, n.ID)
				return
			}
			m.last[n.ID] = now
			if known {
				out[n.ID] = now.since(before)
			}
		})
	}
	wg.Wait()
	return out
}

func (m *meters) ask(ctx context.Context, address string) (meter, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.scheme+"://"+address+"/metrics", http.NoBody)
	if err != nil {
		return meter{}, err
	}
	resp, err := m.http.Do(req)
	if err != nil {
		return meter{}, err
	}
	defer resp.Body.Close()
	return readMeter(io.LimitReader(resp.Body, metersBytesMax))
}

// readMeter reads the one histogram from Prometheus' text format.
func readMeter(r io.Reader) (meter, error) {
	m := meter{at: time.Now(), buckets: map[float64]float64{}}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), "quorate_operation_seconds_bucket{")
		if !ok {
			continue
		}
		_, bound, ok := strings.Cut(rest, `le="`)
		if !ok {
			continue
		}
		bound, value, ok := strings.Cut(bound, `"`)
		if !ok {
			continue
		}
		fields := strings.Fields(value[strings.IndexByte(value, '}')+1:])
		if len(fields) == 0 {
			continue
		}
		le, err1 := strconv.ParseFloat(bound, 64)
		count, err2 := strconv.ParseFloat(fields[0], 64)
		if err1 == nil && err2 == nil {
			m.buckets[le] += count // all kinds of operations together
		}
	}
	return m, lines.Err()
}

// since gives what happened between two meters of one node.
func (m meter) since(before meter) traffic {
	bounds := make([]float64, 0, len(m.buckets))
	for le := range m.buckets {
		bounds = append(bounds, le)
	}
	sort.Float64s(bounds)
	counts := make([]float64, len(bounds))
	for i, le := range bounds {
		counts[i] = m.buckets[le] - before.buckets[le]
	}
	seconds := m.at.Sub(before.at).Seconds()
	if len(counts) == 0 || seconds <= 0 || counts[len(counts)-1] <= 0 { // nothing, or the node was restarted
		return traffic{}
	}
	return traffic{PerSecond: counts[len(counts)-1] / seconds, P50: quantile(bounds, counts, 0.5), P99: quantile(bounds, counts, 0.99)}
}

// quantile interpolates within the bucket that holds it, as Prometheus does.
func quantile(bounds, counts []float64, q float64) float64 {
	rank := q * counts[len(counts)-1]
	i := sort.Search(len(counts), func(i int) bool { return counts[i] >= rank })
	if i == len(counts) {
		return 0
	}
	if math.IsInf(bounds[i], 1) {
		if i == 0 {
			return 0
		}
		return bounds[i-1]
	}
	low, below := 0.0, 0.0
	if i > 0 {
		low, below = bounds[i-1], counts[i-1]
	}
	if counts[i] == below {
		return bounds[i]
	}
	return low + (bounds[i]-low)*(rank-below)/(counts[i]-below)
}
