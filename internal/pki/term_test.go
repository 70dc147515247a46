package pki

import (
	"bytes"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestEndsSoon: in the last quarter of a life, at most three weeks, and afterwards.
func TestEndsSoon(t *testing.T) {
	const day = 24 * time.Hour
	now := time.Now()
	for _, c := range []struct {
		life, left time.Duration
		soon       bool
	}{
		{day, 8 * time.Hour, false}, // the usual time to renew
		{day, 6*time.Hour + time.Second, false},
		{day, 6*time.Hour - time.Second, true},
		{90 * day, 30 * day, false}, // the usual time to renew
		{90 * day, 22 * day, false},
		{90 * day, 20 * day, true},
		{3650 * day, 22 * day, false},
		{3650 * day, 7 * day, true},
		{90 * day, -day, true},
	} {
		term := Term{Begin: now.Add(c.left - c.life), End: now.Add(c.left)}
		if got := term.EndsSoon(now); got != c.soon {
			t.Errorf("%s of %s left: soon %t", c.left, c.life, got)
		}
	}
}

// ending signs what ends after so long. Whole seconds: certificates know no others.
func ending(t *testing.T, by *issuer, name string, left time.Duration) (*x509.Certificate, time.Time) {
	t.Helper()
	end := time.Now().Add(left).Truncate(time.Second)
	made := by.issue(t, func(c *x509.Certificate) { c.NotAfter, c.Subject.CommonName = end, name })
	cert, err := x509.ParseCertificate(made.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return cert, end
}

// TestTerms: a file counts until the first certificate in it ends, whatever the order;
// a version that was taken over counts, one that was refused does not; and what ends
// soon is told of once for each version.
func TestTerms(t *testing.T) {
	ca := newIssuer(t, "operator", nil)
	early, first := ending(t, ca, "early", 10*time.Minute)
	late, second := ending(t, ca, "late", 50*time.Minute)
	path := filepath.Join(t.TempDir(), "ca.pem")
	put := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(certPEM(late.Raw, early.Raw))
	var log bytes.Buffer
	clients, err := OpenClients(path, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		put  []byte
		end  time.Time
		name string
		told int // of what ends soon
	}{
		{certPEM(late.Raw, early.Raw), first, "CN=early", 1},
		{certPEM(early.Raw, late.Raw), first, "CN=early", 1},
		{[]byte("nonsense"), first, "CN=early", 0},
		{append([]byte("# of clients\n"), certPEM(late.Raw)...), second, "CN=late", 0},
	} {
		log.Reset()
		put(c.put)
		clients.Look()
		clients.Look()
		terms := clients.Terms()
		if len(terms) != 1 || terms[0].Use != UseTLSCA || terms[0].File != path || terms[0].Subject != c.name || !terms[0].End.Equal(c.end) {
			t.Errorf("%+v, want %s until %s", terms, c.name, c.end)
		}
		if n := strings.Count(log.String(), "ends soon"); n != c.told {
			t.Errorf("%s: told %d times, want %d:\n%s", c.name, n, c.told, log.String())
		}
	}
}

// TestTermsOfWhatIsPresented: with the chain behind it.
func TestTermsOfWhatIsPresented(t *testing.T) {
	ca := newIssuer(t, "operator", nil)
	between, first := ending(t, ca, "between", 20*time.Minute)
	own := ca.issue(t, nil)
	own.Certificate = append(own.Certificate, between.Raw)
	files := write(t, t.TempDir(), &own, ca)
	if subject := openIssued(t, write(t, t.TempDir(), new(ca.issue(t, nil)), ca)).Terms()[0].Subject; subject != "serial number 1" {
		t.Errorf("without a name: %q", subject)
	}
	pair, err := OpenPair(files.Cert, files.Key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		terms []Term
		uses  []Use
	}{{pair.Terms(), []Use{UseTLSCert}}, {openIssued(t, files).Terms(), []Use{UsePeerCert, UsePeerCA}}} {
		for i, term := range c.terms {
			want := first
			if i == 1 {
				want = ca.cert.NotAfter
			}
			if len(c.terms) != len(c.uses) || term.Use != c.uses[i] || !term.End.Equal(want) {
				t.Errorf("%+v, want %s until %s", term, c.uses[i], want)
			}
		}
	}
}
