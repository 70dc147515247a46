//go:build blackbox

package blackbox

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/test/proc"
)

// operator is somebody with an authority of their own.
type operator struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newOperator(t *testing.T, name string) *operator {
	t.Helper()
	o := &operator{cert: &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	o.cert, o.key = o.sign(t, o.cert)
	return o
}

func (o *operator) sign(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
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

// issuedFiles are the certificates of nodes, each node's in a folder of its own.
type issuedFiles struct{ dir string }

func (f issuedFiles) path(node, name string) string { return filepath.Join(f.dir, node, name) }

func (f issuedFiles) args(node string) []string {
	return []string{"--cluster-secret-file", "", "--peer-cert", f.path(node, "cert"), "--peer-key", f.path(node, "key"), "--peer-ca", f.path(node, "ca")}
}

// put writes a file beside and renames it.
func (f issuedFiles) put(t *testing.T, path, kind string, ders ...[]byte) {
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

func (f issuedFiles) trust(t *testing.T, node string, operators ...*operator) {
	t.Helper()
	var ders [][]byte
	for _, o := range operators {
		ders = append(ders, o.cert.Raw)
	}
	f.put(t, f.path(node, "ca"), "CERTIFICATE", ders...)
}

func (f issuedFiles) issue(t *testing.T, node, name string, by *operator) {
	t.Helper()
	u, err := url.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := by.sign(t, &x509.Certificate{
		URIs: []*url.URL{u}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f.put(t, f.path(node, "cert"), "CERTIFICATE", cert.Raw)
	f.put(t, f.path(node, "key"), "PRIVATE KEY", der)
}

// TestCertificatesOfOnesOwn runs a cluster on certificates by an authority and replaces
// all of them and the authority under load: no request fails, and connections by what
// was there before end.
func TestCertificatesOfOnesOwn(t *testing.T) {
	f, old, next := issuedFiles{t.TempDir()}, newOperator(t, "old"), newOperator(t, "next")
	nodes := []string{"1", "2", "3"}
	for _, node := range nodes {
		f.trust(t, node, old)
		f.issue(t, node, "quorate://prod/node", old)
	}
	c := proc.Describe(t, binary(t), proc.Shape{Nodes: 3, Shards: 1, NodeArgs: func(_ *proc.Cluster, i int) []string { return f.args(nodes[i-1]) }})
	if err := c.StartAll(); err != nil {
		t.Fatal(err)
	}
	c.WaitReady(t)
	load := startImpatient(t, c)
	changed := func(times int) { waitChanged(t, c, true, "certificates for the peer port changed", times) }
	for _, node := range nodes {
		f.trust(t, node, old, next)
	}
	changed(1)
	for _, node := range nodes {
		f.issue(t, node, "quorate://prod/node", next)
	}
	changed(2)
	for _, node := range nodes {
		f.trust(t, node, next)
	}
	removed := time.Now()
	changed(3)
	waitReplaced(t, c, removed, 2)
	load.end(t)
}

// TestPeerFilesThatCannotBeUsed: a node does not start with them, and says why.
func TestPeerFilesThatCannotBeUsed(t *testing.T) {
	f, o := issuedFiles{t.TempDir()}, newOperator(t, "operator")
	for words, name := range map[string]string{
		"is for a client, not for a node": "quorate://prod/client",
		"is not of the form":              "quorate://prod",
		"this node's certificate is for":  "quorate://prod/node/0000000000000007",
	} {
		f.trust(t, "x", o)
		f.issue(t, "x", name, o)
		args := append([]string{"serve", "--data-dir", t.TempDir(), "--http-listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"}, f.args("x")...)
		got := proc.Run(t, binary(t), "", args...)
		if got.Code != 1 || !strings.Contains(got.Stderr, words) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
