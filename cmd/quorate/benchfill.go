package main

import (
	"fmt"
	"io"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/quorate-db/quorate/internal/bench"
	"github.com/quorate-db/quorate/internal/bench/quoratedriver"
)

// fillValueBytes is the size of values of bench load --bytes unless one is given.
const fillValueBytes = 4096

// fillFlags are the flags of bench load that make distinct data.
type fillFlags struct {
	bytes  sizeFlag
	from   uint64
	verify bool
}

func benchLoadCommand(env lookupEnv) *cobra.Command {
	var f benchFlags
	var fill fillFlags
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Write the keys that the workloads use, or distinct data that can be verified",
		Long: `Write the keys that the workloads use. With --bytes, write so many bytes of distinct
data instead: keys from number 0 on, each with a value (of 4,096 bytes unless
--value-size says otherwise) that follows from the number and --seed. With --verify
read the same keys back and compare; exit code 1 if any is missing or wrong.

What is broken off says where to go on with --from.`,
		Example: "  quorate bench load --keys 1000000\n  quorate bench load --bytes 2GiB\n  quorate bench load --bytes 2GiB --from 120000\n  quorate bench load --bytes 2GiB --verify -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if fill.bytes == 0 {
				if fill.verify || fill.from > 0 {
					return usagef("--verify and --from go with --bytes")
				}
				return f.run(cmd, false)
			}
			if !cmd.Flags().Changed("value-size") {
				f.cfg.ValueBytes = fillValueBytes
			}
			return f.fill(cmd, fill)
		},
	}
	f.addTo(cmd, env)
	f.cfg.ScanItems = 1
	flags := cmd.Flags()
	flags.Var(&fill.bytes, "bytes", "write distinct data: so many bytes of keys and values")
	flags.Uint64Var(&fill.from, "from", 0, "with --bytes: begin with the key of this number")
	flags.BoolVar(&fill.verify, "verify", false, "with --bytes: read the keys back and compare")
	cmd.MarkFlagsMutuallyExclusive("bytes", "keys")
	return cmd
}

// fill writes or verifies distinct data.
func (f *benchFlags) fill(cmd *cobra.Command, o fillFlags) error {
	cfg := bench.FillConfig{Clients: f.cfg.Clients, From: o.from, KeyPrefix: f.cfg.KeyPrefix, ValueBytes: f.cfg.ValueBytes, Seed: f.cfg.Seed}
	if cfg.ValueBytes < 1 {
		return usagef("--value-size %d: want at least 1", cfg.ValueBytes)
	}
	if cfg.Clients < 1 || cfg.Clients > bench.ClientsMax {
		return usagef("--clients %d: want 1 to %d", cfg.Clients, bench.ClientsMax)
	}
	if cfg.Keys = cfg.KeysOf(int64(o.bytes)); cfg.From >= cfg.Keys {
		return usagef("--from %d: there are %d keys", cfg.From, cfg.Keys)
	}
	token, err := f.credential()
	if err != nil {
		return err
	}
	d, err := quoratedriver.New(quoratedriver.Options{
		Token: token, Endpoints: f.endpoints, Timeout: f.timeout, RouteToLeader: f.shardsAware,
		Retry: f.retry, NetHTTP: f.netHTTP, Clients: cfg.Clients,
	})
	if err != nil {
		return usageError{err}
	}
	defer d.Close()
	var p bench.Progress
	do, verb := bench.Fill, "writing"
	if o.verify {
		do, verb = bench.Verify, "verifying"
	}
	talk := cmd.ErrOrStderr()
	stop := showBytes(talk, verb, &p, cfg)
	report, err := do(cmd.Context(), d, cfg, &p)
	stop()
	if printErr := f.printFill(cmd.OutOrStdout(), talk, &report); printErr != nil {
		return printErr
	}
	if err != nil {
		if report.Next < cfg.Keys {
			fmt.Fprintf(talk, "all keys below number %d are done; go on with --from %d\n", report.Next, report.Next)
		}
		return benchError(err)
	}
	if bad := report.Missed + report.Wrong; bad > 0 {
		return exitError{exitFailure, fmt.Sprintf("%d keys are missing and %d wrong, such as %q", report.Missed, report.Wrong, report.BadKeys)}
	}
	return nil
}

// printFill writes the report: the figures on stdout, the latencies in the JSON alone.
func (f *benchFlags) printFill(out, talk io.Writer, r *bench.FillReport) error {
	if f.output == formatJSON {
		return printJSON(out, r)
	}
	t := table{heading: []string{"DID", "KEYS", "SIZE", "SECONDS", "PER SECOND", "OPS/S", "FAILED", "MISSING", "WRONG", "P50", "P99", "MAX"}}
	t.add(text(r.Workload), number(r.Ops), size(r.Bytes), cell{text: fmt.Sprintf("%.1f", r.Seconds), right: true}, size(int64(r.BytesPerSecond)),
		perSecond(r.OpsPerSecond), number(r.Failed), number(r.Missed), number(r.Wrong), micros(r.All.P50), micros(r.All.P99), micros(r.All.Max))
	if err := t.print(out, f.output, false); err != nil {
		return err
	}
	fmt.Fprintf(talk, "%d clients, values of %d bytes; largest gap between successes %.0f ms\n", r.Clients, r.ValueBytes, r.LargestGapMs)
	tellCounts(talk, "failed, outcome ", r.Errors)
	tellCounts(talk, "", r.ErrorQuotes)
	return nil
}

// showBytes draws a bar of bytes, with rate and time left, until stop is called. Where
// there is no terminal it says how far it is, ten times in all.
func showBytes(w io.Writer, what string, p *bench.Progress, cfg bench.FillConfig) (stop func()) {
	total := int64(cfg.Keys - cfg.From)
	each := int64(1)
	if n := cfg.KeysOf(1 << 40); n > 0 {
		each = max(1, 1<<40/int64(n))
	}
	bar := progressbar.NewOptions64(total*each, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(what), progressbar.OptionSetWidth(30),
		progressbar.OptionShowBytes(true), progressbar.OptionSetPredictTime(true), progressbar.OptionClearOnFinish())
	tenth := int64(0)
	draw := func() {
		n := p.Done()
		if terminal(w) {
			_ = bar.Set64(min(n*each, total*each-1)) // a bar that cannot be drawn is no failure
		} else if now := n * 10 / total; now > tenth {
			tenth = now
			fmt.Fprintf(w, "%s: %d%%, %s of %s\n", what, now*10, bytesShown(n*each), bytesShown(total*each))
		}
	}
	return drawing(draw, func() {
		if terminal(w) {
			_ = bar.Finish()
		}
	})
}
