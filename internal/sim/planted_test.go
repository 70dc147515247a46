//go:build planted

package sim

import (
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv/planted"
)

// plantedRunsMax bounds the runs until a fault has to be found.
const plantedRunsMax = 10

func plantedConfig(seed uint64) Config {
	return Config{Seed: seed, Ops: 6000, Nodes: 3, Shards: 2, Groups: 2, FaultEvery: time.Second, CheckWithin: 10 * time.Second}
}

// directed names the scenarios that are made for faults which campaigns rarely hit
// upon.
var directed = map[planted.Fault]string{
	planted.HeartbeatFastPath:    "two-candidates-and-a-slow-disk",
	planted.StallIgnored:         "leader-with-hanging-disk",
	planted.VoteForgotten:        "power-cut-between-two-candidates",
	planted.RetiredVotes:         "retired-replica-is-asked-for-its-vote",
	planted.ImageWithoutRequests: "request-id-over-install-and-failover",
	planted.InitialFromZero:      "replica-comes-after-a-split",
	planted.ChildFromZero:        "replica-comes-after-a-split",
	planted.SplitWithoutRequests: "request-ids-over-split-and-merge",
	planted.ChildBeforeFlush:     "power-cut-after-a-split",
	planted.AbsorbUnfrozen:       "merge-with-a-member-cut-off",
	planted.FrozenAnswers:        "merges-under-load",
	planted.RemovedNodeReturns:   "removed-node-comes-back",
	planted.ZonesIgnored:         "four-nodes-in-three-zones",
}

// TestPlanted plants one fault after the other, and each has to be found. Before
// that, nothing may be found where nothing is planted.
func TestPlanted(t *testing.T) {
	for seed := range uint64(plantedRunsMax) {
		if first := firstProblem(t, seed+1); first != "" {
			t.Fatalf("seed %d: without any fault: %s", seed+1, first)
		}
	}
	for _, fault := range planted.All() {
		t.Run(fault.String(), func(t *testing.T) {
			planted.Plant(fault)
			defer planted.Plant(planted.None)
			name, isDirected := directed[fault]
			for _, s := range scenarios {
				if s.name != name {
					continue
				}
				if wrong := playIn(t, s); len(wrong) > 0 {
					t.Logf("found in the scenario %s: %s", name, headline(wrong[0]))
				} else {
					t.Errorf("not found in the scenario %s", name)
				}
			}
			for run := uint64(1); run <= plantedRunsMax && !isDirected; run++ {
				if first := firstProblem(t, run); first != "" {
					t.Logf("found in run %d: %s", run, headline(first))
					return
				}
			}
			if !isDirected {
				t.Errorf("not found in %d runs", plantedRunsMax)
			}
		})
	}
}

// firstProblem runs a campaign and gives the first thing that is wrong with it, ""
// for nothing.
func firstProblem(t *testing.T, seed uint64) string {
	t.Helper()
	var result *Result
	inBubble(t, func() { result = Run(logged(plantedConfig(seed))) })
	if result == nil {
		return "the run did not come to its end"
	}
	wrong := result.quickCheck()
	if len(wrong) == 0 {
		wrong = checkGroups(result.records, result.Config)
	}
	if len(wrong) == 0 {
		return ""
	}
	return wrong[0]
}

func headline(problem string) string {
	first, _, _ := strings.Cut(problem, "\n")
	return first
}
