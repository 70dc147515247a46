package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"time"
)

// peerProtocol is agreed on in the handshake, so that nobody who means to speak
// something else, HTTP for instance, gets as far as the first byte of it.
const peerProtocol = "quorate-peer"

// Standing says what the secrets and authorities that count now make of a connection.
type Standing int

// A connection is Current if both ends used the secret that this node mints with;
// Outdated if one of them used another that still counts; Revoked if one used a
// secret that does not count any more. Issued says the same of certificates.
const (
	Current Standing = iota
	Outdated
	Revoked
)

// Conn is a connection to another node: TLS 1.3, both ends certified.
type Conn struct {
	*tls.Conn
	raw      net.Conn
	cork     *cork
	peer     Name
	issued   bool            // by certificates of the operator's making
	standing func() Standing // set once the handshake is over
}

func newConn(raw net.Conn) *Conn { return &Conn{raw: raw, cork: &cork{Conn: raw}} }

// Peer gives who the other end has proved to be.
func (c *Conn) Peer() Name { return c.peer }

// Issued reports whether the ends were certified by an operator. Then the cluster in
// Peer is the operator's name for it, and the node may be 0: any of that cluster.
func (c *Conn) Issued() bool { return c.issued }

// Standing may be asked at any time, from any goroutine.
func (c *Conn) Standing() Standing { return c.standing() }

// Read reads what the other end sends. That it did not like our certificate may
// be the first that comes.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && remoteAlert(err) {
		err = explain(err, true, c.issued)
	}
	return n, err
}

// WriteAll writes segments with one call to the system. Not from two goroutines
// at once.
func (c *Conn) WriteAll(segments [][]byte) error {
	c.cork.hold()
	for _, s := range segments {
		if _, err := c.Write(s); err != nil {
			return err
		}
	}
	return c.cork.release()
}

// CloseWrite ends the sending half without the alert of TLS, which may wait for
// room; frames say themselves that they are the last.
func (c *Conn) CloseWrite() error {
	if half, ok := c.raw.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Close closes the connection at once.
func (c *Conn) Close() error { return c.raw.Close() }

// Handshake secures a connection to another node, as self, until ctx ends or a
// deadline of the connection passes. The caller closes conn if it fails; errors
// are of type *HandshakeError.
func (k *Keyring) Handshake(ctx context.Context, conn net.Conn, self Name, dialled bool) (*Conn, error) {
	self.Role = RoleNode
	l, err := k.leaf(request{name: self})
	if err != nil {
		return nil, &HandshakeError{reason: reasonOther, text: "this node cannot make its certificate", err: err}
	}
	c := newConn(conn)
	theirs := ""
	err = c.handshake(ctx, peerConfig(l.certificate(), k.now), dialled, func(presented []*x509.Certificate, usage x509.ExtKeyUsage) (err error) {
		c.peer, theirs, err = k.verify(presented, usage)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.standing = func() Standing { return k.standing(l.authority, theirs) }
	return c, nil
}

// standing judges a connection by the ids of the secrets by which its ends were
// certified.
func (k *Keyring) standing(mine, theirs string) Standing {
	r := k.ring.Load()
	first := r.authorities[0].id
	switch {
	case !r.holds(mine) || !r.holds(theirs):
		return Revoked
	case mine != first || theirs != first:
		return Outdated
	default:
		return Current
	}
}

// handshake makes the connection's TLS; verify judges what certificates the other end
// presents, for a usage. Errors are of type *HandshakeError.
func (c *Conn) handshake(ctx context.Context, config *tls.Config, dialled bool, verify func([]*x509.Certificate, x509.ExtKeyUsage) error) error {
	usage := x509.ExtKeyUsageClientAuth
	if dialled {
		usage = x509.ExtKeyUsageServerAuth
	}
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if state.NegotiatedProtocol != peerProtocol {
			return &HandshakeError{reason: reasonProtocol, text: "the other end speaks TLS, but not as a Quorate node"}
		}
		return verify(state.PeerCertificates, usage)
	}
	if dialled {
		c.Conn = tls.Client(c.cork, config)
	} else {
		c.Conn = tls.Server(c.cork, config)
	}
	if err := c.HandshakeContext(ctx); err != nil {
		return explain(err, dialled, c.issued)
	}
	return nil
}

// peerConfig is for one handshake, of either end. Certificates are judged in
// VerifyConnection alone: there are no host names in them to be checked.
func peerConfig(own *tls.Certificate, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{*own},
		NextProtos:                  []string{peerProtocol},
		ClientAuth:                  tls.RequireAnyClientCert,
		InsecureSkipVerify:          true, // VerifyConnection does
		SessionTicketsDisabled:      true, // invariant 4
		DynamicRecordSizingDisabled: true, // full records: it is frames that are read, not pages
		Time:                        now,
	}
}

// verify tells who presents a certificate and by which secret. It refuses what is
// not the certificate of a node, by a secret that counts.
func (k *Keyring) verify(presented []*x509.Certificate, usage x509.ExtKeyUsage) (Name, string, error) {
	r := k.ring.Load()
	if len(presented) == 0 {
		return Name{}, "", errNoCertificate()
	}
	cert := presented[0]
	chains, err := cert.Verify(x509.VerifyOptions{
		Roots:       r.pool,
		CurrentTime: k.now(),
		KeyUsages:   []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return Name{}, "", k.refusal(cert, err)
	}
	root := chains[0][len(chains[0])-1]
	by := ""
	for _, a := range r.authorities {
		if a.cert.Equal(root) {
			by = a.id
		}
	}
	if by == "" || len(chains[0]) != 2 {
		return Name{}, "", &HandshakeError{reason: reasonCertificate, text: "the certificate was not issued by the cluster's authority itself"}
	}
	name, err := nameIn(cert)
	if err != nil {
		return Name{}, "", &HandshakeError{reason: reasonCertificate, err: err}
	}
	return name, by, needNode(name)
}

// needNode refuses other roles.
func needNode(name Name) error {
	if name.Role != RoleNode {
		return &HandshakeError{reason: reasonRole, text: "the certificate is for a " + clip(string(name.Role)) + ", not for a node"}
	}
	return nil
}

func errNoCertificate() error {
	return &HandshakeError{reason: reasonCertificate, text: "the other end has no certificate"}
}

// refusal puts into words why a certificate did not verify.
func (k *Keyring) refusal(cert *x509.Certificate, err error) *HandshakeError {
	e := refusal(cert, err)
	if e.reason == reasonAuthority {
		e.reason = reasonSecret
		e.text = "the other end has another cluster secret: its certificate is by " + quoted(cert.Issuer.CommonName) + ", this node counts " + list(k.IDs())
	}
	return e
}

// refusal puts into words why a certificate did not verify.
func refusal(cert *x509.Certificate, err error) *HandshakeError {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	e := &HandshakeError{reason: reasonCertificate, err: err}
	switch {
	case errors.As(err, &unknown):
		e.reason = reasonAuthority
		e.text = "the certificate is by " + quoted(cert.Issuer.String()) + ", and not by an authority that this node knows"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		// Without the time of day, or else it would be news each time.
		e.err = nil
		e.text = "the certificate counts from " + cert.NotBefore.UTC().Format(time.RFC3339) + " to " + cert.NotAfter.UTC().Format(time.RFC3339) +
			", which is not now by this node's clock: are the clocks right?"
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		e.reason = reasonRole
		e.text = "the certificate is not for this end of a connection between nodes"
	}
	return e
}
