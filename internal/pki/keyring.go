package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// SecretsMax is how many secrets may count at once. Replacing one takes two.
const SecretsMax = 4

// leavesMax bounds the certificates that are kept: one for each name that this
// node has had.
const leavesMax = 16

// Keyring holds the secrets that count now: it mints with the first and trusts
// them all. It is safe for concurrent use.
type Keyring struct {
	now  func() time.Time
	ring atomic.Pointer[ring]

	mu     sync.Mutex
	leaves map[string]*leaf // by name and hosts, of the first secret
}

// ring is what a Keyring holds. It is never changed, only replaced.
type ring struct {
	authorities []*Authority
	pool        *x509.CertPool
}

// NewKeyring makes a keyring of one to SecretsMax secrets, none twice. now is the
// clock for certificates; nil: time.Now.
func NewKeyring(secrets []Secret, now func() time.Time) (*Keyring, error) {
	if now == nil {
		now = time.Now
	}
	k := &Keyring{now: now}
	return k, k.Replace(secrets)
}

// Replace changes the secrets. Connections that were made before say by Standing
// what that makes of them. On error nothing has changed.
func (k *Keyring) Replace(secrets []Secret) error {
	if len(secrets) == 0 || len(secrets) > SecretsMax {
		return fmt.Errorf("%d cluster secrets: want 1 to %d", len(secrets), SecretsMax)
	}
	r := &ring{pool: x509.NewCertPool()}
	for _, s := range secrets {
		if s.IsZero() {
			return errors.New("a cluster secret is missing")
		}
		a, err := NewAuthority(s)
		if err != nil {
			return err
		}
		if r.holds(a.id) {
			return fmt.Errorf("cluster secret %s is there twice", a.id)
		}
		r.authorities = append(r.authorities, a)
		r.pool.AddCert(a.cert)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.leaves = nil
	k.ring.Store(r)
	return nil
}

// IDs gives the ids of the secrets, that of the one in use first.
func (k *Keyring) IDs() []string {
	var ids []string
	for _, a := range k.ring.Load().authorities {
		ids = append(ids, a.id)
	}
	return ids
}

// PEM gives the certificates of all authorities, the one in use first.
func (k *Keyring) PEM() []byte {
	var out []byte
	for _, a := range k.ring.Load().authorities {
		out = append(out, a.PEM()...)
	}
	return out
}

func (r *ring) holds(id string) bool {
	return slices.ContainsFunc(r.authorities, func(a *Authority) bool { return a.id == id })
}

// leaf gives a certificate by the first secret, a new one if the last is past half
// of its life, or from a future that the clock has left.
func (k *Keyring) leaf(req request) (*leaf, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	first := k.ring.Load().authorities[0]
	key := req.name.String() + " " + strings.Join(req.hosts, " ")
	now := k.now()
	if l := k.leaves[key]; l != nil && now.Before(l.renewAt) && now.After(l.renewAt.Add(-leafRenew-leafBackdate)) {
		return l, nil
	}
	l, err := first.mint(req, now)
	if err != nil {
		return nil, err
	}
	if k.leaves == nil || len(k.leaves) >= leavesMax {
		k.leaves = map[string]*leaf{}
	}
	k.leaves[key] = l
	return l, nil
}

// WebCertificate gives the certificate with which this node serves clients under
// the hosts, which are DNS names and addresses.
func (k *Keyring) WebCertificate(self Name, hosts []string) (*tls.Certificate, error) {
	self.Role = RoleWeb
	l, err := k.leaf(request{name: self, hosts: hosts})
	if err != nil {
		return nil, err
	}
	return l.certificate(), nil
}

func (l *leaf) certificate() *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{l.der}, PrivateKey: l.key}
}
