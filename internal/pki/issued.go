package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// authorityFileBytesMax bounds what is read of a file of authorities.
const authorityFileBytesMax = 1 << 20

// Files are a node's certificate (with what is between it and its authority), its key,
// and the authorities of all nodes, all PEM and of an operator's making.
type Files struct{ Cert, Key, CA string }

// Issued secures connections between nodes by certificates of an operator's making,
// in files that may change. It is the alternative to a Keyring.
//
// An operator knows neither the ids of nodes nor that of the cluster when certificates
// are made. So they hold a name that the operator gives the cluster, quorate://NAME/node,
// the same on all nodes, and a node's id only if it pleases. Of which name the others
// have to be is read from this node's own certificate: it must hold one anyway, and a
// second place for it could only disagree.
type Issued struct {
	follower[*credentials]
	files Files
}

// credentials are what was in the files at one time. They never change.
type credentials struct {
	own   *tls.Certificate
	name  Name // in own
	roots *x509.CertPool
}

// OpenIssued reads the files. It refuses a certificate that the other nodes would
// refuse if they had the same authorities. now is the clock; nil: time.Now.
func OpenIssued(files Files, log *slog.Logger, now func() time.Time) (*Issued, error) {
	if now == nil {
		now = time.Now
	}
	i := &Issued{files: files}
	i.follower = follower[*credentials]{
		read: i.read, take: i.take,
		changed: "certificates for the peer port changed", unusable: "cannot use the files of certificates for the peer port; what was read before goes on",
		log: log, now: now,
	}
	return i, i.open()
}

// Cluster gives the operator's name for the cluster.
func (i *Issued) Cluster() string { return i.load().name.Cluster }

// Expires gives when this node's certificate does.
func (i *Issued) Expires() time.Time { return i.load().own.Leaf.NotAfter }

// For refuses to be another node than the certificate says, if it says one.
func (i *Issued) For(node kv.NodeID) error {
	return i.load().isFor(node)
}

func (c *credentials) isFor(node kv.NodeID) error {
	if id := c.name.Node; id != 0 && id != node {
		return fmt.Errorf("this node's certificate is for node %s, and this is node %s", id, node)
	}
	return nil
}

func (i *Issued) take(next *credentials) ([]any, error) {
	if before := i.Cluster(); next.name.Cluster != before {
		return nil, fmt.Errorf("%s: the certificate names cluster %s, this node runs in %s: that changes by a restart only",
			i.files.Cert, quoted(next.name.Cluster), quoted(before))
	}
	return []any{"name", next.name.String(), "until", next.own.Leaf.NotAfter.UTC()}, nil
}

func (i *Issued) read() (*credentials, contents, error) {
	own, chain, pairSum, err := readPair(i.files.Cert, i.files.Key, i.now())
	if err != nil {
		return nil, contents{}, err
	}
	roots, rootSum, err := readAuthorities(i.files.CA)
	if err != nil {
		return nil, contents{}, err
	}
	c := &credentials{own: own, roots: poolOf(roots)}
	if c.name, err = issuedNameIn(own.Leaf); err != nil {
		return nil, contents{}, fmt.Errorf("%s: %w", i.files.Cert, err)
	}
	// Every node dials and is dialled.
	for _, end := range []struct {
		usage x509.ExtKeyUsage
		does  string
	}{{x509.ExtKeyUsageServerAuth, "accept"}, {x509.ExtKeyUsageClientAuth, "dial"}} {
		if _, err := c.check(chain, end.usage, i.now()); err != nil {
			return nil, contents{}, fmt.Errorf("%s, as a node's to %s connections: %w", i.files.Cert, end.does, err)
		}
	}
	return c, contents{
		sha256.Sum256(append(pairSum[:], rootSum[:]...)),
		[]Term{termOf(UsePeerCert, i.files.Cert, chain), termOf(UsePeerCA, i.files.CA, roots)},
	}, nil
}

// readAuthorities reads a file of authorities, each of which must be one, and gives a
// checksum of it too.
func readAuthorities(path string) ([]*x509.Certificate, checksum, error) {
	var none checksum
	f, err := os.Open(path)
	if err != nil {
		return nil, none, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, authorityFileBytesMax+1))
	if err != nil {
		return nil, none, err
	}
	if len(text) > authorityFileBytesMax {
		return nil, none, fmt.Errorf("%s: larger than %d bytes", path, authorityFileBytesMax)
	}
	certs, err := parseAuthorities(text)
	if err != nil {
		return nil, none, fmt.Errorf("%s: %w", path, err)
	}
	return certs, sha256.Sum256(text), nil
}

func parseAuthorities(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	n := 0
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if bytes.Contains(rest, []byte("-----BEGIN")) {
				return nil, fmt.Errorf("what follows certificate %d is damaged", n)
			}
			break
		}
		n++
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("there is a %s in it: only certificates of authorities belong there", clip(block.Type))
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", n, err)
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("certificate %d, %s, is not an authority's", n, quoted(cert.Subject.String()))
		}
		certs = append(certs, cert)
	}
	if n == 0 {
		return nil, errors.New("there is no certificate in it")
	}
	return certs, nil
}
