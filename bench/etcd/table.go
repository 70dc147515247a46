package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// figure is one measurement.
type figure struct {
	opsPerSecond float64
	p50, p99     float64 // microseconds
	failed       int64
	cores        float64 // that the three servers together used, warm-up included
	residentMiB  float64 // the three servers together
}

// serverMicros is the processor time that the servers took for one operation.
func (f figure) serverMicros() float64 {
	if f.opsPerSecond == 0 {
		return 0
	}
	return f.cores / f.opsPerSecond * 1e6
}

// results holds the figures of all rounds by system and load.
type results struct {
	systems []string
	byLoad  map[string]map[string][]figure // load, then system
}

func newResults() *results { return &results{byLoad: map[string]map[string][]figure{}} }

func (r *results) add(system, load string, f figure) {
	if !slices.Contains(r.systems, system) {
		r.systems = append(r.systems, system)
	}
	if r.byLoad[load] == nil {
		r.byLoad[load] = map[string][]figure{}
	}
	r.byLoad[load][system] = append(r.byLoad[load][system], f)
}

func (r *results) median(system, load string, of func(figure) float64) float64 {
	var all []float64
	for _, f := range r.byLoad[load][system] {
		all = append(all, of(f))
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// markdown gives the tables: throughput with ratios to the baseline, the newest
// etcd, and latencies.
func (r *results) markdown(o options) string {
	const baseline = "etcd 3.7"
	var b strings.Builder
	fmt.Fprintf(&b, "Measured on %s, %d cores, %s; medians of %d rounds of %s after %s of warm-up; %d keys, values of 100 bytes; "+
		"three processes and the load generator on the same machine. In brackets: ratio to %s.\n\n",
		time.Now().UTC().Format("2006-01-02"), runtime.NumCPU(), runtime.GOOS+"/"+runtime.GOARCH, o.rounds, o.duration, o.warmup, o.keys, baseline)
	r.table(&b, "operations per second", func(f figure) float64 { return f.opsPerSecond }, baseline, "%.0f")
	r.table(&b, "p50, microseconds", func(f figure) float64 { return f.p50 }, baseline, "%.0f")
	r.table(&b, "p99, microseconds", func(f figure) float64 { return f.p99 }, baseline, "%.0f")
	r.table(&b, "processor time of the three servers, microseconds an operation", figure.serverMicros, baseline, "%.0f")
	r.table(&b, "resident memory of the three servers, MiB", func(f figure) float64 { return f.residentMiB }, "", "%.0f")
	r.table(&b, "failed operations", func(f figure) float64 { return float64(f.failed) }, "", "%.0f")
	return b.String()
}

func (r *results) table(b *strings.Builder, title string, of func(figure) float64, baseline, format string) {
	fmt.Fprintf(b, "| %s | %s |\n|---|%s\n", title, strings.Join(r.systems, " | "), strings.Repeat("---|", len(r.systems)))
	for _, l := range loads {
		if r.byLoad[l.name] == nil {
			continue
		}
		fmt.Fprintf(b, "| %s ", l.name)
		base := r.median(baseline, l.name, of)
		for _, s := range r.systems {
			v := r.median(s, l.name, of)
			fmt.Fprintf(b, "| "+format, v)
			if base > 0 && s != baseline {
				fmt.Fprintf(b, " (%.2f)", v/base)
			}
			b.WriteByte(' ')
		}
		b.WriteString("|\n")
	}
	b.WriteByte('\n')
}

const (
	tableBegin = "<!-- bench-compare: begin -->\n"
	tableEnd   = "<!-- bench-compare: end -->"
)

// replaceTable puts the table between the markers of a file.
func replaceTable(path, table string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, rest, ok := bytes.Cut(old, []byte(tableBegin))
	_, tail, ok2 := bytes.Cut(rest, []byte(tableEnd))
	if !ok || !ok2 {
		return errors.New(path + " lacks the markers that the table goes between")
	}
	return os.WriteFile(path, slices.Concat(head, []byte(tableBegin+table+tableEnd), tail), 0o644)
}

func matches(name, part string) bool { return part == "" || strings.Contains(name, part) }

// clockTicks is USER_HZ, which is 100 on every Linux that Go runs on.
const clockTicks = 100

// processorTime sums what processes have used so far; 0 where there is no /proc.
func processorTime(pids []int) time.Duration {
	var ticks int
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0
		}
		// The name in brackets may hold spaces; fields count from after it.
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		user, _ := strconv.Atoi(fields[11])
		system, _ := strconv.Atoi(fields[12])
		ticks += user + system
	}
	return time.Duration(ticks) * time.Second / clockTicks
}

// residentMiB sums the resident memory of processes; 0 where there is no /proc.
func residentMiB(pids []int) float64 {
	var pages int
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			return 0
		}
		n, _ := strconv.Atoi(strings.Fields(string(data))[1])
		pages += n
	}
	return float64(pages*os.Getpagesize()) / (1 << 20)
}
