package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"time"
)

// Pair is a certificate of somebody else's making, with its key, in two files that
// may change.
type Pair struct{ follower[*tls.Certificate] }

// OpenPair reads a certificate and its key, both PEM. The key must not be open to all.
func OpenPair(cert, key string, log *slog.Logger) (*Pair, error) {
	p := &Pair{follower[*tls.Certificate]{
		read: func() (*tls.Certificate, contents, error) {
			made, chain, sum, err := readPair(cert, key, time.Now())
			if err != nil {
				return nil, contents{}, err
			}
			return made, contents{sum, []Term{termOf(UseTLSCert, cert, chain)}}, nil
		},
		take: func(next *tls.Certificate) ([]any, error) {
			return []any{"file", cert, "until", next.Leaf.NotAfter.UTC()}, nil
		},
		changed: "certificate for clients changed", unusable: "cannot read the certificate for clients; the one that was read before goes on",
		log: log, now: time.Now,
	}}
	return p, p.open()
}

// Certificate gives what a server presents now.
func (p *Pair) Certificate() *tls.Certificate { return p.load() }

// readPair reads a certificate that has not expired, with what is between it and its
// authority, and the key that fits it, and gives a checksum of both files too.
func readPair(certFile, keyFile string, now time.Time) (*tls.Certificate, []*x509.Certificate, checksum, error) {
	made, sum, err := readKeyPair(certFile, keyFile)
	if err != nil {
		return nil, nil, checksum{}, err
	}
	if end := made.Leaf.NotAfter; now.After(end) {
		return nil, nil, checksum{}, fmt.Errorf("%s: the certificate has expired on %s", certFile, end.UTC().Format(time.RFC3339))
	}
	chain, err := parseAll(made.Certificate)
	if err != nil {
		return nil, nil, checksum{}, fmt.Errorf("%s: %w", certFile, err)
	}
	return made, chain, sum, nil
}

func readKeyPair(certFile, keyFile string) (*tls.Certificate, checksum, error) {
	info, err := os.Stat(keyFile)
	if err != nil {
		return nil, checksum{}, err
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return nil, checksum{}, fmt.Errorf("%s: everybody may use this key (mode %04o): chmod o= %s", keyFile, mode, keyFile)
	}
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return nil, checksum{}, err
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, checksum{}, err
	}
	made, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, checksum{}, fmt.Errorf("%s and %s: %w", certFile, keyFile, err)
	}
	return &made, sha256.Sum256(bytes.Join([][]byte{cert, key}, []byte{0})), nil
}

func parseAll(ders [][]byte) ([]*x509.Certificate, error) {
	certs := make([]*x509.Certificate, 0, len(ders))
	for _, der := range ders {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	return certs, nil
}
