//go:build blackbox

// Package blackbox tests Quorate as real processes: the built binary, its ports,
// its files, and signals.
//
// QUORATE_SOAK multiplies the length of the campaigns; QUORATE_TEST_SEED
// repeats the choices of a run, though not its interleaving. QUORATE_TEST_LOGS names
// a folder to keep the nodes' logs in.
package blackbox

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/quorate-db/quorate/test/history"
	"github.com/quorate-db/quorate/test/load"
	"github.com/quorate-db/quorate/test/proc"
)

var builder proc.Builder

func TestMain(m *testing.M) {
	code := m.Run()
	builder.Remove()
	os.Exit(code)
}

func binary(t testing.TB) string { return builder.Binary(t, false) }

// scaled gives n times QUORATE_SOAK.
func scaled(t testing.TB, n int) int {
	text := os.Getenv("QUORATE_SOAK")
	if text == "" {
		return n
	}
	scale, err := strconv.Atoi(text)
	if err != nil || scale < 1 {
		t.Fatalf("QUORATE_SOAK=%q: want a number from 1", text)
	}
	return n * scale
}

// seeded gives a source of choices and says how to have them again.
func seeded(t testing.TB) (*rand.Rand, uint64) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("QUORATE_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("QUORATE_TEST_SEED=%q: %v", text, err)
		}
	}
	t.Logf("QUORATE_TEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1)), seed
}

// campaign is a load on a cluster whose history is checked at the end.
type campaign struct {
	*load.Load
	history *history.Recorder
}

func startCampaign(t testing.TB, c *proc.Cluster, clients int, timeout time.Duration, seed uint64) *campaign {
	t.Helper()
	h := history.NewRecorder()
	return &campaign{Load: load.Start(t, load.Options{
		Endpoints: c.Endpoints(), Clients: clients, Rate: 1200, Timeout: timeout, Seed: seed,
	}, h), history: h}
}

// goOn waits until the load has sent n more operations.
func (k *campaign) goOn(t testing.TB, n int64) {
	t.Helper()
	goal := k.Sent() + n
	proc.Eventually(t, proc.WaitMax, "load goes on", func(context.Context) error {
		if sent := k.Sent(); sent < goal {
			return fmt.Errorf("%d operations to go", goal-sent)
		}
		return nil
	})
}

// judge ends the load, reads everything back and checks the history.
func (k *campaign) judge(t testing.TB, c *proc.Cluster) {
	t.Helper()
	k.Stop()
	c.WaitReady(t)
	c.WaitCaughtUp(t)
	k.Finish(t)
	for _, err := range k.Failures() {
		t.Errorf("an answer that no client should get: %v", err)
	}
	report, err := history.Check(k.history.Ops(), 3*time.Minute)
	if err != nil {
		t.Error(err)
	}
	refused, unreachable := k.Refused()
	t.Logf("%s; %d refused by nodes for the time being, %d had no answer", report, refused, unreachable)
}
