package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/kv"
)

func nodesCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "List the nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.withClient(func(c *client.Client) error {
				nodes, err := c.Nodes(cmd.Context())
				if err != nil {
					return err
				}
				out := cmd.OutOrStdout()
				if f.output == formatJSON {
					return printJSON(out, nodes)
				}
				t := nodesTable(nodes)
				return t.print(out, f.output, colours(out, env))
			})
		},
	}
	f.addTo(cmd, env, formatTable)
	return cmd
}

func nodesTable(nodes []client.Node) table {
	t := table{heading: []string{"NAME", "ID", "ZONE", "HTTP", "PEER", "STATE", "META", "REPLICAS", "LEADERS", "DISK", "RELEASE"}}
	for _, n := range nodes {
		state := cell{text: "alive", colour: green}
		switch {
		case !n.Alive:
			state = cell{text: "dead", colour: red}
		case n.Draining:
			state = cell{text: "draining", colour: yellow}
		}
		t.add(text(shown(n.Name)), text(n.ID), text(dash(shown(n.Zone))), text(n.HTTPAddress), text(n.PeerAddress), state,
			text(dash(string(n.MetaRole))), number(n.Replicas), number(n.Leaders),
			cell{text: bytesShown(n.DiskBytes), right: true}, text(dash(shown(n.Release))))
	}
	return t
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func shardsCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	var k keyFlag
	var key string
	cmd := &cobra.Command{
		Use:   "shards",
		Short: "List the shards",
		Long:  "List the shards in the order of their ranges, or with --key the one that holds a key.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := k.decodeAll(&key); err != nil {
				return err
			}
			return f.withClient(func(c *client.Client) error {
				shards, err := shardsOf(cmd, c, key)
				if err != nil {
					return err
				}
				out := cmd.OutOrStdout()
				if f.output == formatJSON {
					return printJSON(out, shards)
				}
				nodes, err := c.Nodes(cmd.Context())
				if err != nil {
					return err
				}
				t := shardsTable(shards, nodes)
				return t.print(out, f.output, colours(out, env))
			})
		},
	}
	f.addTo(cmd, env, formatTable)
	k.addTo(cmd)
	cmd.Flags().StringVar(&key, "key", "", "only the shard that holds this key")
	return cmd
}

func shardsOf(cmd *cobra.Command, c *client.Client, key string) ([]client.Shard, error) {
	if key == "" {
		return c.Shards(cmd.Context())
	}
	shard, err := c.ShardOf(cmd.Context(), key)
	return []client.Shard{shard}, err
}

func shardsTable(shards []client.Shard, nodes []client.Node) table {
	names := map[string]string{}
	for _, n := range nodes {
		names[n.ID] = shown(n.Name)
	}
	name := func(id string) string {
		if n := names[id]; n != "" {
			return n
		}
		return dash(id)
	}
	t := table{heading: []string{"SHARD", "START", "END", "LEADER", "TERM", "REPLICAS", "KEYS", "SIZE"}}
	for _, s := range shards {
		leader := text(name(s.Leader))
		if s.Leader == "" {
			leader = cell{text: "none", colour: red}
		}
		var replicas []string
		for _, r := range s.Replicas {
			mark := ""
			if r.Failure != "" {
				mark = "!"
			} else if r.Role == kv.RoleLearner {
				mark = "+"
			}
			replicas = append(replicas, name(r.Node)+mark)
		}
		start, end := shown(s.Start), shown(s.End)
		if s.ID == kv.MetaShard {
			start, end = "(meta)", "(meta)"
		}
		t.add(text(s.ID.String()), text(dash(start)), text(dash(end)), leader, number(s.Term),
			text(dash(strings.Join(replicas, ","))), number(s.Keys), cell{text: bytesShown(s.Bytes), right: true})
	}
	return t
}

// healthTimeout is the default of health: probes are asked often and must not
// pile up.
const healthTimeout = 2 * time.Second

func healthCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	var live bool
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask a node whether it is ready",
		Long: `Ask one node whether it is ready to serve, and print what it checks. Made for the
health checks of containers: exit code 0 if it is ready, 5 if it is not or does not answer.`,
		Example: "  quorate health\n  quorate health --live --endpoint http://127.0.0.1:7002",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(f.endpoints) != 1 {
				return usagef("--endpoint: health asks one node")
			}
			return f.withClient(func(c *client.Client) error {
				var checks []client.Check
				var err error
				if live {
					err = c.Live(cmd.Context(), f.endpoints[0])
				} else {
					checks, err = c.Readiness(cmd.Context(), f.endpoints[0])
				}
				if printErr := printHealth(cmd.OutOrStdout(), f.output, env, checks, err); printErr != nil {
					return printErr
				}
				if err != nil {
					return exitError{exitUnavailable, err.Error()}
				}
				return nil
			})
		},
	}
	f.addTo(cmd, env, formatPlain)
	f.timeout = healthTimeout
	cmd.Flags().Lookup("timeout").DefValue = healthTimeout.String()
	cmd.Flags().BoolVar(&live, "live", false, "ask only whether the process is alive")
	return cmd
}

func printHealth(w io.Writer, f format, env lookupEnv, checks []client.Check, err error) error {
	if f == formatJSON {
		return printJSON(w, map[string]any{"healthy": err == nil, "checks": checks})
	}
	t := table{heading: []string{"CHECK", "STATE", "WHY"}}
	for _, c := range checks {
		state := cell{text: "ok", colour: green}
		if !c.OK {
			state = cell{text: "failed", colour: red}
		}
		t.add(text(shown(c.Name)), state, text(shown(c.Detail)))
	}
	if f == formatTable {
		return t.print(w, f, colours(w, env))
	}
	if err == nil {
		t.rows = append([][]cell{{text("healthy")}}, t.rows...)
	}
	return t.print(w, f, false)
}

func versionCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	var server bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this binary",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := thisVersion()
			if server {
				return f.withClient(func(c *client.Client) error {
					theirs, err := c.Version(cmd.Context())
					if err != nil {
						return err
					}
					v["server"] = theirs
					return printVersion(cmd.OutOrStdout(), f.output, v)
				})
			}
			return printVersion(cmd.OutOrStdout(), f.output, v)
		},
	}
	f.addTo(cmd, env, formatPlain)
	cmd.Flags().BoolVar(&server, "server", false, "ask the node at --endpoint too")
	return cmd
}

// thisVersion describes the binary by what the linker and Go left in it.
func thisVersion() map[string]string {
	v := map[string]string{"release": release, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if v["release"] == "" {
		v["release"] = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v["commit"] = s.Value
		case "vcs.modified":
			if dirty, err := strconv.ParseBool(s.Value); err == nil && dirty {
				v["modified"] = "true"
			}
		}
	}
	return v
}

func printVersion(w io.Writer, f format, v map[string]string) error {
	if f == formatJSON {
		return printJSON(w, v)
	}
	line := fmt.Sprintf("quorate %s %s %s", v["release"], v["go"], v["platform"])
	if c := v["commit"]; c != "" {
		line += " " + c[:min(len(c), 12)]
	}
	if _, err := fmt.Fprintln(w, line); err != nil || v["server"] == "" {
		return err
	}
	_, err := fmt.Fprintln(w, "server", v["server"])
	return err
}
