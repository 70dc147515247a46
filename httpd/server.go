package httpd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/mux"

	"github.com/quorate-db/quorate/kv"
)

// Options are what a Server is made of. Data, Cluster and Health are required.
type Options struct {
	Data    Data
	Cluster Cluster
	Health  Health
	Admin   Admin        // nil: its routes answer 503
	Access  Access       // nil: no tokens are asked for, everybody may do everything
	Tokens  Tokens       // nil: its routes answer 503
	Audit   Audit        // nil: its route answers 404
	Metrics http.Handler // nil: /metrics is 404
	Hooks   Hooks
	Logger  *slog.Logger // nil: logs are dropped
	Release string       // the version of the binary
	Self    kv.NodeID

	// Now is the clock that dates request ids; nil: time.Now.
	Now func() time.Time

	// TLS, if not nil, is spoken on every listener. For HTTP/2 it has to offer "h2".
	TLS *tls.Config

	// DrainDelay is how long Shutdown goes on serving with /readyz false, so that
	// load balancers notice before connections are refused.
	DrainDelay time.Duration

	Limits Limits
}

// Limits bounds what one node takes on; a zero means the number in kv.
type Limits struct {
	DataInFlight      int   // requests
	ControlInFlight   int   // requests
	StreamsInFlight   int   // streaming scans
	ProbesInFlight    int   // requests for health and metrics
	BodyBytesInFlight int64 // request bodies held
	// AnswerBytesInFlight bounds answers to reads that are held, small ones apart.
	AnswerBytesInFlight int64

	Connections        int // of clients
	ConnectionsReserve int // beyond, for whatever is not about keys

	// What one client address may have of that.
	DataPerClient        int
	StreamsPerClient     int
	BodyBytesPerClient   int64
	AnswerBytesPerClient int64
	ConnectionsPerClient int
	// LargeBytesPerClient is how many bytes of large bodies and answers one client has
	// in a second; negative = no bound.
	LargeBytesPerClient int64

	HeaderTimeout time.Duration // for request line and headers; 10 s
	IdleTimeout   time.Duration // of a connection between requests; 2 min
}

const (
	headerTimeoutDefault = 10 * time.Second
	idleTimeoutDefault   = 2 * time.Minute
	// A request's own deadline is shorter; these end what escapes it.
	readTimeout  = kv.RequestTimeoutMax + 5*time.Second
	writeTimeout = kv.RequestTimeoutMax + 15*time.Second
	// streamsPerConnection bounds the requests in flight on a connection of HTTP/2;
	// one of HTTP/1 has one.
	streamsPerConnection = 100
)

// Server is the HTTP edge of one node.
type Server struct {
	opts    Options
	log     *slog.Logger
	mux     *mux.Router
	http    *http.Server
	fast    fastConns
	origin  *http.CrossOriginProtection
	self    []string // this node's id as a header value
	openapi []byte

	door            door
	data, control   budget
	streams, probes budget
	bodies, answers byteBudget
	large           largeKeys
	pool            sync.Pool // *exchange

	draining  atomic.Bool
	drain     chan struct{} // closed when draining begins
	drainOnce sync.Once
}

// New makes a Server that does not listen yet.
func New(opts Options) *Server {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	l := &opts.Limits
	l.setDefaults()
	s := &Server{
		opts:    opts,
		log:     opts.Logger,
		origin:  http.NewCrossOriginProtection(),
		self:    []string{opts.Self.String()},
		openapi: openAPIDocument(),
		data:    budget{max: int64(l.DataInFlight)},
		control: budget{max: int64(l.ControlInFlight)},
		streams: budget{max: int64(l.StreamsInFlight)},
		probes:  budget{max: int64(l.ProbesInFlight)},
		bodies:  byteBudget{max: l.BodyBytesInFlight},
		answers: byteBudget{max: l.AnswerBytesInFlight},
		drain:   make(chan struct{}),
	}
	s.door.limits = l
	s.pool.New = func() any { return &exchange{s: s} }
	s.mux = s.routes()
	s.http = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: l.HeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       l.IdleTimeout,
		MaxHeaderBytes:    kv.HeaderBytesMax,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: streamsPerConnection},
		ConnContext:       s.door.within,
		ConnState:         s.door.onState,
		ErrorLog:          slog.NewLogLogger(opts.Logger.Handler(), slog.LevelDebug),
	}
	return s
}

func (l *Limits) setDefaults() {
	setDefault(&l.DataInFlight, kv.RequestsInFlightMax)
	setDefault(&l.ControlInFlight, kv.ControlInFlightMax)
	setDefault(&l.StreamsInFlight, kv.StreamsInFlightMax)
	setDefault(&l.ProbesInFlight, kv.ProbesInFlightMax)
	setDefault(&l.BodyBytesInFlight, kv.BodyBytesInFlightMax)
	setDefault(&l.AnswerBytesInFlight, kv.AnswerBytesInFlightMax)
	// A node that has no descriptors left for its files dies.
	room := min(kv.ConnectionsMax, descriptors()/2)
	setDefault(&l.Connections, room)
	setDefault(&l.ConnectionsPerClient, min(kv.ConnectionsPerClientMax, max(1, room/4)))
	setDefault(&l.ConnectionsReserve, kv.ConnectionsReserve)
	setDefault(&l.DataPerClient, kv.RequestsPerClientMax)
	setDefault(&l.StreamsPerClient, kv.StreamsPerClientMax)
	setDefault(&l.BodyBytesPerClient, kv.BodyBytesPerClientMax)
	setDefault(&l.AnswerBytesPerClient, kv.AnswerBytesPerClientMax)
	setDefault(&l.LargeBytesPerClient, int64(runtime.GOMAXPROCS(0))*kv.LargeBytesPerProcessor)
	setDefault(&l.HeaderTimeout, headerTimeoutDefault)
	setDefault(&l.IdleTimeout, idleTimeoutDefault)
}

func setDefault[T comparable](v *T, fallback T) {
	var zero T
	if *v == zero {
		*v = fallback
	}
}

// Handler gives the handler of all routes, for servers of one's own.
func (s *Server) Handler() http.Handler { return s }

// Serve answers on a listener until Shutdown, then returns nil. It may be
// called for several listeners.
func (s *Server) Serve(l net.Listener) error {
	others := newHandoff(l)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.http.Serve(others) // until others is closed, which it does itself after Shutdown
	}()
	err := s.accept(l, others)
	_ = others.Close()
	<-served
	if err != nil {
		return fmt.Errorf("serve http on %s: %w", l.Addr(), err)
	}
	return nil
}

// Shutdown says so at /readyz, waits Options.DrainDelay, ends streams, refuses
// new connections, and returns when every request in flight was answered; when
// ctx is done it closes what is left and returns the context's error. Called again
// it does not wait for load balancers any more.
func (s *Server) Shutdown(ctx context.Context) error {
	again := s.draining.Swap(true)
	if d := s.opts.DrainDelay; d > 0 && !again {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	s.drainOnce.Do(func() { close(s.drain) })
	s.fast.begin()
	fast := make(chan error, 1)
	go func() { fast <- s.fast.wait(ctx) }()
	err := s.http.Shutdown(ctx) // closes the listeners
	if err = errors.Join(err, <-fast); err != nil {
		err = errors.Join(err, s.http.Close())
	}
	return err
}

// InFlight tells how many requests of each kind are being served.
func (s *Server) InFlight() (data, control, streams int) {
	return int(s.data.n.Load()), int(s.control.n.Load()), int(s.streams.n.Load())
}

// Probes tells how many requests for health and metrics are being served.
func (s *Server) Probes() int { return int(s.probes.n.Load()) }

// Connections tells how many connections of clients there are, how many of the reserve
// beside them, and how many were refused since the start.
func (s *Server) Connections() (inside, reserved int, refused int64) { return s.door.figures() }

// budget bounds how many requests run at once.
type budget struct {
	n   atomic.Int64
	max int64
}

func (b *budget) enter() bool {
	if b.n.Add(1) > b.max {
		b.n.Add(-1)
		return false
	}
	return true
}

func (b *budget) leave() { b.n.Add(-1) }

// byteBudget bounds bytes that are held.
type byteBudget struct {
	n   atomic.Int64
	max int64
}

func (b *byteBudget) take(bytes int64) bool {
	if b.n.Add(bytes) > b.max {
		b.n.Add(-bytes)
		return false
	}
	return true
}

func (b *byteBudget) free() int64 { return max(0, b.max-b.n.Load()) }

func (b *byteBudget) give(bytes int64) { b.n.Add(-bytes) }
