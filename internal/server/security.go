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
	// Web says whether and how clients are served over HTTPS.
	Web WebTLS
	// Insecure: listening beyond loopback is wanted without tokens for clients, or
	// without a secret for other nodes.
	Insecure bool
}

// lookEvery is how often files of secrets and certificates are looked at. With the
// time that connections get to move, it bounds how long a removed secret is of use.
const lookEvery = 2 * time.Second

// secured reports whether there is a cluster secret.
func (s Security) secured() bool { return s.SecretFile != "" || len(s.Secrets) > 0 }

func (s Security) validate() error {
	if s.SecretFile != "" && len(s.Secrets) > 0 {
		return errors.New("--cluster-secret-file: there is a secret in QUORATE_CLUSTER_SECRET too: give one of them")
	}
	return s.Web.validate(s.secured())
}

// secure reads the secrets and says how the node is protected.
func (p *process) secure() error {
	s := p.config.Security
	p.warnIfExposed()
	if !s.secured() {
		return p.secureWeb()
	}
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
		f := &pki.Follower{Path: s.SecretFile, Ring: ring, Log: p.log}
		p.looks = append(p.looks, f.Look)
	}
	return p.secureWeb()
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

// peerSecurity is a keyring as the peer port wants it.
type peerSecurity struct{ ring *pki.Keyring }

var _ peer.Security = peerSecurity{}

func (s peerSecurity) Handshake(ctx context.Context, conn net.Conn, self peer.Claim, dialled bool) (peer.Secured, error) {
	c, err := s.ring.Handshake(ctx, conn, pki.Name{Cluster: self.Cluster, Node: self.Node}, dialled)
	if err != nil {
		return nil, err
	}
	return peerConn{c}, nil
}

type peerConn struct{ *pki.Conn }

func (c peerConn) Peer() peer.Claim {
	n := c.Conn.Peer()
	return peer.Claim{Node: n.Node, Cluster: n.Cluster}
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
}

// Problems adds to what the cluster knows what of this node is not secured.
func (a admin) Problems(ctx context.Context) ([]kv.Problem, error) {
	problems, err := a.Control.Problems(ctx)
	if err != nil {
		return nil, err
	}
	return append(problems, a.node.config.exposure().problems(a.node.identity.Node(), a.node.name())...), nil
}
