package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
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
		read: func() (*tls.Certificate, checksum, error) { return readPair(cert, key, time.Now()) },
		take: func(next *tls.Certificate) ([]any, error) {
			return []any{"file", cert, "until", next.Leaf.NotAfter.UTC()}, nil
		},
		changed: "certificate for clients changed", unusable: "cannot read the certificate for clients; the one that was read before goes on", log: log,
	}}
	return p, p.open()
}

// Certificate gives what a server presents now.
func (p *Pair) Certificate() *tls.Certificate { return p.load() }

// readPair reads a certificate that has not expired and the key that fits it, and
// gives a checksum of both files too.
func readPair(certFile, keyFile string, now time.Time) (*tls.Certificate, checksum, error) {
	var none checksum
	info, err := os.Stat(keyFile)
	if err != nil {
		return nil, none, err
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return nil, none, fmt.Errorf("%s: everybody may use this key (mode %04o): chmod o= %s", keyFile, mode, keyFile)
	}
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return nil, none, err
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, none, err
	}
	made, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, none, fmt.Errorf("%s and %s: %w", certFile, keyFile, err)
	}
	if end := made.Leaf.NotAfter; now.After(end) {
		return nil, none, fmt.Errorf("%s: the certificate has expired on %s", certFile, end.UTC().Format(time.RFC3339))
	}
	return &made, sha256.Sum256(bytes.Join([][]byte{cert, key}, []byte{0})), nil
}
