package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/quorate-db/quorate/internal/bench"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-compare:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	quorate  string
	etcdNew  string
	etcdOld  string
	rounds   int
	duration time.Duration
	warmup   time.Duration
	keys     uint64
	out      string
	only     string
}

func run(ctx context.Context, args []string) error {
	var o options
	f := flag.NewFlagSet("bench-compare", flag.ContinueOnError)
	f.StringVar(&o.quorate, "quorate", "bin/quorate", "Quorate's binary")
	f.StringVar(&o.etcdNew, "etcd", "bin/etcd-3.7", "etcd 3.7's binary")
	f.StringVar(&o.etcdOld, "etcd-old", "etcd", "etcd 3.4's binary; left out if it is not there")
	f.IntVar(&o.rounds, "rounds", 3, "how often everything is measured")
	f.DurationVar(&o.duration, "duration", 8*time.Second, "of one measurement")
	f.DurationVar(&o.warmup, "warmup", 2*time.Second, "before each measurement")
	f.Uint64Var(&o.keys, "keys", 10000, "how many keys there are")
	f.StringVar(&o.out, "out", "", "file whose table between the markers is replaced; empty = print only")
	f.StringVar(&o.only, "only", "", "only systems whose name contains this")
	if err := f.Parse(args); err != nil {
		return err
	}
	results, err := measureAll(ctx, o)
	if err != nil {
		return err
	}
	table := results.markdown(o)
	fmt.Println(table)
	if o.out == "" {
		return nil
	}
	return replaceTable(o.out, table)
}

// load is one line of the table.
type load struct {
	name     string
	workload string
	clients  int
}

var loads = []load{
	{"put, 64 clients", "put", 64},
	{"put, 512 clients", "put", 512},
	{"put, 1 client", "put", 1},
	{"get, 64 clients", "get", 64},
	{"get, 1 client", "get", 1},
	{"stale get, 64 clients", "stale-get", 64},
	{"scan of 100, 16 clients", "scan", 16},
	{"YCSB A, 64 clients", "a", 64},
	{"YCSB B, 64 clients", "b", 64},
}

func systems(o options) []system {
	all := []system{
		quorate(o.quorate, 1),
		quorate(o.quorate, 16),
		etcd("etcd 3.7", o.etcdNew, false),
		etcd("etcd 3.7, shared connection", o.etcdNew, true),
	}
	if path, err := exec.LookPath(o.etcdOld); err == nil {
		all = append(all, etcd("etcd 3.4", path, false))
	} else {
		fmt.Fprintln(os.Stderr, "no etcd 3.4 here, left out:", err)
	}
	return all
}

func measureAll(ctx context.Context, o options) (*results, error) {
	res := newResults()
	for round := range o.rounds {
		for _, s := range systems(o) {
			if !matches(s.name, o.only) {
				continue
			}
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, o.rounds, s.name)
			if err := measure(ctx, s, o, res); err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return res, nil
}

// measure runs every load once against a fresh cluster.
func measure(ctx context.Context, s system, o options, res *results) (err error) {
	dir, err := os.MkdirTemp("", "bench-compare-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o755); err != nil {
		return err
	}
	r, err := s.start(ctx, filepath.Join(dir, "data"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	config := bench.Config{Clients: 64, Keys: o.keys, ValueBytes: 100, ScanItems: 100, Seed: 1, Warmup: o.warmup, Duration: o.duration}
	config.Workload, err = bench.FindWorkload("put")
	if err != nil {
		return err
	}
	if _, err := bench.Load(ctx, r.driver, config, &bench.Progress{}); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	for _, l := range loads {
		if config.Workload, err = bench.FindWorkload(l.workload); err != nil {
			return err
		}
		config.Clients = l.clients
		before := processorTime(r.pids)
		start := time.Now()
		report, err := bench.Run(ctx, r.driver, config, &bench.Progress{})
		if err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
		used := processorTime(r.pids) - before
		f := figure{
			opsPerSecond: report.OpsPerSecond,
			p50:          float64(report.All.P50),
			p99:          float64(report.All.P99),
			failed:       report.Failed,
			cores:        used.Seconds() / time.Since(start).Seconds(),
			residentMiB:  residentMiB(r.pids),
		}
		res.add(s.name, l.name, f)
		fmt.Fprintf(os.Stderr, "  %-24s %8.0f ops/s  p50 %6d us  p99 %7d us  servers %5.0f us/op  failed %d\n",
			l.name, report.OpsPerSecond, report.All.P50, report.All.P99, f.serverMicros(), report.Failed)
	}
	return nil
}
