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
