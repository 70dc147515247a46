package peer

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// Options configure a TCP mesh. Self, ClusterID, Directory and one of Listen and
// Listener are required.
type Options struct {
	Self kv.NodeID
	// ClusterID gives the cluster that this node belongs to, "" before it does.
	// It is called for every request and must be cheap. Once given, an id never
	// changes.
	ClusterID func() string
	// Advertise is the host:port that this node tells others; "" = the listener's.
	Advertise string

	// Listen is the address that Start listens on. Listener, if not nil, is used
	// instead, and closed by Close.
	Listen   string
	Listener net.Listener
	// Dial opens connections; nil = plain TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Security secures every connection; nil = none is.
	Security Security
	// Directory finds a node's address. It must not block.
	Directory func(kv.NodeID) (address string, ok bool)

	Logger *slog.Logger // nil = no log
	Hooks  Hooks
	Timing Timing // zero fields take their defaults
	Limits Limits // zero fields take their defaults
}

// Timing holds the times of a TCP mesh.
type Timing struct {
	Dial       time.Duration // to open a connection and greet; 2 s
	Handshake  time.Duration // for a stranger to greet; 5 s
	Ping       time.Duration // between pings on an outgoing connection; 5 s
	Dead       time.Duration // without a byte from the peer, or within one write; 15 s
	Linger     time.Duration // to say goodbye; 250 ms
	Grace      time.Duration // past its deadline, for a handler to answer before the request is forgotten; 1 s
	BackoffMin time.Duration // after the first failed dial; 20 ms
	BackoffMax time.Duration // 1 s
	Renew      time.Duration // an outdated connection works for at least so long, a revoked one for at most twice that; 5 s
	Alarm      time.Duration // least time between two alarms about one peer; 500 ms
}

// Limits bounds what a TCP mesh holds.
type Limits struct {
	QueueBytes int // requests that wait to be written, per connection; 32 MiB. One frame always fits.
	Calls      int // requests without an answer, per outgoing connection; 16384
	Incoming   int // connections accepted, with those that are being replaced; 1024
	Handshakes int // of which still greet; 128
	Strangers  int // of which are of nodes not known to be members of the cluster; 128
	// Of one address (of one /64 in IPv6).
	IncomingPerAddress, HandshakesPerAddress int // 512, 64

	InFlight     int // requests unanswered by handlers, per incoming connection; 4096
	AnswersPause int // bytes of answers that wait at which requests are read no further; 32 MiB
	AnswersMax   int // at which the connection is given up; 256 MiB
}

// Hooks tell of what happens, for metrics. Each may be nil, is called without
// locks held from many goroutines, and must be quick.
type Hooks struct {
	// Peer: a handshake with a member of this cluster succeeded.
	Peer func(PeerInfo)
	// Sent: a flush wrote so many frames and bytes to a connection of the class.
	Sent func(c Class, frames, bytes int)
	// Received: so many frames and bytes arrived.
	Received func(c Class, frames, bytes int)
	// Dialled: a dial with its handshake ended; err nil = connected.
	Dialled func(to kv.NodeID, c Class, took time.Duration, err error)
	// Refused: a handshake was refused, by this end or the other, for a reason
	// such as "other_cluster"; "malformed" and "limit" are refused by this end.
	Refused func(reason string)
	// Closed: an established connection of the class ended.
	Closed func(c Class, incoming bool, reason error)
	// RoundTrip: a ping came back.
	RoundTrip func(to kv.NodeID, c Class, took time.Duration)
	// Overloaded: a request was refused because a queue is full.
	Overloaded func(to kv.NodeID, c Class)
}

func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		}
	}
	t := &o.Timing
	orDefault(&t.Dial, 2*time.Second)
	orDefault(&t.Handshake, 5*time.Second)
	orDefault(&t.Ping, 5*time.Second)
	orDefault(&t.Dead, 15*time.Second)
	orDefault(&t.Linger, 250*time.Millisecond)
	orDefault(&t.Grace, time.Second)
	orDefault(&t.BackoffMin, 20*time.Millisecond)
	orDefault(&t.BackoffMax, time.Second)
	orDefault(&t.Renew, 5*time.Second)
	orDefault(&t.Alarm, 500*time.Millisecond)
	l := &o.Limits
	orDefault(&l.QueueBytes, 32<<20)
	orDefault(&l.Calls, 16384)
	orDefault(&l.Incoming, 1024)
	orDefault(&l.Handshakes, 128)
	orDefault(&l.Strangers, 128)
	orDefault(&l.IncomingPerAddress, 512)
	orDefault(&l.HandshakesPerAddress, 64)
	orDefault(&l.InFlight, 4096)
	orDefault(&l.AnswersPause, 32<<20)
	orDefault(&l.AnswersMax, 256<<20)
	h := &o.Hooks
	if h.Peer == nil {
		h.Peer = func(PeerInfo) {}
	}
	if h.Sent == nil {
		h.Sent = func(Class, int, int) {}
	}
	if h.Received == nil {
		h.Received = func(Class, int, int) {}
	}
	if h.Dialled == nil {
		h.Dialled = func(kv.NodeID, Class, time.Duration, error) {}
	}
	if h.Refused == nil {
		h.Refused = func(string) {}
	}
	if h.Closed == nil {
		h.Closed = func(Class, bool, error) {}
	}
	if h.RoundTrip == nil {
		h.RoundTrip = func(kv.NodeID, Class, time.Duration) {}
	}
	if h.Overloaded == nil {
		h.Overloaded = func(kv.NodeID, Class) {}
	}
}
