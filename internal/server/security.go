package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
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
	// Insecure: listening beyond loopback without a secret is wanted.
	Insecure bool
}

// secretLookEvery is how often the file of secrets is looked at. With the time that
// connections get to move, it bounds how long a removed secret is of use.
const secretLookEvery = 2 * time.Second

// secured reports whether there is a cluster secret.
func (s Security) secured() bool { return s.SecretFile != "" || len(s.Secrets) > 0 }

// open reports whether whoever reaches the ports can do everything, and was meant to.
func (s Security) open() bool { return s.Insecure && !s.secured() }

func (s Security) validate() error {
	if s.SecretFile != "" && len(s.Secrets) > 0 {
		return errors.New("--cluster-secret-file: there is a secret in QUORATE_CLUSTER_SECRET too: give one of them")
	}
	return nil
}

// keyring gives the secrets, nil if there are none, and what keeps them as the file
// says, nil if there is no file.
func (s Security) keyring(log *slog.Logger) (*pki.Keyring, *pki.Follower, error) {
	if !s.secured() {
		return nil, nil, nil
	}
	secrets := s.Secrets
	if s.SecretFile != "" {
		var err error
		if secrets, err = pki.ReadSecrets(s.SecretFile); err != nil {
			return nil, nil, fmt.Errorf("--cluster-secret-file: %w", err)
		}
	}
	ring, err := pki.NewKeyring(secrets, nil)
	if err != nil || s.SecretFile == "" {
		return ring, nil, err
	}
	return ring, &pki.Follower{Path: s.SecretFile, Ring: ring, Every: secretLookEvery, Log: log}, nil
}

// follow keeps the secrets as their file says until stop is called.
func follow(ctx context.Context, f *pki.Follower, hurry <-chan os.Signal) (stop func()) {
	if f == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Run(ctx, hurry)
	}()
	return func() { cancel(); <-done }
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

// Problems adds to what the cluster knows that this node is not secured.
func (a admin) Problems(ctx context.Context) ([]kv.Problem, error) {
	problems, err := a.Control.Problems(ctx)
	if err == nil && a.node.config.Security.open() {
		problems = append(problems, kv.Problem{
			Code: "insecure", Severity: kv.SeverityWarning, Node: a.node.identity.Node(),
			Summary: "node " + a.node.name() + " runs with --insecure: whoever reaches its ports can read and write everything",
			Help:    "quorate secret new --out FILE, then give every node the file with --cluster-secret-file",
		})
	}
	return problems, err
}
