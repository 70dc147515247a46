package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"
)

const (
	// leafLife is how long a certificate counts from when it was minted, leafRenew
	// after what part of it the next is minted, and leafBackdate how far before it
	// counts already: so far may the clocks of two nodes be apart.
	leafLife     = 24 * time.Hour
	leafRenew    = leafLife / 2
	leafBackdate = 12 * time.Hour
)

// The authority's own certificate counts for ever, in effect: its life is the
// secret's. The dates are constants because every node has to write the same ones.
var (
	authorityBegin = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	authorityEnd   = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

// Authority is a certificate authority that was derived from a secret.
type Authority struct {
	id   string // the secret's
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// NewAuthority derives the authority of a secret, always the same (invariant 1).
func NewAuthority(s Secret) (*Authority, error) {
	key, err := authorityKey(s)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(s.derive("authority serial", 15)),
		Subject:               pkix.Name{CommonName: "Quorate cluster authority " + s.ID()},
		NotBefore:             authorityBegin,
		NotAfter:              authorityEnd,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs leaves only
		SubjectKeyId:          s.derive("authority key id", 20),
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
	}
	// Without a source of randomness the signature is RFC 6979's, which depends on key
	// and text alone.
	der, err := x509.CreateCertificate(nil, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("authority's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("authority's certificate: %w", err)
	}
	return &Authority{id: s.ID(), key: key, cert: cert}, nil
}

// authorityKey makes the key from bytes: the generators of the standard library
// ignore a source that repeats itself. 48 bytes, 128 bits more than the order has,
// leave no bias when they are reduced.
func authorityKey(s Secret) (*ecdsa.PrivateKey, error) {
	curve := elliptic.P256()
	below := new(big.Int).Sub(curve.Params().N, big.NewInt(1))
	d := new(big.Int).SetBytes(s.derive("authority key", 48))
	d.Mod(d, below).Add(d, big.NewInt(1)) // 1 to order - 1
	key, err := ecdsa.ParseRawPrivateKey(curve, d.FillBytes(make([]byte, 32)))
	if err != nil {
		return nil, fmt.Errorf("authority's key: %w", err)
	}
	return key, nil
}

// ID gives the id of the secret.
func (a *Authority) ID() string { return a.id }

// PEM gives the certificate, for those who are to trust it.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// leaf is a certificate that was minted, with its key.
type leaf struct {
	authority string // id of the secret
	der       []byte
	key       *ecdsa.PrivateKey
	renewAt   time.Time
}

// request is what is to be certified.
type request struct {
	name  Name
	hosts []string // DNS names and addresses, of servers for clients
}

// mint makes a key and a certificate for it, as from now.
func (a *Authority) mint(r request, now time.Time) (*leaf, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: r.name.common()},
		NotBefore:             now.Add(-leafBackdate),
		NotAfter:              now.Add(leafLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           r.name.Role.usage(),
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{r.name.uri()},
	}
	for _, host := range r.hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return &leaf{authority: a.id, der: der, key: key, renewAt: now.Add(leafRenew)}, nil
}
