package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/kv"
)

func tokenCommand(env lookupEnv) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke tokens",
		Long: `Make, list and revoke tokens, for a cluster whose nodes run with --auth. All of it takes a
token that may administer; 'quorate login' stores it.

Roles, each of which takes in those before it: reader, writer, admin. A grant is for the
keys that begin with a prefix, or for all; admin is for the whole cluster. A grant with
deny denies its role and those that take it in: deny wins.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(tokenCreateCommand(env), tokenListCommand(env), tokenRevokeCommand(env))
	return cmd
}

// grantFlags say what a token may do.
type grantFlags struct {
	role     string
	prefixes []string
	deny     bool
	more     []string
	keys     keyFlag
}

// grants gives them in the order of the command line: --role first.
func (g *grantFlags) grants() ([]client.Grant, error) {
	var out []client.Grant
	switch {
	case g.role == "" && len(g.more) == 0:
		return nil, usagef("say what the token may do: --role, or --grant")
	case g.role == "" && (len(g.prefixes) > 0 || g.deny):
		return nil, usagef("--prefix and --deny go with --role")
	case g.role != "" && len(g.prefixes) == 0:
		g.prefixes = []string{""}
	}
	for _, p := range g.prefixes {
		prefix, err := g.keys.decode(p)
		if err != nil {
			return nil, err
		}
		out = append(out, client.Grant{Role: kv.TokenRole(g.role), Prefix: prefix, Deny: g.deny})
	}
	for _, text := range g.more {
		grant, err := g.parse(text)
		if err != nil {
			return nil, err
		}
		out = append(out, grant)
	}
	for _, grant := range out {
		switch grant.Role {
		case kv.RoleReader, kv.RoleWriter:
		case kv.RoleAdmin:
			if grant.Prefix != "" {
				return nil, usagef("admin is for the whole cluster and takes no prefix")
			}
		default:
			return nil, usagef("role %q: want reader, writer or admin", grant.Role)
		}
	}
	return out, nil
}

// parse reads "[deny] ROLE [PREFIX]".
func (g *grantFlags) parse(text string) (client.Grant, error) {
	rest, deny := strings.CutPrefix(text, "deny ")
	role, prefix, _ := strings.Cut(rest, " ")
	decoded, err := g.keys.decode(prefix)
	return client.Grant{Role: kv.TokenRole(role), Prefix: decoded, Deny: deny}, err
}

func tokenCreateCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	var g grantFlags
	var order client.TokenOrder
	var ttl time.Duration
	var out tokenOut
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token, and print it, once",
		Example: `  quorate token create --role reader --prefix app/ --name app --ttl 720h
  quorate token create --role writer --prefix app/ --prefix shared/
  quorate token create --grant 'writer app/' --grant 'deny reader app/secret/'
  quorate token create --role reader --deny --name prometheus --out token   # metrics, and no keys`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if order.Grants, err = g.grants(); err != nil {
				return err
			}
			order.TTL = client.Duration(ttl)
			if kept, err := out.ready(cmd.ErrOrStderr()); kept || err != nil {
				return err
			}
			return f.withClient(func(c *client.Client) error {
				t, err := c.CreateToken(cmd.Context(), order)
				if err != nil {
					return err
				}
				if out.path != "" {
					return out.write(cmd.ErrOrStderr(), t)
				}
				if f.output == formatJSON {
					return printJSON(cmd.OutOrStdout(), t)
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "token %s; this is the only time that it is shown:\n", t.ID)
				_, err = fmt.Fprintln(cmd.OutOrStdout(), t.Secret)
				return err
			})
		},
	}
	f.addTo(cmd, env, formatPlain)
	g.keys.addTo(cmd)
	flags := cmd.Flags()
	flags.StringVar(&g.role, "role", "", "reader, writer or admin")
	flags.StringArrayVar(&g.prefixes, "prefix", nil, "with --role: only keys that begin with this; may be repeated")
	flags.BoolVar(&g.deny, "deny", false, "with --role: deny instead of allow")
	flags.StringArrayVar(&g.more, "grant", nil, "'[deny] ROLE [PREFIX]', as one word; may be repeated")
	flags.StringVar(&order.Name, "name", "", "what the token is for; shown in lists and in the audit log")
	flags.DurationVar(&ttl, "ttl", 0, "how long it counts, such as 720h; 0 = until it is revoked")
	flags.StringVar(&out.path, "out", "", "write it to this file instead of printing it, with mode 0600; the file must not exist")
	flags.BoolVar(&out.keep, "keep", false, "with --out: if the file is there already, that is fine, and no token is made")
	flags.Float64Var(&order.Rate, "rate", 0, "requests a second that it may make at each node; 0 = no limit")
	return cmd
}

func tokenListCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List all tokens, without their secrets",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.withClient(func(c *client.Client) error {
				all, err := c.Tokens(cmd.Context())
				if err != nil {
					return err
				}
				t := table{heading: []string{"ID", "NAME", "GRANTS", "CREATED", "EXPIRES", "RATE"}}
				for i := range all {
					k := &all[i]
					expires, limit := "never", "-"
					if !k.Expires.IsZero() {
						expires = k.Expires.UTC().Format(time.RFC3339)
					}
					if k.Rate > 0 {
						limit = fmt.Sprintf("%g/s", k.Rate)
					}
					t.add(text(k.ID), text(shown(k.Name)), text(grantsText(k.Grants)), text(k.Created.UTC().Format(time.RFC3339)), text(expires), text(limit))
				}
				return f.show(cmd.OutOrStdout(), all, t)
			})
		},
	}
	f.addTo(cmd, env, formatTable)
	return cmd
}

func grantsText(grants []client.Grant) string {
	words := make([]string, len(grants))
	for i, g := range grants {
		words[i] = string(g.Role)
		if g.Deny {
			words[i] = "deny " + words[i]
		}
		if g.Prefix != "" {
			words[i] += " " + shown(g.Prefix)
		}
	}
	return strings.Join(words, ", ")
}

func tokenRevokeCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "revoke ID",
		Short: "Make a token count nowhere any more",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !kv.ValidTokenID(args[0]) { // perhaps a whole token, which is not to be shown
				return usagef("want a token's id, 16 hexadecimal digits ('quorate token list')")
			}
			return f.withClient(func(c *client.Client) error {
				t, err := c.RevokeToken(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if f.output == formatJSON {
					return printJSON(cmd.OutOrStdout(), t)
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "token %s (%s) is revoked\n", t.ID, t.Name)
				return nil
			})
		},
	}
	f.addTo(cmd, env, formatPlain)
	return cmd
}
