package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// fixed is the secret of 1, 2, 3 and so on.
func fixed() Secret {
	s := Secret{set: true}
	for i := range s.raw {
		s.raw[i] = byte(i + 1)
	}
	return s
}

// TestAuthorityIsTheSameEverywhere: invariant 1, and over releases too: nodes of an
// older binary must derive what those of a newer one do. If this fails, the
// derivation has changed and rolling upgrades break.
func TestAuthorityIsTheSameEverywhere(t *testing.T) {
	const want = "f62996d6e61eee549af6dcb637e2ca3722d787b502eae522d02406cd27239a11"
	for range 3 {
		a, err := NewAuthority(fixed())
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(a.PEM())
		if got := hex.EncodeToString(sum[:]); got != want {
			t.Fatalf("the authority's certificate has SHA-256 %s, want %s", got, want)
		}
		if err := a.cert.CheckSignatureFrom(a.cert); err != nil {
			t.Fatal(err)
		}
	}
	other, err := NewAuthority(NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	same, _ := NewAuthority(fixed())
	if bytes.Equal(other.cert.Raw, same.cert.Raw) || other.key.Equal(same.key) {
		t.Fatal("two secrets, one authority")
	}
}

func TestAuthorityCannotHaveOthersBelow(t *testing.T) {
	a, err := NewAuthority(fixed())
	if err != nil {
		t.Fatal(err)
	}
	if !a.cert.IsCA || !a.cert.MaxPathLenZero || a.cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		t.Fatalf("%+v", a.cert)
	}
}

func TestNames(t *testing.T) {
	a, err := NewAuthority(fixed())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []Name{
		{Cluster: "0123456789abcdef", Role: RoleNode, Node: 7},
		{Role: RoleNode, Node: kv.NodeID(1 << 63)},
		{Cluster: "test", Role: RoleWeb, Node: 1},
	} {
		l, err := a.mint(request{name: n}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(l.der)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := nameIn(cert); err != nil || got != n {
			t.Fatalf("%v, %v; want %v", got, err, n)
		}
	}
	if got := (Name{Cluster: "c1", Role: RoleNode, Node: 0xab}).String(); got != "quorate://c1/node/00000000000000ab" {
		t.Fatal(got)
	}
}

// TestCertificatesRenewThemselves: at half of their life, and when the clock has gone back.
func TestCertificatesRenewThemselves(t *testing.T) {
	now := time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)
	k, err := NewKeyring([]Secret{fixed()}, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	get := func() []byte {
		l, err := k.leaf(request{name: Name{Cluster: "c", Role: RoleNode, Node: 1}})
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(l.der)
		if err != nil {
			t.Fatal(err)
		}
		if now.Before(cert.NotBefore.Add(leafBackdate)) || now.Add(leafLife-leafRenew).After(cert.NotAfter) {
			t.Fatalf("at %v a certificate from %v to %v", now, cert.NotBefore, cert.NotAfter)
		}
		return l.der
	}
	first := get()
	now = now.Add(leafRenew - time.Second)
	if !bytes.Equal(get(), first) {
		t.Fatal("renewed before half of its life")
	}
	now = now.Add(2 * time.Second)
	second := get()
	if bytes.Equal(second, first) {
		t.Fatal("not renewed at half of its life")
	}
	now = now.Add(-leafLife)
	if bytes.Equal(get(), second) {
		t.Fatal("not renewed although it comes from the future")
	}
}

func TestKeyringsThatAreNone(t *testing.T) {
	five := []Secret{NewSecret(), NewSecret(), NewSecret(), NewSecret(), NewSecret()}
	for want, secrets := range map[string][]Secret{
		"0 cluster secrets": nil,
		"5 cluster secrets": five,
		"twice":             {fixed(), fixed()},
		"missing":           {{}},
	} {
		if _, err := NewKeyring(secrets, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	k, err := NewKeyring(five[:2], nil)
	if err != nil {
		t.Fatal(err)
	}
	before := k.IDs()
	if k.Replace(nil) == nil || len(k.IDs()) != 2 || k.IDs()[0] != before[0] {
		t.Fatal("a failed Replace has changed the keyring")
	}
}
