package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/kv"
)

func getCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	var r readFlags
	var k keyFlag
	cmd := &cobra.Command{
		Use:     "get KEY",
		Short:   "Print the value of a key",
		Long:    "Print the value of a key, byte for byte. With -o json, print what else is known of it too.",
		Example: "  quorate get greeting\n  quorate get greeting -o json\n  quorate get --stale greeting",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := k.decode(args[0])
			if err != nil {
				return err
			}
			o, err := r.options()
			if err != nil {
				return err
			}
			return f.withClient(func(c *client.Client) error {
				item, err := c.Get(cmd.Context(), key, o)
				if err != nil {
					return err
				}
				return printValue(cmd.OutOrStdout(), f.output, item)
			})
		},
	}
	f.addTo(cmd, env, formatPlain)
	r.addTo(cmd)
	k.addTo(cmd)
	return cmd
}

func printValue(w io.Writer, f format, item client.Item) error {
	if f == formatJSON {
		return printJSON(w, itemJSON(&item))
	}
	_, err := w.Write(item.Value)
	if err == nil && terminal(w) && !bytes.HasSuffix(item.Value, []byte("\n")) {
		_, err = fmt.Fprintln(w) // or else the shell's prompt hides the end
	}
	return err
}

// itemJSON gives an item as the HTTP API writes it.
func itemJSON(item *client.Item) map[string]any {
	out := map[string]any{"version": item.Version.String()}
	jsonBytes(out, "key", []byte(item.Key))
	if item.Value != nil {
		jsonBytes(out, "value", item.Value)
	}
	if item.ContentType != "" {
		out["content_type"] = item.ContentType
	}
	if !item.Expires.IsZero() {
		out["expires"] = item.Expires.UTC().Format(time.RFC3339Nano)
	}
	return out
}

// putFlags are the flags of put.
type putFlags struct {
	ttl         time.Duration
	ifMatch     versionFlag
	ifAbsent    bool
	contentType string
	literal     bool
}

func putCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	var p putFlags
	var k keyFlag
	cmd := &cobra.Command{
		Use:   "put KEY [VALUE|-|@FILE]",
		Short: "Write a key",
		Long: `Write a key and print its new version.

The value is the second argument; without one, or with -, it is read from
standard input; with @FILE it is the file's content.`,
		Example: "  quorate put greeting hello\n  quorate put photo @cat.jpg --content-type image/jpeg\n" +
			"  quorate put session data --ttl 30s\n  quorate put greeting hi --if-match 1846382012833726464",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := k.decode(args[0])
			if err != nil {
				return err
			}
			value, err := p.value(cmd.InOrStdin(), args[1:])
			if err != nil {
				return err
			}
			return f.withClient(func(c *client.Client) error {
				res, err := c.Put(cmd.Context(), key, value, client.PutOptions{
					TTL: p.ttl, IfMatch: kv.Version(p.ifMatch), IfAbsent: p.ifAbsent, ContentType: p.contentType,
				})
				if err != nil {
					return err
				}
				return printWritten(cmd.OutOrStdout(), f.output, res.Version.String(), map[string]any{
					"version": res.Version.String(), "created": res.Created, "replayed": res.Replayed,
				})
			})
		},
	}
	f.addTo(cmd, env, formatPlain)
	k.addTo(cmd)
	flags := cmd.Flags()
	flags.DurationVar(&p.ttl, "ttl", 0, "let the key expire after this time")
	flags.Var(&p.ifMatch, "if-match", "write only if this is the key's version")
	flags.BoolVar(&p.ifAbsent, "if-absent", false, "write only if there is no such key")
	flags.StringVar(&p.contentType, "content-type", "", "media type to store with the value")
	flags.BoolVar(&p.literal, "literal", false, "take VALUE as it is, even if it is - or begins with @")
	cmd.MarkFlagsMutuallyExclusive("if-match", "if-absent")
	return cmd
}

func (p *putFlags) value(stdin io.Reader, args []string) ([]byte, error) {
	switch {
	case len(args) == 0 || (args[0] == "-" && !p.literal):
		return readValue(stdin, "standard input")
	case strings.HasPrefix(args[0], "@") && !p.literal:
		file, err := os.Open(args[0][1:])
		if err != nil {
			return nil, err
		}
		defer file.Close()
		return readValue(file, args[0][1:])
	default:
		return []byte(args[0]), nil
	}
}

// readValue reads at most one byte more than a value may have: the server says
// what is wrong with that.
func readValue(r io.Reader, name string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, kv.JSONBodyBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

// printWritten prints the one word that matters of a write, or all as JSON.
func printWritten(w io.Writer, f format, word string, all map[string]any) error {
	if f == formatJSON {
		return printJSON(w, all)
	}
	_, err := fmt.Fprintln(w, word)
	return err
}

// delFlags are the flags of del.
type delFlags struct {
	ifMatch            versionFlag
	prefix, start, end string
	all                bool
}

func delCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	var d delFlags
	var k keyFlag
	cmd := &cobra.Command{
		Use:     "del [KEY]",
		Aliases: []string{"delete"},
		Short:   "Delete a key or a range of keys",
		Long: `Delete a key, or with --prefix, --start and --end, or --all a range of keys, and
print how many there were. A range is not deleted atomically.`,
		Example: "  quorate del greeting\n  quorate del --prefix sessions/",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := d.check(cmd, args); err != nil {
				return err
			}
			if err := k.decodeAll(&d.prefix, &d.start, &d.end); err != nil {
				return err
			}
			return f.withClient(func(c *client.Client) error {
				res, err := d.run(cmd, c, &k, args)
				if err != nil {
					return err
				}
				return printWritten(cmd.OutOrStdout(), f.output, strconv.Itoa(res.Deleted), map[string]any{"deleted": res.Deleted})
			})
		},
	}
	f.addTo(cmd, env, formatPlain)
	k.addTo(cmd)
	flags := cmd.Flags()
	flags.Var(&d.ifMatch, "if-match", "delete only if this is the key's version")
	flags.StringVar(&d.prefix, "prefix", "", "delete all keys that begin with this")
	flags.StringVar(&d.start, "start", "", "delete all keys from this one on")
	flags.StringVar(&d.end, "end", "", "delete all keys before this one")
	flags.BoolVar(&d.all, "all", false, "delete every key of the cluster")
	cmd.MarkFlagsMutuallyExclusive("all", "prefix", "start")
	cmd.MarkFlagsMutuallyExclusive("all", "prefix", "end")
	return cmd
}

func (d *delFlags) check(cmd *cobra.Command, args []string) error {
	ranges := cmd.Flags().Changed("prefix") || cmd.Flags().Changed("start") || cmd.Flags().Changed("end") || d.all
	switch {
	case ranges && len(args) > 0:
		return usagef("give a key or a range, not both")
	case !ranges && len(args) == 0:
		return usagef("give a key, or a range by --prefix, --start, --end or --all")
	case ranges && d.ifMatch != 0:
		return usagef("--if-match goes with a key")
	case !d.all && ranges && d.prefix == "" && d.start == "" && d.end == "":
		return usagef("an empty range would be every key: say so by --all")
	}
	return nil
}

func (d *delFlags) run(cmd *cobra.Command, c *client.Client, k *keyFlag, args []string) (client.DeleteResult, error) {
	ctx := cmd.Context()
	switch {
	case d.all:
		return c.DeleteAll(ctx)
	case d.prefix != "":
		return c.DeletePrefix(ctx, d.prefix)
	case len(args) == 0:
		return c.DeleteRange(ctx, d.start, d.end)
	}
	key, err := k.decode(args[0])
	if err != nil {
		return client.DeleteResult{}, err
	}
	return c.Delete(ctx, key, client.DeleteOptions{IfMatch: kv.Version(d.ifMatch)})
}

func addCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	var k keyFlag
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:     "add KEY [DELTA]",
		Short:   "Add to a counter",
		Long:    "Add to a counter, 1 if nothing else is said, and print what it is then. A key that is not there counts as 0.",
		Example: "  quorate add visits\n  quorate add stock -- -3",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := k.decode(args[0])
			if err != nil {
				return err
			}
			delta := int64(1)
			if len(args) == 2 {
				if delta, err = strconv.ParseInt(args[1], 10, 64); err != nil {
					return usagef("delta %q: want a whole number", args[1])
				}
			}
			return f.withClient(func(c *client.Client) error {
				res, err := c.Add(cmd.Context(), key, delta, client.AddOptions{TTL: ttl})
				if err != nil {
					return err
				}
				return printWritten(cmd.OutOrStdout(), f.output, strconv.FormatInt(res.Value, 10), map[string]any{
					"value": strconv.FormatInt(res.Value, 10), "version": res.Version.String(), "replayed": res.Replayed,
				})
			})
		},
	}
	f.addTo(cmd, env, formatPlain)
	k.addTo(cmd)
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "let the key expire after this time")
	return cmd
}

func txnCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "txn [-|@FILE]",
		Short: "Apply a transaction",
		Long: `Apply a transaction, read as JSON from standard input or a file, and print its
result as JSON. The form is that of POST /v1/txn: if all of "if" hold, "then" is
applied, otherwise "else"; without "else" a false condition ends with exit code 4.`,
		Example: `  echo '{"if":[{"key":"lock","exists":false}],"then":[{"op":"put","key":"lock","value":"me"}]}' | quorate txn`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			body, err := txnBody(cmd.InOrStdin(), args)
			if err != nil {
				return err
			}
			txn, err := client.ParseTxn(body)
			if err != nil {
				return usageError{err}
			}
			return f.withClient(func(c *client.Client) error {
				res, err := c.Txn(cmd.Context(), txn)
				if err != nil {
					return err
				}
				return printJSON(cmd.OutOrStdout(), txnJSON(&txn, &res))
			})
		},
	}
	f.addTo(cmd, env, formatJSON)
	return cmd
}

func txnBody(stdin io.Reader, args []string) ([]byte, error) {
	if len(args) == 1 && args[0] != "-" && !strings.HasPrefix(args[0], "@") {
		return nil, usageError{errors.New("give the transaction on standard input, or a file as @FILE")}
	}
	var p putFlags
	return p.value(stdin, args)
}

// txnJSON gives a transaction's result as the HTTP API writes it.
func txnJSON(txn *client.Txn, res *client.TxnResult) map[string]any {
	ran := txn.Then
	if !res.Succeeded {
		ran = txn.Else
	}
	results := make([]map[string]any, len(ran))
	for i, op := range ran {
		r := map[string]any{}
		switch op.Kind {
		case client.OpPut:
			r["created"] = res.Results[i].Created
		case client.OpDelete:
			r["deleted"] = res.Results[i].Deleted
		case client.OpAdd:
			r["value"] = strconv.FormatInt(res.Results[i].Number, 10)
		case client.OpGet:
			if item := res.Results[i].Item; item != nil {
				r = itemJSON(item)
			}
			r["found"] = res.Results[i].Item != nil
		}
		results[i] = r
	}
	out := map[string]any{"succeeded": res.Succeeded, "results": results, "replayed": res.Replayed}
	if res.Version != 0 {
		out["version"] = res.Version.String()
	}
	return out
}
