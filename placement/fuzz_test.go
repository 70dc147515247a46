package placement

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

// FuzzImage: no bytes panic the reader of snapshots of the meta shard, and what it takes
// is a possible state, which is written as one that reads the same.
func FuzzImage(f *testing.F) {
	var buf bytes.Buffer
	image, err := founded(f).m.Image()
	if err != nil {
		f.Fatal(err)
	}
	if _, err := image.WriteTo(&buf); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes()[imageHeader : buf.Len()-sha256.Size])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		data := append([]byte(imageMagic), make([]byte, imageHeader-len(imageMagic))...)
		binary.BigEndian.PutUint32(data[len(imageMagic):], imageFormat)
		binary.BigEndian.PutUint64(data[len(imageMagic)+4:], uint64(len(body)))
		data = append(data, body...)
		sum := sha256.Sum256(data)
		v, err := decodeImage(bytes.NewReader(append(data, sum[:]...)))
		if err != nil {
			return
		}
		if err := v.state.check(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzReport: whatever a node reports, the leader of the meta shard plans and lists
// problems, and what it plans are steps that it knows.
func FuzzReport(f *testing.F) {
	lead := &metapb.DescriptorReport{Shard: descriptor(2, 2, "", "m", 1, 2, 3), ConfigIndex: 4}
	for _, r := range []*metapb.NodeReport{
		{Node: 1, DiskBytes: 1 << 40, DiskFreeBytes: 1 << 30, Replicas: []*metapb.ReplicaReport{
			{Shard: 2, Incarnation: 1, Role: "leader", Term: 3, Leader: 1, LeaderReady: true, CommitIndex: 9, AppliedIndex: 9, Bytes: 1 << 33, Keys: 5, Leads: lead, Reads: 1e9, Writes: 3},
			{Shard: 3, Incarnation: 1, Role: "leader", Term: 4, LeaderReady: true, FrozenIndex: 7, FrozenInto: 2, Generation: 8}}},
		{Node: 2, Replicas: []*metapb.ReplicaReport{{Shard: 3, Incarnation: 2, Failure: "disk", Leads: &metapb.DescriptorReport{}}, {Shard: 99}, {}}},
	} {
		data, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	d := founded(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		report := &metapb.NodeReport{}
		if proto.Unmarshal(data, report) != nil {
			return
		}
		report.Node = 1 + report.Node%3 // a node that is one, as onReport sees to
		tuning := Tuning{}.withDefaults()
		track := newTracker(tuning, Hooks{})
		now := time.Unix(1e9, 0)
		track.setLeading(true, now)
		for range 20 { // until it is old news, and the node counts as alive
			now = now.Add(tuning.ReportEvery)
			track.take(proto.Clone(report).(*metapb.NodeReport), now)
			for n := range uint64(3) {
				if n+1 != report.Node {
					track.take(&metapb.NodeReport{Node: n + 1}, now)
				}
			}
		}
		state := d.m.State()
		health, leads, ok := track.view(state, now)
		if !ok {
			t.Fatal("it does not lead")
		}
		in := Input{State: state, Now: now, Self: 1, Members: []kv.Member{{ID: kv.ServerID{Node: 1, Shard: kv.MetaShard, Incarnation: 1}, Voter: true}},
			Health: health, Leads: leads, Seen: map[changeKey]time.Time{}, Moving: map[kv.ShardID]kv.NodeID{}, Busy: map[string]bool{}, Tuning: tuning}
		for _, s := range Plan(in) {
			if s.Kind == "" {
				t.Errorf("a step of no kind: %+v", s)
			}
			_ = s.String()
		}
		b := newBoard(&in)
		l := &problemList{count: map[string]int{}}
		b.nodeProblems(l)
		b.clusterProblems(l, true)
		b.shardProblems(l, true)
	})
}
