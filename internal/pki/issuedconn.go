package pki

import (
	"bytes"
	"context"
	"crypto/x509"
	"net"
	"sync/atomic"
	"time"
)

// Handshake secures a connection to another node; see Keyring.Handshake. Of self the
// node alone counts.
func (i *Issued) Handshake(ctx context.Context, conn net.Conn, self Name, dialled bool) (*Conn, error) {
	by := i.load()
	if err := by.isFor(self.Node); err != nil {
		return nil, &HandshakeError{reason: reasonCertificate, err: err}
	}
	c := newConn(conn)
	c.issued = true
	s := &issuedStanding{issued: i, mine: by.own.Leaf, since: i.now()}
	err := c.handshake(ctx, peerConfig(by.own, i.now), dialled, func(presented []*x509.Certificate, usage x509.ExtKeyUsage) (err error) {
		// By what counts now: a handshake may be slow.
		now := i.load()
		s.theirs, s.usage = presented, usage
		if c.peer, err = now.check(presented, usage, i.now()); err == nil {
			s.judged.Store(&judgement{by: now, standing: Current})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if by != s.judged.Load().by {
		s.judged.Store(nil)
	}
	c.standing = s.standing
	return c, nil
}

// check verifies what an end of a connection presents: a node's certificate, of the
// cluster's name, by an authority that counts at that time, for that usage. Errors are
// of type *HandshakeError.
func (c *credentials) check(presented []*x509.Certificate, usage x509.ExtKeyUsage, at time.Time) (Name, error) {
	if len(presented) == 0 {
		return Name{}, errNoCertificate()
	}
	cert := presented[0]
	_, err := cert.Verify(x509.VerifyOptions{
		Roots: c.roots, Intermediates: poolOf(presented[1:]), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return Name{}, refusal(cert, err)
	}
	if cert.IsCA {
		return Name{}, &HandshakeError{reason: reasonCertificate, text: "the certificate is an authority's, not a node's"}
	}
	name, err := issuedNameIn(cert)
	if err != nil {
		return Name{}, &HandshakeError{reason: reasonCertificate, err: err}
	}
	if err := needNode(name); err != nil {
		return Name{}, err
	}
	if name.Cluster == "" {
		return Name{}, &HandshakeError{reason: reasonName, text: "the certificate names no cluster"}
	}
	if name.Cluster != c.name.Cluster {
		return Name{}, &HandshakeError{reason: reasonName, text: "the certificate is for cluster " + quoted(name.Cluster) + ", and this node's for " + quoted(c.name.Cluster)}
	}
	return name, nil
}

// issuedStanding judges a connection again whenever the files have changed.
type issuedStanding struct {
	issued *Issued
	mine   *x509.Certificate
	theirs []*x509.Certificate
	usage  x509.ExtKeyUsage // of theirs
	since  time.Time        // when both were found to be in time
	judged atomic.Pointer[judgement]
}

type judgement struct {
	by       *credentials
	standing Standing
}

// standing gives Revoked if the authorities that count now do not accept the other
// end, Outdated if this node has another certificate by now or one of the two has
// expired. That alone closes nothing: a day that was missed must not stop a cluster
// which runs, while an authority that was taken away must.
func (s *issuedStanding) standing() Standing {
	now := s.issued.load()
	j := s.judged.Load()
	if j == nil || j.by != now {
		j = &judgement{now, s.judge(now)}
		s.judged.Store(j)
	}
	if at := s.issued.now(); j.standing == Current && (at.After(s.mine.NotAfter) || at.After(s.theirs[0].NotAfter)) {
		return Outdated
	}
	return j.standing
}

func (s *issuedStanding) judge(by *credentials) Standing {
	if _, err := by.check(s.theirs, s.usage, s.since); err != nil {
		return Revoked
	}
	if !bytes.Equal(s.mine.Raw, by.own.Leaf.Raw) {
		return Outdated
	}
	return Current
}
