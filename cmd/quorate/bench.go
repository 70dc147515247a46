package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/quorate-db/quorate/internal/bench"
	"github.com/quorate-db/quorate/internal/bench/quoratedriver"
)

// benchFlags are the flags of bench and bench load.
type benchFlags struct {
	clientFlags
	cfg          bench.Config
	shardsAware  bool
	retry        bool
	netHTTP      bool
	distribution string
	noLoad       bool
}

func benchCommand(env lookupEnv) *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench WORKLOAD",
		Short: "Measure throughput and latency",
		Long: `Load keys, then drive the cluster with a workload and print throughput and latency.

Workloads:
` + workloadList() + `
Each client sends its next operation when the one before has been answered (a
closed loop). While the cluster stalls, nothing is sent, so percentiles leave out
what would have waited: look at the largest gap between two successes as well.`,
		Example:   "  quorate bench put --clients 64 --duration 10s\n  quorate bench a --keys 100000 -o json\n  quorate bench load --keys 1000000",
		Args:      cobra.ExactArgs(1),
		ValidArgs: workloadNames(),
		RunE: func(cmd *cobra.Command, args []string) error {
			w, err := bench.FindWorkload(args[0])
			if err != nil {
				return usageError{err}
			}
			if w.Distribution, err = f.distributionOf(w); err != nil {
				return err
			}
			f.cfg.Workload = w
			return f.run(cmd, true)
		},
	}
	f.addTo(cmd, env)
	flags := cmd.Flags()
	flags.DurationVar(&f.cfg.Duration, "duration", 10*time.Second, "how long to measure; 0 = until --ops are done")
	flags.Int64Var(&f.cfg.Ops, "ops", 0, "how many operations to measure; 0 = as many as --duration allows")
	flags.DurationVar(&f.cfg.Warmup, "warmup", 2*time.Second, "the same load before, not measured")
	flags.IntVar(&f.cfg.ScanItems, "scan-items", 100, "items of a scan")
	flags.StringVar(&f.distribution, "distribution", "", "which keys: uniform, zipfian or latest (default: the workload's)")
	flags.BoolVar(&f.noLoad, "no-load", false, "the keys are there already (bench load)")
	cmd.AddCommand(benchLoadCommand(env))
	return cmd
}

func (f *benchFlags) addTo(cmd *cobra.Command, env lookupEnv) {
	f.clientFlags.addTo(cmd, env, formatTable)
	flags := cmd.Flags()
	flags.IntVar(&f.cfg.Clients, "clients", 64, "how many operations are in flight")
	flags.Uint64Var(&f.cfg.Keys, "keys", 10_000, "how many keys there are")
	flags.IntVar(&f.cfg.ValueBytes, "value-size", 100, "bytes of a value")
	flags.StringVar(&f.cfg.KeyPrefix, "key-prefix", "", "put this before each key; a prefix keeps all keys together, perhaps in one shard")
	flags.Uint64Var(&f.cfg.Seed, "seed", 1, "seed of keys and values")
	flags.BoolVar(&f.shardsAware, "shards-aware", false, "send each operation to the node that leads its key's shard")
	flags.BoolVar(&f.retry, "retry", false, "let the client retry; else each failure counts")
	flags.BoolVar(&f.netHTTP, "net-http", false, "use Go's own HTTP client instead of the lean one")
}

func workloadNames() []string {
	var names []string
	for _, w := range bench.Workloads() {
		names = append(names, w.Name)
	}
	return names
}

func workloadList() string {
	var b strings.Builder
	for _, w := range bench.Workloads() {
		fmt.Fprintf(&b, "  %-10s %s\n", w.Name, w.Summary)
	}
	return b.String()
}

func (f *benchFlags) distributionOf(w bench.Workload) (bench.Distribution, error) {
	switch d := bench.Distribution(f.distribution); d {
	case "":
		return w.Distribution, nil
	case bench.Uniform, bench.Zipfian, bench.Latest:
		return d, nil
	}
	return "", usagef("--distribution %q: want uniform, zipfian or latest", f.distribution)
}

// run loads, measures if it is asked to, and prints the report.
func (f *benchFlags) run(cmd *cobra.Command, measure bool) error {
	check := f.cfg
	if !measure {
		check.Ops = 1
	}
	if err := check.Validate(); err != nil {
		return usageError{err}
	}
	d, err := f.driver(f.cfg.Clients)
	if err != nil {
		return usageError{err}
	}
	defer d.Close()
	ctx, talk := cmd.Context(), cmd.ErrOrStderr()
	var report bench.Report
	if !measure || !f.noLoad {
		cfg := f.cfg
		cfg.Ops, cfg.Duration = 0, 0
		var p bench.Progress
		stop := showProgress(talk, "loading", &p, int64(cfg.Keys), 0)
		report, err = bench.Load(ctx, d, cfg, &p)
		stop()
		if err != nil {
			return benchError(err)
		}
	}
	if measure {
		var p bench.Progress
		total := f.cfg.Duration + f.cfg.Warmup
		if f.cfg.Duration == 0 {
			total = 0
		}
		stop := showProgress(talk, "workload "+f.cfg.Workload.Name, &p, f.cfg.Ops, total)
		report, err = bench.Run(ctx, d, f.cfg, &p)
		stop()
	}
	if printErr := f.print(cmd.OutOrStdout(), talk, &report); printErr != nil {
		return printErr
	}
	if err != nil {
		return benchError(err)
	}
	if report.Ops == 0 {
		return exitError{exitUnavailable, "no operation succeeded"}
	}
	return nil
}

func benchError(err error) error {
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	return err
}

// showProgress draws a bar on a terminal until stop is called: of operations, or
// of time if no number of them is given.
func showProgress(w io.Writer, what string, p *bench.Progress, ops int64, total time.Duration) (stop func()) {
	if !terminal(w) {
		return func() {}
	}
	length := ops
	if ops == 0 {
		length = total.Milliseconds()
	}
	bar := progressbar.NewOptions64(max(length, 1),
		progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(what), progressbar.OptionSetWidth(30),
		progressbar.OptionSetPredictTime(ops > 0), progressbar.OptionClearOnFinish())
	start, before := time.Now(), int64(0)
	draw := func() {
		n := p.Done()
		label := fmt.Sprintf("%s, %d ops/s", what, (n-before)*int64(time.Second/drawEvery))
		if !p.Measuring() {
			label = what + ", warming up"
		}
		before = n
		bar.Describe(label)
		at := n
		if ops == 0 {
			at = time.Since(start).Milliseconds()
		}
		_ = bar.Set64(min(at, max(length-1, 0))) // a bar that cannot be drawn is no failure
	}
	return drawing(draw, func() { _ = bar.Finish() })
}

// drawEvery is how often progress is shown.
const drawEvery = 200 * time.Millisecond

// drawing calls draw every drawEvery until stop is called, and then finish.
func drawing(draw, finish func()) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(drawEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				finish()
				return
			case <-tick.C:
				draw()
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

// print writes the report: the table on stdout, how it came about on stderr.
func (f *benchFlags) print(out, talk io.Writer, r *bench.Report) error {
	if f.output == formatJSON {
		return printJSON(out, r)
	}
	t := table{heading: []string{"OPERATION", "OPS", "OPS/S", "FAILED", "MEAN", "P50", "P90", "P99", "P99.9", "MAX"}}
	row := func(name string, failed int64, perSecond float64, l bench.Latency) {
		cells := []cell{text(name), number(l.Ops), {text: strconv.FormatFloat(perSecond, 'f', 0, 64), right: true}, number(failed)}
		for _, n := range []int64{int64(l.Mean), l.P50, l.P90, l.P99, l.P999, l.Max} {
			if l.Ops == 0 {
				cells = append(cells, cell{text: "-", right: true})
			} else {
				cells = append(cells, micros(n))
			}
		}
		t.add(cells...)
	}
	for _, k := range r.Kinds {
		row(k.Kind, k.Failed, k.OpsPerSecond, k.Latency)
	}
	if len(r.Kinds) > 1 {
		row("all", r.Failed, r.OpsPerSecond, r.All)
	}
	if err := t.print(out, f.output, false); err != nil {
		return err
	}
	fmt.Fprintf(talk, "%s: %d clients, %d keys, values of %d bytes, %.1f s; largest gap between successes %.0f ms; closed loop\n",
		r.Workload, r.Clients, r.Keys, r.ValueBytes, r.Seconds, r.LargestGapMs)
	if r.Processor.MicrosPerOp > 0 {
		fmt.Fprintf(talk, "the generator itself used %.1f µs of processor time per operation, %.2f of %d cores\n",
			r.Processor.MicrosPerOp, r.Processor.Cores, r.Processor.CoresMax)
	}
	if r.Missed > 0 {
		fmt.Fprintf(talk, "%d reads found nothing: are the keys loaded?\n", r.Missed)
	}
	tellCounts(talk, "failed, outcome ", r.Errors)
	tellCounts(talk, "", r.ErrorQuotes)
	return nil
}

func tellCounts(w io.Writer, prefix string, counts map[string]int64) {
	var names []string
	for name := range counts {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Fprintf(w, "%d× %s%s\n", counts[name], prefix, shown(name))
	}
}

// micros gives a latency in the unit that reads best.
func micros(n int64) cell {
	d := time.Duration(n) * time.Microsecond
	switch {
	case d < time.Millisecond:
		return cell{text: strconv.FormatInt(n, 10) + "µs", right: true}
	case d < time.Second:
		return cell{text: strconv.FormatFloat(float64(n)/1e3, 'f', 2, 64) + "ms", right: true}
	default:
		return cell{text: strconv.FormatFloat(float64(n)/1e6, 'f', 2, 64) + "s", right: true}
	}
}

// driver gives the cluster as the load generator sees it.
func (f *benchFlags) driver(clients int) (*quoratedriver.Driver, error) {
	secure, err := f.tls()
	if err != nil {
		return nil, err
	}
	token, err := f.credential()
	if err != nil {
		return nil, err
	}
	return quoratedriver.New(quoratedriver.Options{
		Token: token, Endpoints: f.endpoints, Timeout: f.timeout, RouteToLeader: f.shardsAware,
		Retry: f.retry, NetHTTP: f.netHTTP, TLS: secure, Clients: clients,
	})
}
