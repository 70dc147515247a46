package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/kv"
)

func problemsCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "problems",
		Short: "Tell what is wrong now, and what helps",
		Long: `Tell what is wrong now, the worst first, each with the command that helps. critical
means that requests fail or data may be lost, warning that there is less redundancy
or balance than asked for, info that it is being worked on.

Exit code 1 if something is critical.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.withClient(func(c *client.Client) error {
				problems, err := c.Problems(cmd.Context())
				if err != nil {
					return err
				}
				if err := f.printProblems(cmd.OutOrStdout(), problems); err != nil {
					return err
				}
				critical := 0
				for i := range problems {
					if problems[i].Severity == kv.SeverityCritical {
						critical++
					}
				}
				if len(problems) == 0 {
					fmt.Fprintln(cmd.ErrOrStderr(), "no problems")
				}
				if critical > 0 {
					return exitError{exitFailure, fmt.Sprintf("%d critical", critical)}
				}
				return nil
			})
		},
	}
	f.addTo(cmd, env, formatTable)
	return cmd
}

func (f *clientFlags) printProblems(w io.Writer, problems []client.Problem) error {
	if f.output == formatJSON {
		if problems == nil {
			problems = []client.Problem{}
		}
		return printJSON(w, problems)
	}
	if len(problems) == 0 {
		return nil
	}
	t := problemsTable(problems)
	return t.print(w, f.output, colours(w, f.env))
}

func problemsTable(problems []client.Problem) table {
	t := table{heading: []string{"SEVERITY", "CODE", "SINCE", "WHAT", "HELP"}}
	for i := range problems {
		p := &problems[i]
		severity := cell{text: string(p.Severity)}
		switch p.Severity {
		case kv.SeverityCritical:
			severity.colour = red
		case kv.SeverityWarning:
			severity.colour = yellow
		}
		t.add(severity, text(shown(p.Code)), text(timeShown(p.Since)), text(shown(p.Summary)), text(dash(shown(p.Help))))
	}
	return t
}

// eventsWait is how long one request waits for events; eventsPause is the time
// between two of them when nobody answers.
const (
	eventsWait  = 5 * time.Second
	eventsPause = time.Second
)

func eventsCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	var follow bool
	var after uint64
	var last int
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Tell what happened in the cluster",
		Long: `Tell what happened in the cluster, the oldest first: elections, splits, merges, moves,
nodes that joined or died. The cluster keeps the last 1,000 events. With --follow those
to come are told as they come; JSON is then one event a line.`,
		Example: "  quorate events --last 20\n  quorate events --follow",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.withClient(func(c *client.Client) error {
				p := eventsPrinter{f: &f, out: cmd.OutOrStdout(), lines: follow, name: nodeNames(cmd.Context(), c), next: after}
				events, err := allEvents(cmd.Context(), c, after)
				if err != nil {
					return err
				}
				if last > 0 && len(events) > last {
					events = events[len(events)-last:]
				}
				if err := p.print(events); err != nil || !follow {
					return err
				}
				return p.follow(cmd.Context(), c, cmd.ErrOrStderr())
			})
		},
	}
	f.addTo(cmd, env, formatTable)
	flags := cmd.Flags()
	flags.BoolVar(&follow, "follow", false, "go on until interrupted")
	flags.Uint64Var(&after, "after", 0, "only events after this sequence number")
	flags.IntVar(&last, "last", 100, "at most so many, the last ones; 0 = all")
	return cmd
}

// allEvents reads all pages.
func allEvents(ctx context.Context, c *client.Client, after uint64) ([]client.Event, error) {
	var all []client.Event
	for {
		events, err := c.Events(ctx, after, kv.EventsMax, 0)
		if err != nil || len(events) == 0 {
			return all, err
		}
		all = append(all, events...)
		after = events[len(events)-1].Seq
	}
}

// eventsPrinter prints events as they come.
type eventsPrinter struct {
	f     *clientFlags
	out   io.Writer
	lines bool // JSON: an event a line, not an array
	name  func(id string) string
	next  uint64 // the last that was printed
	begun bool   // the heading is printed
}

func (p *eventsPrinter) print(events []client.Event) error {
	if n := len(events); n > 0 {
		p.next = events[n-1].Seq
	}
	if p.f.output == formatJSON {
		return p.printJSON(events)
	}
	if len(events) == 0 {
		return nil
	}
	t := table{heading: []string{"SEQ", "TIME", "KIND", "NODE", "SHARD", "WHAT"}}
	for i := range events {
		e := &events[i]
		shard := "-"
		if e.Shard != 0 {
			shard = e.Shard.String()
		}
		t.add(number(e.Seq), text(timeShown(e.Time)), text(shown(e.Kind)), text(p.name(e.Node)), text(shard), text(shown(e.Detail)))
	}
	t.headless = p.begun
	p.begun = true
	return t.print(p.out, p.f.output, colours(p.out, p.f.env))
}

func (p *eventsPrinter) printJSON(events []client.Event) error {
	if !p.lines {
		if events == nil {
			events = []client.Event{}
		}
		return printJSON(p.out, events)
	}
	enc := json.NewEncoder(p.out)
	enc.SetEscapeHTML(false)
	for i := range events {
		if err := enc.Encode(&events[i]); err != nil {
			return err
		}
	}
	return nil
}

// follow prints what comes until ctx ends.
func (p *eventsPrinter) follow(ctx context.Context, c *client.Client, talk io.Writer) error {
	wait := min(eventsWait, p.f.timeout/2)
	silent := false
	for {
		events, err := c.Events(ctx, p.next, kv.EventsMax, wait)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			silent = false
			if len(events) > 0 && !p.known(events) {
				p.name = nodeNames(ctx, c)
			}
			if err := p.print(events); err != nil {
				return err
			}
			continue
		case !client.IsUnavailable(err):
			return err
		case !silent:
			silent = true
			fmt.Fprintf(talk, "no answer (%s); trying on\n", err)
		}
		if !pause(ctx, eventsPause) {
			return nil
		}
	}
}

// known reports whether the names of all nodes in the events are known.
func (p *eventsPrinter) known(events []client.Event) bool {
	for i := range events {
		if id := events[i].Node; id != "" && p.name(id) == id {
			return false
		}
	}
	return true
}

// pause lets time pass; false: ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
