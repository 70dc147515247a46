package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// scheduleShown is how much of a schedule a report shows.
const scheduleShown = 60

// summary gives a run's totals on one line.
func (r *Result) summary() string {
	o, k := r.Ops, r.Counts
	kinds := make([]string, 0, len(r.Faults))
	for _, kind := range slices.Sorted(maps.Keys(r.Faults)) {
		kinds = append(kinds, fmt.Sprintf("%s %d", kind, r.Faults[kind]))
	}
	return fmt.Sprintf("%s: %d operations (%d acknowledged, %d refused by a condition, %d not applied, %d unknown, %d reads without an answer; %d replayed, %d stale), "+
		"%d faults (%s), %d elections, %d snapshots, %d installs, %d stalls, %d digests compared, %d requests asked again, "+
		"%d splits, %d merges, %d moves, %d changes of members, %d nodes joined, %d removed, %d dead, %s of virtual time",
		r.Config, o.Asked, o.Acknowledged, o.Refused, o.NotApplied, o.Unknown, o.NoAnswer, o.Replayed, o.Stale,
		r.FaultsTotal(), strings.Join(kinds, ", "), k.Elections, k.Snapshots, k.Installs, k.Stalls, k.Digests, k.Resent,
		k.Splits, k.Merges, k.Moves, k.Memberships, k.Joins, k.Removals, k.Deaths, r.Virtual.Round(time.Second))
}

// merge adds another run's totals.
func (r *Result) merge(other *Result) {
	a, b := &r.Ops, other.Ops
	a.Asked += b.Asked
	a.Acknowledged += b.Acknowledged
	a.Refused += b.Refused
	a.NotApplied += b.NotApplied
	a.Unknown += b.Unknown
	a.NoAnswer += b.NoAnswer
	a.Replayed += b.Replayed
	a.Stale += b.Stale
	k, l := &r.Counts, other.Counts
	k.Elections += l.Elections
	k.Snapshots += l.Snapshots
	k.Installs += l.Installs
	k.Stalls += l.Stalls
	k.Digests += l.Digests
	k.Resent += l.Resent
	k.Splits += l.Splits
	k.Merges += l.Merges
	k.Moves += l.Moves
	k.Memberships += l.Memberships
	k.Joins += l.Joins
	k.Removals += l.Removals
	k.Deaths += l.Deaths
	if r.Faults == nil {
		r.Faults = map[string]int{}
	}
	for kind, n := range other.Faults {
		r.Faults[kind] += n
	}
	r.Virtual += other.Virtual
}

// report says what is wrong with a run, and how to run it again.
func (r *Result) report(wrong []string, command string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d violations, %s\nagain: %s\n", len(wrong), r.Config, command)
	for _, w := range wrong {
		fmt.Fprintf(&b, "- %s\n", w)
	}
	lines := r.Schedule
	if len(lines) > scheduleShown {
		fmt.Fprintf(&b, "schedule (the last %d of %d):\n", scheduleShown, len(lines))
		lines = lines[len(lines)-scheduleShown:]
	} else {
		b.WriteString("schedule:\n")
	}
	for _, line := range lines {
		b.WriteString(line + "\n")
	}
	return b.String()
}
