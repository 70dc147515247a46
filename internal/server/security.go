package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/quorate-db/quorate/internal/pki"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// Security says what protects a node's ports.
type Security struct {
	// SecretFile holds the cluster's secrets, one a line, the one in use first. It is
	// read again when it changes. "" = Secrets.
	SecretFile string
	// Secrets are those that were given by value; they never change.
	Secrets []pki.Secret
	// Peer are certificates of one's own for traffic between nodes, instead of secrets.
	Peer pki.Files
	// Web says whether and how clients are served over HTTPS.
	Web WebTLS
	// Insecure: listening beyond loopback is wanted without tokens for clients, or
	// without a secret or certificates for other nodes.
	Insecure bool
}

// lookEvery is how often files of secrets and certificates are looked at. With the
// time that connections get to move, it bounds how long a removed secret is of use.
const lookEvery = 2 * time.Second

// hasSecret reports whether there is a cluster secret.
func (s Security) hasSecret() bool { return s.SecretFile != "" || len(s.Secrets) > 0 }

// hasPeerFiles reports whether there are certificates for traffic between nodes.
func (s Security) hasPeerFiles() bool { return s.Peer != pki.Files{} }

// secured reports whether traffic between nodes is.
func (s Security) secured() bool { return s.hasSecret() || s.hasPeerFiles() }

func (s Security) validate() error {
	if s.SecretFile != "" && len(s.Secrets) > 0 {
		return errors.New("--cluster-secret-file: there is a secret in QUORATE_CLUSTER_SECRET too: give one of them")
	}
	if p := s.Peer; s.hasPeerFiles() && (p.Cert == "" || p.Key == "" || p.CA == "") {
		return errors.New("--peer-cert, --peer-key and --peer-ca go together")
	}
	if s.hasPeerFiles() && s.hasSecret() {
		return errors.New("--peer-cert: there is a cluster secret too: nodes use one or the other")
	}
	return s.Web.validate(s.hasSecret())
}

// secure reads the secrets and says how the node is protected.
func (p *process) secure() error {
	s := p.config.Security
	p.warnIfExposed()
	if s.hasPeerFiles() {
		if err := p.securePeers(); err != nil {
			return err
		}
	}
	if s.hasSecret() {
		if err := p.secureBySecret(); err != nil {
			return err
		}
	}
	return p.secureWeb()
}

// securePeers reads the certificates for traffic between nodes.
func (p *process) securePeers() error {
	issued, err := pki.OpenIssued(p.config.Security.Peer, p.log, nil)
	if err != nil {
		return fmt.Errorf("--peer-cert, --peer-key, --peer-ca: %w", err)
	}
	p.issued = issued
	p.log.Info("peer traffic is secured by certificates", "cluster", issued.Cluster(), "until", issued.Expires().UTC())
	p.keep(issued)
	return nil
}

// secureBySecret reads the cluster secrets.
func (p *process) secureBySecret() error {
	s := p.config.Security
	secrets := s.Secrets
	if s.SecretFile != "" {
		var err error
		if secrets, err = pki.ReadSecrets(s.SecretFile); err != nil {
			return fmt.Errorf("--cluster-secret-file: %w", err)
		}
	}
	ring, err := pki.NewKeyring(secrets, nil)
	if err != nil {
		return err
	}
	p.ring = ring
	p.log.Info("peer traffic is secured", "secret", ring.IDs()[0], "accepted", ring.IDs())
	if s.SecretFile != "" {
		p.looks = append(p.looks, pki.FollowSecrets(s.SecretFile, ring, p.log))
	}
	return nil
}

// follow has the files looked at until stop is called. Without any, SIGHUP ends the
// process as it does every other.
func (p *process) follow(ctx context.Context) (stop func()) {
	if len(p.looks) == 0 {
		return func() {}
	}
	hurry := make(chan os.Signal, 1)
	signal.Notify(hurry, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		pki.Follow(ctx, lookEvery, hurry, p.looks...)
	}()
	return func() { signal.Stop(hurry); cancel(); <-done }
}

// peerSecurity gives what secures the peer port of a node, nil if nothing does.
func (p *process) peerSecurity(id kv.NodeID) (peer.Security, error) {
	switch {
	case p.ring != nil:
		return peerSecurity{p.ring}, nil
	case p.issued != nil:
		if err := p.issued.For(id); err != nil {
			return nil, fmt.Errorf("--peer-cert: %w", err)
		}
		return peerSecurity{p.issued}, nil
	default:
		return nil, nil
	}
}

// peerSecurity is a keyring or files of certificates as the peer port wants them.
type peerSecurity struct{ by handshaker }

type handshaker interface {
	Handshake(ctx context.Context, conn net.Conn, self pki.Name, dialled bool) (*pki.Conn, error)
}

var _ peer.Security = peerSecurity{}

func (s peerSecurity) Handshake(ctx context.Context, conn net.Conn, self peer.Claim, dialled bool) (peer.Secured, error) {
	c, err := s.by.Handshake(ctx, conn, pki.Name{Cluster: self.Cluster, Node: self.Node}, dialled)
	if err != nil {
		return nil, err
	}
	return peerConn{c}, nil
}

type peerConn struct{ *pki.Conn }

func (c peerConn) Peer() peer.Claim {
	n := c.Conn.Peer()
	return peer.Claim{Node: n.Node, Cluster: n.Cluster, Shared: c.Issued()}
}

func (c peerConn) Standing() peer.Standing {
	switch c.Conn.Standing() {
	case pki.Current:
		return peer.Current
	case pki.Outdated:
		return peer.Outdated
	default:
		return peer.Revoked
	}
}

// admin is the control plane with what only this node knows of itself.
type admin struct {
	*placement.Control
	node *Node
	ends func() []pki.Term // of its files of certificates
}

// Problems adds to what the cluster knows what of this node is not secured, or not for long.
func (a admin) Problems(ctx context.Context) ([]kv.Problem, error) {
	problems, err := a.Control.Problems(ctx)
	if err != nil {
		return nil, err
	}
	self, name := a.node.identity.Node(), a.node.name()
	problems = append(problems, a.node.config.exposure().problems(self, name)...)
	return append(problems, endingProblems(self, name, a.ends(), time.Now())...), nil
}
