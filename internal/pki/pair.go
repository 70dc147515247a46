package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// Pair is a certificate of somebody else's making, with its key, in two files that
// may change.
type Pair struct {
	cert, key string
	log       *slog.Logger
	now       func() time.Time
	current   atomic.Pointer[tls.Certificate]

	seen   [sha256.Size]byte // of what current was made of; Look's
	failed string            // what was last wrong; it is told once
}

// OpenPair reads a certificate and its key, both PEM. The key must not be open to all.
func OpenPair(cert, key string, log *slog.Logger) (*Pair, error) {
	p := &Pair{cert: cert, key: key, log: log, now: time.Now}
	made, seen, err := p.read()
	if err != nil {
		return nil, err
	}
	p.seen = seen
	p.current.Store(made)
	return p, nil
}

// Certificate gives what a server presents now.
func (p *Pair) Certificate() *tls.Certificate { return p.current.Load() }

func (p *Pair) read() (*tls.Certificate, [sha256.Size]byte, error) {
	return readPair(p.cert, p.key, p.now())
}

// readPair reads a certificate that has not expired and the key that fits it, and
// gives a checksum of both files too.
func readPair(certFile, keyFile string, now time.Time) (*tls.Certificate, [sha256.Size]byte, error) {
	var none [sha256.Size]byte
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

// Look reads the files once and takes over what has changed. Files that do not fit
// together, as when one of them has been replaced so far, change nothing.
func (p *Pair) Look() {
	made, seen, err := p.read()
	switch {
	case err != nil && err.Error() == p.failed:
	case err != nil:
		p.failed = err.Error()
		p.log.Error("cannot read the certificate for clients; the one that was read before goes on", "err", err)
	case seen == p.seen:
		p.failed = ""
	default:
		p.failed, p.seen = "", seen
		p.current.Store(made)
		p.log.Info("certificate for clients changed", "file", p.cert, "until", made.Leaf.NotAfter.UTC())
	}
}
