package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/internal/audit"
)

func loginCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	var remove bool
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Keep a token for a server, to be sent with every command",
		Long: `Keep a token for each --endpoint, in a file that only you can read. The token is taken from
--token-file or QUORATE_TOKEN, else from standard input, and tried before it is kept.`,
		Example: "  quorate login --endpoint http://db1:7001\n  quorate login < token\n  quorate login --remove",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if remove {
				for _, e := range f.endpoints {
					if err := forget(env, e); err != nil {
						return err
					}
				}
				return nil
			}
			if err := f.askToken(cmd); err != nil {
				return err
			}
			return f.withClient(func(c *client.Client) error {
				t, err := c.OwnToken(cmd.Context())
				if err != nil {
					return err
				}
				for _, e := range f.endpoints {
					path, err := store(env, e, f.given)
					if err != nil {
						return err
					}
					fmt.Fprintf(cmd.ErrOrStderr(), "token %s (%s) is kept in %s\n", t.ID, grantsText(t.Grants), path)
				}
				return nil
			})
		},
	}
	f.addTo(cmd, env, formatPlain)
	cmd.Flags().BoolVar(&remove, "remove", false, "remove what is kept")
	return cmd
}

// tokenInputMax bounds what is read as a token.
const tokenInputMax = 1 << 10

// askToken takes the token that is to be kept; f sends it from then on.
func (f *clientFlags) askToken(cmd *cobra.Command) error {
	text, _ := f.env(tokenEnv)
	if f.tokenFile != "" {
		var err error
		if text, err = f.token(); err != nil {
			return err
		}
	}
	if in, ok := cmd.InOrStdin().(*os.File); text == "" && ok && term.IsTerminal(int(in.Fd())) {
		fmt.Fprint(cmd.ErrOrStderr(), "token: ")
		b, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		text = string(b)
	} else if text == "" {
		line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), tokenInputMax)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		text = line
	}
	if f.given = strings.TrimSpace(text); f.given == "" {
		return usagef("no token is given")
	}
	return nil
}

func auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Look into audit logs",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
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
	cmd.AddCommand(verify)
	return cmd
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
