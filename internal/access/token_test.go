package access

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/quorate-db/quorate/kv"
)

func TestMintedTokensAreFoundByTheirText(t *testing.T) {
	text, id, hash := Mint()
	if other, _, _ := Mint(); other == text {
		t.Fatal("two tokens are the same")
	}
	secret, err := base64.RawURLEncoding.DecodeString(text[21:])
	if err != nil || len(secret) != 32 || sha256.Sum256(secret) != hash {
		t.Fatalf("%s: %v", text, err)
	}
	token := kv.Token{ID: id, Hash: hash, ExpiresMs: 1000, Rate: 2.5}
	table := NewTable([]kv.Token{token}, nil)
	c, why := table.Find(text, 999)
	if c == nil || why != "" || c.Limiter.Burst() != 3 {
		t.Fatalf("%v %q", c, why)
	}
	if _, why := table.Find(text, 1000); why != Expired {
		t.Errorf("%q, want expired", why)
	}
	for _, bad := range []string{
		"", text + "A", text[:len(text)-1], "qrt-" + text[4:], strings.ToUpper(text), text[:21] + text[:43],
		text[:21] + strings.Repeat("A", 43), "qrt_0000000000000000_" + text[21:], text[:4] + "000000000000000G" + text[20:],
		text[:len(text)-1] + "\n", text[:20] + "-" + text[21:],
	} {
		if c, why := table.Find(bad, 0); c != nil || why != Unknown {
			t.Errorf("%q was found: %q", bad, why)
		}
	}
}

func TestTableKeepsWhatDidNotChange(t *testing.T) {
	_, a, hashA := Mint()
	_, b, hashB := Mint()
	first := NewTable([]kv.Token{{ID: a, Hash: hashA, Rate: 1}, {ID: b, Hash: hashB}}, nil)
	second := NewTable([]kv.Token{{ID: a, Hash: hashA, Rate: 1}, {ID: b, Hash: hashA}}, first)
	if first.get(a) != second.get(a) {
		t.Error("a limit began anew")
	}
	if second.Holds(first.get(b), 0) || !second.Holds(first.get(a), 0) || second.Len() != 2 {
		t.Error("another token under the same id counts as the old one")
	}
	if third := NewTable(nil, second); third.Holds(first.get(a), 0) {
		t.Error("a token that is gone holds")
	}
}

func TestFromHeader(t *testing.T) {
	for _, c := range []struct {
		values   []string
		text     string
		none, ok bool
	}{
		{nil, "", true, false},
		{[]string{"Bearer x"}, "x", false, true},
		{[]string{"bEARER  x"}, "x", false, true},
		{[]string{"Bearer"}, "", false, false},
		{[]string{""}, "", false, false},
		{[]string{"Basic x"}, "", false, false},
		{[]string{"Bearer x", "Bearer x"}, "", false, false},
		{[]string{"Bearer " + strings.Repeat("x", 300)}, "", false, false},
	} {
		if text, none, ok := FromHeader(c.values); text != c.text || none != c.none || ok != c.ok {
			t.Errorf("%q: %q %v %v", c.values, text, none, ok)
		}
	}
}

// FuzzAuthorization: whatever stands in the header, only the one text of a token
// gives that token.
func FuzzAuthorization(f *testing.F) {
	text, id, hash := Mint()
	other, _, _ := Mint()
	table := NewTable([]kv.Token{{ID: id, Hash: hash}}, nil)
	for _, seed := range []string{"Bearer " + text, "bearer  " + text, "Bearer " + other, "Basic YTpi", "", "Bearer", "Bearer " + text + " ",
		"Bearer qrt_", "Bearer " + text[:21] + other[21:]} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		given, none, ok := FromHeader([]string{header})
		if none {
			t.Fatal("a header counts as none")
		}
		c, _ := table.Find(given, 0)
		if (c != nil) != (ok && given == text) {
			t.Fatalf("%q: %v", header, c)
		}
		if id, h, ok := Parse(given); ok && (!kv.ValidTokenID(id) || h == kv.TokenHash{}) {
			t.Fatalf("%q: parsed as %q", given, id)
		}
	})
}

// BenchmarkFind is what a token costs each request.
func BenchmarkFind(b *testing.B) {
	text, id, hash := Mint()
	table := NewTable([]kv.Token{{ID: id, Hash: hash, Grants: []kv.Grant{{Role: kv.RoleReader, Prefix: []byte("app/")}}}}, nil)
	header, key := []string{"Bearer " + text}, []byte("app/key")
	b.ReportAllocs()
	for b.Loop() {
		given, _, _ := FromHeader(header)
		c, _ := table.Find(given, 1)
		if !c.Policy.Allows(Op{Act: Read, Key: key}) {
			b.Fatal("denied")
		}
	}
}
