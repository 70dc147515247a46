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
// Two seeds in three change the cluster's shape, unless QUORATE_SIM_CHANGE=0.
func TestCampaign(t *testing.T) {
	seedsDefault, opsDefault := 10, 21_000
	if testing.Short() {
		seedsDefault, opsDefault = 2, 3000
	}
	seeds := envInt(t, "QUORATE_SIM_SEEDS", seedsDefault)
	first := envInt(t, "QUORATE_SIM_FIRST", 1)
	ops := envInt(t, "QUORATE_SIM_OPS", opsDefault)
	var total totals
	began := time.Now()
	t.Run("runs", func(t *testing.T) {
		for seed := first; seed < first+seeds; seed++ {
			t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
				t.Parallel()
				config := campaignConfig(seed, ops)
				result, wrong := runInBubble(t, config)
				total.add(result)
				t.Log(result.summary())
				if len(wrong) > 0 {
					t.Error(result.report(wrong, fmt.Sprintf("QUORATE_SIM_FIRST=%d QUORATE_SIM_SEEDS=1 QUORATE_SIM_OPS=%d go test -run TestCampaign ./internal/sim", seed, ops)))
				}
			})
		}
	})
	if k := total.r.Counts; seeds*ops >= seedsDefault*opsDefault && !testing.Short() && first == 1 &&
		shapesChange() && (k.Moves < 100 || k.Splits+k.Merges < 50 || k.Memberships < 100) {
		t.Errorf("too little was changed: %d moves, %d splits, %d merges, %d changes of members", k.Moves, k.Splits, k.Merges, k.Memberships)
	}
	t.Logf("%d runs in %s: %s", seeds, time.Since(began).Round(time.Second), total.String())
}

// shapesChange reports whether campaigns change shapes.
func shapesChange() bool { return os.Getenv("QUORATE_SIM_CHANGE") != "0" }

// campaignConfig gives the configuration of a seed. Where shapes change, two in three
// change them all the while; the others keep them, and have more faults.
func campaignConfig(seed, ops int) Config {
	config := Config{Seed: uint64(seed), Ops: ops, Nodes: 3 + 2*(seed%2)}
	if shapesChange() && seed%3 > 0 {
		config.FaultEvery, config.ChangeEvery = 4*time.Second, 2*time.Second
		config.Spares, config.Zones = 2, 3*(seed/2%2)
	}
	return config
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
