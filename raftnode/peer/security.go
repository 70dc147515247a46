package peer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// Security secures connections between nodes. Every connection goes through it,
// dialled and accepted, before the first byte of ours.
type Security interface {
	// Handshake secures conn as self, until ctx ends or a deadline of conn passes, and
	// tells who is at the other end. The mesh closes conn if that fails. An error may
	// have methods Reason() string, for metrics, and Instead() []byte, the first bytes
	// that came from one who does not speak the protocol.
	Handshake(ctx context.Context, conn net.Conn, self Claim, dialled bool) (Secured, error)
}

// Secured is a connection whose ends have proved who they are.
type Secured interface {
	net.Conn
	// Peer gives who the other end is.
	Peer() Claim
	// Standing says what is to become of the connection. It is cheap.
	Standing() Standing
	// WriteAll writes segments at once. Only the mesh's one writer calls it.
	WriteAll(segments [][]byte) error
}

// Claim is who one end of a connection is.
type Claim struct {
	Node    kv.NodeID
	Cluster string // "" = in no cluster yet
	// Shared: the proof is good for every node of a cluster, whatever its id. Node may
	// be 0 then, and Cluster says nothing: who of them it is the greeting says alone.
	Shared bool
}

// covers reports whether a greeting's words are what was proved.
func (p Claim) covers(node kv.NodeID, cluster string) bool {
	if p.Shared {
		return p.Node == 0 || p.Node == node
	}
	return p.Node == node && p.Cluster == cluster
}

// Standing says what is to become of a connection.
type Standing int

// A connection that is Outdated works, and is replaced by who dialled it as soon as
// the new one stands. One that is Revoked is closed soon, replaced or not.
const (
	Current Standing = iota
	Outdated
	Revoked
)

var errRevoked = errors.New("it was made with a cluster secret or certificate that does not count any more")

// secure secures a new connection, if this mesh does that.
func (t *TCP) secure(ctx context.Context, conn net.Conn, cluster string, dialled bool) (net.Conn, error) {
	if t.opts.Security == nil {
		return conn, nil
	}
	s, err := t.opts.Security.Handshake(ctx, conn, Claim{Node: t.opts.Self, Cluster: cluster}, dialled)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// judgeClaim decides whether a greeting comes from whom the other end has proved
// to be.
func judgeClaim(conn net.Conn, g *greeting) *refusalError {
	s, ok := conn.(Secured)
	if !ok {
		return nil
	}
	if p := s.Peer(); !p.covers(g.self, g.cluster) {
		return &refusalError{reason: refuseCertificate, by: g.self, text: "the greeting says node " + g.self.String() +
			ofCluster(g.cluster) + ", the certificate node " + p.Node.String() + ofCluster(p.Cluster)}
	}
	return nil
}

func ofCluster(cluster string) string {
	if cluster == "" {
		return " of no cluster"
	}
	return " of cluster " + clip(cluster, 64)
}

// reasonOf gives the word under which a failed handshake is counted.
func reasonOf(err error) string {
	var security interface{ Reason() string }
	if no := (*refusalError)(nil); errors.As(err, &no) {
		return no.reason.String()
	}
	if errors.As(err, &security) {
		return security.Reason()
	}
	return "malformed"
}

// turnAwayBytesMax bounds what is read of one who is turned away.
const turnAwayBytesMax = 64 << 10

// turnAway closes a connection whose handshake failed, such that the other end
// learns why: what it still sends must not reset the connection.
func (t *TCP) turnAway(conn net.Conn, err error) {
	_ = conn.SetDeadline(time.Now().Add(t.opts.Timing.Linger))
	var odd interface{ Instead() []byte }
	if errors.As(err, &odd) && bytes.HasPrefix(odd.Instead(), []byte(greetingMagic)) {
		answer := t.greeting(greetRefusal, "")
		answer.refusal, answer.advertise = refuseSecurity, "" // anyone reads it
		answer.text = "node " + t.opts.Self.String() + " secures its connections (a cluster secret, or certificates) and the dialler does not"
		_, _ = conn.Write(appendGreeting(nil, answer))
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_, _ = io.CopyN(io.Discard, conn, turnAwayBytesMax)
	_ = conn.Close()
}
