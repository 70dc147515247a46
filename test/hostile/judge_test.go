//go:build blackbox

package hostile

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// judge looks at what an army did, and at what was answered.
func (k *kind) judge(t *testing.T, r *report) {
	t.Helper()
	if r.Above > 0 {
		t.Errorf("%d threads of the army are above class %s", r.Above, r.Class)
	}
	if r.Strikes < k.strikesMin {
		t.Errorf("%d strikes in %s: no attack, want %d", r.Strikes, r.Took, k.strikesMin)
	}
	good := 0
	for status, n := range r.Statuses {
		if slices.Contains(k.statuses, status) || status == http.StatusTooManyRequests {
			good += n
		} else {
			t.Errorf("%d answers of status %d", n, status)
		}
	}
	if good == 0 && len(k.statuses) > 0 {
		t.Error("not one answer")
	}
}

// quietest gives the p99 that kinds are compared with, as of now: that without them, or
// that with attackers who only compute, whichever is longer.
func (s *siege) quietest() time.Duration {
	p99 := s.quiet.p99()
	for _, r := range s.results {
		if strings.HasPrefix(r.kind.name, "none") {
			p99 = max(p99, r.during.p99())
		}
	}
	return p99
}

// slowest gives the bound for one kind, as of now.
func (s *siege) slowest() time.Duration { return max(slowestTimes*s.quietest(), slowestFloor) }

// judgeTimes compares the witness' calls under each kind with those without.
func (s *siege) judgeTimes(t *testing.T) {
	quiet := s.quiet.p99()
	var all []time.Duration
	text := fmt.Sprintf("quiet: %d calls, p50 %s ms, p99 %s ms\n", len(s.quiet), ms(s.quiet.quantile(0.5)), ms(quiet))
	text += fmt.Sprintf("%-28s %7s %5s %5s %6s %6s %6s %5s %5s %5s  %s\n", "kind", "strikes", "s", "calls", "p50", "p99", "max", "times", "tries", "stall", "memory at worst, after; answers")
	for _, r := range s.results {
		p99 := r.during.p99()
		all = append(all, p99)
		text += fmt.Sprintf("%-28s %7d %5.1f %5d %6s %6s %6s %5.1f %5d %5s  %s, %s; %s\n", r.kind.name, r.report.Strikes, r.report.Took.Seconds(), len(r.during),
			ms(r.during.quantile(0.5)), ms(p99), ms(r.during.quantile(1)), float64(p99)/float64(quiet), r.tries, ms(r.stall), megabytes(r.most), megabytes(r.after), r.report.answers())
		if p99 > s.slowest() && !r.excused() {
			t.Errorf("%s: p99 of the well-behaved client is %s ms, and %s ms without", r.kind.name, ms(p99), ms(quiet))
		}
	}
	slices.Sort(all)
	if n := len(all); n == len(kinds) && all[n/2] > typicalTimes*s.quietest() { // not of a few that were picked
		t.Errorf("under half of all kinds the well-behaved client's p99 is above %s ms, and %s ms without", ms(all[n/2]), ms(s.quietest()))
	}
	t.Log(text)
}

// ms gives a time in milliseconds.
func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond)) }
