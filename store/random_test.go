package store

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

// machine drives the twin and two replicas with the same entries. The replica
// one gets each entry by itself; many gets them in batches. Whatever they answer
// and hold must be equal (S3).
type machine struct {
	t    *rapid.T
	twin *twin
	log  logWriter

	fs        [2]*engine.MemFS
	db        [2]*DB
	one, many *Replica
	pending   []kv.Entry // for many
	expected  []kv.EntryResult
	requests  []*kvpb.RequestID
	keys      []string // that commands are about
	merged    bool     // ids that two shards had may be counted twice
}

func newMachine(t *rapid.T) *machine {
	m := &machine{t: t, twin: newTwin(testDescriptor()), log: *newLog(), keys: testKeys}
	for i := range m.db {
		m.fs[i] = engine.NewMemFS()
	}
	m.open(0)
	m.open(1)
	m.apply(m.log.startTerm())
	return m
}

func (m *machine) open(i int) {
	var err error
	if m.db[i], err = Open(Options{Dir: "d", FS: m.fs[i], Logger: quiet(), MemtableBytes: 64 << 10}); err != nil {
		m.t.Fatal(err)
	}
	r, err := m.db[i].OpenReplica(testShard, testDescriptor())
	if err != nil {
		m.t.Fatal(err)
	}
	if i == 0 {
		m.one = r
	} else {
		m.many = r
	}
}

func (m *machine) close() {
	for _, db := range m.db {
		if err := db.Close(); err != nil {
			m.t.Fatal(err)
		}
	}
}

// apply gives an entry to the twin and to one at once, and to many later.
func (m *machine) apply(e kv.Entry) {
	rejected, want := m.twin.apply(e)
	got, err := m.one.Apply([]kv.Entry{e})
	if err != nil {
		m.t.Fatal(err)
	}
	if got[0].Rejected != rejected || len(got[0].Results) != len(want) {
		m.t.Fatalf("entry %d: rejected %v with %d results, want %v with %d",
			e.Index, got[0].Rejected, len(got[0].Results), rejected, len(want))
	}
	for i, b := range got[0].Results {
		var res kvpb.Result
		if err := proto.Unmarshal(b, &res); err != nil {
			m.t.Fatal(err)
		}
		res.Detail = ""
		for _, t := range res.Txns {
			t.Detail = ""
		}
		if !proto.Equal(&res, want[i]) {
			m.t.Fatalf("entry %d command %d:\n got %v\nwant %v", e.Index, i, &res, want[i])
		}
	}
	m.log.last = max(m.log.last, m.twin.last)
	m.pending = append(m.pending, e)
	m.expected = append(m.expected, got[0])
}

// catchUp gives many what it has not seen, in one batch, and compares.
func (m *machine) catchUp() {
	got, err := m.many.Apply(m.pending)
	if err != nil {
		m.t.Fatal(err)
	}
	for i := range got {
		if got[i].Rejected != m.expected[i].Rejected || !slices.EqualFunc(got[i].Results, m.expected[i].Results, bytes.Equal) {
			m.t.Fatalf("entry %d: answered otherwise in a batch", m.pending[i].Index)
		}
	}
	m.pending, m.expected = nil, nil
	a, errA := m.one.Digest()
	b, errB := m.many.Digest()
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		m.t.Fatalf("digests differ: %x %v, %x %v", a, errA, b, errB)
	}
}

var testKeys = []string{"b", "b\x00", "b\x00\x01", "ba", "c/a", "c/b", "c/d/e", "d", "d/", "f\xff", "f\xff\xff", "n1", "n2", "x"}

func (m *machine) genKey(t *rapid.T) []byte {
	if rapid.IntRange(0, 60).Draw(t, "odd key") == 0 {
		return []byte(rapid.SampledFrom([]string{"a", "y", "z", "\xff"}).Draw(t, "foreign"))
	}
	return []byte(rapid.SampledFrom(m.keys).Draw(t, "key"))
}

func (m *machine) genVersions(t *rapid.T, key []byte) []uint64 {
	out := []uint64{rapid.Uint64().Draw(t, "some version")}
	if cur, ok := m.twin.newest(string(key)); ok && rapid.Bool().Draw(t, "current") {
		out = append(out, uint64(cur.version))
	}
	return out
}

func (m *machine) genTxn(t *rapid.T) *kvpb.Txn {
	txn := &kvpb.Txn{}
	for range rapid.IntRange(0, 2).Draw(t, "guards") {
		g := &kvpb.Guard{Key: m.genKey(t), Kind: kvpb.GuardKind(rapid.IntRange(1, 5).Draw(t, "guard"))}
		g.Versions = m.genVersions(t, g.Key)
		g.Value = []byte(rapid.SampledFrom([]string{"", "1", "x"}).Draw(t, "guard value"))
		txn.Guards = append(txn.Guards, g)
	}
	txn.Then = m.genOps(t, rapid.IntRange(1, 4).Draw(t, "then"))
	txn.Otherwise = m.genOps(t, rapid.SampledFrom([]int{0, 0, 1, 3}).Draw(t, "otherwise"))
	return txn
}

func (m *machine) genOps(t *rapid.T, n int) (ops []*kvpb.Op) {
	for range n {
		op := &kvpb.Op{Kind: kvpb.OpKind(rapid.SampledFrom([]int{1, 1, 1, 2, 2, 3, 3, 4, 5}).Draw(t, "op")), Key: m.genKey(t)}
		op.Value = []byte(rapid.SampledFrom([]string{"", "1", "9223372036854775807", "x", string(make([]byte, 2000))}).Draw(t, "value"))
		op.ContentType = rapid.SampledFrom([]string{"", "text/plain"}).Draw(t, "type")
		op.TtlMs = rapid.SampledFrom([]int64{0, 0, 1, 1500, 60_000}).Draw(t, "ttl")
		op.Delta = rapid.SampledFrom([]int64{0, 1, -1, 5}).Draw(t, "delta")
		if op.Kind == kvpb.OpKind_OP_DELETE_RANGE {
			op.EndKey = rapid.SampledFrom([][]byte{nil, []byte("c0"), []byte("d"), []byte("y")}).Draw(t, "end")
			op.Limit = rapid.SampledFrom([]uint32{0, 1, 2}).Draw(t, "limit")
		}
		ops = append(ops, op)
	}
	return ops
}

func (m *machine) genCommand(t *rapid.T) *kvpb.Command {
	if rapid.IntRange(0, 9).Draw(t, "sweep") == 0 {
		return &kvpb.Command{Kind: kvpb.CommandKind_COMMAND_SWEEP, Sweep: &kvpb.SweepArgs{
			ExpireBeforeMs:    max(0, m.log.nowMs+rapid.Int64Range(-2000, 2000).Draw(t, "expire")),
			RequestFloorMs:    max(0, m.log.nowMs+rapid.Int64Range(-5000, 100).Draw(t, "floor")),
			RetainFromVersion: uint64(max(1, m.twin.last) - kv.Version(rapid.IntRange(0, 40).Draw(t, "retain"))),
			MaxItems:          rapid.SampledFrom([]uint32{0, 1, 3}).Draw(t, "items"),
		}}
	}
	cmd := write()
	for range rapid.IntRange(1, 3).Draw(t, "txns") {
		cmd.Txns = append(cmd.Txns, m.genTxn(t))
	}
	cmd.Generation = rapid.SampledFrom([]uint64{0, 0, 0, m.twin.desc.Generation, m.twin.desc.Generation + 1}).Draw(t, "generation")
	switch rapid.IntRange(0, 7).Draw(t, "request") {
	case 6, 7:
		m.genPart(t, cmd)
	case 0, 1, 2:
		cmd.Request = &kvpb.RequestID{
			Hi: rapid.Uint64().Draw(t, "hi"), Lo: 1,
			IssuedMs:    m.log.nowMs - rapid.Int64Range(0, 6000).Draw(t, "age"),
			Fingerprint: rapid.Uint64Range(0, 2).Draw(t, "print"),
		}
		m.requests = append(m.requests, cmd.Request)
	case 3:
		if len(m.requests) > 0 {
			again := proto.Clone(rapid.SampledFrom(m.requests).Draw(t, "again")).(*kvpb.RequestID)
			again.Fingerprint = rapid.Uint64Range(0, 2).Draw(t, "print")
			again.IssuedMs += rapid.SampledFrom([]int64{0, 0, 1, 3000, -3000}).Draw(t, "dated anew")
			cmd.Request = again
		}
	}
	return cmd
}

// genPart makes a command a part of one of a few requests, with some of their
// transactions, so that parts overlap in all ways.
func (m *machine) genPart(t *rapid.T, cmd *kvpb.Command) {
	cmd.Request = &kvpb.RequestID{
		Hi: rapid.Uint64Range(0, 1).Draw(t, "hi of whole"), Lo: rapid.Uint64Range(0, 2).Draw(t, "lo of whole"),
		IssuedMs:    m.log.nowMs - rapid.Int64Range(0, 6000).Draw(t, "age"),
		Fingerprint: rapid.SampledFrom([]uint64{0, 1, 1, 1, 1, 2}).Draw(t, "print"),
	}
	o := uint32(0)
	for range cmd.Txns {
		o += uint32(rapid.SampledFrom([]int{0, 0, 1, 2, 300}).Draw(t, "gap"))
		cmd.Ordinals = append(cmd.Ordinals, o)
		o++
	}
}

// Entry applies commands as a good leader stamps them.
func (m *machine) Entry(t *rapid.T) {
	m.log.nowMs += rapid.Int64Range(-100, 900).Draw(t, "clock")
	var cmds []*kvpb.Command
	for range rapid.IntRange(1, 4).Draw(t, "commands") {
		cmds = append(cmds, m.genCommand(t))
	}
	m.apply(m.log.entry(cmds...))
}

// OddEntry applies what a good leader never proposes.
func (m *machine) OddEntry(t *rapid.T) {
	e := m.log.entry(write(then(put("c", "odd"))))
	switch rapid.IntRange(0, 5).Draw(t, "how") {
	case 0:
		e.Stamp.Term++
	case 1:
		e.Stamp.Version = m.twin.last
	case 2:
		e.Stamp.Version = m.twin.ceiling + 1
	case 3:
		e.Commands[0].Data = rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")
	case 4:
		e.Commands[0].Versions = rapid.SampledFrom([]uint32{0, 5, 1<<32 - 1}).Draw(t, "versions")
	case 5:
		e = kv.Entry{Index: e.Index, Term: e.Term, Config: []byte(fmt.Sprint("config ", e.Index))}
	}
	m.apply(e)
}

// Term begins a new term.
func (m *machine) Term(t *rapid.T) {
	m.log.term++
	m.apply(m.log.startTerm())
}

// CatchUp lets the batched replica catch up.
func (m *machine) CatchUp(*rapid.T) { m.catchUp() }

// Reopen closes a database and opens it again.
func (m *machine) Reopen(t *rapid.T) {
	i := rapid.IntRange(0, 1).Draw(t, "which")
	if err := m.db[i].Close(); err != nil {
		t.Fatal(err)
	}
	m.open(i)
}

// Restore replaces the batched replica's state by an image of the other one.
func (m *machine) Restore(t *rapid.T) {
	im, err := m.one.Image()
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if _, err := im.WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	err = restore(m.many, &buf)
	if old := len(m.pending) == 0; (err != nil) != old {
		t.Fatalf("restore: %v, image old: %v", err, old)
	}
	m.pending, m.expected = nil, nil
	m.catchUp()
}

// Get compares gets with the twin.
func (m *machine) Get(t *rapid.T) {
	key := []byte(rapid.SampledFrom(testKeys).Draw(t, "key"))
	at := m.genAt(t)
	resp := m.one.Read(&kvpb.ReadRequest{Gets: [][]byte{key}, At: uint64(at)})
	if m.tooOld(t, resp, at) {
		return
	}
	tv, found := m.twin.at(string(key), at)
	if at == 0 {
		tv, found = m.twin.newest(string(key))
	}
	want := &kvpb.GetResult{Found: found}
	if found {
		want.Item = twinItem(string(key), tv)
	}
	if len(resp.Gets) != 1 || !proto.Equal(resp.Gets[0], want) {
		t.Fatalf("get %q at %d: %v, want %v", key, at, resp, want)
	}
}

func (m *machine) genAt(t *rapid.T) kv.Version {
	if rapid.Bool().Draw(t, "now") {
		return 0
	}
	return max(1, m.twin.last-kv.Version(rapid.IntRange(0, 30).Draw(t, "back")))
}

func (m *machine) tooOld(t *rapid.T, resp *kvpb.ReadResponse, at kv.Version) bool {
	want := kvpb.Status_STATUS_OK
	if at != 0 && at < m.twin.horizon {
		want = kvpb.Status_STATUS_VERSION_TOO_OLD
	}
	if resp.Status != want || resp.LastVersion != uint64(m.twin.last) || resp.AppliedIndex != m.twin.index || resp.NowMs != m.twin.now {
		t.Fatalf("read at %d: %v, want status %v", at, resp, want)
	}
	return want != kvpb.Status_STATUS_OK
}

// Scan compares a whole scan, page by page, with the twin.
func (m *machine) Scan(t *rapid.T) {
	bounds := append([]string{"", "a", "c", "c0", "z"}, testKeys...)
	q := &kvpb.Scan{
		Start:      []byte(rapid.SampledFrom(bounds).Draw(t, "start")),
		End:        []byte(rapid.SampledFrom(bounds).Draw(t, "end")),
		Reverse:    rapid.Bool().Draw(t, "reverse"),
		Limit:      rapid.SampledFrom([]uint32{0, 1, 2, 5}).Draw(t, "limit"),
		LimitBytes: rapid.SampledFrom([]uint32{0, 0, 5, 3000}).Draw(t, "limit bytes"),
		KeysOnly:   rapid.Bool().Draw(t, "keys only"),
		Delimiter:  rapid.SampledFrom([][]byte{nil, []byte("/"), {0xff}, {0}}).Draw(t, "delimiter"),
		PrefixLen:  rapid.SampledFrom([]uint32{0, 1, 2}).Draw(t, "prefix"),
	}
	at := m.genAt(t)
	seen := at
	if at == 0 {
		seen = versionMax
	}
	for range 100 {
		resp := m.one.Read(&kvpb.ReadRequest{Scan: q, At: uint64(at)})
		if m.tooOld(t, resp, at) {
			return
		}
		items, prefixes, resume := m.twin.scan(q, seen)
		var got []string
		for _, p := range resp.CommonPrefixes {
			got = append(got, string(p))
		}
		if !slices.EqualFunc(resp.Items, items, func(a, b *kvpb.Item) bool { return proto.Equal(a, b) }) ||
			!slices.Equal(got, prefixes) || string(resp.Resume) != resume {
			t.Fatalf("scan %v at %d:\n got %v %q %q\nwant %v %q %q", q, at, resp.Items, got, resp.Resume, items, prefixes, resume)
		}
		if resume == "" {
			return
		}
		if q.Reverse {
			q.End = resp.Resume
		} else {
			q.Start = resp.Resume
		}
	}
	t.Fatal("the scan does not end")
}

// Changes compares the change index.
func (m *machine) Changes(t *rapid.T) {
	after := m.genAt(t)
	limit := rapid.SampledFrom([]int{0, 1, 3}).Draw(t, "limit")
	var got []twinChange
	for {
		changes, through, err := m.one.Changes(after, []byte("c"), limit)
		if after < m.twin.last && after+1 < m.twin.horizon {
			if kv.CodeOf(err) != kv.CodeVersionTooOld {
				t.Fatalf("changes after %d, horizon %d: %v", after, m.twin.horizon, err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			got = append(got, twinChange{c.Version, string(c.Key), c.Deleted, c.Previous})
		}
		if through == after {
			break
		}
		after = through
	}
	var want []twinChange
	for _, c := range m.twin.changes {
		if c.key[0] == 'c' {
			want = append(want, c)
		}
	}
	// The first of them may lie below where the reading began.
	if len(got) > len(want) || !slices.Equal(got, want[len(want)-len(got):]) {
		t.Fatalf("changes: got %v, want the end of %v", got, want)
	}
}

// Check compares everything that the replica holds with the twin.
func (m *machine) check() {
	st := m.one.Stats()
	var keys, size int64
	want := map[string]bool{}
	for k, h := range m.twin.keys {
		for _, tv := range h {
			want[fmt.Sprintf("%q %d %v", k, tv.version, tv.deleted)] = true
			if !tv.deleted {
				size += int64(len(k) + len(tv.value))
			}
		}
		if _, ok := m.twin.newest(k); ok {
			keys++
		}
	}
	requests := int64(len(m.twin.requests))
	if st.Keys != keys || st.Bytes != size || st.Requests < requests || !m.merged && st.Requests > requests || st.Horizon != m.twin.horizon {
		m.t.Fatalf("stats %+v, want %d keys, %d bytes, %d requests", st, keys, size, len(m.twin.requests))
	}
	got := map[string]bool{}
	ids := 0
	v, err := m.one.view()
	if err != nil {
		m.t.Fatal(err)
	}
	err = walk(sameView{v.it}, &v.placement, func(local, value []byte) error {
		if local[0] == tableByIssued {
			ids++
		}
		if local[0] == tableData {
			key, version, _ := parseDataKey(nil, append(spacePrefix(nil, 0), local...))
			got[fmt.Sprintf("%q %d %v", key, version, value[checksumBytes] == recordTombstone)] = true
		}
		return nil
	})
	if err := closeWith(v.it, err); err != nil {
		m.t.Fatal(err)
	}
	for k := range want {
		if !got[k] {
			m.t.Fatalf("lost %s", k)
		}
		delete(got, k)
	}
	if len(got) > 0 || ids != int(requests) {
		m.t.Fatalf("kept %v, %d request ids of %d", got, ids, requests)
	}
}

func TestTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		defer m.close()
		t.Repeat(map[string]func(*rapid.T){
			"":        func(*rapid.T) { m.check() },
			"Entry":   m.Entry,
			"Entry2":  m.Entry,
			"Entry3":  m.Entry,
			"Odd":     m.OddEntry,
			"Term":    m.Term,
			"CatchUp": m.CatchUp,
			"Reopen":  m.Reopen,
			"Restore": m.Restore,
			"Get":     m.Get,
			"Scan":    m.Scan,
			"Changes": m.Changes,
		})
		m.catchUp()
	})
}
