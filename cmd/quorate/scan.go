package main

import (
	"encoding/json"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/quorate-db/quorate/client"
)

// scanFlags are the flags of scan.
type scanFlags struct {
	clientFlags
	readFlags
	key keyFlag
	rng client.Range
}

// valueShownMax is how much of a value a table shows.
const valueShownMax = 60

func scanCommand(env lookupEnv) *cobra.Command {
	var f scanFlags
	cmd := &cobra.Command{
		Use:   "scan",
		Short: "List keys in order",
		Long: `List the keys of a range in order, over all shards.

A table shows the beginning of each value. -o plain prints key, tab, value, and
-o json one object a line; what is not printable text is quoted or in base64.`,
		Example: "  quorate scan --prefix users/\n  quorate scan --start a --end b --limit 0 --keys-only -o plain",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if f.rng.Read, err = f.options(); err != nil {
				return err
			}
			if f.rng.Limit < 0 {
				return usagef("--limit %d: want 0 or more", f.rng.Limit)
			}
			if err := f.key.decodeAll(&f.rng.Prefix, &f.rng.Start, &f.rng.End); err != nil {
				return err
			}
			return f.withClient(func(c *client.Client) error { return f.run(cmd, c) })
		},
	}
	f.clientFlags.addTo(cmd, env, formatTable)
	f.readFlags.addTo(cmd)
	f.key.addTo(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.rng.Prefix, "prefix", "", "only keys that begin with this")
	flags.StringVar(&f.rng.Start, "start", "", "first key")
	flags.StringVar(&f.rng.End, "end", "", "key before which to stop")
	flags.IntVar(&f.rng.Limit, "limit", 100, "how many keys at most; 0 = all")
	flags.IntVar(&f.rng.PageItems, "page-items", 0, "how many keys to fetch at once (default: the server's)")
	flags.BoolVar(&f.rng.Reverse, "reverse", false, "from the end down")
	flags.BoolVar(&f.rng.KeysOnly, "keys-only", false, "leave the values out")
	cmd.MarkFlagsMutuallyExclusive("prefix", "start")
	cmd.MarkFlagsMutuallyExclusive("prefix", "end")
	return cmd
}

// run prints items as they come, a table when all are there.
func (f *scanFlags) run(cmd *cobra.Command, c *client.Client) error {
	out := cmd.OutOrStdout()
	limit, n := f.rng.Limit, 0
	if limit > 0 {
		f.rng.Limit++ // one more tells whether there is more
	}
	t := table{heading: []string{"KEY", "VERSION", "VALUE"}}
	if f.rng.KeysOnly {
		t.heading = t.heading[:2]
	}
	for item, err := range c.Scan(cmd.Context(), f.rng) {
		if err != nil {
			return err
		}
		if n++; limit > 0 && n > limit {
			fmt.Fprintf(cmd.ErrOrStderr(), "there are more than %d; use --limit to see them\n", limit)
			break
		}
		if f.output == formatTable {
			t.add(f.row(&item)...)
			continue
		}
		if err := f.line(out, &item); err != nil {
			return err
		}
	}
	if f.output == formatTable {
		return t.print(out, formatTable, colours(out, f.env))
	}
	return nil
}

func (f *scanFlags) row(item *client.Item) []cell {
	cells := []cell{text(shown(item.Key)), text(item.Version.String())}
	if f.rng.KeysOnly {
		return cells
	}
	value := item.Value
	if len(value) <= valueShownMax {
		return append(cells, text(shown(string(value))))
	}
	cut := value[:valueShownMax]
	for i := 0; i < utf8.UTFMax && !utf8.Valid(cut); i++ {
		cut = cut[:len(cut)-1] // not in the middle of a character
	}
	if !utf8.Valid(cut) {
		cut = value[:valueShownMax]
	}
	return append(cells, text(shown(string(cut))+fmt.Sprintf("… (%s)", bytesShown(int64(len(value))))))
}

func (f *scanFlags) line(w io.Writer, item *client.Item) error {
	if f.output == formatJSON {
		return json.NewEncoder(w).Encode(itemJSON(item))
	}
	line := shown(item.Key)
	if !f.rng.KeysOnly {
		line += "\t" + shown(string(item.Value))
	}
	_, err := fmt.Fprintln(w, line)
	return err
}
