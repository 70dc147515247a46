package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/kv"
)

// What a terminal is told (ECMA-48, and xterm's other screen).
const (
	ansiEnter = "\x1b[?1049h\x1b[?25l" // other screen, no cursor
	ansiLeave = "\x1b[?25h\x1b[?1049l"
	ansiHome  = "\x1b[H"
	ansiEOL   = "\x1b[K"
	ansiBelow = "\x1b[J"
)

// topShardsMax bounds the shards of a frame; a terminal's height bounds them too.
const topShardsMax = 20

func topCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	var once bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch the cluster live",
		Long: `Watch the cluster live: nodes, the busiest shards, leaders, rates, latencies, what is wrong
and what is under way. Ctrl-C ends it. Rates of requests and latencies are
of the time between two frames, from each node's /metrics; READS/S and WRITES/S are of
the replicas on a node, wherever the requests arrived.

With --once, or where standard output is no terminal, one frame is printed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval < 100*time.Millisecond {
				return usagef("--interval %s: want at least 100ms", interval)
			}
			secure, err := f.tls()
			if err != nil {
				return usageError{err}
			}
			return f.withClient(func(c *client.Client) error {
				t := &top{c: c, meters: newMeters(isHTTPS(f.endpoints[0]), secure), interval: interval, colours: colours(cmd.OutOrStdout(), env)}
				defer t.meters.close()
				if out, ok := cmd.OutOrStdout().(*os.File); ok && terminal(out) && !once {
					return t.live(cmd.Context(), out)
				}
				return t.once(cmd.Context(), cmd.OutOrStdout(), f.output)
			})
		},
	}
	f.addTo(cmd, env, formatTable)
	cmd.Flags().BoolVar(&once, "once", false, "print one frame and end")
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "time between two frames")
	return cmd
}

// top draws frames.
type top struct {
	c        *client.Client
	meters   *meters
	interval time.Duration
	colours  bool
	err      error // of the last look, nil: it succeeded
	last     topFrame
}

// topFrame is what one look gives.
type topFrame struct {
	Time       time.Time          `json:"time"`
	Cluster    client.Cluster     `json:"cluster"`
	Nodes      []client.Node      `json:"nodes"`
	Shards     []client.Shard     `json:"shards"`
	Operations []client.Operation `json:"operations"` // under way
	Problems   []client.Problem   `json:"problems"`
	Requests   map[string]traffic `json:"requests"` // by node id; of the time since the last look
}

// look asks for everything side by side. The control plane may be without a leader; what
// it would tell is left out then.
func (t *top) look(ctx context.Context) (topFrame, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	frame := topFrame{Time: time.Now(), Operations: []client.Operation{}, Problems: []client.Problem{}, Requests: map[string]traffic{}}
	var nodesErr, shardsErr, clusterErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		if frame.Nodes, nodesErr = t.c.Nodes(ctx); nodesErr == nil {
			frame.Requests = t.meters.read(ctx, frame.Nodes)
		}
	})
	wg.Go(func() { frame.Shards, shardsErr = t.c.Shards(ctx) })
	wg.Go(func() { frame.Cluster, clusterErr = t.c.Cluster(ctx) })
	wg.Go(func() {
		all, err := t.c.Operations(ctx)
		for i := range all {
			if err == nil && !all[i].Over() {
				frame.Operations = append(frame.Operations, all[i])
			}
		}
	})
	wg.Go(func() {
		if problems, err := t.c.Problems(ctx); err == nil {
			frame.Problems = append(frame.Problems, problems...)
		}
	})
	wg.Wait()
	for _, err := range []error{nodesErr, shardsErr, clusterErr} {
		if err != nil {
			return frame, err
		}
	}
	return frame, nil
}

// once prints one frame. Rates need two looks.
func (t *top) once(ctx context.Context, out io.Writer, f format) error {
	if _, err := t.look(ctx); err != nil {
		return err
	}
	if !pause(ctx, t.interval) {
		return nil
	}
	frame, err := t.look(ctx)
	if err != nil {
		return err
	}
	if f == formatJSON {
		return printJSON(out, &frame)
	}
	t.last = frame
	_, err = io.WriteString(out, strings.Join(t.draw(0), "\n")+"\n")
	return err
}

// live draws until ctx ends.
func (t *top) live(ctx context.Context, out *os.File) error {
	if _, err := io.WriteString(out, ansiEnter); err != nil {
		return err
	}
	defer io.WriteString(out, ansiLeave) // whatever comes, the screen is given back
	for {
		frame, err := t.look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if t.err = err; err == nil {
			t.last = frame
		}
		width, height, err := term.GetSize(int(out.Fd()))
		if err != nil {
			width, height = 80, 24
		}
		var b strings.Builder
		b.WriteString(ansiHome)
		for i, line := range t.draw(height) {
			if i == height {
				break
			}
			if i > 0 {
				b.WriteString("\r\n")
			}
			b.WriteString(cut(line, width))
			b.WriteString(ansiEOL)
		}
		b.WriteString(ansiBelow)
		if _, err := io.WriteString(out, b.String()); err != nil {
			return err
		}
		if !pause(ctx, t.interval) {
			return nil
		}
	}
}

// cut shortens a line to so many characters, not counting those that colour it.
func cut(line string, width int) string {
	var b strings.Builder
	for seen := 0; line != ""; {
		if rest, ok := strings.CutPrefix(line, "\x1b["); ok {
			end := strings.IndexByte(rest, 'm') + 1
			b.WriteString("\x1b[" + rest[:end])
			line = rest[end:]
			continue
		}
		_, n := utf8.DecodeRuneInString(line)
		if seen++; seen <= width {
			b.WriteString(line[:n])
		}
		line = line[n:]
	}
	return b.String()
}

// draw gives the lines of a frame; height 0 = as many as there are.
func (t *top) draw(height int) []string {
	f := &t.last
	name := namesOf(f.Nodes)
	var total traffic
	for _, r := range f.Requests {
		total.PerSecond += r.PerSecond
	}
	head := fmt.Sprintf("quorate  %s  nodes %d/%d alive  shards %d, %d led  copies %d  %s requests/s", f.Time.UTC().Format("15:04:05"),
		f.Cluster.NodesAlive, f.Cluster.Nodes, f.Cluster.Shards, f.Cluster.ShardsWithLeader, f.Cluster.ReplicationFactor, perSecond(total.PerSecond).text)
	if t.err != nil {
		head += "  no answer: " + shown(t.err.Error())
	}
	lines := []string{head, ""}
	section := func(tab table) {
		if len(tab.rows) == 0 {
			return
		}
		var b strings.Builder
		_ = tab.print(&b, formatTable, t.colours) // a Builder takes everything
		lines = append(lines, strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")...)
		lines = append(lines, "")
	}
	problems, operations := problemsTable(f.Problems), operationsTable(f.Operations)
	section(t.nodesTable())
	section(problems)
	section(operations)
	room := topShardsMax
	if height > 0 {
		room = max(1, min(room, height-len(lines)-2))
	}
	section(busiest(f.Shards, name, room))
	return lines[:len(lines)-1]
}

func (t *top) nodesTable() table {
	tab := table{heading: []string{"NODE", "ZONE", "STATE", "REPLICAS", "LEADERS", "DATA", "DISK", "FREE", "READS/S", "WRITES/S", "REQ/S", "P50", "P99"}}
	for i := range t.last.Nodes {
		n := &t.last.Nodes[i]
		r, ok := t.last.Requests[n.ID]
		p50, p99, rate := cell{text: "-", right: true}, cell{text: "-", right: true}, cell{text: "-", right: true}
		if ok {
			rate = perSecond(r.PerSecond)
			if r.PerSecond > 0 {
				p50, p99 = micros(int64(r.P50*1e6)), micros(int64(r.P99*1e6))
			}
		}
		label := n.Name
		if n.MetaRole == kv.RoleLeader {
			label += " *"
		}
		tab.add(text(shown(label)), text(dash(shown(n.Zone))), nodeState(n), number(n.Replicas), number(n.Leaders), size(n.Bytes), size(n.DiskBytes), freeShown(n),
			perSecond(n.ReadsPerSecond), perSecond(n.WritesPerSecond), rate, p50, p99)
	}
	return tab
}

// busiest gives the table of the shards that need looking at: those without a leader,
// those that change, and then the busiest.
func busiest(shards []client.Shard, name func(string) string, room int) table {
	order := make([]*client.Shard, len(shards))
	for i := range shards {
		order[i] = &shards[i]
	}
	rank := func(s *client.Shard) float64 {
		switch {
		case s.Leader == "":
			return 2e18
		case s.Change != nil:
			return 1e18
		}
		return s.ReadsPerSecond + s.WritesPerSecond
	}
	sort.SliceStable(order, func(i, j int) bool { return rank(order[i]) > rank(order[j]) })
	picked := make([]client.Shard, 0, room)
	for _, s := range order[:min(room, len(order))] {
		picked = append(picked, *s)
	}
	return shardsTable(picked, name)
}
