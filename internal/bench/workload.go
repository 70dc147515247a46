package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// Kind is a kind of operation.
type Kind uint8

// The kinds.
const (
	KindPut Kind = iota // of a key that exists
	KindInsert
	KindGet
	KindStaleGet
	KindScan
	KindReadModifyWrite // a get, then a put of the same key; one operation
	kindCount
)

// String gives the kind's name in reports.
func (k Kind) String() string {
	return [...]string{"put", "insert", "get", "stale-get", "scan", "read-modify-write"}[k]
}

// Workload is a mix of operations over keys.
type Workload struct {
	Name         string
	Summary      string
	Parts        [kindCount]int // in percent
	Distribution Distribution
	ScanEvenly   bool // scans of 1 … n items, evenly, instead of always n
}

// Workloads lists what there is.
func Workloads() []Workload {
	mix := func(name, summary string, d Distribution, parts map[Kind]int) Workload {
		w := Workload{Name: name, Summary: summary, Distribution: d}
		for k, percent := range parts {
			w.Parts[k] = percent
		}
		return w
	}
	e := mix("e", "YCSB E: 95 % scans of 1 to --scan-items items, 5 % inserts", Zipfian, map[Kind]int{KindScan: 95, KindInsert: 5})
	e.ScanEvenly = true
	return []Workload{
		mix("put", "writes", Uniform, map[Kind]int{KindPut: 100}),
		mix("get", "linearizable reads", Uniform, map[Kind]int{KindGet: 100}),
		mix("stale-get", "reads from any replica", Uniform, map[Kind]int{KindStaleGet: 100}),
		mix("scan", "scans of --scan-items items", Uniform, map[Kind]int{KindScan: 100}),
		mix("a", "YCSB A: half reads, half updates", Zipfian, map[Kind]int{KindGet: 50, KindPut: 50}),
		mix("b", "YCSB B: 95 % reads, 5 % updates", Zipfian, map[Kind]int{KindGet: 95, KindPut: 5}),
		mix("c", "YCSB C: reads only", Zipfian, map[Kind]int{KindGet: 100}),
		mix("d", "YCSB D: 95 % reads of the latest, 5 % inserts", Latest, map[Kind]int{KindGet: 95, KindInsert: 5}),
		e,
		mix("f", "YCSB F: half reads, half read-modify-writes", Zipfian, map[Kind]int{KindGet: 50, KindReadModifyWrite: 50}),
	}
}

// FindWorkload gives a workload by name; "ycsb-a" and "A" also mean "a".
func FindWorkload(name string) (Workload, error) {
	short := strings.TrimPrefix(strings.ToLower(name), "ycsb-")
	all := Workloads()
	if i := slices.IndexFunc(all, func(w Workload) bool { return w.Name == short }); i >= 0 {
		return all[i], nil
	}
	var names []string
	for _, w := range all {
		names = append(names, w.Name)
	}
	return Workload{}, fmt.Errorf("workload %q: want one of %s", name, strings.Join(names, ", "))
}

// draw gives the kind of the next operation.
func (w *Workload) draw(r *rand.Rand) Kind {
	n := r.IntN(100)
	for k, percent := range w.Parts {
		if n -= percent; n < 0 {
			return Kind(k)
		}
	}
	panic("bench: the parts of workload " + w.Name + " do not add up to 100")
}

// worker is one client of a run.
type worker struct {
	session Session
	config  *Config
	keys    *keyCounter
	chooser *chooser
	values  *values
	rand    *rand.Rand
}

// do runs one operation. missed means that a key was not there that should be.
func (w *worker) do(ctx context.Context, kind Kind) (missed bool, err error) {
	if kind == KindInsert {
		i := w.keys.take()
		defer w.keys.answered(i)
		return false, w.session.Put(ctx, keyOf(w.config.KeyPrefix, i), w.values.draw(w.rand))
	}
	key := keyOf(w.config.KeyPrefix, w.chooser.draw(w.rand))
	switch kind {
	case KindPut:
		return false, w.session.Put(ctx, key, w.values.draw(w.rand))
	case KindScan:
		items := w.config.ScanItems
		if w.config.Workload.ScanEvenly {
			items = 1 + w.rand.IntN(items)
		}
		n, err := w.session.Scan(ctx, key, items)
		return n == 0, err
	case KindReadModifyWrite:
		found, err := w.session.Get(ctx, key, false)
		if err != nil {
			return false, err
		}
		return !found, w.session.Put(ctx, key, w.values.draw(w.rand))
	default:
		found, err := w.session.Get(ctx, key, kind == KindStaleGet)
		return !found, err
	}
}
