package pki

import (
	"crypto/x509"
	"time"
)

// Use is what certificates in a file are for, in the words of the flag that names it.
type Use string

const (
	UsePeerCert Use = "peer-cert" // presented to other nodes
	UsePeerCA   Use = "peer-ca"   // other nodes' certificates are by these authorities
	UseTLSCert  Use = "tls-cert"  // presented to clients
	UseTLSCA    Use = "tls-ca"    // clients' certificates are by these authorities
)

// Term is from when to when a file of certificates counts, as a whole: that of the one
// among them that ends first.
type Term struct {
	Use        Use
	File       string
	Subject    string // of that certificate; its serial number if it has none
	Begin, End time.Time
}

// endsSoonMax is the most that a certificate's last part takes, in which it is called for.
const endsSoonMax = 21 * 24 * time.Hour

// EndsSoon reports whether a certificate is in the last quarter of its life, or in its
// last three weeks if that is shorter, or has ended. What is renewed at two thirds of
// its life, as usual, never is.
func (t Term) EndsSoon(now time.Time) bool {
	return now.After(t.End.Add(-min(t.End.Sub(t.Begin)/4, endsSoonMax)))
}

// termOf gives the term of a file with one certificate or more in it.
func termOf(use Use, file string, certs []*x509.Certificate) Term {
	first := certs[0]
	for _, c := range certs[1:] {
		if c.NotAfter.Before(first.NotAfter) {
			first = c
		}
	}
	subject := first.Subject.String()
	if subject == "" {
		subject = "serial number " + first.SerialNumber.Text(16)
	}
	return Term{use, file, clip(subject), first.NotBefore, first.NotAfter}
}
