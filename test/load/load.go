// Package load keeps a cluster busy the way several clients would, and records
// everything they do in a history.
package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/test/history"
)

// Options say how busy.
type Options struct {
	Endpoints []string
	Token     string        // of all clients; "" = none
	Clients   int           // half of them retry over all endpoints, half talk to one and never retry
	Rate      float64       // operations a second of all clients together, at most
	Timeout   time.Duration // 0 = the client's default
	Seed      uint64
	// Strict is for what no client may notice: all of them retry over all endpoints,
	// and any error is one that no client should get.
	Strict bool
}

// Keys come in epochs of operations, so that a key's history stays short enough to
// be checked, however long the load runs.
const (
	epochOps  = 1500
	registers = 24
	counters  = 4
	pairs     = 4
)

// alphabet holds the first letters of keys, which spread them over the shards.
const alphabet = "059AFMRVZaempuxz"

// Load is clients at work.
type Load struct {
	opts    Options
	history *history.Recorder
	limiter *rate.Limiter
	cancel  context.CancelFunc
	done    sync.WaitGroup
	sent    atomic.Int64

	mu          sync.Mutex
	failures    []error // what no client should ever be told
	refused     int     // a node said: not now, and nothing was done
	unreachable int     // no node could be asked, or none answered a read
}

// pauseAfterRefusal keeps a client whose one node is down from using up the rate.
const pauseAfterRefusal = 100 * time.Millisecond

// failuresMax bounds what is kept of failures.
const failuresMax = 10

// Start sets the clients to work; Stop ends it, at the latest when the test does.
func Start(t testing.TB, opts Options, h *history.Recorder) *Load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{opts: opts, history: h, limiter: rate.NewLimiter(rate.Limit(opts.Rate), opts.Clients), cancel: cancel}
	for id := range opts.Clients {
		cfg := client.Config{Endpoints: opts.Endpoints, Token: opts.Token, Timeout: opts.Timeout, RouteToLeader: id%4 == 0}
		if id%2 == 1 && !opts.Strict {
			cfg.Endpoints = []string{opts.Endpoints[id/2%len(opts.Endpoints)]}
			cfg.Retry.Attempts = 1
		}
		c, err := client.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		w := &worker{load: l, id: id, client: c, random: rand.New(rand.NewPCG(opts.Seed, uint64(id)))}
		l.done.Go(func() {
			defer c.Close()
			w.run(ctx)
		})
	}
	t.Cleanup(l.Stop)
	return l
}

// Stop ends the load and waits for what is under way.
func (l *Load) Stop() {
	l.cancel()
	l.done.Wait()
}

// Sent gives how many operations were sent so far.
func (l *Load) Sent() int64 { return l.sent.Load() }

// Refused gives how many operations nodes refused for the time being, and how many
// had no answer at all.
func (l *Load) Refused() (refused, unreachable int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused, l.unreachable
}

func (l *Load) countRefusal(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var e *client.Error
	if errors.As(err, &e) && e.Status != 0 {
		l.refused++
	} else {
		l.unreachable++
	}
}

// Failures gives answers that no client should ever get.
func (l *Load) Failures() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failures
}

// Finish reads every key that was written through each endpoint in turn, into the
// history: whatever was acknowledged has to be there.
func (l *Load) Finish(t testing.TB) {
	t.Helper()
	c, err := client.New(client.Config{Endpoints: l.opts.Endpoints, Token: l.opts.Token, Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w := &worker{load: l, id: l.opts.Clients, client: c}
	for _, key := range l.history.Keys() {
		if err := w.finalRead(t.Context(), key); err != nil {
			t.Fatalf("final read of %q: %v", key, err)
		}
	}
}

// worker is one client. It has one operation in flight at a time.
type worker struct {
	load   *Load
	id     int
	client *client.Client
	random *rand.Rand
	writes int

	refused bool // the last operation was

	epoch int64
	last  map[string]lastSeen // what it saw last of the epoch's keys
}

type lastSeen struct {
	value   string
	version kv.Version
}

func (w *worker) run(ctx context.Context) {
	for w.load.limiter.Wait(ctx) == nil {
		n := w.load.sent.Add(1)
		if epoch := n / epochOps; epoch != w.epoch || w.last == nil {
			w.epoch, w.last = epoch, map[string]lastSeen{}
		}
		w.one()
		if !w.refused {
			continue
		}
		w.refused = false
		pause := time.NewTimer(pauseAfterRefusal)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
		pause.Stop()
	}
}

// one does one operation. It is not cut off when the load stops: its outcome is
// wanted.
func (w *worker) one() {
	switch p := w.random.IntN(100); {
	case p < 10:
		w.add(w.key("c", counters))
	case p < 14:
		w.get(w.key("c", counters))
	case p < 19:
		w.putPair(w.key("p", pairs))
	case p < 24:
		w.getPair(w.key("p", pairs))
	case p < 54:
		w.get(w.key("r", registers))
	case p < 80:
		w.put(w.key("r", registers))
	case p < 92:
		w.swap(w.key("r", registers))
	default:
		w.delete(w.key("r", registers))
	}
}

// key gives a key of this epoch. Which letter it begins with depends on its
// number, so all clients mean the same key.
func (w *worker) key(kind string, n int) string {
	i := w.random.IntN(n)
	letter := alphabet[(i+int(w.epoch))%len(alphabet)]
	return fmt.Sprintf("%c/%s%d/%d", letter, kind, i, w.epoch)
}

// value gives a value that nobody else writes.
func (w *worker) value() string {
	w.writes++
	return "w" + strconv.Itoa(w.id) + "-" + strconv.Itoa(w.writes)
}

func (w *worker) begin(kind history.Kind, key string) history.Op {
	return history.Op{Client: w.id, Kind: kind, Key: key, Call: w.load.history.Now()}
}

// end records how an operation went.
func (w *worker) end(op history.Op, err error) {
	op.Return = w.load.history.Now()
	if w.load.opts.Strict && err != nil && !client.IsConditionFailed(err) {
		w.load.fail(&op, fmt.Errorf("%s after the call: %w", time.Duration(op.Return-op.Call).Round(time.Millisecond), err))
	}
	switch {
	case err == nil:
	case op.Kind == history.Swap && client.IsConditionFailed(err):
		op.Result = history.Refused
	case client.IsUnavailable(err):
		w.load.countRefusal(err)
		w.refused = true
		return
	case op.Kind != history.Get && client.IsOutcomeUnknown(err):
		op.Result = history.Unknown
		if client.CodeOf(err) == kv.CodeInternal {
			w.load.fail(&op, err)
		}
	default:
		w.load.fail(&op, err)
		return
	}
	w.load.history.Record(op)
}

func (l *Load) fail(op *history.Op, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.failures) < failuresMax {
		l.failures = append(l.failures, fmt.Errorf("%s of %q: %w", op, op.Key, err))
	}
}

func (w *worker) get(key string) {
	op := w.begin(history.Get, key)
	item, err := w.client.Get(context.Background(), key, client.ReadOptions{})
	if client.IsNotFound(err) {
		item, err = client.Item{}, nil
	}
	op.Seen, op.Version = string(item.Value), item.Version
	if err == nil && w.last != nil {
		w.last[key] = lastSeen{op.Seen, op.Version}
	}
	w.end(op, err)
}

// finalRead is a get that has to succeed.
func (w *worker) finalRead(ctx context.Context, key string) error {
	op := w.begin(history.Get, key)
	item, err := w.client.Get(ctx, key, client.ReadOptions{})
	switch {
	case client.IsNotFound(err):
	case err != nil:
		return err
	default:
		op.Seen, op.Version = string(item.Value), item.Version
	}
	w.end(op, nil)
	return nil
}

func (w *worker) put(key string) {
	op := w.begin(history.Put, key)
	op.Value = w.value()
	res, err := w.client.Put(context.Background(), key, []byte(op.Value), client.PutOptions{})
	op.Version = res.Version
	if err == nil {
		w.last[key] = lastSeen{op.Value, op.Version}
	}
	w.end(op, err)
}

// swap writes if the key is as this client saw it last.
func (w *worker) swap(key string) {
	seen, ok := w.last[key]
	if !ok {
		w.get(key)
		return
	}
	op := w.begin(history.Swap, key)
	op.Value, op.Expect = w.value(), seen.value
	o := client.PutOptions{IfMatch: seen.version}
	if seen.value == "" {
		o = client.PutOptions{IfAbsent: true}
	}
	res, err := w.client.Put(context.Background(), key, []byte(op.Value), o)
	op.Version = res.Version
	delete(w.last, key)
	if err == nil {
		w.last[key] = lastSeen{op.Value, op.Version}
	}
	w.end(op, err)
}

func (w *worker) delete(key string) {
	op := w.begin(history.Delete, key)
	res, err := w.client.Delete(context.Background(), key, client.DeleteOptions{})
	op.Seen = strconv.Itoa(res.Deleted)
	delete(w.last, key)
	w.end(op, err)
}

func (w *worker) add(key string) {
	op := w.begin(history.Add, key)
	res, err := w.client.Add(context.Background(), key, 1, client.AddOptions{})
	op.Seen, op.Version = strconv.FormatInt(res.Value, 10), res.Version
	w.end(op, err)
}

// putPair writes the same value to two keys of one shard in a transaction, and
// getPair reads them in one: seen from outside they are one register.
func (w *worker) putPair(key string) {
	op := w.begin(history.Put, key)
	op.Value = w.value()
	res, err := w.client.Txn(context.Background(), client.Txn{Then: []client.Op{
		client.PutOp(key, []byte(op.Value)), client.PutOp(key+"/twin", []byte(op.Value)),
	}})
	op.Version = res.Version
	w.end(op, err)
}

func (w *worker) getPair(key string) {
	op := w.begin(history.Get, key)
	res, err := w.client.Txn(context.Background(), client.Txn{Then: []client.Op{client.GetOp(key), client.GetOp(key + "/twin")}})
	if w.load.opts.Strict && err != nil {
		w.load.fail(&op, err)
	}
	switch {
	case client.IsUnavailable(err):
		w.load.countRefusal(err)
		w.refused = true
		return
	case client.IsOutcomeUnknown(err): // as it was sent as a write
		return
	case err != nil:
		w.load.fail(&op, err)
		return
	}
	a, b := value(res.Results[0].Item), value(res.Results[1].Item)
	if a != b {
		w.load.fail(&op, fmt.Errorf("half a transaction: %q and %q", a, b))
	}
	op.Seen = a
	w.end(op, nil)
}

func value(item *client.Item) string {
	if item == nil {
		return ""
	}
	return string(item.Value)
}
