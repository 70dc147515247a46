package server

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/internal/access"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement"
	"github.com/quorate-db/quorate/placement/metapb"
)

// metaLog applies commands to a meta machine.
type metaLog struct {
	t     *testing.T
	m     *placement.Machine
	index uint64
}

func newMetaLog(t *testing.T) *metaLog {
	l := &metaLog{t: t, m: placement.NewMachine()}
	l.apply(&metapb.Command{Body: &metapb.Command_FoundCluster{FoundCluster: &metapb.FoundCluster{ClusterId: "c",
		Settings: &metapb.Settings{ReplicationFactor: 1, ExpectedNodes: 1}, Founder: &metapb.Node{Id: 1, Name: "n", PeerAddress: "n:1"}}}})
	return l
}

func (l *metaLog) apply(c *metapb.Command) *metapb.Result {
	l.t.Helper()
	l.index++
	c.Format = placement.CommandFormat
	data, err := proto.Marshal(c)
	if err != nil {
		l.t.Fatal(err)
	}
	results, err := l.m.Apply([]kv.Entry{{Index: l.index, Term: 1, Stamp: kv.Stamp{Term: 1, Version: kv.Version(l.index), Ceiling: 1 << 40, NowMs: 1000},
		Commands: []kv.EntryCommand{{Data: data, Versions: 1}}}})
	var out metapb.Result
	if err != nil || results[0].Rejected || proto.Unmarshal(results[0].Results[0], &out) != nil {
		l.t.Fatalf("%v, %+v", err, results)
	}
	return &out
}

// create does what Control.CreateToken does.
func (l *metaLog) create(_ context.Context, o kv.TokenOrder) (kv.Token, error) {
	token := &metapb.Token{Id: o.ID, Hash: o.Hash[:], Name: o.Name, Grants: []*metapb.Grant{{Role: metapb.TokenRole_TOKEN_ADMIN}}}
	r := l.apply(&metapb.Command{Body: &metapb.Command_CreateToken{CreateToken: &metapb.CreateToken{Token: token, TtlMs: o.TTLMs, Bootstrap: o.Bootstrap}}})
	if r.Error != nil {
		return kv.Token{}, kv.FromWire(r.Error)
	}
	return kv.Token{ID: o.ID}, nil
}

func (l *metaLog) revoke(id string) {
	l.apply(&metapb.Command{Body: &metapb.Command_RevokeToken{RevokeToken: &metapb.RevokeToken{Id: id}}})
}

func TestAuthorityFollowsTheMetaShard(t *testing.T) {
	l := newMetaLog(t)
	age, known := time.Duration(0), true
	looks := 0
	now := time.Unix(1_700_000_000, 0)
	a := &authority{state: l.m.State, start: now, steady: func() time.Time { return now },
		contact: func() (time.Duration, bool) { looks++; return age, known }}
	text, id, hash := access.Mint()
	other, otherID, otherHash := access.Mint()
	for _, o := range []kv.TokenOrder{{ID: id, Hash: hash}, {ID: otherID, Hash: otherHash}} {
		if _, err := l.create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	counts := func(text string) bool {
		t.Helper()
		table, err := a.Table()
		if err != nil {
			t.Fatal(err)
		}
		c, _ := table.Find(text, 0)
		return c != nil
	}
	if !counts(text) || !counts(other) || looks != 1 {
		t.Fatalf("after %d looks", looks)
	}
	before, _ := a.Table()
	if again, _ := a.Table(); again != before {
		t.Error("compiled anew for nothing")
	}
	l.revoke(id)
	if counts(text) || !counts(other) {
		t.Error("a revoked token counts")
	}

	// Silence: what was heard 20 s ago is good for 10 s more, and not a moment longer.
	now = now.Add(contactEvery)
	age = kv.AccessStaleAfter - 500*time.Millisecond
	if !counts(other) {
		t.Error("refused too early")
	}
	now = now.Add(499 * time.Millisecond)
	if !counts(other) {
		t.Error("refused too early")
	}
	now, age = now.Add(time.Millisecond), kv.AccessStaleAfter
	if _, err := a.Table(); kv.CodeOf(err) != kv.CodeUnavailable || kv.OutcomeOf(err) != kv.OutcomeNotApplied {
		t.Errorf("%v", err)
	}
	age, known = 0, false
	if _, err := a.Table(); err == nil {
		t.Error("a node that has not heard anything yet lets tokens in")
	}
	if known = true; !counts(other) {
		t.Error("refuses though it hears again")
	}
}
