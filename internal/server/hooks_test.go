package server

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/metrics"
	"github.com/quorate-db/quorate/placement"
)

// TestChangesAreCounted holds the names of steps in package metrics, which may not
// import placement, to placement's.
func TestChangesAreCounted(t *testing.T) {
	m := metrics.New(metrics.Options{})
	hooks := placementHooksOf(m)
	for kind, step := range map[string]placement.StepKind{"move": placement.StepBeginMove, "split": placement.StepSplit, "merge": placement.StepAbsorb} {
		hooks.OnStep(placement.Step{Kind: step}, time.Second, nil)
		w := httptest.NewRecorder()
		m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if want := fmt.Sprintf("quorate_placement_changes_total{kind=%q,result=\"ok\"} 1\n", kind); !strings.Contains(w.Body.String(), want) {
			t.Errorf("after a step %q there is no %s", step, want)
		}
	}
}
