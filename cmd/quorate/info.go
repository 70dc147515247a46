package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/quorate-db/quorate/client"
)

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
	f.anonymous = true // a container is healthy before there is a token, and without
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
