package access

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

func grant(role kv.TokenRole, prefix string) kv.Grant {
	return kv.Grant{Role: role, Prefix: []byte(prefix)}
}

func deny(role kv.TokenRole, prefix string) kv.Grant {
	return kv.Grant{Role: role, Prefix: []byte(prefix), Deny: true}
}

func key(act Act, k string) Op { return Op{Act: act, Key: []byte(k)} }

func keys(act Act, start, end string) Op {
	return Op{Act: act, Ranged: true, Key: []byte(start), End: []byte(end)}
}

func TestPolicy(t *testing.T) {
	for name, c := range map[string]struct {
		grants []kv.Grant
		yes    []Op
		no     []Op
	}{
		"nothing": {nil, nil, []Op{key(Read, "a"), keys(Read, "", ""), {Act: View}, {Act: Administer}, {Act: 99}}},
		"a reader of a prefix": {
			[]kv.Grant{grant(kv.RoleReader, "app/")},
			[]Op{key(Read, "app/"), key(Read, "app/x"), keys(Read, "app/", "app0"), keys(Read, "app/b", "app/c")},
			[]Op{key(Read, "app"), key(Read, "app0"), key(Write, "app/x"), keys(Read, "app/", ""), keys(Read, "app", "app0"),
				keys(Read, "app/", "app0\x00"), {Act: View}},
		},
		"deny wins, however broad what is allowed": {
			[]kv.Grant{deny(kv.RoleReader, "app/secret/"), grant(kv.RoleAdmin, ""), grant(kv.RoleReader, "app/secret/x")},
			[]Op{key(Read, "app/secret"), key(Write, "b"), {Act: View}, {Act: Administer}, keys(Write, "", "app/secret/"), keys(Read, "app/secret0", "")},
			[]Op{key(Read, "app/secret/x"), key(Write, "app/secret/"), keys(Read, "", ""), keys(Read, "app/", "app0")},
		},
		"a denied writer may read": {
			[]kv.Grant{grant(kv.RoleWriter, ""), deny(kv.RoleWriter, "ro/")},
			[]Op{key(Read, "ro/x"), keys(Read, "", ""), key(Write, "rw/x"), {Act: View}},
			[]Op{key(Write, "ro/x"), keys(Write, "ro", "rp"), {Act: Administer}},
		},
		"a denied reader writes nothing": {
			[]kv.Grant{grant(kv.RoleWriter, "a"), deny(kv.RoleReader, "ab")},
			[]Op{key(Write, "aa")}, []Op{key(Write, "ab"), key(Write, "abc")},
		},
		"neighbours cover together": {
			[]kv.Grant{grant(kv.RoleReader, "a"), grant(kv.RoleReader, "b")},
			[]Op{keys(Read, "a", "c")}, []Op{keys(Read, "a", "c\x00"), key(Read, "c")},
		},
		"the last prefix has no end": {
			[]kv.Grant{grant(kv.RoleReader, "\xff")},
			[]Op{keys(Read, "\xff", ""), key(Read, "\xff\xff\xff")}, []Op{keys(Read, "\xfe", "")},
		},
		"a denied admin": {
			[]kv.Grant{grant(kv.RoleAdmin, ""), deny(kv.RoleAdmin, "")},
			[]Op{key(Write, "a"), {Act: View}}, []Op{{Act: Administer}},
		},
	} {
		p := NewPolicy(c.grants)
		for _, op := range c.yes {
			if !p.Allows(op) {
				t.Errorf("%s: %+v is denied", name, op)
			}
		}
		for _, op := range c.no {
			if p.Allows(op) {
				t.Errorf("%s: %+v is allowed", name, op)
			}
			if p.Allows(append(slices.Clone(c.yes), op)...) {
				t.Errorf("%s: %+v is allowed behind others", name, op)
			}
		}
	}
}

// The oracle's world: all keys of up to three of these letters. Prefixes have up to
// two of the letters that have a successor in it (the last letter: none), so that
// every prefix ends at one of the keys, or nowhere.
const letters = "\x00\x01\x02\x03\xff"

var world = func() []string {
	all := []string{""}
	for i := 0; i < len(all); i++ {
		if len(all[i]) < 3 {
			for _, c := range []byte(letters) {
				all = append(all, all[i]+string([]byte{c}))
			}
		}
	}
	slices.Sort(all)
	return all
}()

func randomPrefix(r *rand.Rand) string {
	b := make([]byte, r.IntN(3))
	for i := range b {
		b[i] = "\x00\x01\x02\xff"[r.IntN(4)]
	}
	return string(b)
}

func randomGrants(r *rand.Rand) []kv.Grant {
	grants := make([]kv.Grant, r.IntN(6))
	for i := range grants {
		grants[i] = kv.Grant{
			Role:   []kv.TokenRole{kv.RoleReader, kv.RoleWriter, kv.RoleAdmin, "other"}[r.IntN(10)%4],
			Prefix: []byte(randomPrefix(r)), Deny: r.IntN(3) == 0,
		}
	}
	return grants
}

// mayKey is the rule of one key as the documentation says it.
func mayKey(grants []kv.Grant, act Act, k string) bool {
	allows := map[kv.TokenRole]bool{kv.RoleReader: act == Read, kv.RoleWriter: true, kv.RoleAdmin: true}
	denies := map[kv.TokenRole]bool{kv.RoleReader: true, kv.RoleWriter: act == Write}
	ok := false
	for _, g := range grants {
		if !strings.HasPrefix(k, string(g.Prefix)) {
			continue
		}
		if g.Deny && denies[g.Role] {
			return false
		}
		ok = ok || !g.Deny && allows[g.Role]
	}
	return ok
}

// may is the dumb twin of Policy: it asks for every key of the world.
func may(grants []kv.Grant, op Op) bool {
	admin := slices.ContainsFunc(grants, func(g kv.Grant) bool { return g.Role == kv.RoleAdmin && len(g.Prefix) == 0 && !g.Deny }) &&
		!slices.ContainsFunc(grants, func(g kv.Grant) bool { return g.Role == kv.RoleAdmin && g.Deny })
	switch op.Act {
	case Administer:
		return admin
	case View:
		return admin || may(grants, keys(Read, "", ""))
	}
	if !op.Ranged {
		return mayKey(grants, op.Act, string(op.Key))
	}
	for _, k := range world {
		if k >= string(op.Key) && (len(op.End) == 0 || k < string(op.End)) && !mayKey(grants, op.Act, k) {
			return false
		}
	}
	return true
}

// randomTree gives a transaction with what it does, put together without access.
func randomTree(r *rand.Rand) (*kvpb.Txn, []Op) {
	txn, want := &kvpb.Txn{}, []Op{}
	some := func() []byte { return []byte(world[r.IntN(len(world))]) }
	for range r.IntN(3) {
		k := some()
		txn.Guards = append(txn.Guards, &kvpb.Guard{Key: k, Kind: kvpb.GuardKind(r.IntN(6))})
		want = append(want, Op{Act: Read, Key: k})
	}
	branch := func() (ops []*kvpb.Op) {
		for range r.IntN(3) {
			o := &kvpb.Op{Key: some(), Kind: kvpb.OpKind(r.IntN(7))} // one kind more than there are
			ops = append(ops, o)
			switch o.Kind {
			case kvpb.OpKind_OP_GET:
				want = append(want, Op{Act: Read, Key: o.Key})
			case kvpb.OpKind_OP_DELETE_RANGE:
				o.EndKey = some()
				want = append(want, Op{Act: Write, Ranged: true, Key: o.Key, End: o.EndKey})
			default:
				want = append(want, Op{Act: Write, Key: o.Key})
			}
		}
		return ops
	}
	txn.Then, txn.Otherwise = branch(), branch()
	return txn, want
}

// TestPolicyAgainstTheOracle: random policies, and for each keys, ranges, acts and
// whole transactions. A soak multiplies the number of them.
func TestPolicyAgainstTheOracle(t *testing.T) {
	cases := 100_000
	if testing.Short() {
		cases /= 10 // the race detector has nothing to find here
	}
	if n, err := strconv.Atoi(os.Getenv("QUORATE_SOAK")); err == nil && n > 0 {
		cases *= max(n, 10)
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	yes := 0
	for i := range cases {
		grants := randomGrants(r)
		p := NewPolicy(grants)
		ops := []Op{
			{Act: Act(r.IntN(2)), Key: []byte(world[r.IntN(len(world))])},
			{Act: Act(r.IntN(2)), Ranged: true, Key: []byte(world[r.IntN(len(world))]), End: []byte(world[r.IntN(len(world))])},
			{Act: View}, {Act: Administer},
		}
		op := ops[i%len(ops)]
		if got, want := p.Allows(op), may(grants, op); got != want {
			t.Fatalf("seed %d, case %d: %+v: %+v: %v, want %v", seed, i, grants, op, got, want)
		} else if got {
			yes++
		}
		txn, want := randomTree(r)
		all := !slices.ContainsFunc(want, func(o Op) bool { return !may(grants, o) })
		if got := p.Allows(AppendTxn(nil, txn)...); got != all {
			t.Fatalf("seed %d, case %d: %+v: %v: %v, want %v", seed, i, grants, txn, got, all)
		}
		if o := (Op{Act: Write, Key: ops[0].Key}); p.Allows(o) && !p.Allows(Op{Act: Read, Key: o.Key}) {
			t.Fatalf("seed %d, case %d: %+v writes what it cannot read", seed, i, grants)
		}
	}
	if yes < cases/10 || yes > cases*9/10 {
		t.Errorf("%d of %d cases were allowed: the cases prove little", yes, cases)
	}
}
