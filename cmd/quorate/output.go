package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/quorate-db/quorate/kv"
)

// format is what -o chooses.
type format string

const (
	formatTable format = "table" // for people: aligned, with a heading
	formatPlain format = "plain" // for scripts: tabs, no heading
	formatJSON  format = "json"
)

// String, Set and Type make a format a flag.
func (f *format) String() string { return string(*f) }

// Set checks the value.
func (f *format) Set(s string) error {
	switch format(s) {
	case formatTable, formatPlain, formatJSON:
		*f = format(s)
		return nil
	}
	return fmt.Errorf("want table, json or plain")
}

// Type names the flag's values in help texts.
func (f *format) Type() string { return "table|json|plain" }

// printJSON prints one value as an indented document.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// table is rows under a heading.
type table struct {
	heading  []string
	rows     [][]cell
	headless bool // the heading was printed before
}

// cell is a text with a colour.
type cell struct {
	text   string
	colour string // an SGR code, "" = none
	right  bool   // aligned
}

const (
	red    = "31"
	green  = "32"
	yellow = "33"
)

func text(s string) cell { return cell{text: s} }

func number[N int | int64 | uint64](n N) cell { return cell{text: fmt.Sprint(n), right: true} }

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

// show prints what a command has to tell: v as JSON, or the table.
func (f *clientFlags) show(w io.Writer, v any, t table) error {
	if f.output == formatJSON {
		return printJSON(w, v)
	}
	return t.print(w, f.output, colours(w, f.env))
}

// print writes the table in a format other than JSON.
func (t *table) print(w io.Writer, f format, colours bool) error {
	var b strings.Builder
	if f == formatPlain {
		for _, row := range t.rows {
			for i, c := range row {
				if i > 0 {
					b.WriteByte('\t')
				}
				b.WriteString(c.text)
			}
			b.WriteByte('\n')
		}
		_, err := io.WriteString(w, b.String())
		return err
	}
	widths := make([]int, len(t.heading))
	for i, h := range t.heading {
		widths[i] = utf8.RuneCountInString(h)
		for _, row := range t.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
	}
	heading := make([]cell, len(t.heading))
	for i, h := range t.heading {
		heading[i] = cell{text: h, right: len(t.rows) > 0 && t.rows[0][i].right}
	}
	rows := t.rows
	if !t.headless {
		rows = append([][]cell{heading}, rows...)
	}
	for _, row := range rows {
		writeRow(&b, row, widths, colours)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeRow(b *strings.Builder, row []cell, widths []int, colours bool) {
	for i, c := range row {
		if i > 0 {
			b.WriteString("  ")
		}
		fill := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text))
		if c.right {
			b.WriteString(fill)
		}
		if colours && c.colour != "" {
			b.WriteString("\x1b[" + c.colour + "m" + c.text + "\x1b[0m")
		} else {
			b.WriteString(c.text)
		}
		if !c.right && i < len(row)-1 {
			b.WriteString(fill)
		}
	}
	b.WriteByte('\n')
}

// shown gives bytes of the database in a form that is safe to print: as they are
// if they are printable text without surrounding quotes, else as a quoted Go string. A terminal
// must not obey what somebody has stored.
func shown(s string) string {
	plain := utf8.ValidString(s) && !strings.HasPrefix(s, `"`)
	for _, r := range s {
		plain = plain && (unicode.IsPrint(r) && r != '\u200b')
	}
	if plain {
		return s
	}
	return strconv.Quote(s)
}

// terminal reports whether a stream is a terminal.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// colours follows https://no-color.org.
func colours(w io.Writer, env lookupEnv) bool {
	if v, ok := env("NO_COLOR"); ok && v != "" {
		return false
	}
	if v, ok := env("TERM"); ok && v == "dumb" {
		return false
	}
	return terminal(w)
}

// bytesShown gives a size for people.
func bytesShown(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	f, unit := float64(n)/1024, 0
	for ; f >= 1024 && unit < 4; unit++ {
		f /= 1024
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + " " + string("KMGTP"[unit]) + "iB"
}

// jsonBytes are the two forms of bytes in JSON, as in the HTTP API.
func jsonBytes(into map[string]any, name string, b []byte) {
	if utf8.Valid(b) {
		into[name] = string(b)
	} else {
		into[name+"_b64"] = b
	}
}

func versionShown(v kv.Version) string {
	if v == 0 {
		return ""
	}
	return v.String()
}
