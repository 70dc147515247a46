package pki

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"testing"
	"time"

	"github.com/quorate-db/quorate/raftnode/peer"
)

// stranger is how somebody who says that it is node 2 knocks, and what the listener is to say.
type stranger struct {
	cert   tls.Certificate
	reason string // "" = let in
	words  string
	tune   func(*tls.Config) // nil: none
}

// house is what secures a peer port that strangers knock at.
type house struct {
	by      peer.Security
	ca      *issuer  // whose certificates it takes
	cluster string   // its name, in them
	unknown stranger // what it says of other authorities
	itself  string   // words of what it says of the authority's own certificate
}

func (h house) sign(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	return forgeWith(t, h.ca.cert, h.ca.key, func(c *x509.Certificate) {
		named("quorate://" + h.cluster + "/node/0000000000000002")(c)
		if change != nil {
			change(c)
		}
	})
}

// as signs for a name in the house's cluster.
func (h house) as(t *testing.T, rest string) tls.Certificate {
	t.Helper()
	return h.sign(t, named("quorate://"+h.cluster+rest))
}

// strangers are those whom every house judges alike.
func (h house) strangers(t *testing.T) map[string]stranger {
	t.Helper()
	good := h.sign(t, nil)
	with := func(change func(*x509.Certificate)) tls.Certificate { return h.sign(t, change) }
	bad := func(words string, cert tls.Certificate) stranger {
		return stranger{cert, reasonCertificate, words, nil}
	}
	role := func(words string, cert tls.Certificate) stranger { return stranger{cert, reasonRole, words, nil} }
	speaks := func(reason, words string, tune func(*tls.Config)) stranger {
		return stranger{good, reason, words, tune}
	}
	unknown := func(cert tls.Certificate) stranger { return stranger{cert, h.unknown.reason, h.unknown.words, nil} }
	stolen := tls.Certificate{Certificate: good.Certificate, PrivateKey: with(nil).PrivateKey}
	return map[string]stranger{
		"good":                     {good, "", "", nil},
		"none":                     {tls.Certificate{}, reasonOther, "didn't provide a certificate", nil},
		"without its key":          {stolen, reasonOther, "invalid signature", nil},
		"other authority":          unknown(house{ca: newIssuer(t, "other", nil), cluster: h.cluster}.sign(t, nil)),
		"same name, other key":     unknown(house{ca: h.ca.double(t), cluster: h.cluster}.sign(t, nil)),
		"signed by itself":         unknown(forgeWith(t, nil, nil, named("quorate://"+h.cluster+"/node/0000000000000002"))),
		"by a node":                unknown(h.below(t, good)),
		"the authority's own":      bad(h.itself, tls.Certificate{Certificate: [][]byte{h.ca.cert.Raw}, PrivateKey: h.ca.key}),
		"expired":                  bad("are the clocks right", with(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })),
		"not yet":                  bad("are the clocks right", with(func(c *x509.Certificate) { c.NotBefore = c.NotAfter.Add(-time.Minute) })),
		"role client":              role("for a client, not for a node", h.as(t, "/client/0000000000000002")),
		"role web":                 role("for a web, not for a node", h.as(t, "/web/0000000000000002")),
		"role in capitals":         role("for a Node, not for a node", h.as(t, "/Node/0000000000000002")),
		"usage of a server alone":  role("not for this end", with(func(c *x509.Certificate) { c.ExtKeyUsage = RoleWeb.usage() })),
		"usage of neither of both": role("not for this end", with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} })),
		"no name":                  bad("0 names", with(func(c *x509.Certificate) { c.URIs = nil })),
		"two names":                bad("2 names", with(func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) })),
		"name of others":           bad("0 names", with(named("spiffe://"+h.cluster+"/node/0000000000000002"))),
		"name as a host":           bad("0 names", with(func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{h.cluster} })),
		"name with a query":        bad("not of the form", h.as(t, "/node/0000000000000002?x=y")),
		"name with a user":         bad("not of the form", with(named("quorate://u@"+h.cluster+"/node/0000000000000002"))),
		"node 0":                   bad("not of the form", h.as(t, "/node/0")),
		"no role, with a slash":    bad("not of the form", h.as(t, "/")),
		"a slash too many":         bad("not of the form", h.as(t, "/node/")),
		"another node":             {h.as(t, "/node/0000000000000003"), "other_certificate", "the certificate node 0000000000000003", nil},
		"TLS 1.2":                  speaks(reasonOther, "unsupported versions", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }),
		"HTTP over TLS":            speaks(reasonOther, "application protocol", func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} }),
		"no protocol":              speaks(reasonProtocol, "not as a Quorate node", func(c *tls.Config) { c.NextProtos = nil }),
	}
}

// double is another authority that cannot be told from this one but by its key.
func (i *issuer) double(t *testing.T) *issuer {
	t.Helper()
	other := newAuthority(t)
	cert := *other.cert
	cert.RawSubject, cert.SubjectKeyId = i.cert.RawSubject, i.cert.SubjectKeyId
	return &issuer{&cert, other.key}
}

// below is a certificate by a node that uses its own as an authority's.
func (h house) below(t *testing.T, by tls.Certificate) tls.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(by.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	out := house{ca: &issuer{leaf, by.PrivateKey.(*ecdsa.PrivateKey)}, cluster: h.cluster}.sign(t, nil)
	out.Certificate = append(out.Certificate, by.Certificate[0])
	return out
}

// welcomes has strangers knock, those of every house and more: who is not let in gets
// nothing, and both ends say why. The good ones are let in, or else the others would
// prove nothing.
func (h house) welcomes(t *testing.T, more map[string]stranger) {
	t.Helper()
	all := h.strangers(t)
	maps.Copy(all, more)
	for name, s := range all {
		t.Run(name, func(t *testing.T) { h.knock(t, s) })
	}
}

func (h house) knock(t *testing.T, s stranger) {
	n := newNetwork()
	defer func() {
		if t.Failed() {
			n.dump(t)
		}
	}()
	n.start(t, 1, h.by)
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{peerProtocol}}
	// Sent even where the listener does not ask for one of that issuer.
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &s.cert, nil }
	if s.tune != nil {
		s.tune(config)
	}
	err := call(t, n.start(t, 2, forger{config}), 1, peer.MethodTerms, "let me in")
	if s.reason == "" {
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	if err == nil {
		t.Fatal("let in")
	}
	eventually(t, "listener counts "+s.reason, func() bool { return n.counted(1, s.reason) })
	eventually(t, "listener says why", func() bool { return n.says(1, "refused a connection", s.words) })
	eventually(t, "dialler says it", func() bool { return n.says(2, "no connection") })
}
