package router

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/kv/planted"
	"github.com/quorate-db/quorate/router/routerpb"
)

// forwardReadBytesMax bounds the answer to one forwarded read, so that it fits
// a frame between nodes: a page of a scan always does, many large values do not,
// and whoever asked then asks for fewer at a time.
const forwardReadBytesMax = 32 << 20

// timeLeft gives the microseconds until ctx's deadline.
func timeLeft(ctx context.Context) uint64 {
	deadline, ok := ctx.Deadline()
	if !ok {
		return uint64(kv.RequestTimeoutMax / time.Microsecond)
	}
	return uint64(max(time.Until(deadline), 0) / time.Microsecond)
}

// forwardPropose has another node propose a command, once.
func (r *Router) forwardPropose(ctx context.Context, to kv.NodeID, shard kv.ShardID, data []byte, versions uint32, bound time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	req, err := proto.Marshal(&routerpb.ForwardPropose{
		Shard: uint64(shard), TimeoutUs: timeLeft(ctx), Versions: versions, Command: data,
	})
	if err != nil {
		return nil, kv.Errorf(kv.CodeInternal, kv.OutcomeNotApplied, "encode a command to forward: %w", err)
	}
	return r.call(ctx, OpWrite, to, methodForwardPropose, req)
}

// forwardRead has another node read, once.
func (r *Router) forwardRead(ctx context.Context, to kv.NodeID, msg *routerpb.ForwardRead, bound time.Duration) (*kvpb.ReadResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	msg.TimeoutUs = timeLeft(ctx)
	req, err := proto.Marshal(msg)
	if err != nil {
		return nil, kv.Errorf(kv.CodeInternal, kv.OutcomeNone, "encode a read to forward: %w", err)
	}
	answer, err := r.call(ctx, OpRead, to, methodForwardRead, req)
	if err != nil {
		return nil, err
	}
	resp := &kvpb.ReadResponse{}
	if err := proto.Unmarshal(answer, resp); err != nil {
		return nil, kv.Errorf(kv.CodeInternal, kv.OutcomeNone, "node %s answered a read with what does not decode: %w", to, err)
	}
	return resp, nil
}

func (r *Router) call(ctx context.Context, op Op, to kv.NodeID, method uint16, req []byte) ([]byte, error) {
	hook := r.hooks.Forwarded
	if hook == nil {
		return r.peers.Call(ctx, to, method, req)
	}
	began := time.Now()
	resp, err := r.peers.Call(ctx, to, method, req)
	hook(op, time.Since(began), err)
	return resp, err
}

// ---- The other side ---------------------------------------------------------
//
// From here on nothing may call r.peers (invariant 1).

// handlePropose serves ForwardPropose. It does not block.
func (r *Router) handlePropose(_ kv.NodeID, req []byte, reply func([]byte, error)) {
	r.handlers.run(r, OpWrite, len(req), reply, func(ctx context.Context) ([]byte, error) {
		return r.servePropose(ctx, req)
	})
}

// handleRead serves ForwardRead. It does not block.
func (r *Router) handleRead(_ kv.NodeID, req []byte, reply func([]byte, error)) {
	r.handlers.run(r, OpRead, len(req), reply, func(ctx context.Context) ([]byte, error) {
		return r.serveRead(ctx, req)
	})
}

func (r *Router) servePropose(ctx context.Context, req []byte) ([]byte, error) {
	var msg routerpb.ForwardPropose
	if err := proto.Unmarshal(req, &msg); err != nil {
		return nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "forwarded command: %w", err)
	}
	shard := kv.ShardID(msg.Shard)
	if err := r.leadsHere(shard, kv.OutcomeNotApplied); err != nil {
		return nil, err
	}
	ctx, cancel := withTimeoutUs(ctx, msg.TimeoutUs)
	defer cancel()
	return r.local.Propose(ctx, shard, msg.Command, msg.Versions)
}

func (r *Router) serveRead(ctx context.Context, req []byte) ([]byte, error) {
	var msg routerpb.ForwardRead
	if err := proto.Unmarshal(req, &msg); err != nil {
		return nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNone, "forwarded read: %w", err)
	}
	if msg.Request == nil {
		msg.Request = &kvpb.ReadRequest{}
	}
	shard := kv.ShardID(msg.Shard)
	var resp *kvpb.ReadResponse
	var err error
	if msg.Linearizable {
		resp, err = func() (*kvpb.ReadResponse, error) {
			if err := r.leadsHere(shard, kv.OutcomeNone); err != nil {
				return nil, err
			}
			ctx, cancel := withTimeoutUs(ctx, msg.TimeoutUs)
			defer cancel()
			return r.readHere(ctx, shard, msg.Request)
		}()
	} else {
		resp, err = r.readStaleHere(shard, msg.Request, time.Duration(msg.MaxStalenessUs)*time.Microsecond)
	}
	if err != nil {
		return nil, err
	}
	if n := proto.Size(resp); n > forwardReadBytesMax && len(msg.Request.Gets) > 1 {
		return nil, kv.Errorf(kv.CodeTooLarge, kv.OutcomeNone, "an answer of %d bytes; at most %d fit a message between nodes", n, forwardReadBytesMax)
	}
	answer, err := proto.Marshal(resp)
	if err != nil {
		return nil, kv.Errorf(kv.CodeInternal, kv.OutcomeNone, "encode a read's answer: %w", err)
	}
	return answer, nil
}

// leadsHere refuses with a hint unless this node's replica leads, and says so if
// there is none: the shard may have moved away or been absorbed.
func (r *Router) leadsHere(shard kv.ShardID, outcome kv.Outcome) error {
	leader, known := r.local.Leader(shard)
	if known && (leader == r.self || planted.On(planted.LocalReads) && outcome == kv.OutcomeNone) {
		return nil
	}
	if !known {
		if _, err := r.local.Read(shard, &kvpb.ReadRequest{}); kv.CodeOf(err) == kv.CodeNoReplica {
			return err
		}
	}
	e := kv.Errorf(kv.CodeNotLeader, outcome, "node %s does not lead shard %s", r.self, shard)
	e.Shard = shard
	if known {
		e.Leader = leader
	}
	return e
}

func withTimeoutUs(ctx context.Context, us uint64) (context.Context, context.CancelFunc) {
	const most = uint64(kv.RequestTimeoutMax / time.Microsecond)
	return context.WithTimeout(ctx, time.Duration(min(us, most))*time.Microsecond)
}

// handlerGate bounds the forwarded requests that are being served, and owns
// their goroutines.
type handlerGate struct {
	limits  Limits
	base    context.Context // ends with close
	cancel  context.CancelFunc
	closing <-chan struct{}

	mu      sync.Mutex
	closed  bool
	serving int
	bytes   int
	running sync.WaitGroup // Add only under mu while not closed
}

func (g *handlerGate) init(limits Limits) {
	g.limits = limits
	g.base, g.cancel = context.WithCancel(context.Background())
	g.closing = g.base.Done()
}

func (g *handlerGate) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.cancel()
	g.running.Wait()
}

// admit takes a place for a request of so many bytes.
func (g *handlerGate) admit(size int) *kv.Error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return kv.Errorf(kv.CodeDraining, kv.OutcomeNotApplied, "this node is shutting down")
	case g.serving >= g.limits.ForwardsMax, g.serving > 0 && g.bytes+size > g.limits.ForwardBytesMax:
		return kv.Errorf(kv.CodeOverloaded, kv.OutcomeNotApplied, "%d forwarded requests of %d bytes are being served", g.serving, g.bytes)
	}
	g.serving++
	g.bytes += size
	g.running.Add(1)
	return nil
}

func (g *handlerGate) release(size int) {
	g.mu.Lock()
	g.serving--
	g.bytes -= size
	g.mu.Unlock()
	g.running.Done()
}

// run serves one request on a goroutine of its own, or refuses it at once.
func (g *handlerGate) run(r *Router, op Op, size int, reply func([]byte, error), serve func(context.Context) ([]byte, error)) {
	if refusal := g.admit(size); refusal != nil {
		if h := r.hooks.Shed; h != nil && refusal.Code == kv.CodeOverloaded {
			h(op)
		}
		reply(nil, refusal)
		return
	}
	go func() {
		defer g.release(size)
		began := time.Now()
		resp, err := serve(g.base)
		if h := r.hooks.Handled; h != nil {
			h(op, time.Since(began), err)
		}
		reply(resp, err)
	}()
}
