package peer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// TCP is the mesh over TCP: one listener for everything, and towards each peer
// one connection per class, dialled when it is first needed. Requests go out on
// connections that this node dialled and their answers come back on the same.
type TCP struct {
	opts   Options
	log    *slog.Logger
	base   time.Time // what clock counts from
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // everything that spawn started

	handlers    map[Method]Handler // not changed after Start
	unreachable []func(kv.NodeID)  // not changed after Start

	outs     registry[*outConn]
	ins      registry[*inConn]
	keeper   keeper
	door     door
	told     told
	segments segmentPool

	mu       sync.RWMutex
	started  bool
	closed   bool
	listener net.Listener
	links    map[linkKey]*link
	alarmed  map[kv.NodeID]int64 // clock reading of the last alarm
}

var _ Mesh = (*TCP)(nil)

type linkKey struct {
	to    kv.NodeID
	class Class
}

// registry is a set that may be walked while it changes.
type registry[T comparable] struct {
	mu  sync.Mutex
	set map[T]struct{}
}

func (r *registry[T]) add(v T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.set == nil {
		r.set = make(map[T]struct{})
	}
	r.set[v] = struct{}{}
}

func (r *registry[T]) remove(v T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.set, v)
}

func (r *registry[T]) all(into []T) []T {
	r.mu.Lock()
	defer r.mu.Unlock()
	for v := range r.set {
		into = append(into, v)
	}
	return into
}

// New makes a mesh that Start starts.
func New(opts Options) (*TCP, error) {
	if opts.Self == 0 || opts.ClusterID == nil || opts.Directory == nil {
		return nil, errors.New("peer: Self, ClusterID and Directory are required")
	}
	if opts.Listener == nil && opts.Listen == "" {
		return nil, errors.New("peer: Listen or Listener is required")
	}
	opts.setDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	t := &TCP{
		opts:     opts,
		log:      opts.Logger.With("node", opts.Self),
		base:     time.Now(),
		ctx:      ctx,
		cancel:   cancel,
		handlers: make(map[Method]Handler),
		links:    make(map[linkKey]*link),
		alarmed:  make(map[kv.NodeID]int64),
	}
	t.keeper.init(t)
	return t, nil
}

// clock gives nanoseconds since the mesh was made, never 0.
func (t *TCP) clock() int64 { return int64(time.Since(t.base)) + 1 }

// Self is this node.
func (t *TCP) Self() kv.NodeID { return t.opts.Self }

// Handle registers the handler of a method, before Start.
func (t *TCP) Handle(m Method, h Handler) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.started {
		panic("peer: Handle after Start")
	}
	t.handlers[m] = h
}

// OnUnreachable registers a callback as Mesh says, before Start.
func (t *TCP) OnUnreachable(f func(kv.NodeID)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.started {
		panic("peer: OnUnreachable after Start")
	}
	t.unreachable = append(t.unreachable, f)
}

// Start listens and begins to serve.
func (t *TCP) Start() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.started || t.closed {
		return errors.New("peer: started or closed before")
	}
	t.listener = t.opts.Listener
	if t.listener == nil {
		l, err := net.Listen("tcp", t.opts.Listen)
		if err != nil {
			return fmt.Errorf("listen for peers: %w", err)
		}
		t.listener = l
	}
	if t.opts.Advertise == "" {
		t.opts.Advertise = t.listener.Addr().String()
	}
	t.started = true
	t.wg.Go(t.accept)
	t.wg.Go(t.keeper.run)
	return nil
}

// Addr is where the mesh listens, nil before Start.
func (t *TCP) Addr() net.Addr {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.listener == nil {
		return nil
	}
	return t.listener.Addr()
}

// Close says goodbye to all peers, fails what waits for an answer and returns
// when no goroutine of the mesh is left. A handler must not call it.
func (t *TCP) Close() {
	t.mu.Lock()
	t.closed = true
	listener := t.listener
	if listener == nil {
		listener = t.opts.Listener
	}
	t.mu.Unlock()
	// First the context, so that a connection that is being made sees it and one
	// that was made is in a registry.
	t.cancel()
	if listener != nil {
		_ = listener.Close()
	}
	for _, c := range t.outs.all(nil) {
		c.shutdown()
	}
	for _, c := range t.ins.all(nil) {
		c.shutdown()
	}
	t.wg.Wait()
}

// spawn runs f on a goroutine that Close waits for, unless the mesh is not
// running.
func (t *TCP) spawn(f func()) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.closed || !t.started {
		return false
	}
	t.wg.Go(f)
	return true
}

// Send asks a peer as Mesh says. The request is copied before Send returns.
func (t *TCP) Send(to kv.NodeID, m Method, req []byte, deadline time.Time, done func([]byte, error)) {
	// Sub saturates; half of its range is time enough.
	at := min(int64(deadline.Sub(t.base)), math.MaxInt64/2) + 1
	if err := t.send(to, m, req, at, done); err != nil {
		done(nil, err)
	}
}

func (t *TCP) send(to kv.NodeID, m Method, req []byte, deadline int64, done func([]byte, error)) error {
	switch {
	case to == t.opts.Self:
		return kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "node %s asks itself", to)
	case len(req) > PayloadBytesMax:
		return kv.Errorf(kv.CodeTooLarge, kv.OutcomeNotApplied, "request of %d bytes: at most %d", len(req), PayloadBytesMax)
	case deadline <= t.clock():
		return kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "deadline passed before node %s was asked", to)
	}
	l, err := t.link(linkKey{to, ClassOf(m)})
	if err != nil {
		return err
	}
	return l.send(m, req, deadline, done)
}

func (t *TCP) link(key linkKey) (*link, error) {
	t.mu.RLock()
	l, closed := t.links[key], t.closed || !t.started
	t.mu.RUnlock()
	if closed {
		return nil, errClosed
	}
	if l != nil {
		return l, nil
	}
	if _, ok := t.opts.Directory(key.to); !ok {
		return nil, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "no address of node %s is known", key.to)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if l = t.links[key]; l == nil {
		l = &link{tcp: t, to: key.to, class: key.class}
		t.links[key] = l
	}
	return l, nil
}

// Dial asks whoever listens at an address, on a connection of its own, as Mesh
// says. If that is this node itself, the error is kv.CodeInvalid and the id Self.
func (t *TCP) Dial(ctx context.Context, address string, m Method, req []byte) (kv.NodeID, []byte, error) {
	switch {
	case !OpenTo(m):
		return 0, nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "method %d may not be called by address", m)
	case len(req) > frameStrangerMax-frameOverheadMax:
		return 0, nil, kv.Errorf(kv.CodeTooLarge, kv.OutcomeNotApplied, "request of %d bytes by address", len(req))
	}
	ctx, cancel := context.WithTimeout(ctx, kv.RequestTimeoutMax)
	defer cancel()
	type answer struct {
		from kv.NodeID
		resp []byte
		err  error
	}
	ch := make(chan answer, 1)
	if !t.spawn(func() {
		from, resp, err := t.ask(ctx, address, m, req)
		ch <- answer{from, resp, err}
	}) {
		return 0, nil, errClosed
	}
	a := <-ch // ask minds the context
	return a.from, a.resp, a.err
}

// ask does the work of Dial.
func (t *TCP) ask(ctx context.Context, address string, m Method, req []byte) (kv.NodeID, []byte, error) {
	hello := t.greeting(greetHello, t.opts.ClusterID())
	hello.class, hello.byAddress = ClassOf(m), true
	dialCtx, cancelDial := context.WithTimeout(ctx, t.opts.Timing.Dial)
	defer cancelDial()
	stopped := context.AfterFunc(t.ctx, cancelDial)
	w, welcome, err := t.dial(dialCtx, address, hello)
	stopped()
	if err != nil {
		t.told.warn(t, address, err)
		code, from := kv.CodeUnavailable, kv.NodeID(0)
		if no := (*refusalError)(nil); errors.As(err, &no) {
			if from = no.by; no.reason == refuseSelf {
				code = kv.CodeInvalid
			}
		}
		return from, nil, kv.Errorf(code, kv.OutcomeNotApplied, "%s: %w", address, err)
	}
	defer func() { _ = w.conn.Close() }()
	defer t.closeWith(ctx, w.conn)()
	deadline, _ := ctx.Deadline()
	h := frameHeader{kind: kindRequest, method: uint16(m), id: 1, left: leftOf(time.Until(deadline))}
	if _, err := w.conn.Write(appendFrame(nil, h, req)); err != nil {
		return welcome.self, nil, kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown, "%s: %w", address, err)
	}
	resp, failed, err := awaitAnswer(w)
	if err != nil {
		return welcome.self, nil, kv.Errorf(kv.CodeOutcomeUnknown, kv.OutcomeUnknown, "%s: %w", address, errors.Join(err, ctx.Err()))
	}
	bye := frameHeader{kind: kindClose, method: uint16(closeReplaced)}
	_, _ = w.conn.Write(appendFrame(nil, bye, []byte("answered")))
	return welcome.self, resp, failed
}

// awaitAnswer reads the answer to the only request on a connection.
func awaitAnswer(w *wire) (resp []byte, failed, err error) {
	h, payload, err := readFrame(w.in, kv.FrameBytesMax)
	if err != nil {
		return nil, nil, err
	}
	switch h.kind {
	case kindAnswer:
		return payload, nil, nil
	case kindFailure:
		failed, err = decodeFailure(payload)
		return nil, failed, err
	case kindClose:
		return nil, nil, goodbye(h, payload)
	default:
		return nil, nil, malformed("frame kind %d from a listener", h.kind)
	}
}

// closeWith closes a connection when ctx ends or the mesh closes, until the
// function that it returns is called.
func (t *TCP) closeWith(ctx context.Context, conn net.Conn) func() {
	one := context.AfterFunc(ctx, func() { _ = conn.Close() })
	two := context.AfterFunc(t.ctx, func() { _ = conn.Close() })
	return func() { one(); two() }
}

// dial opens a connection and greets, all before ctx ends.
func (t *TCP) dial(ctx context.Context, address string, hello *greeting) (*wire, *greeting, error) {
	conn, err := t.opts.Dial(ctx, address)
	if err != nil {
		return nil, nil, err
	}
	release := t.closeWith(ctx, conn)
	w, welcome, err := t.introduce(ctx, conn, hello)
	release()
	if err == nil && ctx.Err() != nil {
		err = ctx.Err() // the connection may have been closed under us
	}
	if err != nil {
		if reason := reasonOf(err); reason != "malformed" {
			t.opts.Hooks.Refused(reason)
		}
		_ = conn.Close()
		if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
			err = fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		return nil, nil, err
	}
	return w, welcome, nil
}

// greeting gives this node's side of a handshake.
func (t *TCP) greeting(kind greetingKind, cluster string) *greeting {
	t.mu.RLock()
	advertise := t.opts.Advertise
	t.mu.RUnlock()
	return &greeting{
		kind:       kind,
		versionMin: protocolMin,
		versionMax: protocolMax,
		self:       t.opts.Self,
		clockUs:    time.Now().UnixMicro(),
		cluster:    cluster,
		advertise:  advertise,
	}
}

// met notes that a peer is there.
func (t *TCP) met(info PeerInfo) {
	if !fellows(info.Cluster, t.opts.ClusterID()) {
		return
	}
	t.mu.Lock()
	delete(t.alarmed, info.ID) // when it goes again, that is news
	var links []*link
	for c := range classCount {
		if l := t.links[linkKey{info.ID, c}]; l != nil && info.Incoming {
			links = append(links, l)
		}
	}
	t.mu.Unlock()
	for _, l := range links {
		l.hasten()
	}
	t.opts.Hooks.Peer(info)
}

// judgeEnd raises the alarm if the way in which a connection ended, or failed to
// begin, shows that the peer's process is gone.
func (t *TCP) judgeEnd(id kv.NodeID, established bool, err error) {
	gone := errors.Is(err, syscall.ECONNREFUSED)
	if established {
		gone = gone || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
			errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, errGoodbye)
	}
	if !gone || t.ctx.Err() != nil {
		return
	}
	t.mu.Lock()
	now := t.clock()
	last, ok := t.alarmed[id]
	quiet := ok && time.Duration(now-last) < t.opts.Timing.Alarm
	if !quiet {
		t.alarmed[id] = now
	}
	callbacks := slices.Clone(t.unreachable)
	t.mu.Unlock()
	if quiet {
		return
	}
	for _, f := range callbacks {
		f(id)
	}
}

// Stats is what a mesh holds right now, for gauges.
type Stats struct {
	Outgoing   int // connections that this node dialled or is dialling
	Incoming   int
	QueueBytes int // of requests and answers that wait to be written
	Calls      int // requests of ours without an answer
	InFlight   int // requests of others without an answer
}

// Stats gives what the mesh holds right now, by class.
func (t *TCP) Stats() map[Class]Stats {
	out := make(map[Class]Stats, classCount)
	for _, c := range t.outs.all(nil) {
		s := out[c.link.class]
		c.mu.Lock()
		s.Outgoing++
		s.Calls += len(c.calls)
		s.QueueBytes += c.waitSize
		w := c.wire
		c.mu.Unlock()
		if w != nil {
			s.QueueBytes += w.queuedBytes()
		}
		out[c.link.class] = s
	}
	for _, c := range t.ins.all(nil) {
		s := out[c.wire.class]
		s.Incoming++
		s.InFlight += c.inFlight()
		s.QueueBytes += c.wire.queuedBytes()
		out[c.wire.class] = s
	}
	return out
}

// readHello reads the first greeting of a connection that was accepted.
func readHello(r *bufio.Reader) (*greeting, error) {
	hello, err := readGreeting(r)
	if err == nil && hello.kind != greetHello {
		return nil, malformed("greeting kind %d from a dialler", hello.kind)
	}
	return hello, err
}
