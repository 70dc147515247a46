package router

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

func failing(code kv.Code, outcome kv.Outcome) error {
	return kv.Errorf(code, outcome, "scripted %s", code)
}

// status has the state machine answer with a status.
type statusAnswer struct {
	status kvpb.Status
	txn    bool // of the transaction, not of the command
}

func (s statusAnswer) Error() string { return s.status.String() }

func (s statusAnswer) encode() []byte {
	res := &kvpb.Result{Status: s.status}
	if s.txn {
		res.Status = kvpb.Status_STATUS_OK
		res.Txns = []*kvpb.TxnResult{{Status: s.status}}
	}
	out, err := proto.Marshal(res)
	if err != nil {
		panic(err)
	}
	return out
}

var (
	notLeader = failing(kv.CodeNotLeader, kv.OutcomeNotApplied)
	unknown   = failing(kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
	gone      = failing(kv.CodeNoReplica, kv.OutcomeNone)
)

// TestWriteOutcomes holds invariant 3 against scripts of what the attempts of one
// write meet. The last line of a script repeats; nil lets the write through.
func TestWriteOutcomes(t *testing.T) {
	const patience, deadline = 5 * time.Second, 10 * time.Second
	for name, c := range map[string]struct {
		script  []error
		code    kv.Code
		outcome kv.Outcome
		after   time.Duration // about when
	}{
		"success":                    {[]error{nil}, "", "", 0},
		"retried to success":         {[]error{notLeader, gone, unknown, failing(kv.CodeDraining, kv.OutcomeNotApplied), failing(kv.CodeUnavailable, kv.OutcomeNotApplied), statusAnswer{status: kvpb.Status_STATUS_REJECTED}, nil}, "", "", 0},
		"never a leader":             {[]error{notLeader}, kv.CodeUnavailable, kv.OutcomeNotApplied, patience},
		"no replica":                 {[]error{gone}, kv.CodeUnavailable, kv.OutcomeNotApplied, patience},
		"unreachable":                {[]error{failing(kv.CodeUnavailable, kv.OutcomeNotApplied)}, kv.CodeUnavailable, kv.OutcomeNotApplied, patience},
		"always rejected":            {[]error{statusAnswer{status: kvpb.Status_STATUS_REJECTED}}, kv.CodeUnavailable, kv.OutcomeNotApplied, patience},
		"always another shard's":     {[]error{statusAnswer{status: kvpb.Status_STATUS_WRONG_SHARD}}, kv.CodeUnavailable, kv.OutcomeNotApplied, patience},
		"one in doubt":               {[]error{notLeader, unknown, notLeader}, kv.CodeOutcomeUnknown, kv.OutcomeUnknown, deadline},
		"unavailable yet unknown":    {[]error{failing(kv.CodeUnavailable, kv.OutcomeUnknown), notLeader}, kv.CodeOutcomeUnknown, kv.OutcomeUnknown, deadline},
		"without an outcome":         {[]error{failing(kv.CodeUnavailable, kv.OutcomeNone), notLeader}, kv.CodeOutcomeUnknown, kv.OutcomeUnknown, deadline},
		"always in doubt":            {[]error{unknown}, kv.CodeOutcomeUnknown, kv.OutcomeUnknown, deadline},
		"a bare context error":       {[]error{context.DeadlineExceeded, notLeader}, kv.CodeOutcomeUnknown, kv.OutcomeUnknown, deadline},
		"never proposed in time":     {[]error{failing(kv.CodeTimeout, kv.OutcomeNotApplied)}, kv.CodeTimeout, kv.OutcomeNotApplied, patience},
		"overload":                   {[]error{failing(kv.CodeOverloaded, kv.OutcomeNotApplied)}, kv.CodeOverloaded, kv.OutcomeNotApplied, 0},
		"overload in doubt":          {[]error{unknown, failing(kv.CodeOverloaded, kv.OutcomeNotApplied), nil}, "", "", 0},
		"disk full":                  {[]error{failing(kv.CodeStorageFull, kv.OutcomeNotApplied)}, kv.CodeStorageFull, kv.OutcomeNotApplied, 0},
		"disk full in doubt":         {[]error{unknown, failing(kv.CodeStorageFull, kv.OutcomeNotApplied)}, kv.CodeOutcomeUnknown, kv.OutcomeUnknown, 0},
		"a bug":                      {[]error{errors.New("a bug")}, kv.CodeInternal, kv.OutcomeUnknown, 0},
		"damage":                     {[]error{statusAnswer{status: kvpb.Status_STATUS_CORRUPT}}, kv.CodeCorrupt, kv.OutcomeUnknown, 0},
		"damage in a transaction":    {[]error{statusAnswer{kvpb.Status_STATUS_CORRUPT, true}}, kv.CodeCorrupt, kv.OutcomeUnknown, 0},
		"conflict":                   {[]error{statusAnswer{kvpb.Status_STATUS_CONFLICT, true}}, kv.CodeConflict, kv.OutcomeNotApplied, 0},
		"conflict settles a doubt":   {[]error{unknown, statusAnswer{kvpb.Status_STATUS_CONFLICT, true}}, kv.CodeConflict, kv.OutcomeNotApplied, 0},
		"other content":              {[]error{statusAnswer{status: kvpb.Status_STATUS_REQUEST_MISMATCH}}, kv.CodeIdempotencyMismatch, kv.OutcomeNotApplied, 0},
		"other content in doubt":     {[]error{unknown, statusAnswer{status: kvpb.Status_STATUS_REQUEST_MISMATCH}}, kv.CodeIdempotencyMismatch, kv.OutcomeNotApplied, 0},
		"bad command":                {[]error{statusAnswer{status: kvpb.Status_STATUS_BAD_COMMAND}}, kv.CodeInvalid, kv.OutcomeNotApplied, 0},
		"bad command after a doubt":  {[]error{unknown, statusAnswer{status: kvpb.Status_STATUS_BAD_COMMAND}}, kv.CodeOutcomeUnknown, kv.OutcomeUnknown, 0},
		"too old after a doubt":      {[]error{unknown, statusAnswer{status: kvpb.Status_STATUS_REQUEST_TOO_OLD}}, kv.CodeOutcomeUnknown, kv.OutcomeUnknown, 0},
		"too old again and again":    {[]error{statusAnswer{status: kvpb.Status_STATUS_REQUEST_TOO_OLD}}, kv.CodeOutcomeUnknown, kv.OutcomeUnknown, 0},
		"a status that nobody knows": {[]error{statusAnswer{status: 99}}, kv.CodeInternal, kv.OutcomeUnknown, 0},
		"not a result":               {[]error{statusAnswer{status: kvpb.Status_STATUS_OK}}, kv.CodeInternal, kv.OutcomeUnknown, 0},
		"a word between nodes":       {[]error{statusAnswer{kvpb.Status_STATUS_WRONG_SHARD, true}}, kv.CodeUnavailable, kv.OutcomeNotApplied, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cl := newCluster(t, 1)
				cl.runScript(c.script)
				ctx, cancel := context.WithTimeout(context.Background(), deadline)
				defer cancel()
				began := time.Now()
				_, err := cl.router(1).Txn(ctx, put("k", "v"), nil)
				if c.code == "" {
					if err != nil {
						t.Fatalf("error %s", describe(err))
					}
					return
				}
				wantError(t, err, c.code, c.outcome)
				wantAbout(t, time.Since(began), c.after)
			})
		})
	}
}

// runScript has the attempts at proposing meet the lines in turn.
func (c *cluster) runScript(script []error) {
	at := 0
	next := func() error {
		line := script[min(at, len(script)-1)]
		at++
		return line
	}
	var answer []byte
	c.propose = func(kv.NodeID, kv.ShardID) error {
		line := next()
		answer = nil
		if s, ok := line.(statusAnswer); ok {
			answer = s.encode()
			return nil
		}
		return line
	}
	c.proposed = func(_ kv.NodeID, _ kv.ShardID, real []byte) ([]byte, error) {
		if answer != nil {
			return answer, nil
		}
		return real, nil
	}
}

// TestCertaintyIsKept has a shard refuse a write until shortly before its deadline
// and leave attempts without an answer from then on: there must be none.
func TestCertaintyIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const deadline = time.Second
		cl := newCluster(t, 1)
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		began := time.Now()
		cl.propose = func(kv.NodeID, kv.ShardID) error {
			if deadline-time.Since(began) < cl.router(1).timing.LastAttempt {
				<-ctx.Done()
				return unknown
			}
			return notLeader
		}
		_, err := cl.router(1).Txn(ctx, put("k", "v"), nil)
		wantError(t, err, kv.CodeUnavailable, kv.OutcomeNotApplied)
		wantAbout(t, time.Since(began), deadline)
	})
}

func wantAbout(t *testing.T, got, want time.Duration) {
	t.Helper()
	if got > want+time.Second || got < want-200*time.Millisecond {
		t.Fatalf("after %s, want about %s", got, want)
	}
}

func TestReadOutcomes(t *testing.T) {
	const patience, deadline = 5 * time.Second, 10 * time.Second
	silent := errors.New("silent")
	for name, c := range map[string]struct {
		script []error
		code   kv.Code
		after  time.Duration
	}{
		"success":               {[]error{nil}, "", 0},
		"retried to success":    {[]error{notLeader, gone, unknown, failing(kv.CodeTimeout, kv.OutcomeNone), nil}, "", 0},
		"never a leader":        {[]error{notLeader}, kv.CodeUnavailable, patience},
		"asked without answer":  {[]error{silent}, kv.CodeTimeout, deadline},
		"lost again and again":  {[]error{unknown}, kv.CodeTimeout, deadline},
		"lost, then nobody":     {[]error{unknown, notLeader}, kv.CodeUnavailable, patience},
		"overload":              {[]error{failing(kv.CodeOverloaded, kv.OutcomeNotApplied)}, kv.CodeOverloaded, 0},
		"damage":                {[]error{failing(kv.CodeCorrupt, kv.OutcomeNone)}, kv.CodeCorrupt, 0},
		"a bug":                 {[]error{errors.New("a bug")}, kv.CodeInternal, 0},
		"an answer of a writer": {[]error{failing(kv.CodeStorageFull, kv.OutcomeNotApplied)}, kv.CodeStorageFull, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cl := newCluster(t, 1)
				at := 0
				cl.readIndex = func(ctx context.Context, _ kv.NodeID, _ kv.ShardID) error {
					line := c.script[min(at, len(c.script)-1)]
					at++
					if line == silent {
						<-ctx.Done()
						return ctx.Err()
					}
					return line
				}
				ctx, cancel := context.WithTimeout(context.Background(), deadline)
				defer cancel()
				began := time.Now()
				_, err := cl.router(1).Get(ctx, []byte("k"), kv.ReadOptions{})
				if c.code == "" {
					if err != nil {
						t.Fatalf("error %s", describe(err))
					}
					return
				}
				wantError(t, err, c.code, kv.OutcomeNone)
				wantAbout(t, time.Since(began), c.after)
			})
		})
	}
}

// TestStatusesAreAllMapped holds the table to the schema.
func TestStatusesAreAllMapped(t *testing.T) {
	if len(meanings) != len(kvpb.Status_name) {
		t.Fatalf("%d meanings for %d statuses", len(meanings), len(kvpb.Status_name))
	}
	for n, name := range kvpb.Status_name {
		s := kvpb.Status(n)
		w, r := statusError(OpWrite, 7, s, ""), statusError(OpRead, 7, s, "why")
		if s == kvpb.Status_STATUS_OK {
			if w != nil || r != nil {
				t.Errorf("%s is an error", name)
			}
			continue
		}
		if w.Code == "" || w.Outcome == kv.OutcomeNone || w.Detail == "" || w.Shard != 7 {
			t.Errorf("%s of a write: %+v", name, w)
		}
		if r.Code == "" || r.Code == kv.CodeOutcomeUnknown || r.Outcome != kv.OutcomeNone || r.Detail != "why" {
			t.Errorf("%s of a read: %+v", name, r)
		}
		if m := meaningOf(s); m.settled && m.outcome != kv.OutcomeNotApplied {
			t.Errorf("%s settles a doubt with outcome %s", name, m.outcome)
		}
	}
	for _, s := range []kvpb.Status{-1, 1000} {
		if e := statusError(OpWrite, 1, s, ""); e.Code != kv.CodeInternal || e.Outcome != kv.OutcomeUnknown {
			t.Errorf("status %d: %+v", s, e)
		}
	}
}

// TestASilentNodeDoesNotHoldARequestUp pauses the leader; some time later the others
// have another, and name the old one until then. Whoever asks notices soon, also on a
// node that has no replica of the shard, and does not ask twice for it.
func TestASilentNodeDoesNotHoldARequestUp(t *testing.T) {
	for _, elected := range []time.Duration{time.Second, 2100 * time.Millisecond, 3 * time.Second} {
		for asked := kv.NodeID(2); asked <= 4; asked++ {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 4)
				c.locked(func() { c.shards[2].desc.Replicas = c.shards[2].desc.Replicas[:3] })
				c.fault = silent(1)
				election := time.AfterFunc(elected, func() { c.locked(func() { c.shards[2].leader = 3 }) })
				defer election.Stop()
				began := time.Now()
				read := make(chan error, 1)
				go func() {
					_, err := c.router(asked).Get(context.Background(), []byte("n"), kv.ReadOptions{})
					read <- err
				}()
				written, err := c.router(asked).Txn(context.Background(), add("n", 1), nil)
				if err != nil || written.Replayed {
					t.Fatalf("replayed %t, %v", written.Replayed, err)
				}
				if took := time.Since(began); took < elected || took > elected+450*time.Millisecond {
					t.Errorf("elected after %s, written through node %d after %s", elected, asked, took)
				}
				if err := <-read; err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took > elected+450*time.Millisecond {
					t.Errorf("elected after %s, read through node %d after %s", elected, asked, took)
				}
			})
		}
	}
}

// TestHearsayEndsNoAttempt has the leader answer nobody for a while, though it leads,
// while replicas that are behind name another: one attempt waits for it.
func TestHearsayEndsNoAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.nodes[2].believes[2] = 3
		c.nodes[3].believes[2] = 2
		c.router(2).leaders.set(2, 1)
		c.fault = silent(1)
		ctx, cancel := context.WithTimeout(context.Background(), 1900*time.Millisecond)
		defer cancel()
		_, err := c.router(2).Txn(ctx, add("n", 1), nil)
		wantError(t, err, kv.CodeOutcomeUnknown, kv.OutcomeUnknown)
		for _, k := range c.take() {
			if k.method == methodForwardPropose && k.to != 1 {
				t.Fatalf("node %d was asked to write", k.to)
			}
		}
	})
}

// TestSearchesAreBounded: one at a time for a shard, not too often, and so many in all.
func TestSearchesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s searches
		const every = time.Second
		for shard := range kv.ShardID(searchesMax) {
			if !s.begin(shard, every) || s.begin(shard, every) {
				t.Fatalf("shard %d", shard)
			}
		}
		if s.begin(searchesMax, every) {
			t.Error("one too many")
		}
		time.Sleep(2 * every)
		if s.begin(3, every) {
			t.Error("a second one beside the first")
		}
		s.end(3)
		if s.begin(3, every) {
			t.Error("one right after another")
		}
		if !s.begin(searchesMax, every) {
			t.Error("no place was given back")
		}
		s.end(searchesMax)
		time.Sleep(every)
		if !s.begin(3, every) {
			t.Error("none any more")
		}
		s.end(3)
		for shard := range kv.ShardID(2 * searchesKept) {
			if shard += 100; s.begin(shard, every) {
				s.end(shard)
			}
			time.Sleep(every / 100)
		}
		if n := len(s.latest); n > searchesKept {
			t.Errorf("%d searches are remembered", n)
		}
	})
}

// TestWaitingRequestsSearchSeldom has many requests wait for a leader that does not
// answer: together they ask the others no more often than one of them would.
func TestWaitingRequestsSearchSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.fault = silent(1)
		ctx, cancel := context.WithTimeout(context.Background(), 1900*time.Millisecond)
		defer cancel()
		var waiting sync.WaitGroup
		for i := range 200 {
			waiting.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				_, err := c.router(2).Get(ctx, []byte("n"), kv.ReadOptions{})
				wantError(t, err, kv.CodeTimeout, kv.OutcomeNone)
			})
		}
		waiting.Wait()
		asked := 0
		for _, k := range c.take() {
			if k.to == 3 {
				asked++
			}
		}
		if asked == 0 || asked > 10 {
			t.Errorf("node 3 was asked %d times", asked)
		}
	})
}

// TestASlowLeaderIsAskedAgain has the leader answer nobody for a while, but stay
// leader: it is not given up.
func TestASlowLeaderIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		began := time.Now()
		c.fault = func(k call) fault {
			if k.to == 1 && time.Since(began) < 3*time.Second {
				return hang
			}
			return deliver
		}
		if _, err := c.router(2).Txn(context.Background(), add("n", 1), nil); err != nil {
			t.Fatal(err)
		}
		wantAbout(t, time.Since(began), 4*time.Second)
	})
}

func TestAShortDeadlineIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		c.locked(func() { c.shards[2].leader = 0 })
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := c.router(1).Txn(ctx, put("k", "v"), nil)
		wantError(t, err, kv.CodeUnavailable, kv.OutcomeNotApplied)
		if took := time.Since(began); took >= 300*time.Millisecond || took < 100*time.Millisecond { // a pause and LastAttempt before it
			t.Fatalf("it took %s", took)
		}
		// Forwarded requests take along what is left.
		var left time.Duration
		c.locked(func() { c.shards[2].leader = 2 })
		c.readIndex = func(ctx context.Context, _ kv.NodeID, _ kv.ShardID) error {
			deadline, _ := ctx.Deadline()
			left = time.Until(deadline)
			return nil
		}
		ctx, cancel = context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		if _, err := c.router(1).Get(ctx, []byte("k"), kv.ReadOptions{}); err != nil {
			t.Fatal(err)
		}
		if left > 300*time.Millisecond || left < 290*time.Millisecond {
			t.Fatalf("the leader had %s left", left)
		}
	})
}

func TestACallerWhoGoesAwayEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		c.locked(func() { c.shards[2].leader = 0 })
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		gone := time.AfterFunc(time.Second, cancel)
		defer gone.Stop()
		began := time.Now()
		_, err := c.router(1).Txn(ctx, put("k", "v"), nil)
		wantError(t, err, kv.CodeUnavailable, kv.OutcomeNotApplied)
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("%v does not tell why", err)
		}
		wantAbout(t, time.Since(began), time.Second)
	})
}
