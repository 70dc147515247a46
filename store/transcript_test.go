package store

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

// TestTranscripts runs testdata/*. Rewrite the answers with -rewrite.
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/transcripts", func(t *testing.T, path string) {
		tr := &transcript{t: t, fs: engine.NewMemFS()}
		tr.open()
		defer func() { mustClose(t, tr.db) }()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return tr.run(d) })
	})
}

// transcript is a replica that is driven by text. Versions start at 1.
type transcript struct {
	t   *testing.T
	fs  *engine.MemFS
	db  *DB
	r   *Replica
	log logWriter
}

func (tr *transcript) open() {
	tr.db = mustOpen(tr.t, tr.fs)
	tr.r = mustReplica(tr.t, tr.db)
}

func (tr *transcript) run(d *datadriven.TestData) string {
	switch d.Cmd {
	case "term": // term [ceiling=n]: the first entry of a new term
		tr.log.term++
		tr.log.index++
		var ceiling uint64
		d.MaybeScanArgs(tr.t, "ceiling", &ceiling)
		stamp := kv.Stamp{Term: tr.log.term, Ceiling: kv.Version(ceiling), NowMs: tr.log.nowMs}
		mustApply(tr.t, tr.r, kv.Entry{Index: tr.log.index, Term: tr.log.term, Stamp: stamp})
		tr.log.last = tr.r.Applied().LastVersion
		return tr.applied()
	case "clock": // clock ms: set the leader's clock
		d.ScanArgs(tr.t, "ms", &tr.log.nowMs)
		return "ok\n"
	case "apply": // one command a line, all in one entry [version=n] [stale]
		return tr.apply(d)
	case "sweep":
		return tr.sweep(d)
	case "get", "scan":
		return tr.read(d)
	case "changes":
		return tr.changes(d)
	case "stats":
		st := tr.r.Stats()
		return fmt.Sprintf("keys=%d bytes=%d requests=%d horizon=%d\n%s", st.Keys, st.Bytes, st.Requests, st.Horizon, tr.applied())
	case "reopen":
		mustClose(tr.t, tr.db)
		tr.open()
		return tr.applied()
	}
	tr.t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
	return ""
}

func (tr *transcript) applied() string {
	a := tr.r.Applied()
	return fmt.Sprintf("applied %d/%d last=%d ceiling=%d now=%d\n", a.Term, a.Index, a.LastVersion, a.Ceiling, a.NowMs)
}

func (tr *transcript) apply(d *datadriven.TestData) string {
	var cmds []*kvpb.Command
	for _, line := range strings.Split(strings.TrimSpace(d.Input), "\n") {
		cmds = append(cmds, parseCommand(tr.t, line))
	}
	e := tr.log.entry(cmds...)
	if d.HasArg("stale") {
		e.Term++
	}
	var version uint64
	if d.MaybeScanArgs(tr.t, "version", &version); version != 0 {
		e.Stamp.Version = kv.Version(version)
	}
	res := mustApply(tr.t, tr.r, e)[0]
	tr.log.last = tr.r.Applied().LastVersion
	if res.Rejected {
		return "rejected\n"
	}
	var out strings.Builder
	for _, b := range res.Results {
		formatResult(&out, decodeResult(tr.t, b))
	}
	return out.String()
}

func (tr *transcript) sweep(d *datadriven.TestData) string {
	args := &kvpb.SweepArgs{}
	d.MaybeScanArgs(tr.t, "expire", &args.ExpireBeforeMs)
	d.MaybeScanArgs(tr.t, "retain", &args.RetainFromVersion)
	d.MaybeScanArgs(tr.t, "requests", &args.RequestFloorMs)
	d.MaybeScanArgs(tr.t, "items", &args.MaxItems)
	e := tr.log.entry(&kvpb.Command{Kind: kvpb.CommandKind_COMMAND_SWEEP, Sweep: args})
	res := mustApply(tr.t, tr.r, e)[0]
	tr.log.last = tr.r.Applied().LastVersion
	var out strings.Builder
	formatResult(&out, decodeResult(tr.t, res.Results[0]))
	return out.String()
}

func (tr *transcript) read(d *datadriven.TestData) string {
	req := &kvpb.ReadRequest{}
	d.MaybeScanArgs(tr.t, "at", &req.At)
	d.MaybeScanArgs(tr.t, "min", &req.MinVersion)
	if d.Cmd == "get" {
		for _, k := range strings.Fields(d.Input) {
			req.Gets = append(req.Gets, []byte(k))
		}
	} else {
		s := &kvpb.Scan{Reverse: d.HasArg("reverse"), KeysOnly: d.HasArg("keys")}
		var start, end, delimiter string
		d.MaybeScanArgs(tr.t, "start", &start)
		d.MaybeScanArgs(tr.t, "end", &end)
		d.MaybeScanArgs(tr.t, "delimiter", &delimiter)
		d.MaybeScanArgs(tr.t, "limit", &s.Limit)
		d.MaybeScanArgs(tr.t, "bytes", &s.LimitBytes)
		d.MaybeScanArgs(tr.t, "prefix", &s.PrefixLen)
		s.Start, s.End, s.Delimiter = []byte(start), []byte(end), []byte(delimiter)
		req.Scan = s
	}
	resp := tr.r.Read(req)
	var out strings.Builder
	fmt.Fprintf(&out, "%s last=%d\n", statusName(resp.Status), resp.LastVersion)
	for i, g := range resp.Gets {
		fmt.Fprintf(&out, "  %s: %s\n", req.Gets[i], formatItem(g.Item))
	}
	for _, it := range resp.Items {
		fmt.Fprintf(&out, "  %s: %s\n", it.Key, formatItem(it))
	}
	for _, p := range resp.CommonPrefixes {
		fmt.Fprintf(&out, "  %s…\n", p)
	}
	if len(resp.Resume) > 0 {
		fmt.Fprintf(&out, "  resume %q\n", resp.Resume)
	}
	return out.String()
}

func (tr *transcript) changes(d *datadriven.TestData) string {
	var after uint64
	var prefix string
	var limit int
	d.MaybeScanArgs(tr.t, "after", &after)
	d.MaybeScanArgs(tr.t, "prefix", &prefix)
	d.MaybeScanArgs(tr.t, "limit", &limit)
	changes, through, err := tr.r.Changes(kv.Version(after), []byte(prefix), limit)
	if err != nil {
		return fmt.Sprintf("%s\n", kv.CodeOf(err))
	}
	var out strings.Builder
	for _, c := range changes {
		what := "put"
		if c.Deleted {
			what = "del"
		}
		fmt.Fprintf(&out, "%d %s %s over %d\n", c.Version, what, c.Key, c.Previous)
	}
	fmt.Fprintf(&out, "through %d\n", through)
	return out.String()
}

// parseCommand reads [id=n:issued:fingerprint] txn { & txn }, where txn is
// [if guard{, guard} :] op{; op} [else op{; op}].
func parseCommand(t *testing.T, line string) *kvpb.Command {
	cmd := write()
	if rest, ok := strings.CutPrefix(line, "id="); ok {
		var id string
		id, line, _ = strings.Cut(rest, " ")
		cmd.Request = &kvpb.RequestID{}
		if _, err := fmt.Sscanf(id, "%d:%d:%d", &cmd.Request.Lo, &cmd.Request.IssuedMs, &cmd.Request.Fingerprint); err != nil {
			t.Fatalf("%q: %v", id, err)
		}
	}
	for _, part := range strings.Split(line, " & ") {
		txn := &kvpb.Txn{}
		part = strings.TrimSpace(part)
		if rest, ok := strings.CutPrefix(part, "if "); ok {
			var guards string
			guards, part, _ = strings.Cut(rest, " : ")
			for _, g := range strings.Split(guards, ", ") {
				txn.Guards = append(txn.Guards, parseGuard(t, strings.Fields(g)))
			}
		}
		thenOps, elseOps, _ := strings.Cut(part, " else ")
		txn.Then, txn.Otherwise = parseOps(t, thenOps), parseOps(t, elseOps)
		cmd.Txns = append(cmd.Txns, txn)
	}
	return cmd
}

func parseGuard(t *testing.T, f []string) *kvpb.Guard {
	g := &kvpb.Guard{Key: []byte(f[1])}
	switch f[0] {
	case "exists":
		g.Kind = kvpb.GuardKind_GUARD_EXISTS
	case "absent":
		g.Kind = kvpb.GuardKind_GUARD_ABSENT
	case "value":
		g.Kind, g.Value = kvpb.GuardKind_GUARD_VALUE_EQ, []byte(f[2])
	case "version", "notversion":
		g.Kind = kvpb.GuardKind_GUARD_VERSION_EQ
		if f[0] == "notversion" {
			g.Kind = kvpb.GuardKind_GUARD_VERSION_NE
		}
		for _, v := range f[2:] {
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			g.Versions = append(g.Versions, n)
		}
	default:
		t.Fatalf("guard %q", f)
	}
	return g
}

func parseOps(t *testing.T, text string) (ops []*kvpb.Op) {
	for _, part := range strings.Split(text, ";") {
		f := strings.Fields(part)
		if len(f) == 0 {
			continue
		}
		op := &kvpb.Op{Key: []byte(f[1])}
		var plain []string
		for _, a := range f[2:] {
			switch name, value, _ := strings.Cut(a, "="); name {
			case "ttl":
				op.TtlMs, _ = strconv.ParseInt(value, 10, 64)
			case "type":
				op.ContentType = value
			default:
				plain = append(plain, a)
			}
		}
		switch f[0] {
		case "put":
			op.Kind, op.Value = kvpb.OpKind_OP_PUT, []byte(strings.Join(plain, " "))
		case "del":
			op.Kind = kvpb.OpKind_OP_DELETE
		case "get":
			op.Kind = kvpb.OpKind_OP_GET
		case "add":
			op.Kind = kvpb.OpKind_OP_ADD
			op.Delta, _ = strconv.ParseInt(plain[0], 10, 64)
		case "delrange":
			op.Kind, op.EndKey = kvpb.OpKind_OP_DELETE_RANGE, []byte(plain[0])
			if len(plain) > 1 {
				n, _ := strconv.ParseUint(plain[1], 10, 32)
				op.Limit = uint32(n)
			}
		default:
			t.Fatalf("operation %q", f)
		}
		ops = append(ops, op)
	}
	return ops
}

func statusName(s kvpb.Status) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "STATUS_"))
}

func formatResult(out *strings.Builder, res *kvpb.Result) {
	out.WriteString(statusName(res.Status))
	if res.Replayed {
		out.WriteString(" replayed")
	}
	if res.More {
		out.WriteString(" more")
	}
	if d := res.Descriptor_; d != nil {
		fmt.Fprintf(out, " [%s, %s)", d.Start, d.End)
	}
	if res.Detail != "" {
		fmt.Fprintf(out, ": %s", res.Detail)
	}
	out.WriteByte('\n')
	for _, t := range res.Txns {
		fmt.Fprintf(out, "  %s", statusName(t.Status))
		if t.Status == kvpb.Status_STATUS_CONDITION_FAILED {
			fmt.Fprintf(out, " guard=%d current=%d", t.FailedGuard, t.CurrentVersion)
		}
		if t.Detail != "" {
			fmt.Fprintf(out, ": %s", t.Detail)
		}
		fmt.Fprintf(out, " succeeded=%v version=%d committed=%d\n", t.Succeeded, t.Version, t.CommittedVersion)
		for _, op := range t.Ops {
			fmt.Fprintf(out, "    %s\n", formatOp(op))
		}
	}
}

func formatOp(op *kvpb.OpResult) string {
	out := fmt.Sprintf("found=%v previous=%d", op.Found, op.PreviousVersion)
	if op.Deleted > 0 || op.More {
		out += fmt.Sprintf(" deleted=%d more=%v", op.Deleted, op.More)
	}
	if op.Number != 0 {
		out += fmt.Sprintf(" number=%d", op.Number)
	}
	if op.ExpiresMs != 0 {
		out += fmt.Sprintf(" expires=%d", op.ExpiresMs)
	}
	if op.Item != nil {
		out += " item=" + formatItem(op.Item)
	}
	return out
}

func formatItem(it *kvpb.Item) string {
	if it == nil {
		return "absent"
	}
	out := fmt.Sprintf("%q@%d", it.Value, it.Version)
	if it.ContentType != "" {
		out += " type=" + it.ContentType
	}
	if it.ExpiresMs != 0 {
		out += fmt.Sprintf(" expires=%d", it.ExpiresMs)
	}
	return out
}
