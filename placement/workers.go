package placement

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// handlersMax bounds the requests of peers that are being worked on.
const handlersMax = 16

// workers runs what handlers may not do on the mesh's goroutine. It owns its
// goroutines: close stops them and waits.
type workers struct {
	ctx    context.Context
	cancel context.CancelFunc
	slots  chan struct{}

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup // Add only under mu while not closed
}

func newWorkers() *workers {
	ctx, cancel := context.WithCancel(context.Background())
	return &workers{ctx: ctx, cancel: cancel, slots: make(chan struct{}, handlersMax)}
}

// serve answers a request by f on a goroutine of its own, or refuses if there
// are too many or the node is closing.
func (w *workers) serve(timeout time.Duration, reply func([]byte, error), f func(context.Context) ([]byte, error)) {
	select {
	case w.slots <- struct{}{}:
	default:
		reply(nil, kv.Errorf(kv.CodeOverloaded, kv.OutcomeNotApplied, "too many control requests at once"))
		return
	}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		<-w.slots
		reply(nil, kv.Errorf(kv.CodeDraining, kv.OutcomeNotApplied, "the node is shutting down"))
		return
	}
	w.wg.Add(1)
	w.mu.Unlock()
	go func() {
		defer w.wg.Done()
		defer func() { <-w.slots }()
		ctx, cancel := context.WithTimeout(w.ctx, timeout)
		defer cancel()
		reply(f(ctx))
	}()
}

func (w *workers) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.cancel()
	w.wg.Wait()
}

// onceLog logs a message once per reason, so that something retried every
// second does not fill the log. It is for one goroutine.
type onceLog struct {
	log  *slog.Logger
	last map[string]string // by subject
}

func newOnceLog(log *slog.Logger) *onceLog { return &onceLog{log: log, last: map[string]string{}} }

// say logs that subject stands as reason says, unless that was the last thing
// said of it.
func (o *onceLog) say(subject, reason string) {
	if o.last[subject] == reason {
		return
	}
	o.last[subject] = reason
	o.log.Info(subject, "reason", reason)
}

// forget makes the next reason news again.
func (o *onceLog) forget(subject string) { delete(o.last, subject) }

// pause waits, unless the context ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
