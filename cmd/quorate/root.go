package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// envPrefix begins the environment variable of every flag: --data-dir is
// QUORATE_DATA_DIR.
const envPrefix = "QUORATE_"

// serverCommands are the commands that run nodes instead of talking to them.
func serverCommands(env lookupEnv) []*cobra.Command {
	return []*cobra.Command{serveCommand(env), devCommand(env), secretCommand(env), certCommand(env)}
}

// newRoot puts the command line together: the commands that talk to a cluster,
// and those given.
func newRoot(std streams, env lookupEnv, more ...*cobra.Command) *cobra.Command {
	root := &cobra.Command{
		Use:   "quorate",
		Short: "A consistent, replicated key-value database behind plain HTTP",
		Long: `A consistent, replicated key-value database behind plain HTTP.

Start a cluster on this machine with 'quorate dev', then talk to it:

  quorate put greeting hello
  quorate get greeting
  quorate nodes

Every flag can also be set by an environment variable: --endpoint by
QUORATE_ENDPOINT, and so on. Exit codes: 0 ok, 1 error, 2 usage, 3 not found,
4 condition false, 5 unavailable, 6 outcome unknown.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	root.AddGroup(
		&cobra.Group{ID: "server", Title: "Run nodes:"},
		&cobra.Group{ID: "data", Title: "Read and write:"},
		&cobra.Group{ID: "cluster", Title: "Look at the cluster:"},
		&cobra.Group{ID: "change", Title: "Change the cluster:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, cmd := range cmds {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	add("server", more...)
	add("data", getCommand(env), putCommand(env), delCommand(env), addCommand(env), scanCommand(env), txnCommand(env))
	add("cluster", nodesCommand(env), shardsCommand(env), topCommand(env), problemsCommand(env), eventsCommand(env), operationsCommand(env), auditCommand(env),
		healthCommand(env), benchCommand(env))
	add("change", drainCommand(env), rebalanceCommand(env), configCommand(env), tokenCommand(env), loginCommand(env))
	root.AddCommand(versionCommand(env))
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	prepare(root, env)
	return root
}

// prepare makes a command and those below it read flags from the environment
// and report everything that is wrong with the command line as a usageError.
func prepare(cmd *cobra.Command, env lookupEnv) {
	for _, sub := range cmd.Commands() {
		prepare(sub, env)
	}
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	before := cmd.PreRunE
	if plain := cmd.PreRun; before == nil && plain != nil {
		before = func(cmd *cobra.Command, args []string) error { plain(cmd, args); return nil }
	}
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if err := flagsFromEnv(cmd.Flags(), env); err != nil {
			return usageError{err}
		}
		// cobra checks these two again later, but cannot say that they are usage errors.
		if err := cmd.ValidateRequiredFlags(); err != nil {
			return usageError{err}
		}
		if err := cmd.ValidateFlagGroups(); err != nil {
			return usageError{err}
		}
		if before != nil {
			return before(cmd, args)
		}
		return nil
	}
}

// flagsFromEnv sets the flags that the command line left alone.
func flagsFromEnv(flags *pflag.FlagSet, env lookupEnv) error {
	var failed error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "help" || failed != nil {
			return
		}
		name := envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if value, ok := env(name); ok && value != "" {
			if err := flags.Set(f.Name, value); err != nil {
				failed = fmt.Errorf("environment variable %s: %w", name, err)
			}
		}
	})
	return failed
}
