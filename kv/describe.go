package kv

import (
	"strings"
	"time"

	"github.com/quorate-db/quorate/kv/kvpb"
)

// DescribeMembers gives a configuration as descriptors have it.
func DescribeMembers(members []Member) []*kvpb.ReplicaDescriptor {
	out := make([]*kvpb.ReplicaDescriptor, len(members))
	for i, m := range members {
		role := kvpb.ReplicaRole_ROLE_NONVOTER
		if m.Voter {
			role = kvpb.ReplicaRole_ROLE_VOTER
		}
		out[i] = &kvpb.ReplicaDescriptor{Node: uint64(m.ID.Node), Incarnation: m.ID.Incarnation, Role: role}
	}
	return out
}

// DurationText writes a duration as people do: 5m, not 5m0s.
func DurationText(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
