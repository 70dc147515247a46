package sim

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func envInt(t *testing.T, name string, fallback int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a positive number", name, text)
	}
	return n
}

// TestCampaign is the campaign. QUORATE_SIM_SEEDS says how many seeds,
// QUORATE_SIM_FIRST the first of them, QUORATE_SIM_OPS how many operations each.
func TestCampaign(t *testing.T) {
	seedsDefault, opsDefault := 10, 21_000
	if testing.Short() {
		seedsDefault, opsDefault = 2, 3000
	}
	seeds := envInt(t, "QUORATE_SIM_SEEDS", seedsDefault)
	first := envInt(t, "QUORATE_SIM_FIRST", 1)
	ops := envInt(t, "QUORATE_SIM_OPS", opsDefault)
	changeEvery, _ := time.ParseDuration(os.Getenv("QUORATE_SIM_CHANGE"))
	var total totals
	began := time.Now()
	t.Run("runs", func(t *testing.T) {
		for seed := first; seed < first+seeds; seed++ {
			t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
				t.Parallel()
				config := Config{Seed: uint64(seed), Ops: ops, Nodes: 3 + 2*(seed%2), ChangeEvery: changeEvery}
				if changeEvery > 0 {
					config.FaultEvery, config.Spares, config.Zones = 4*time.Second, 2, 3*(seed/2%2)
				}
				result, wrong := runInBubble(t, config)
				total.add(result)
				t.Log(result.summary())
				if len(wrong) > 0 {
					t.Error(result.report(wrong, fmt.Sprintf("QUORATE_SIM_FIRST=%d QUORATE_SIM_SEEDS=1 QUORATE_SIM_OPS=%d go test -run TestCampaign ./internal/sim", seed, ops)))
				}
			})
		}
	})
	t.Logf("%d runs in %s: %s", seeds, time.Since(began).Round(time.Second), total.String())
}

// totals adds runs up.
type totals struct {
	mu sync.Mutex
	r  Result
}

func (s *totals) add(r *Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.r.merge(r)
}

func (s *totals) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.TrimPrefix(s.r.summary(), s.r.Config.String()+": ")
}
