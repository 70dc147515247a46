package pki

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// issuer is an operator's authority.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newIssuer makes an authority by another, by itself if that is nil.
func newIssuer(t *testing.T, common string, by *issuer) *issuer {
	t.Helper()
	key := newAuthority(t).key
	template := &x509.Certificate{
		SerialNumber: newAuthority(t).cert.SerialNumber, Subject: pkix.Name{CommonName: common},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	if by == nil {
		by = &issuer{template, key}
	}
	der, err := x509.CreateCertificate(nil, template, by.cert, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{cert, key}
}

// newAuthority gives the authority of a new secret.
func newAuthority(t *testing.T) *Authority {
	t.Helper()
	a, err := NewAuthority(NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// issue signs a certificate for a node of "prod" after change has had its way.
func (i *issuer) issue(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	return forgeWith(t, i.cert, i.key, func(c *x509.Certificate) {
		named("quorate://prod/node")(c)
		if change != nil {
			change(c)
		}
	})
}

func certPEM(ders ...[]byte) []byte {
	var out []byte
	for _, der := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

func keyPEM(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// write puts a node's files into a folder, those that are not nil.
func write(t *testing.T, dir string, cert *tls.Certificate, authorities ...*issuer) Files {
	t.Helper()
	f := Files{Cert: filepath.Join(dir, "node.pem"), Key: filepath.Join(dir, "node.key"), CA: filepath.Join(dir, "ca.pem")}
	put := func(path string, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if cert != nil {
		put(f.Cert, certPEM(cert.Certificate...))
		put(f.Key, keyPEM(t, cert.PrivateKey))
	}
	var all []byte
	for _, a := range authorities {
		all = append(all, certPEM(a.cert.Raw)...)
	}
	if all != nil {
		put(f.CA, all)
	}
	return f
}

func openIssued(t *testing.T, f Files) *Issued {
	t.Helper()
	i, err := OpenIssued(f, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// issuedSecurity is what a server makes of files of certificates.
type issuedSecurity struct{ by *Issued }

func (s issuedSecurity) Handshake(ctx context.Context, conn net.Conn, self peer.Claim, dialled bool) (peer.Secured, error) {
	c, err := s.by.Handshake(ctx, conn, Name{Cluster: self.Cluster, Node: self.Node}, dialled)
	if err != nil {
		return nil, err
	}
	return issuedConn{secured{c}}, nil
}

type issuedConn struct{ secured }

func (c issuedConn) Peer() peer.Claim {
	claim := c.secured.Peer()
	claim.Shared = c.Issued()
	return claim
}

// TestBadIssuedCertificatesAreRefused: signed by the authority is not enough.
func TestBadIssuedCertificatesAreRefused(t *testing.T) {
	ca := newIssuer(t, "operator", nil)
	own := ca.issue(t, nil)
	const foreign = "not by an authority that this node knows"
	h := house{
		issuedSecurity{openIssued(t, write(t, t.TempDir(), &own, ca))}, ca, "prod",
		stranger{reason: reasonAuthority, words: foreign}, "an authority's, not a node's",
	}
	between := newIssuer(t, "between", ca)
	chain := between.issue(t, nil)
	cut := chain
	chain.Certificate = append(chain.Certificate, between.cert.Raw)
	h.welcomes(t, map[string]stranger{
		"good, without an id":    {h.as(t, "/node"), "", "", nil},
		"good, over a chain":     {chain, "", "", nil},
		"good, for any use":      {h.sign(t, func(c *x509.Certificate) { c.ExtKeyUsage = nil }), "", "", nil},
		"chain that is cut":      {cut, reasonAuthority, foreign, nil},
		"by a cluster secret":    {forge(t, newAuthority(t), nil), reasonAuthority, foreign, nil},
		"client without an id":   {h.as(t, "/client"), reasonRole, "for a client, not for a node", nil},
		"no role":                {h.as(t, ""), reasonCertificate, "not of the form", nil},
		"another cluster":        {ca.issue(t, named("quorate://test/node")), reasonName, `for cluster \"test\", and this node's for \"prod\"`, nil},
		"cluster in capitals":    {ca.issue(t, named("quorate://PROD/node")), reasonName, `for cluster \"PROD\"`, nil},
		"cluster that begins so": {ca.issue(t, named("quorate://production/node")), reasonName, `for cluster \"production\"`, nil},
		"no cluster":             {ca.issue(t, named("quorate:///node")), reasonName, "names no cluster", nil},
	})
}

// TestBadIssuedListenersAreRefused: the dialling end looks as closely, and both tell.
func TestBadIssuedListenersAreRefused(t *testing.T) {
	ca, other := newIssuer(t, "operator", nil), newIssuer(t, "other", nil)
	open := func(cert tls.Certificate, authorities ...*issuer) issuedSecurity {
		return issuedSecurity{openIssued(t, write(t, t.TempDir(), &cert, authorities...))}
	}
	dialler := open(ca.issue(t, nil), ca)
	for name, c := range map[string]struct {
		listener      peer.Security
		reason, words string // that the dialler says; "" = let in
		listenerWords string
	}{
		"good":               {open(ca.issue(t, nil), ca), "", "", ""},
		"knows the dialler":  {open(other.issue(t, nil), other, ca), reasonAuthority, `by \"CN=other\"`, "refused the handshake"},
		"other cluster name": {open(ca.issue(t, named("quorate://test/node")), ca), reasonName, `for cluster \"test\"`, "refused the handshake"},
		"other node's":       {open(ca.issue(t, named("quorate://prod/node/0000000000000007")), ca), reasonOther, "connection ended", "this node's certificate is for node 0000000000000007"},
		"a cluster secret":   {security{ringOf(t, NewSecret())}, reasonAuthority, "not by an authority that this node knows", "refused the handshake"},
		"plain":              {nil, "", "the other end has no certificate for its peer port", "the dialler speaks TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork()
			n.start(t, 1, c.listener)
			m := n.start(t, 2, dialler)
			err := call(t, m, 1, peer.MethodTerms, "x")
			if c.words == "" {
				if err != nil {
					n.dump(t)
					t.Fatal(err)
				}
				return
			}
			if err == nil {
				t.Fatal("let in")
			}
			defer func() {
				if t.Failed() {
					n.dump(t)
				}
			}()
			eventually(t, "dialler says why", func() bool { return n.says(2, "no connection", c.words) })
			eventually(t, "listener says it", func() bool { return n.says(1, "refused a connection", c.listenerWords) })
		})
	}
}

// TestIssuedFoundingOfACluster: names that are chosen before there is a cluster let nodes found
// one; two clusters that were given the same name by mistake do not mix.
func TestIssuedFoundingOfACluster(t *testing.T) {
	ca := newIssuer(t, "operator", nil)
	start := func(n *network, cluster string) *peer.TCP {
		own := ca.issue(t, nil)
		id := 1 + len(n.addresses)
		return n.start(t, kv.NodeID(id), issuedSecurity{openIssued(t, write(t, t.TempDir(), &own, ca))}, inClusterOf(cluster))
	}
	n := newNetwork()
	start(n, "")
	m := start(n, "")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if id, got, err := m.Dial(ctx, n.addresses[1], peer.MethodProbe, []byte("who?")); id != 1 || string(got) != "who?" || err != nil {
		t.Fatalf("%s, %q, %v", id, got, err)
	}
	if err := call(t, m, 1, peer.MethodTerms, "x"); err == nil {
		t.Fatal("a stranger was let in")
	}
	n = newNetwork()
	start(n, "one")
	m = start(n, "two")
	if err := call(t, m, 1, peer.MethodTerms, "x"); err == nil {
		t.Fatal("another cluster of that name was let in")
	}
	eventually(t, "both count", func() bool { return n.counted(1, "other_cluster") && n.counted(2, "other_cluster") })
}

// TestFilesThatAreRefusedAtStart: what the others would refuse, or what cannot be meant.
func TestFilesThatAreRefusedAtStart(t *testing.T) {
	ca, other := newIssuer(t, "operator", nil), newIssuer(t, "other", nil)
	good := ca.issue(t, nil)
	put := func(pick func(Files) string, data []byte, mode os.FileMode) func(*testing.T, Files) {
		return func(t *testing.T, f Files) {
			if err := os.WriteFile(pick(f), data, mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(pick(f), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	cert := func(f Files) string { return f.Cert }
	key := func(f Files) string { return f.Key }
	authorities := func(f Files) string { return f.CA }
	is := func(c tls.Certificate) func(*testing.T, Files) {
		return func(t *testing.T, f Files) { write(t, filepath.Dir(f.Cert), &c) }
	}
	for want, change := range map[string]func(*testing.T, Files){
		"":                       func(*testing.T, Files) {},
		"private key does not":   put(key, keyPEM(t, ca.issue(t, nil).PrivateKey), 0o600),
		"everybody may use this": put(key, keyPEM(t, good.PrivateKey), 0o604),
		"node.pem: no such file": func(t *testing.T, f Files) { _ = os.Remove(f.Cert) },
		"node.key: no such file": func(t *testing.T, f Files) { _ = os.Remove(f.Key) },
		"ca.pem: no such file":   func(t *testing.T, f Files) { _ = os.Remove(f.CA) },
		"failed to find any PEM": put(cert, []byte("x"), 0o600),
		"no certificate in it":   put(authorities, []byte("x"), 0o600),
		"there is a PRIVATE KEY": put(authorities, append(certPEM(ca.cert.Raw), keyPEM(t, ca.key)...), 0o600),
		"certificate 2, ":        put(authorities, certPEM(ca.cert.Raw, good.Certificate[0]), 0o600),
		"certificate 1 is damag": put(authorities, append(certPEM(ca.cert.Raw), "-----BEGIN CERTIFICATE-----\nMII"...), 0o600),
		"certificate 1: x509":    put(authorities, certPEM([]byte("x")), 0o600),
		"larger than":            put(authorities, bytes.Repeat([]byte(" "), authorityFileBytesMax+1), 0o600),
		"by an authority":        put(authorities, certPEM(other.cert.Raw), 0o600),
		"has expired on":         is(ca.issue(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })),
		"are the clocks right":   is(ca.issue(t, func(c *x509.Certificate) { c.NotBefore = c.NotAfter.Add(-time.Minute) })),
		"for a client":           is(ca.issue(t, named("quorate://prod/client"))),
		"is not of the form":     is(ca.issue(t, named("quorate://prod"))),
		"0 names":                is(ca.issue(t, named("https://prod/node"))),
		"names no cluster":       is(ca.issue(t, named("quorate:///node"))),
		"to dial connections":    is(ca.issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = RoleWeb.usage() })),
		"to accept connections":  is(ca.issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = RoleClient.usage() })),
		"an authority's, not":    is(tls.Certificate{Certificate: [][]byte{namedAuthority(t, ca).Raw}, PrivateKey: ca.key}),
	} {
		t.Run(want, func(t *testing.T) {
			f := write(t, t.TempDir(), &good, ca)
			change(t, f)
			_, err := OpenIssued(f, slog.New(slog.DiscardHandler), nil)
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%v", err)
			}
		})
	}
}

// namedAuthority is an authority's certificate with the name of a node.
func namedAuthority(t *testing.T, by *issuer) *x509.Certificate {
	t.Helper()
	template := *by.cert
	named("quorate://prod/node")(&template)
	template.ExtKeyUsage = RoleNode.usage()
	der, err := x509.CreateCertificate(nil, &template, by.cert, &by.key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
