package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/kv"
)

// operationPoll is how often an operation that is followed is looked at.
const operationPoll = 200 * time.Millisecond

func operationsCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "operations [ID]",
		Short: "List the operations under way and the last that ended",
		Long: `List the operations under way and the last that ended, the newest first, or one of
them by its id. An operation is a change that takes a while: a node that is removed, a
move, a split. It goes on whoever leads the meta shard, and whether or not
somebody waits for it.`,
		Example: "  quorate operations\n  quorate operations 12 -o json\n  quorate operations wait 12\n  quorate operations cancel 12",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.withClient(func(c *client.Client) error {
				if len(args) == 0 {
					all, err := c.Operations(cmd.Context())
					if err != nil {
						return err
					}
					return f.printOperations(cmd.OutOrStdout(), all, all)
				}
				id, err := operationID(args[0])
				if err != nil {
					return err
				}
				o, err := c.Operation(cmd.Context(), id)
				if err != nil {
					return err
				}
				return f.printOperation(cmd.OutOrStdout(), &o)
			})
		},
	}
	f.addTo(cmd, env, formatTable)
	cmd.AddCommand(operationWaitCommand(env), operationCancelCommand(env))
	return cmd
}

func operationWaitCommand(env lookupEnv) *cobra.Command {
	return aboutOperation(env, &cobra.Command{
		Use:   "wait ID",
		Short: "Follow an operation to its end",
		Long:  "Follow an operation to its end. Exit code 0 if it is done, 1 if it failed or was cancelled.",
	}, func(f *clientFlags, cmd *cobra.Command, c *client.Client, id uint64) error {
		o, err := c.Operation(cmd.Context(), id)
		if err != nil {
			return err
		}
		return f.follow(cmd, c, &o)
	})
}

func operationCancelCommand(env lookupEnv) *cobra.Command {
	return aboutOperation(env, &cobra.Command{
		Use:   "cancel ID",
		Short: "End an operation before its end",
		Long:  "End an operation before its end. What was begun may have to be finished first; what is done stays done.",
	}, func(f *clientFlags, cmd *cobra.Command, c *client.Client, id uint64) error {
		o, err := c.CancelOperation(cmd.Context(), id)
		if err != nil {
			return err
		}
		return f.printOperation(cmd.OutOrStdout(), &o)
	})
}

// aboutOperation completes a command about one operation, which its argument names.
func aboutOperation(env lookupEnv, cmd *cobra.Command, do func(*clientFlags, *cobra.Command, *client.Client, uint64) error) *cobra.Command {
	var f clientFlags
	cmd.Args = cobra.ExactArgs(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := operationID(args[0])
		if err != nil {
			return err
		}
		return f.withClient(func(c *client.Client) error { return do(&f, cmd, c, id) })
	}
	f.addTo(cmd, env, formatTable)
	return cmd
}

func operationID(arg string) (uint64, error) { return idArg("operation", arg) }

// idArg reads the number of a shard or an operation.
func idArg(what, arg string) (uint64, error) {
	id, err := strconv.ParseUint(arg, 10, 64)
	if err != nil || id == 0 {
		return 0, usagef("%s %q: want a number, as 'quorate %ss' lists them", what, arg, what)
	}
	return id, nil
}

// printOperations prints a table of operations; asJSON is what is printed as JSON.
func (f *clientFlags) printOperations(w io.Writer, all []client.Operation, asJSON any) error {
	return f.show(w, asJSON, operationsTable(all))
}

func (f *clientFlags) printOperation(w io.Writer, o *client.Operation) error {
	return f.printOperations(w, []client.Operation{*o}, o)
}

func operationsTable(all []client.Operation) table {
	t := table{heading: []string{"ID", "KIND", "TARGET", "STATE", "DONE", "STARTED", "UPDATED", "DETAIL"}}
	for i := range all {
		o := &all[i]
		state := cell{text: string(o.State)}
		switch o.State {
		case kv.OperationFailed, kv.OperationCancelled:
			state.colour = red
		case kv.OperationDone:
			state.colour = green
		}
		t.add(number(o.ID), text(string(o.Kind)), text(shown(o.Target)), state, text(doneOf(o)),
			text(timeShown(o.Started)), text(timeShown(o.Updated)), text(dash(shown(operationDetail(o)))))
	}
	return t
}

func operationDetail(o *client.Operation) string {
	if o.Error != "" {
		return o.Error
	}
	return o.Detail
}

func doneOf(o *client.Operation) string {
	if o.Total == 0 {
		return "-"
	}
	return fmt.Sprintf("%d/%d", o.Done, o.Total)
}

func timeShown(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// waitFlag is the flag of the commands that begin an operation.
type waitFlag struct{ noWait bool }

func (w *waitFlag) addTo(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.noWait, "no-wait", false, "do not wait until it is done")
}

// beginsOperation makes a command that begins an operation.
func beginsOperation(env lookupEnv, cmd *cobra.Command, f *clientFlags, begin func(cmd *cobra.Command, c *client.Client, args []string) (client.Operation, error)) *cobra.Command {
	var w waitFlag
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return f.withClient(func(c *client.Client) error {
			o, err := begin(cmd, c, args)
			if err != nil {
				return err
			}
			return f.began(cmd, c, &o, w)
		})
	}
	f.addTo(cmd, env, formatTable)
	w.addTo(cmd)
	return cmd
}

// began follows an operation that a command has begun, unless it is not to wait.
func (f *clientFlags) began(cmd *cobra.Command, c *client.Client, o *client.Operation, w waitFlag) error {
	if !w.noWait {
		return f.follow(cmd, c, o)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "operation %d goes on; 'quorate operations wait %d' follows it\n", o.ID, o.ID)
	return f.printOperation(cmd.OutOrStdout(), o)
}

// follow shows how an operation gets on, on stderr, until it is over. Whatever nodes
// fail meanwhile, the operation goes on, and so does this.
func (f *clientFlags) follow(cmd *cobra.Command, c *client.Client, o *client.Operation) error {
	ctx, talk := cmd.Context(), cmd.ErrOrStderr()
	view := newOperationView(talk)
	defer view.close()
	tick := time.NewTicker(operationPoll)
	defer tick.Stop()
	for !o.Over() {
		view.show(o)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return f.leave(o)
		}
		next, err := c.Operation(ctx, o.ID)
		switch {
		case ctx.Err() != nil:
			return f.leave(o)
		case err == nil:
			*o = next
		case client.IsUnavailable(err):
			view.say("no answer (" + err.Error() + "); the operation goes on, and so do I")
		default:
			return err
		}
	}
	view.show(o)
	view.close()
	if err := f.printOperation(cmd.OutOrStdout(), o); err != nil {
		return err
	}
	switch o.State {
	case kv.OperationDone:
		return nil
	default:
		return fmt.Errorf("operation %d %s: %s", o.ID, o.State, shown(operationDetail(o)))
	}
}

func (f *clientFlags) leave(o *client.Operation) error {
	help := fmt.Sprintf("interrupted; operation %d goes on: 'quorate operations wait %d' follows it", o.ID, o.ID)
	if o.Cancellable {
		help += fmt.Sprintf(", 'quorate operations cancel %d' ends it", o.ID)
	}
	return exitError{exitFailure, help}
}

// operationView shows how an operation gets on: as a bar on a terminal, else as a
// line for each change.
type operationView struct {
	w    io.Writer
	bar  *progressbar.ProgressBar // nil: lines
	last string
}

func newOperationView(w io.Writer) *operationView { return &operationView{w: w} }

func (v *operationView) show(o *client.Operation) {
	line := strings.TrimSuffix(fmt.Sprintf("%s %s: %s", o.Kind, shown(o.Target), shown(operationDetail(o))), ": ")
	if !terminal(v.w) {
		if o.Total > 0 {
			line += fmt.Sprintf(" (%s)", doneOf(o))
		}
		v.say(line)
		return
	}
	if o.Total == 0 {
		v.say(line)
		return
	}
	if v.bar == nil {
		v.bar = progressbar.NewOptions64(o.Total, progressbar.OptionSetWriter(v.w), progressbar.OptionSetWidth(30),
			progressbar.OptionShowCount(), progressbar.OptionSetPredictTime(true), progressbar.OptionClearOnFinish())
	}
	v.bar.ChangeMax64(max(o.Total, 1))
	v.bar.Describe(line)
	_ = v.bar.Set64(min(o.Done, o.Total)) // a bar that cannot be drawn is no failure
}

// say prints a line, once as long as it stays the same.
func (v *operationView) say(line string) {
	if line == v.last {
		return
	}
	v.last = line
	if v.bar != nil {
		_ = v.bar.Clear()
	}
	fmt.Fprintln(v.w, line)
}

func (v *operationView) close() {
	if v.bar != nil {
		_ = v.bar.Finish()
		v.bar = nil
	}
}

// nodeNames gives the names of nodes by their ids; a node that is not known keeps
// its id. That nobody answers is no reason to print nothing.
func nodeNames(ctx context.Context, c *client.Client) func(id string) string {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		nodes = nil
	}
	return namesOf(nodes)
}

func namesOf(nodes []client.Node) func(id string) string {
	names := map[string]string{}
	for _, n := range nodes {
		names[n.ID] = shown(n.Name)
	}
	return func(id string) string {
		if n := names[id]; n != "" {
			return n
		}
		return dash(id)
	}
}
