// Package operator makes certificates for nodes as somebody with an authority of their
// own does, and puts them into files.
package operator

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Life is how long certificates count, from some time ago.
const Life = 2 * time.Hour

// Operator has an authority.
type Operator struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes one, whose authority ends after left.
func New(t testing.TB, name string, left time.Duration) *Operator {
	t.Helper()
	o := &Operator{cert: &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotAfter: time.Now().Add(left),
	}}
	o.cert, o.key = o.sign(t, o.cert)
	return o
}

func (o *Operator) sign(t testing.TB, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore = template.NotAfter.Add(-Life)
	by := o.key
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, o.cert, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// Files are the certificates of nodes, each node's in a folder of its own in Dir.
type Files struct{ Dir string }

// Path gives a node's "cert", "key" or "ca".
func (f Files) Path(node, name string) string { return filepath.Join(f.Dir, node, name) }

// Args are the flags with which a node takes its files for the peer port.
func (f Files) Args(node string) []string {
	return []string{"--peer-cert", f.Path(node, "cert"), "--peer-key", f.Path(node, "key"), "--peer-ca", f.Path(node, "ca")}
}

// put writes a file beside and renames it.
func (f Files) put(t testing.TB, path, kind string, ders ...[]byte) {
	t.Helper()
	var text []byte
	for _, der := range ders {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".part", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".part", path); err != nil {
		t.Fatal(err)
	}
}

// Trust has a node take certificates by operators, and no others.
func (f Files) Trust(t testing.TB, node string, operators ...*Operator) {
	t.Helper()
	var ders [][]byte
	for _, o := range operators {
		ders = append(ders, o.cert.Raw)
	}
	f.put(t, f.Path(node, "ca"), "CERTIFICATE", ders...)
}

// Issue gives a node a certificate of that name (quorate://…) and for 127.0.0.1, which
// ends after left.
func (f Files) Issue(t testing.TB, node, name string, by *Operator, left time.Duration) (end time.Time) {
	t.Helper()
	u, err := url.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := by.sign(t, &x509.Certificate{
		NotAfter: time.Now().Add(left),
		URIs:     []*url.URL{u}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f.put(t, f.Path(node, "cert"), "CERTIFICATE", cert.Raw)
	f.put(t, f.Path(node, "key"), "PRIVATE KEY", der)
	return cert.NotAfter
}
