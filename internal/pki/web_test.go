package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestWebCertificate: clients that trust the authority take it for the names it was
// made for and for no other; as a node it is refused (TestBadCertificatesAreRefused).
func TestWebCertificate(t *testing.T) {
	k := ringOf(t, NewSecret(), NewSecret())
	cert, err := k.WebCertificate(Name{Cluster: "c", Node: 7}, []string{"db.example", "10.0.0.1", "::1"})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(k.PEM()) {
		t.Fatal("no authorities")
	}
	for host, ok := range map[string]bool{"db.example": true, "10.0.0.1": true, "::1": true, "10.0.0.2": false, "other.example": false} {
		_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host})
		if (err == nil) != ok {
			t.Errorf("%s: %v", host, err)
		}
	}
	if got, err := nameIn(leaf); err != nil || got != (Name{Cluster: "c", Role: RoleWeb, Node: 7}) {
		t.Errorf("%v, %v", got, err)
	}
	if n := bytes.Count(k.PEM(), []byte("BEGIN CERTIFICATE")); n != 2 {
		t.Errorf("%d authorities", n)
	}
}

// writePair writes a certificate and its key.
func writePair(t *testing.T, dir string, c tls.Certificate) (cert, key string) {
	t.Helper()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// TestPair: files that change are taken over, files that cannot be used change nothing.
func TestPair(t *testing.T) {
	a, err := NewAuthority(NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	one, two := forge(t, a, nil), forge(t, a, nil)
	expired := forge(t, a, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	cert, key := writePair(t, dir, one)
	var log bytes.Buffer
	p, err := OpenPair(cert, key, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	step := func(what string, want tls.Certificate, words string) {
		t.Helper()
		log.Reset()
		p.Look()
		p.Look()
		if !bytes.Equal(p.Certificate().Certificate[0], want.Certificate[0]) {
			t.Errorf("%s: another certificate", what)
		}
		if lines := strings.Count(log.String(), "\n"); words == "" && lines != 0 || words != "" && (lines != 1 || !strings.Contains(log.String(), words)) {
			t.Errorf("%s: want one line with %q, got %q", what, words, log.String())
		}
	}
	step("nothing", one, "")
	writePair(t, dir, two)
	step("changed", two, "certificate for clients changed")
	half := t.TempDir()
	halfCert, _ := writePair(t, half, one)
	if err := os.Rename(halfCert, cert); err != nil {
		t.Fatal(err)
	}
	step("half changed", two, "private key does not match")
	writePair(t, dir, expired)
	step("expired", two, "has expired on")
	if _, err := OpenPair(cert, key, slog.Default()); err == nil || !strings.Contains(err.Error(), "has expired on") {
		t.Errorf("opened an expired one: %v", err)
	}
	writePair(t, dir, one)
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	step("a key for everybody", two, "chmod o=")
}
