package router

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/router/routerpb"
)

// ask has node 1 serve a forwarded request and gives the answer.
func (c *cluster) ask(method uint16, req []byte) ([]byte, error) {
	var resp []byte
	var err error
	done := make(chan struct{})
	c.nodes[1].handlers[method](2, req, func(b []byte, e error) {
		resp, err = b, e
		close(done)
	})
	<-done
	return resp, err
}

func encoded(tb testing.TB, m proto.Message) []byte {
	tb.Helper()
	out, err := proto.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func TestForwardedRequestsOfStrangeContent(t *testing.T) {
	c := newCluster(t, 2)
	for _, req := range [][]byte{{0xff}, bytes.Repeat([]byte{0x0a}, 100), nil} {
		if _, err := c.ask(methodForwardPropose, req); err == nil || kv.OutcomeOf(err) != kv.OutcomeNotApplied {
			t.Errorf("propose %x: %s", req, describe(err))
		}
		if _, err := c.ask(methodForwardRead, req); err == nil {
			t.Errorf("read %x: no error", req)
		}
	}
	// A read of nothing, and a command that is none, have their answers.
	resp, err := c.ask(methodForwardRead, encoded(t, &routerpb.ForwardRead{Shard: 2, TimeoutUs: 1e6, Linearizable: true}))
	var read kvpb.ReadResponse
	if err != nil || proto.Unmarshal(resp, &read) != nil || read.Status != kvpb.Status_STATUS_OK {
		t.Errorf("%v, %v", err, &read)
	}
	resp, err = c.ask(methodForwardPropose, encoded(t, &routerpb.ForwardPropose{Shard: 2, TimeoutUs: 1e6, Versions: 1}))
	var result kvpb.Result
	if err != nil || proto.Unmarshal(resp, &result) != nil || result.Status != kvpb.Status_STATUS_BAD_COMMAND {
		t.Errorf("%v, %v", err, &result)
	}
	// A timeout that no clock can hold is capped, none at all means now.
	if _, err := c.ask(methodForwardPropose, encoded(t, &routerpb.ForwardPropose{Shard: 2, TimeoutUs: 1 << 63, Versions: 1})); err != nil {
		t.Error(err)
	}
	_, err = c.ask(methodForwardPropose, encoded(t, &routerpb.ForwardPropose{Shard: 2, Versions: 1}))
	wantError(t, err, kv.CodeTimeout, kv.OutcomeNotApplied)
}

func TestAForwardedRequestToAFollowerIsRefusedWithAHint(t *testing.T) {
	c := newCluster(t, 3)
	c.locked(func() { c.shards[2].leader = 3 })
	// A follower's read index would ask the leader: a second hop.
	c.readIndex = func(context.Context, kv.NodeID, kv.ShardID) error {
		t.Error("the follower took a read index")
		return nil
	}
	for method, req := range map[uint16]proto.Message{
		methodForwardPropose: &routerpb.ForwardPropose{Shard: 2, TimeoutUs: 1e6, Versions: 1},
		methodForwardRead:    &routerpb.ForwardRead{Shard: 2, TimeoutUs: 1e6, Linearizable: true},
	} {
		_, err := c.ask(method, encoded(t, req))
		var e *kv.Error
		if !errors.As(err, &e) || e.Code != kv.CodeNotLeader || e.Leader != 3 {
			t.Errorf("method %d: %s", method, describe(err))
		}
	}
	if len(c.take()) != 0 {
		t.Error("it was passed on")
	}
}

func TestForwardedRequestsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		nd := c.nodes[1]
		shed := 0
		nd.r = New(Options{Self: 1, Local: nd, Map: nd.view, Peers: nd,
			Limits: Limits{ForwardsMax: 3, ForwardBytesMax: 100}, Hooks: Hooks{Shed: func(Op) { shed++ }}})
		nd.r.Register()
		release := make(chan struct{})
		c.readIndex = func(ctx context.Context, _ kv.NodeID, _ kv.ShardID) error {
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		small := encoded(t, &routerpb.ForwardRead{Shard: 2, TimeoutUs: 60e6, Linearizable: true})
		var mu sync.Mutex
		var errs []error
		start := func(req []byte) {
			nd.handlers[methodForwardRead](2, req, func(_ []byte, err error) {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			})
		}
		answers := func() []error {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			out := errs
			errs = nil
			return out
		}
		start(small)
		start(append(bytes.Clone(small), make([]byte, 100)...)) // would be served alone
		if got := answers(); len(got) != 1 || kv.CodeOf(got[0]) != kv.CodeOverloaded || kv.OutcomeOf(got[0]) != kv.OutcomeNotApplied {
			t.Fatalf("too many bytes: %v", got)
		}
		start(small)
		start(small)
		start(small)
		if got := answers(); len(got) != 1 || kv.CodeOf(got[0]) != kv.CodeOverloaded {
			t.Fatalf("too many requests: %v", got)
		}
		if shed != 2 {
			t.Errorf("%d were told to the hook", shed)
		}
		close(release)
		if got := answers(); len(got) != 3 || errors.Join(got...) != nil {
			t.Fatalf("those that were admitted: %v", got)
		}
		// Places are given back.
		start(small)
		if got := answers(); len(got) != 1 || got[0] != nil {
			t.Fatalf("afterwards: %v", got)
		}
		// Closing ends what waits, and refuses what comes.
		release = make(chan struct{})
		start(small)
		synctest.Wait()
		nd.r.Close()
		start(small)
		if got := answers(); len(got) != 2 || kv.CodeOf(got[1]) != kv.CodeDraining || kv.OutcomeOf(got[1]) != kv.OutcomeNotApplied {
			t.Fatalf("after closing: %v", got)
		}
	})
}

func TestHooksAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		var mu sync.Mutex
		seen := map[string]int{}
		note := func(what string) {
			mu.Lock()
			defer mu.Unlock()
			seen[what]++
		}
		for _, nd := range c.nodes {
			nd.r = New(Options{Self: nd.id, Local: nd, Map: nd.view, Peers: nd, Hooks: Hooks{
				Forwarded: func(op Op, _ time.Duration, err error) {
					note("forwarded " + string(op) + " " + string(kv.CodeOf(err)))
				},
				Handled: func(op Op, _ time.Duration, err error) { note("handled " + string(op) + " " + string(kv.CodeOf(err))) },
				Retried: func(op Op, code kv.Code) { note("retried " + string(op) + " " + string(code)) },
			}})
			nd.r.Register()
		}
		c.locked(func() { c.nodes[2].believes[2] = 1 })
		lose := true
		c.fault = func(call) fault {
			if lose {
				lose = false
				return loseAnswer
			}
			return deliver
		}
		if _, err := c.router(2).Txn(context.Background(), put("k", "v"), nil); err != nil {
			t.Fatal(err)
		}
		c.mustGet(2, "k", kv.ReadOptions{})
		for what, n := range map[string]int{
			"forwarded write outcome_unknown": 1, "forwarded write ": 1, "handled write ": 2, "retried write outcome_unknown": 1,
			"forwarded read ": 1, "handled read ": 1,
		} {
			if seen[what] != n {
				t.Errorf("%q %d times, want %d (all: %v)", what, seen[what], n, seen)
			}
		}
	})
}
