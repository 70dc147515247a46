package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/internal/audit"
	"github.com/quorate-db/quorate/kv"
)

func auditCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	var q auditFlags
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Tell what was denied and who administered",
		Long: `Tell which requests were denied and which administered, the oldest first, as the audit logs
of all nodes have it. It takes a token that may administer. A node that does not answer
is named on standard error.`,
		Example: "  quorate audit --last 20\n  quorate audit --since 1h --node db2\n  quorate audit --since 2026-11-29T00:00:00Z --last 0 -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := q.validate(); err != nil {
				return err
			}
			return f.withClient(func(c *client.Client) error {
				page, err := q.entries(cmd.Context(), c, time.Now())
				if err != nil {
					return err
				}
				if err := f.show(cmd.OutOrStdout(), page.Entries, auditTable(page.Entries)); err != nil {
					return err
				}
				tellAuditGaps(cmd.ErrOrStderr(), &page)
				return nil
			})
		},
	}
	f.addTo(cmd, env, formatTable)
	q.addTo(cmd)
	cmd.AddCommand(auditVerifyCommand())
	return cmd
}

// auditFlags say which entries are wanted.
type auditFlags struct {
	last  int
	since string
	node  string
}

func (q *auditFlags) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.IntVar(&q.last, "last", kv.AuditDefault, "at most so many, the last ones; 0 = all")
	flags.StringVar(&q.since, "since", "", "none older than this: a time like 2026-11-29T15:04:05Z, or a duration before now like 1h")
	flags.StringVar(&q.node, "node", "", "of this node alone, by name or id")
}

func (q *auditFlags) validate() error {
	if q.last < 0 {
		return usagef("--last: want a number that is not negative")
	}
	_, err := q.from(time.Time{})
	return err
}

// from gives the time that --since means.
func (q *auditFlags) from(now time.Time) (time.Time, error) {
	if q.since == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(q.since); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339Nano, q.since)
	if err != nil {
		return t, usagef("--since %q: want a time like 2026-11-29T15:04:05Z, or a duration like 1h", q.since)
	}
	return t, nil
}

// entries reads pages until there are as many as wanted, and turns them round: the oldest
// is first then. What is missing is of the last page that said so.
func (q *auditFlags) entries(ctx context.Context, c *client.Client, now time.Time) (client.AuditPage, error) {
	since, err := q.from(now)
	if err != nil {
		return client.AuditPage{}, err
	}
	all := client.AuditPage{Entries: []client.AuditEntry{}}
	next := client.AuditQuery{Since: since, Node: q.node}
	for {
		next.Limit = kv.AuditMax
		if q.last > 0 {
			next.Limit = min(kv.AuditMax, q.last-len(all.Entries))
		}
		page, err := c.Audit(ctx, next)
		if err != nil {
			return all, err
		}
		all.Entries = append(all.Entries, page.Entries...)
		if len(page.Missing) > 0 {
			all.Missing = page.Missing
		}
		if page.Next.IsZero() || q.last > 0 && len(all.Entries) >= q.last {
			slices.Reverse(all.Entries)
			return all, nil
		}
		next.Before = page.Next
	}
}

func auditTable(entries []client.AuditEntry) table {
	t := table{heading: []string{"TIME", "NODE", "SEQ", "TOKEN", "NAME", "METHOD", "ROUTE", "TARGET", "FROM", "STATUS", "CODE"}}
	for i := range entries {
		e := &entries[i]
		status := cell{text: strconv.Itoa(e.Status), right: true}
		if e.Status >= 400 {
			status.colour = red
		}
		t.add(text(timeShown(e.Time)), text(shown(e.NodeName)), number(e.Seq), text(dash(shown(e.Token))), text(dash(shown(e.TokenName))), text(shown(e.Method)),
			text(shown(e.Route)), text(dash(shown(e.Target))), text(shown(e.From)), status, text(dash(shown(e.Code))))
	}
	return t
}

// tellAuditGaps says what is not in the table.
func tellAuditGaps(w io.Writer, page *client.AuditPage) {
	for _, g := range page.Missing {
		fmt.Fprintf(w, "entries of %s are missing: %s\n", shown(g.Name), shown(g.Why))
	}
	var unlogged uint64
	for i := range page.Entries {
		unlogged += page.Entries[i].Unlogged
	}
	if unlogged > 0 {
		fmt.Fprintf(w, "%d denied requests were too many to be logged\n", unlogged)
	}
}

func auditVerifyCommand() *cobra.Command {
	var head string
	verify := &cobra.Command{
		Use:   "verify FILE...",
		Short: "Check that no line of an audit log was changed, removed or inserted",
		Long: `Check the hash chain of an audit log: DATA_DIR/audit.log of one node, or that and the
files before it, the oldest first. Exit code 1 if a line is wrong.

Whoever can write the file can also write a whole new chain. So note the head that this
prints in another place: with --head, a log is accepted only if that line is in it.`,
		Example: "  quorate audit verify audit.log\n  quorate audit verify audit.log.2 audit.log.1 audit.log --head 5f0c…",
		Args:    cobra.MinimumNArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return verifyAudit(cmd.OutOrStdout(), args, head) },
	}
	verify.Flags().StringVar(&head, "head", "", "hash of a line that has to be in the log")
	return verify
}

func verifyAudit(out io.Writer, paths []string, head string) error {
	v := audit.Verifier{Want: head}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = errors.Join(v.File(f), f.Close())
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	s := v.Summary()
	if head != "" && !s.Wanted {
		return fmt.Errorf("no line has the hash %s: lines are missing, or all are new", head)
	}
	if s.Lines == 0 {
		_, err := fmt.Fprintln(out, "good: no lines")
		return err
	}
	fmt.Fprintf(out, "good: %d lines, numbers %d to %d, %s to %s\n", s.Lines, s.First, s.Last, s.Begin, s.End)
	if s.Unlogged > 0 {
		fmt.Fprintf(out, "%d denied requests were too many to be logged\n", s.Unlogged)
	}
	_, err := fmt.Fprintf(out, "head: %s\n", s.Head)
	return err
}
