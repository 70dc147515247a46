package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
)

// Clients says whose certificates clients have to show: the authorities in a file that
// may change.
type Clients struct {
	path string
	log  *slog.Logger
	pool atomic.Pointer[x509.CertPool]

	seen   [sha256.Size]byte // of what pool was made of; Look's
	failed string            // what was last wrong; it is told once
}

// OpenClients reads a file of authorities, PEM.
func OpenClients(path string, log *slog.Logger) (*Clients, error) {
	c := &Clients{path: path, log: log}
	pool, seen, err := c.read()
	if err != nil {
		return nil, err
	}
	c.seen = seen
	c.pool.Store(pool)
	return c, nil
}

func (c *Clients) read() (*x509.CertPool, [sha256.Size]byte, error) {
	text, err := os.ReadFile(c.path)
	if err != nil {
		return nil, [sha256.Size]byte{}, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, [sha256.Size]byte{}, fmt.Errorf("%s: there is no certificate in it", c.path)
	}
	return pool, sha256.Sum256(bytes.TrimSpace(text)), nil
}

// Look reads the file once and takes over what has changed. A file that cannot be
// used changes nothing.
func (c *Clients) Look() {
	pool, seen, err := c.read()
	switch {
	case err != nil && err.Error() == c.failed:
	case err != nil:
		c.failed = err.Error()
		c.log.Error("cannot read the authorities of clients; those that were read before go on", "err", err)
	case seen == c.seen:
		c.failed = ""
	default:
		c.failed, c.seen = "", seen
		c.pool.Store(pool)
		c.log.Info("authorities of clients changed", "file", c.path)
	}
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
	between := x509.NewCertPool()
	for _, cert := range presented[1:] {
		between.AddCert(cert)
	}
	_, err := presented[0].Verify(x509.VerifyOptions{
		Roots: c.pool.Load(), Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
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
