package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// forger dials with a TLS configuration of its own and believes anything.
type forger struct{ config *tls.Config }

func (f forger) Handshake(ctx context.Context, conn net.Conn, _ peer.Claim, _ bool) (peer.Secured, error) {
	c := tls.Client(conn, f.config)
	return forged{c}, c.HandshakeContext(ctx)
}

type forged struct{ *tls.Conn }

func (forged) Peer() peer.Claim        { return peer.Claim{Node: 1, Cluster: "test"} }
func (forged) Standing() peer.Standing { return peer.Current }
func (f forged) WriteAll(segments [][]byte) error {
	for _, s := range segments {
		if _, err := f.Write(s); err != nil {
			return err
		}
	}
	return nil
}

// forge signs a certificate for node 2 of "test" after change has had its way.
func forge(t *testing.T, by *Authority, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	return forgeWith(t, by.cert, by.key, change)
}

// forgeWith signs by an authority, by the certificate's own key if that is nil.
func forgeWith(t *testing.T, issuer *x509.Certificate, key *ecdsa.PrivateKey, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           RoleNode.usage(),
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{(Name{Cluster: "test", Role: RoleNode, Node: 2}).uri()},
	}
	if change != nil {
		change(template)
	}
	if issuer == nil {
		issuer, key = template, own
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, &own.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: own}
}

func named(text string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		u, err := url.Parse(text)
		if err != nil {
			panic(err)
		}
		c.URIs = []*url.URL{u}
	}
}

// TestBadCertificatesAreRefused: with each kind of wrong certificate or secret a
// dialler gets nothing from the peer port, and the listener says why.
func TestBadCertificatesAreRefused(t *testing.T) {
	secret := NewSecret()
	good, err := NewAuthority(secret)
	if err != nil {
		t.Fatal(err)
	}
	const foreign = "another cluster secret"
	h := house{
		security{ringOf(t, secret)}, &issuer{good.cert, good.key}, "test",
		stranger{reason: reasonSecret, words: foreign}, "issued by the cluster's authority",
	}
	h.welcomes(t, map[string]stranger{
		"other secret":    {forge(t, newAuthority(t), nil), reasonSecret, foreign, nil},
		"no role":         {h.as(t, "/0000000000000002"), reasonCertificate, "not of the form", nil},
		"no id":           {h.as(t, "/node"), reasonCertificate, "not of the form", nil},
		"another cluster": {forge(t, good, named("quorate://elsewhere/node/0000000000000002")), "other_certificate", "of cluster elsewhere", nil},
		"no cluster":      {forge(t, good, named("quorate:///node/0000000000000002")), "other_certificate", "of no cluster", nil},
	})
}

// TestOtherClustersMeet: the same secret in two clusters, by mistake, does not mix
// them up.
func TestOtherClustersMeet(t *testing.T) {
	secret := NewSecret()
	n := newNetwork()
	n.start(t, 1, security{ringOf(t, secret)}, inClusterOf("elsewhere"))
	m := n.start(t, 2, security{ringOf(t, secret)})
	if err := call(t, m, 1, peer.MethodTerms, "x"); err == nil {
		t.Fatal("let in")
	}
	eventually(t, "both count", func() bool { return n.counted(1, "other_cluster") && n.counted(2, "other_cluster") })
}

func inClusterOf(name string) func(*peer.Options) {
	return func(o *peer.Options) { o.ClusterID = func() string { return name } }
}

// TestSecretsThatDiffer: both ends say so, whoever dials and whoever has none.
func TestSecretsThatDiffer(t *testing.T) {
	a, b := security{ringOf(t, NewSecret())}, security{ringOf(t, NewSecret())}
	for name, c := range map[string]struct {
		listener, dialler           peer.Security
		reason                      string // that the listener counts
		listenerWords, diallerWords string
	}{
		"two secrets":      {a, b, reasonRefused, "another cluster secret", "another cluster secret"},
		"dialler without":  {a, nil, reasonPlain, "it has no cluster secret", "secures its connections (a cluster secret, or certificates) and the dialler does not"},
		"listener without": {nil, b, "malformed", "the dialler speaks TLS, and this node has no cluster secret", "the other end has no cluster secret"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork()
			n.start(t, 1, c.listener)
			m := n.start(t, 2, c.dialler)
			if err := call(t, m, 1, peer.MethodTerms, "x"); err == nil {
				t.Fatal("let in")
			}
			if err := call(t, m, 1, peer.MethodProbe, "x"); err == nil {
				t.Fatal("let in to probe")
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if id, _, err := m.Dial(ctx, n.addresses[1], peer.MethodJoin, nil); err == nil || kv.CodeOf(err) != kv.CodeUnavailable {
				t.Fatalf("joined by address: node %s, %v", id, err)
			}
			defer func() {
				if t.Failed() {
					n.dump(t)
				}
			}()
			eventually(t, "listener counts", func() bool { return n.counted(1, c.reason) })
			eventually(t, "listener's log", func() bool { return n.says(1, "refused a connection", c.listenerWords) })
			eventually(t, "dialler's log", func() bool { return n.says(2, "no connection", c.diallerWords) })
		})
	}
}

// TestPlainBytesAreRefused: whoever does not speak TLS is told nothing, and ends.
func TestPlainBytesAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"HTTP":     "GET /v1/cluster HTTP/1.1\r\nHost: x\r\n\r\n",
		"nonsense": "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09",
		"huge":     "\x16\x03\x01\xff\xff\x01\x00\xff\xff" + string(make([]byte, 1<<16)),
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork()
			n.start(t, 1, security{ringOf(t, NewSecret())})
			c, err := net.Dial("tcp", n.addresses[1])
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			_, _ = io.WriteString(c, text) // it may be turned away before the end
			got, _ := io.ReadAll(c)
			if len(got) > 7 { // an alert of TLS
				t.Fatalf("was told %q", got)
			}
			eventually(t, "log", func() bool { return n.says(1, "refused a connection") })
		})
	}
}

// TestSilentHandshakesEnd: one who opens connections and says nothing, or stops in the
// middle of a handshake, is closed.
func TestSilentHandshakesEnd(t *testing.T) {
	n := newNetwork()
	n.start(t, 1, security{ringOf(t, NewSecret())}, func(o *peer.Options) { o.Timing.Handshake = 100 * time.Millisecond })
	for _, text := range []string{"", "\x16", "\x16\x03\x01\x02\x00\x01"} {
		c, err := net.Dial("tcp", n.addresses[1])
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(c, text)
		if got, err := io.ReadAll(c); err != nil || len(got) > 0 {
			t.Fatalf("%q: told %q, %v", text, got, err)
		}
		_ = c.Close()
	}
	eventually(t, "log", func() bool { return n.says(1, "no TLS handshake in time") })
}

// TestFoundingOfACluster: nodes that are in no cluster yet reach each other for what
// is open to them, and for all once they are in one.
func TestFoundingOfACluster(t *testing.T) {
	s := security{ringOf(t, NewSecret())}
	n := newNetwork()
	cluster := make(chan string, 1)
	cluster <- ""
	now := func(o *peer.Options) {
		o.ClusterID = func() string { c := <-cluster; cluster <- c; return c }
	}
	n.start(t, 1, s, now)
	m := n.start(t, 2, s, now)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if id, got, err := m.Dial(ctx, n.addresses[1], peer.MethodProbe, []byte("who?")); id != 1 || string(got) != "who?" || err != nil {
		t.Fatalf("%s, %q, %v", id, got, err)
	}
	if err := call(t, m, 1, peer.MethodTerms, "x"); err == nil {
		t.Fatal("a stranger was let in")
	}
	<-cluster
	cluster <- "test"
	if err := call(t, m, 1, peer.MethodTerms, "x"); err != nil {
		t.Fatal(err)
	}
}
