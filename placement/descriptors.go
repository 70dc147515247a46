package placement

import (
	"bytes"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// reportDescriptors takes what is news, one by one (P2).
func (s *State) reportDescriptors(c *metapb.ReportDescriptors, at int64) (*State, *metapb.Result) {
	if len(c.GetReports()) > descriptorReportsMax {
		return s, refuse(kv.CodeTooLarge, "at most %d descriptors at a time", descriptorReportsMax)
	}
	next, accepted := s, uint32(0)
	for _, r := range c.GetReports() {
		kind := next.news(r)
		if kind == newsNone {
			continue
		}
		if accepted == 0 {
			fresh := *s
			fresh.shards = slices.Clone(s.shards)
			next = &fresh
		}
		next.takeDescriptor(r, kind, at)
		accepted++
	}
	return next, &metapb.Result{Accepted: accepted}
}

// descriptorNews says what a report would change.
type descriptorNews int

const (
	newsNone descriptorNews = iota
	newsReplicas
	newsRange
)

// news judges a report against the state.
func (s *State) news(r *metapb.DescriptorReport) descriptorNews {
	d := r.GetShard()
	if !reportable(d) || d.Shard >= s.nextShard || r.ConfigIndex == 0 || s.Retired(kv.ShardID(d.Shard)) != nil {
		return newsNone // what was merged away does not come back (P2)
	}
	known := s.Shard(kv.ShardID(d.Shard))
	old := known.GetCurrent()
	switch {
	case known != nil && d.Generation < old.Generation, r.ConfigIndex < known.GetConfigIndex():
		return newsNone // a shard's configuration never goes back
	case known != nil && d.Generation == old.Generation:
		if !bytes.Equal(d.Start, old.Start) || !bytes.Equal(d.End, old.End) || r.ConfigIndex <= known.ConfigIndex {
			return newsNone
		}
		return newsReplicas
	case s.segments.news(d.Start, d.End, d.Generation):
		return newsRange
	default:
		return newsNone
	}
}

// reportable reports whether a descriptor is whole enough to be stored.
func reportable(d *kvpb.ShardDescriptor) bool {
	if d.GetShard() < uint64(kv.FirstDataShard) || !rangeOK(d.Start, d.End) ||
		len(d.Start) > kv.KeyBytesMax || len(d.End) > kv.KeyBytesMax || len(d.Replicas) > replicasPerShardMax {
		return false
	}
	seen, voters := map[uint64]bool{}, 0
	for _, r := range d.Replicas {
		if r.GetNode() == 0 || seen[r.Node] {
			return false
		}
		seen[r.Node] = true
		if r.Role == kvpb.ReplicaRole_ROLE_VOTER {
			voters++
		}
	}
	return voters > 0
}

// takeDescriptor takes in what was judged to be news. The receiver is not shared
// yet and owns its slice of shards.
func (s *State) takeDescriptor(r *metapb.DescriptorReport, kind descriptorNews, at int64) {
	record := &metapb.Shard{
		Current:     proto.CloneOf(r.Shard),
		ConfigIndex: r.ConfigIndex,
		State:       metapb.ShardState_SHARD_ACTIVE,
		ChangedMs:   at,
	}
	d := record.Current
	i, found := s.shardIndex(d.Shard)
	if found {
		record.Initial = s.shards[i].Initial
		record.NextIncarnation = s.shards[i].NextIncarnation
		record.StickyUntilMs = s.shards[i].StickyUntilMs
		if !bytes.Equal(d.Start, s.shards[i].Current.Start) {
			record.StickyUntilMs = 0
		}
		d.Replicas = orderReplicas(s.shards[i].Current.Replicas, d.Replicas)
		s.shards[i] = record
	} else {
		s.shards = slices.Insert(s.shards, i, record)
	}
	record.NextIncarnation = nextIncarnation(record)
	if kind == newsRange {
		from, to := s.segments.overlapping(d.Start, d.End)
		displaced := s.segments[from:to]
		s.segments = s.segments.put(d.Start, d.End, kv.ShardID(d.Shard), d.Generation)
		s.dropUnmapped(displaced, d, at)
	}
	s.settle(record, at)
}

// dropUnmapped forgets those of the displaced shards that no key belongs to any
// more: by was reported to have absorbed them. Their ids stay used (P3).
func (s *State) dropUnmapped(displaced segments, by *kvpb.ShardDescriptor, at int64) {
	for _, old := range displaced {
		mapped := slices.ContainsFunc(s.segments, func(e segment) bool { return e.shard == old.shard })
		if i, found := s.shardIndex(uint64(old.shard)); found && !mapped {
			s.shards = slices.Delete(s.shards, i, i+1)
			s.retire(uint64(old.shard), by, at)
		}
	}
}
