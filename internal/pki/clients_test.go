package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// knock shakes hands with a certificate, and tells whether it was let in.
func knock(t *testing.T, address string, cert *tls.Certificate) bool {
	t.Helper()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", address, &tls.Config{
		InsecureSkipVerify:   true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil },
	})
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	got, _ := io.ReadAll(c)
	return string(got) == "welcome"
}

// welcoming serves TLS and says welcome to each client that is let in.
func welcoming(t *testing.T, server tls.Certificate, clients *Clients) (address string) {
	t.Helper()
	config := WebConfig(func() (*tls.Certificate, error) { return &server, nil })
	config.NextProtos = nil
	clients.Require(config)
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(patience))
			_, _ = io.WriteString(c, "welcome")
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// TestClientsNeedCertificates: by an authority in the file, for a client; and the file
// is followed.
func TestClientsNeedCertificates(t *testing.T) {
	ours, err := NewAuthority(NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewAuthority(NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, ours.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	clients, err := OpenClients(path, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	address := welcoming(t, forge(t, ours, nil), clients)
	plain := func(c *x509.Certificate) { c.URIs, c.ExtKeyUsage = nil, RoleClient.usage() }
	good, foreign := forge(t, ours, plain), forge(t, other, plain)
	for name, c := range map[string]struct {
		cert tls.Certificate
		ok   bool
	}{
		"good":             {good, true},
		"named client":     {forge(t, ours, named("quorate://test/client/0000000000000002")), true},
		"none":             {tls.Certificate{}, false},
		"another":          {foreign, false},
		"a node's":         {forge(t, ours, nil), false},
		"an issued node's": {forge(t, ours, named("quorate://prod/node")), false},
		"of a server":      {forge(t, ours, func(c *x509.Certificate) { c.URIs, c.ExtKeyUsage = nil, RoleWeb.usage() }), false},
		"expired":          {forge(t, ours, func(c *x509.Certificate) { plain(c); c.NotAfter = time.Now().Add(-time.Minute) }), false},
		"without a key":    {tls.Certificate{Certificate: good.Certificate, PrivateKey: foreign.PrivateKey}, false},
	} {
		if got := knock(t, address, &c.cert); got != c.ok {
			t.Errorf("%s: let in %t", name, got)
		}
	}
	for _, step := range []struct {
		text, says string
		good       bool
	}{
		{"nonsense", "no certificate in it", true},
		{string(other.PEM()), "authorities of clients changed", false},
		{string(other.PEM()) + string(ours.PEM()), "authorities of clients changed", true},
	} {
		if err := os.WriteFile(path, []byte(step.text), 0o600); err != nil {
			t.Fatal(err)
		}
		log.Reset()
		clients.Look()
		clients.Look()
		if strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), step.says) {
			t.Errorf("want one line with %q, got %q", step.says, log.String())
		}
		if got := knock(t, address, &good); got != step.good {
			t.Errorf("%s: let in %t", step.says, got)
		}
	}
}
