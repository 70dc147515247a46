package main

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quorate-db/quorate/client"
)

// setting is one setting of the cluster as the command line shows and reads it.
type setting struct {
	name  string
	about string
	show  func(c *client.ClusterConfig) string
	set   func(c *client.ConfigChange, text string) error
}

func settings() []setting {
	return []setting{
		{"replication_factor", "copies of each shard, 1 to 7",
			func(c *client.ClusterConfig) string { return strconv.Itoa(c.ReplicationFactor) },
			func(c *client.ConfigChange, s string) error { return parseInto(&c.ReplicationFactor, s, strconv.Atoi) }},
		{"dead_grace", "a node that is silent for so long is replaced",
			func(c *client.ClusterConfig) string { return c.DeadGrace.String() },
			func(c *client.ConfigChange, s string) error {
				return parseInto(&c.DeadGrace, s, func(s string) (client.Duration, error) {
					d, err := time.ParseDuration(s)
					return client.Duration(d), err
				})
			}},
		{"split_bytes", "a shard larger than this splits; 0 = never by size",
			func(c *client.ClusterConfig) string { return sizeShown(c.SplitBytes) },
			func(c *client.ConfigChange, s string) error { return parseInto(&c.SplitBytes, s, parseSize) }},
		{"split_load", "a shard with more operations a second may split; 0 = never by load",
			func(c *client.ClusterConfig) string { return strconv.FormatFloat(c.SplitLoad, 'f', -1, 64) },
			func(c *client.ConfigChange, s string) error { return parseInto(&c.SplitLoad, s, parseFloat) }},
		{"merge_bytes", "neighbours that are smaller than this together merge; 0 = never",
			func(c *client.ClusterConfig) string { return sizeShown(c.MergeBytes) },
			func(c *client.ConfigChange, s string) error { return parseInto(&c.MergeBytes, s, parseSize) }},
		{"auto_balance", "replicas and leaders move to even out load",
			func(c *client.ClusterConfig) string { return strconv.FormatBool(c.AutoBalance) },
			func(c *client.ConfigChange, s string) error { return parseInto(&c.AutoBalance, s, strconv.ParseBool) }},
		{"leader_zone", "where leaders are preferred; empty = anywhere",
			func(c *client.ClusterConfig) string { return shown(c.LeaderZone) },
			func(c *client.ConfigChange, s string) error {
				return parseInto(&c.LeaderZone, s, func(s string) (string, error) { return s, nil })
			}},
		{"snapshot_rate", "bytes a second that a node sends in snapshots; 0 = unlimited",
			func(c *client.ClusterConfig) string { return sizeShown(c.SnapshotRate) },
			func(c *client.ConfigChange, s string) error { return parseInto(&c.SnapshotRate, s, parseSize) }},
		{"moves_per_node", "replicas that move at once, in or out of a node",
			func(c *client.ClusterConfig) string { return strconv.Itoa(c.MovesPerNode) },
			func(c *client.ConfigChange, s string) error { return parseInto(&c.MovesPerNode, s, strconv.Atoi) }},
		{"moves_per_cluster", "replicas that move at once in all",
			func(c *client.ClusterConfig) string { return strconv.Itoa(c.MovesPerCluster) },
			func(c *client.ConfigChange, s string) error { return parseInto(&c.MovesPerCluster, s, strconv.Atoi) }},
	}
}

func parseInto[T any](into **T, text string, parse func(string) (T, error)) error {
	v, err := parse(text)
	*into = &v
	return err
}

func parseFloat(s string) (float64, error) { return strconv.ParseFloat(s, 64) }

// findSetting finds a setting by its name, with dashes or underscores.
func findSetting(name string) (setting, error) {
	var names []string
	for _, s := range settings() {
		if s.name == strings.ReplaceAll(name, "-", "_") {
			return s, nil
		}
		names = append(names, s.name)
	}
	return setting{}, usagef("setting %q: want one of %s", name, strings.Join(names, ", "))
}

// sizeUnits are the suffixes of sizes on the command line.
var sizeUnits = []struct {
	suffix string
	bytes  int64
}{
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1 << 40},
	{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12},
	{"k", 1 << 10}, {"m", 1 << 20}, {"g", 1 << 30}, {"t", 1 << 40}, {"b", 1},
}

// parseSize reads a number of bytes: 1048576, 256MiB, 1.5g, 10MB. K, M, G and T
// alone count by 1024.
func parseSize(text string) (int64, error) {
	bad := func() (int64, error) {
		return 0, fmt.Errorf("%q: want a size like 1048576, 256MiB or 2GB", text)
	}
	s := strings.ToLower(strings.TrimSpace(text))
	unit := int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(s, u.suffix); ok {
			s, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		if n < 0 || n > math.MaxInt64/unit {
			return bad()
		}
		return n * unit, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 0 && f*float64(unit) < math.MaxInt64) || strings.ContainsAny(s, "xpin") {
		return bad()
	}
	return int64(f * float64(unit)), nil
}

// sizeShown writes a size so that parseSize reads the same.
func sizeShown(n int64) string {
	for i := 3; i >= 0; i-- {
		if u := sizeUnits[i].bytes; n != 0 && n%u == 0 {
			return strconv.FormatInt(n/u, 10) + []string{"KiB", "MiB", "GiB", "TiB"}[i]
		}
	}
	return strconv.FormatInt(n, 10)
}

// sizeFlag is a size on the command line.
type sizeFlag int64

// String, Set and Type make a sizeFlag a flag.
func (f *sizeFlag) String() string { return sizeShown(int64(*f)) }

// Set reads a size.
func (f *sizeFlag) Set(s string) error {
	n, err := parseSize(s)
	*f = sizeFlag(n)
	return err
}

// Type names the flag's values in help texts.
func (f *sizeFlag) Type() string { return "size" }

func configCommand(env lookupEnv) *cobra.Command {
	cmd := configGetCommand(env)
	cmd.Use, cmd.Args = "config", cobra.NoArgs
	cmd.Short = "Show or change the settings of the cluster"
	cmd.Long = `Show or change the settings of the cluster:

` + settingsList()
	cmd.Example = "  quorate config\n  quorate config get dead_grace\n  quorate config set replication_factor=5 split_bytes=128MiB dead_grace=2m"
	cmd.AddCommand(configGetCommand(env), configSetCommand(env))
	return cmd
}

func settingsList() string {
	var b strings.Builder
	for _, s := range settings() {
		fmt.Fprintf(&b, "  %-19s %s\n", s.name, s.about)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func configGetCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "get [SETTING]",
		Short: "Show the settings, or the value of one",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var only *setting
			if len(args) == 1 {
				s, err := findSetting(args[0])
				if err != nil {
					return err
				}
				only = &s
			}
			return f.withClient(func(c *client.Client) error {
				cfg, err := c.ClusterConfig(cmd.Context())
				if err != nil {
					return err
				}
				if only != nil && f.output != formatJSON {
					_, err := fmt.Fprintln(cmd.OutOrStdout(), only.show(&cfg))
					return err
				}
				return f.printConfig(cmd.OutOrStdout(), &cfg)
			})
		},
	}
	f.addTo(cmd, env, formatTable)
	return cmd
}

func configSetCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	var revision uint64
	cmd := &cobra.Command{
		Use:   "set SETTING=VALUE…",
		Short: "Change settings; the others stay",
		Long: `Change settings, all of those given at once or none. Sizes take KiB, MiB, GiB (and KB,
MB, GB by thousands), durations s, m, h.

` + settingsList(),
		Example: "  quorate config set replication_factor=5\n  quorate config set split_bytes=128MiB leader_zone=",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			change, err := parseChange(args)
			if err != nil {
				return err
			}
			return f.withClient(func(c *client.Client) error {
				cfg, err := c.ChangeClusterConfig(cmd.Context(), change, revision)
				if err != nil {
					return err
				}
				if n := cfg.ReplicationFactor; change.ReplicationFactor != nil && n%2 == 0 {
					fmt.Fprintf(cmd.ErrOrStderr(), "note: %d copies survive no more failures than %d: a majority of both is lost with %d\n", n, n-1, n/2)
				}
				return f.printConfig(cmd.OutOrStdout(), &cfg)
			})
		},
	}
	f.addTo(cmd, env, formatTable)
	cmd.Flags().Uint64Var(&revision, "revision", 0, "only if the settings have this revision")
	return cmd
}

func parseChange(args []string) (client.ConfigChange, error) {
	var change client.ConfigChange
	seen := map[string]bool{}
	for _, arg := range args {
		name, value, ok := strings.Cut(arg, "=")
		if !ok {
			return change, usagef("%q: want SETTING=VALUE", arg)
		}
		s, err := findSetting(name)
		if err != nil {
			return change, err
		}
		if seen[s.name] {
			return change, usagef("%s is given more than once", s.name)
		}
		seen[s.name] = true
		if err := s.set(&change, value); err != nil {
			return change, usagef("%s: %w", s.name, err)
		}
	}
	return change, nil
}

func (f *clientFlags) printConfig(w io.Writer, cfg *client.ClusterConfig) error {
	t := table{heading: []string{"SETTING", "VALUE", "MEANING"}}
	for _, s := range settings() {
		t.add(text(s.name), text(s.show(cfg)), text(s.about))
	}
	t.add(text("revision"), text(strconv.FormatUint(cfg.Revision, 10)), text("grows with each change"))
	return f.show(w, cfg, t)
}

func rebalanceCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	var w waitFlag
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "rebalance",
		Short: "Even out replicas and load",
		Long: `Even out replicas, leaders and load over the nodes. The cluster does so by itself unless
auto_balance is off; --dry-run shows the steps and takes none.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.withClient(func(c *client.Client) error {
				plan, err := c.Rebalance(cmd.Context(), dryRun)
				if err != nil {
					return err
				}
				if err := f.printPlan(cmd, c, &plan); err != nil || plan.Operation == nil {
					return err
				}
				return f.began(cmd, c, plan.Operation, w)
			})
		},
	}
	f.addTo(cmd, env, formatTable)
	w.addTo(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show the steps")
	return cmd
}

func (f *clientFlags) printPlan(cmd *cobra.Command, c *client.Client, plan *client.Rebalancing) error {
	out := cmd.OutOrStdout()
	if len(plan.Steps) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "nothing to do")
	}
	if f.output == formatJSON {
		if plan.Operation != nil {
			return nil // its end will be the one document
		}
		return printJSON(out, plan)
	}
	if len(plan.Steps) == 0 {
		return nil
	}
	name := nodeNames(cmd.Context(), c)
	t := table{heading: []string{"STEP", "SHARD", "FROM", "TO", "SIZE", "WHY"}}
	for i := range plan.Steps {
		s := &plan.Steps[i]
		shard := "-"
		if s.Shard != 0 {
			shard = s.Shard.String()
		}
		t.add(text(s.Kind), text(shard), text(name(s.From)), text(name(s.To)), size(s.Bytes), text(shown(s.Reason)))
	}
	w := out
	if plan.Operation != nil {
		w = cmd.ErrOrStderr() // the operation is the answer
	}
	return t.print(w, f.output, colours(w, f.env))
}
