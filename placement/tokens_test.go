package placement

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/quorate-db/quorate/internal/access"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

func tokenOrder(id int, role kv.TokenRole) kv.TokenOrder {
	return kv.TokenOrder{ID: fmt.Sprintf("%016x", id), Hash: kv.TokenHash{byte(id), 1}, Name: "n", Grants: []kv.Grant{{Role: role}}}
}

func cmdToken(o kv.TokenOrder) *metapb.Command {
	return &metapb.Command{Body: &metapb.Command_CreateToken{CreateToken: orderToProto(&o)}}
}

func cmdRevoke(id string) *metapb.Command {
	return &metapb.Command{Body: &metapb.Command_RevokeToken{RevokeToken: &metapb.RevokeToken{Id: id}}}
}

func refusedAs(t *testing.T, r *metapb.Result, code kv.Code) {
	t.Helper()
	if kv.Code(r.Error.GetCode()) != code {
		t.Errorf("%v, want %q", r.Error, code)
	}
}

func TestTokensComeAndGo(t *testing.T) {
	d := newDriver()
	refusedAs(t, d.do(t, cmdToken(tokenOrder(1, kv.RoleAdmin))), kv.CodeConflict) // not founded
	d = founded(t)
	order := tokenOrder(2, kv.RoleReader)
	order.Grants = []kv.Grant{{Role: kv.RoleReader, Prefix: []byte("a\xff")}, {Role: kv.RoleWriter, Prefix: []byte("b"), Deny: true}}
	order.TTLMs, order.Rate = 1000, 2.5
	at := int64(d.index) + 1
	made := tokenFromProto(d.do(t, cmdToken(order)).Token)
	if made.CreatedMs != at || made.ExpiresMs != at+1000 || made.Rate != 2.5 || made.Hash != order.Hash || made.Root ||
		!slices.EqualFunc(made.Grants, order.Grants, func(a, b kv.Grant) bool {
			return a.Role == b.Role && bytes.Equal(a.Prefix, b.Prefix) && a.Deny == b.Deny
		}) {
		t.Fatalf("%+v", made)
	}
	before := d.m.State()
	if again := tokenFromProto(d.do(t, cmdToken(order)).Token); again.CreatedMs != at || d.m.State() != before {
		t.Errorf("the same order again: %+v", again)
	}
	other := order
	other.Hash[5]++
	refusedAs(t, d.do(t, cmdToken(other)), kv.CodeConflict)
	bad := order
	bad.Grants = nil
	refusedAs(t, d.do(t, cmdToken(bad)), kv.CodeInvalid)
	short := orderToProto(&order)
	short.Token.Hash = short.Token.Hash[:31]
	refusedAs(t, d.do(t, &metapb.Command{Body: &metapb.Command_CreateToken{CreateToken: short}}), kv.CodeInvalid)
	refusedAs(t, d.do(t, &metapb.Command{Body: &metapb.Command_CreateToken{}}), kv.CodeInvalid)

	if r := d.do(t, cmdRevoke("0000000000000009")); r.Error != nil || r.Token != nil {
		t.Errorf("revoke what is not there: %v", r)
	}
	if r := d.do(t, cmdRevoke(order.ID)); r.Error != nil || r.Token.GetId() != order.ID || len(d.m.State().Tokens().All()) != 0 {
		t.Errorf("revoke: %v, left %v", r, d.m.State().Tokens().All())
	}
}

func TestBootstrapIsOnce(t *testing.T) {
	d := founded(t)
	root := tokenOrder(1, kv.RoleAdmin)
	root.Bootstrap = true
	if r := d.do(t, cmdToken(root)); r.Error != nil || !r.Token.Root || !d.m.State().Tokens().Bootstrapped() {
		t.Fatal(r)
	}
	second := tokenOrder(2, kv.RoleAdmin)
	second.Bootstrap = true
	refusedAs(t, d.do(t, cmdToken(second)), kv.CodeConflict)
	refusedAs(t, d.do(t, cmdRevoke(root.ID)), kv.CodeConflict) // the last administrator
	d.do(t, cmdToken(tokenOrder(3, kv.RoleAdmin)))
	d.do(t, cmdRevoke(root.ID))
	refusedAs(t, d.do(t, cmdToken(second)), kv.CodeConflict) // though the first is gone
	if all := d.m.State().Tokens().All(); len(all) != 1 || all[0].ID != tokenOrder(3, "").ID {
		t.Errorf("%+v", all)
	}
}

func TestTokensAreBounded(t *testing.T) {
	d := founded(t)
	const begin = 10_000
	at := int64(begin)
	d.clock = func() time.Time { return time.UnixMilli(at) }
	create := func(id int, ttl int64) *metapb.Result {
		o := tokenOrder(id, kv.RoleReader)
		o.TTLMs = ttl
		return d.do(t, cmdToken(o))
	}
	for i := range kv.TokensMax {
		if r := create(i+1, 1000*int64(i%2+1)); r.Error != nil {
			t.Fatal(i, r.Error)
		}
	}
	refusedAs(t, create(99999, 0), kv.CodeConflict)
	at = begin + 1500 // half of them have expired, and make room at once
	create(99999, 0)
	if n := len(d.m.State().Tokens().All()); n != kv.TokensMax/2+1 {
		t.Errorf("%d tokens", n)
	}
	at = begin + 2000 + expiredKept // there is room: the others are still listed
	create(99998, 0)
	if n := len(d.m.State().Tokens().All()); n != kv.TokensMax/2+2 {
		t.Errorf("%d tokens", n)
	}
	at++
	create(99997, 0)
	if n := len(d.m.State().Tokens().All()); n != 3 {
		t.Errorf("%d tokens", n)
	}
}

func TestTokensAreInSnapshots(t *testing.T) {
	d := founded(t)
	root := tokenOrder(1, kv.RoleAdmin)
	root.Bootstrap = true
	d.do(t, cmdToken(root))
	d.do(t, cmdToken(tokenOrder(2, kv.RoleWriter)))
	var b bytes.Buffer
	image, _ := d.m.Image()
	if _, err := image.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if plain := founded(t).m.current.Load(); plain.format() != 1 || b.Bytes()[len(imageMagic)+3] != 2 {
		t.Error("a release that knows no tokens would take this image")
	}
	restored := NewMachine()
	if err := restore(restored, &b); err != nil {
		t.Fatal(err)
	}
	set := restored.State().Tokens()
	if all := set.All(); !set.Bootstrapped() || len(all) != 2 || !all[0].Root || all[1].Hash != tokenOrder(2, "").Hash || !set.Has(root.ID) || set.Has("x") {
		t.Errorf("%+v", set)
	}
	for name, spoil := range map[string]func(p *metapb.State){
		"order":  func(p *metapb.State) { slices.Reverse(p.Tokens) },
		"hash":   func(p *metapb.State) { p.Tokens[0].Hash = nil },
		"grants": func(p *metapb.State) { p.Tokens[0].Grants[0].Role = 9 },
	} {
		p := cloneOf(d.m.State().toProto())
		spoil(p)
		if _, err := stateFromProto(p); err == nil {
			t.Errorf("%s: a spoilt state is taken", name)
		}
	}
}

func TestTokensThroughAnyNode(t *testing.T) {
	operate(t, 3, func(ctx context.Context, w *world, c *Control) {
		_, id, hash := access.Mint()
		order := kv.TokenOrder{ID: id, Hash: hash, Name: "app", Grants: []kv.Grant{{Role: kv.RoleAdmin}}}
		for _, node := range w.nodes { // whoever is asked, once or again
			if made, err := node.control.CreateToken(ctx, order); err != nil || made.Hash != hash || made.CreatedMs == 0 {
				t.Fatalf("%+v, %v", made, err)
			}
		}
		if all, err := c.Tokens(ctx); err != nil || len(all) != 1 || all[0].ID != id {
			t.Fatalf("%+v, %v", all, err)
		}
		if _, err := c.RevokeToken(ctx, id); kv.CodeOf(err) != kv.CodeConflict {
			t.Errorf("%v", err)
		}
		if _, err := c.CreateToken(ctx, tokenOrder(7, kv.RoleAdmin)); err != nil {
			t.Fatal(err)
		}
		if gone, err := c.RevokeToken(ctx, id); err != nil || gone.Name != "app" {
			t.Errorf("%+v, %v", gone, err)
		}
		if _, err := c.RevokeToken(ctx, id); kv.CodeOf(err) != kv.CodeNotFound {
			t.Errorf("%v", err)
		}
		if _, err := c.CreateToken(ctx, kv.TokenOrder{}); kv.CodeOf(err) != kv.CodeInvalid {
			t.Errorf("%v", err)
		}
	})
}
