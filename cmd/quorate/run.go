package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/kv"
)

// Exit codes; scripts rely on them.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitCondition   = 4
	exitUnavailable = 5
	exitUnknown     = 6
)

// streams are the standard streams of a command. Data goes to out, everything
// that is said to a person to err.
type streams struct {
	in  io.Reader
	out io.Writer
	err io.Writer
}

// lookupEnv gives an environment variable.
type lookupEnv func(name string) (string, bool)

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitError ends the process with a code of its own; message "" says nothing
// more.
type exitError struct {
	code    int
	message string
}

func (e exitError) Error() string { return e.message }

// run is the command line without the process around it.
func run(ctx context.Context, args []string, std streams, env lookupEnv) int {
	return execute(ctx, newRoot(std, env, serverCommands(env)...), args, std.err)
}

func execute(ctx context.Context, root *cobra.Command, args []string, stderr io.Writer) int {
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if text := err.Error(); text != "" {
		fmt.Fprintf(stderr, "quorate: %s\n", text)
	}
	code := exitCode(err)
	if code == exitUsage {
		fmt.Fprintf(stderr, "Run '%s --help' for usage.\n", cmd.CommandPath())
	}
	return code
}

// exitCode is total: every error has one.
func exitCode(err error) int {
	var usage usageError
	var exit exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &usage):
		return exitUsage
	}
	var e *client.Error
	switch {
	case !errors.As(err, &e):
		return exitFailure
	case e.Outcome == kv.OutcomeUnknown:
		return exitUnknown
	case e.Code == kv.CodeNotFound:
		return exitNotFound
	case e.Code == kv.CodeConditionFailed:
		return exitCondition
	case client.IsUnavailable(err):
		return exitUnavailable
	default:
		return exitFailure
	}
}
