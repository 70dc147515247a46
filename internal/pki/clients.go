package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"
)

// Clients says whose certificates clients have to show: the authorities in a file that
// may change.
type Clients struct{ follower[*x509.CertPool] }

// OpenClients reads a file of authorities, PEM.
func OpenClients(path string, log *slog.Logger) (*Clients, error) {
	c := &Clients{follower[*x509.CertPool]{
		read:    func() (*x509.CertPool, contents, error) { return readPool(path) },
		take:    func(*x509.CertPool) ([]any, error) { return []any{"file", path}, nil },
		changed: "authorities of clients changed", unusable: "cannot read the authorities of clients; those that were read before go on",
		log: log, now: time.Now,
	}}
	return c, c.open()
}

func readPool(path string) (*x509.CertPool, contents, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, contents{}, err
	}
	certs := certificatesIn(text)
	if len(certs) == 0 {
		return nil, contents{}, fmt.Errorf("%s: there is no certificate in it", path)
	}
	return poolOf(certs), contents{sha256.Sum256(bytes.TrimSpace(text)), []Term{termOf(UseTLSCA, path, certs)}}, nil
}

// certificatesIn gives all that there are in a text which may hold other things too.
func certificatesIn(text []byte) []*x509.Certificate {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" || len(block.Headers) != 0 {
			continue
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			certs = append(certs, cert)
		}
	}
	return certs
}

func poolOf(certs []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool
}

// Require makes a server's configuration ask clients for certificates, and take no
// others. Sessions are not resumed, so that an authority that was removed is of no use
// for new connections.
func (c *Clients) Require(config *tls.Config) {
	config.ClientAuth = tls.RequireAnyClientCert
	config.SessionTicketsDisabled = true
	config.VerifyConnection = func(state tls.ConnectionState) error { return c.verify(state.PeerCertificates) }
}

func (c *Clients) verify(presented []*x509.Certificate) error {
	if len(presented) == 0 {
		return errors.New("the client has no certificate")
	}
	_, err := presented[0].Verify(x509.VerifyOptions{
		Roots: c.load(), Intermediates: poolOf(presented[1:]), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return fmt.Errorf("the client's certificate: %w", err)
	}
	// Nodes have certificates by such authorities too, but are no clients.
	if name, err := issuedNameIn(presented[0]); err == nil && name.Role != RoleClient {
		return fmt.Errorf("the certificate is for a %s, not for a client", clip(string(name.Role)))
	}
	return nil
}
