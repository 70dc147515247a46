package placement

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
)

type fakePeers struct{ *fakeNode }

func (f fakePeers) Handle(method uint16, h func(kv.NodeID, []byte, func([]byte, error))) {
	f.handlers[method] = h
}

func (f fakePeers) Call(ctx context.Context, to kv.NodeID, method uint16, req []byte) ([]byte, error) {
	f.w.mu.Lock()
	target := f.w.nodes[to]
	f.w.mu.Unlock()
	return f.send(ctx, target, method, req)
}

func (f fakePeers) Dial(ctx context.Context, address string, method uint16, req []byte) (kv.NodeID, []byte, error) {
	f.w.mu.Lock()
	var target *fakeNode
	for _, n := range f.w.nodes {
		if n.opts.Self.PeerAddress == address && n.up && (target == nil || n.id < target.id) {
			target = n
		}
	}
	f.w.mu.Unlock()
	if target == nil || target == f.fakeNode {
		return 0, nil, errDown
	}
	resp, err := f.send(ctx, target, method, req)
	return target.id, resp, err
}

func (f fakePeers) send(ctx context.Context, target *fakeNode, method uint16, req []byte) ([]byte, error) {
	if err := pause(ctx, time.Millisecond); err != nil {
		return nil, err
	}
	f.w.mu.Lock()
	ok := target != nil && target.up && f.up
	f.w.mu.Unlock()
	if !ok {
		return nil, errDown
	}
	type answer struct {
		resp []byte
		err  error
	}
	ch := make(chan answer, 1)
	target.handlers[method](f.id, slices.Clone(req), func(resp []byte, err error) { ch <- answer{resp, kv.FromWire(kv.ToWire(err))} })
	select {
	case a := <-ch:
		return a.resp, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// logSink keeps log lines for tests to look at.
type logSink struct {
	mu    sync.Mutex
	lines []string
}

func (l *logSink) Enabled(context.Context, slog.Level) bool { return true }
func (l *logSink) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logSink) WithGroup(string) slog.Handler            { return l }

func (l *logSink) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	return nil
}

func (l *logSink) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}
