package kv

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/quorate-db/quorate/kv/kvpb"
)

func TestServerIDRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := ServerID{
			Node:        NodeID(rapid.Uint64Range(1, math.MaxUint64).Draw(t, "node")),
			Shard:       ShardID(rapid.Uint64().Draw(t, "shard")),
			Incarnation: rapid.Uint64().Draw(t, "incarnation"),
		}
		got, err := ParseServerID(id.String())
		if err != nil || got != id {
			t.Fatalf("ParseServerID(%q) = %v, %v", id, got, err)
		}
	})
}

func TestIDsAreLoggedAsText(t *testing.T) {
	var out strings.Builder
	id := ServerID{Node: 0xa1, Shard: 7, Incarnation: 2}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "node", id.Node, "shard", id.Shard, "replica", id)
	if want := `"node":"00000000000000a1","shard":"7","replica":"00000000000000a1/7/2"`; !strings.Contains(out.String(), want) {
		t.Errorf("logged %s, want %s in it", out.String(), want)
	}
}

func TestParseServerIDRefuses(t *testing.T) {
	for _, text := range []string{
		"", "1/2", "1/2/3/4", "0000000000000000/2/3", "g/2/3",
		"0000000000000001/x/3", "0000000000000001/2/-1", "1/2/3", "0000000000000001/02/3",
	} {
		if id, err := ParseServerID(text); err == nil {
			t.Errorf("ParseServerID(%q) = %v, want an error", text, id)
		}
	}
}

func TestParseVersionRefusesWhatStringNeverWrites(t *testing.T) {
	for _, text := range []string{"", "0", "00", "01", "+1", "-1", "1.0", " 1", "18446744073709551616"} {
		if v, err := ParseVersion(text); err == nil {
			t.Errorf("ParseVersion(%q) = %v, want an error", text, v)
		}
	}
	v := Version(math.MaxUint64)
	if got, err := ParseVersion(v.String()); err != nil || got != v {
		t.Errorf("ParseVersion(max) = %v, %v", got, err)
	}
}

func TestVersionReadsLikeATime(t *testing.T) {
	now := time.UnixMilli(1_790_000_000_123)
	v := VersionAt(now.UnixMilli())
	if !v.Time().Equal(now) || !(v + 1).Time().Equal(now) {
		t.Fatalf("version of %v reads %v", now, v.Time())
	}
	if VersionAt(now.UnixMilli()+1) <= v {
		t.Fatal("a later millisecond does not give a larger version")
	}
}

func TestEntryRoundTrips(t *testing.T) {
	stamp := Stamp{Term: 7, Version: 1 << 60, Ceiling: 1<<60 + 5, NowMs: 1234}
	commands := []EntryCommand{{Data: []byte("a"), Versions: 1}, {Data: []byte{}, Versions: 0}, {Data: []byte("c"), Versions: 9}}
	data, err := EncodeEntry(stamp, commands)
	if err != nil {
		t.Fatal(err)
	}
	e, err := DecodeEntry(42, 8, data)
	if err != nil {
		t.Fatal(err)
	}
	if e.Index != 42 || e.Term != 8 || e.Stamp != stamp || len(e.Commands) != 3 || string(e.Commands[2].Data) != "c" || e.Commands[2].Versions != 9 {
		t.Fatalf("decoded %+v", e)
	}
	if !e.Stale() {
		t.Error("an entry stamped in term 7 and logged in term 8 is not stale")
	}
	e.Term = 7
	if e.Stale() {
		t.Error("an entry stamped and logged in term 7 is stale")
	}
}

func TestDecodeEntryRefusesUnknownFormat(t *testing.T) {
	for _, format := range []uint32{0, EntryFormat + 1} {
		data, err := proto.Marshal(&kvpb.LogEntry{Format: format})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeEntry(1, 1, data); err == nil || !strings.Contains(err.Error(), "format") {
			t.Errorf("format %d: error %v", format, err)
		}
	}
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add([]byte{})
	good, _ := EncodeEntry(Stamp{Term: 1}, []EntryCommand{{Data: []byte("x")}})
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = DecodeEntry(1, 1, data) // must not panic
	})
}

func TestErrorsCrossTheWire(t *testing.T) {
	sent := &Error{Code: CodeNotLeader, Outcome: OutcomeNotApplied, Detail: "try the other", Shard: 3, Leader: 9, Version: 11}
	got := AsError(FromWire(ToWire(fmt.Errorf("wrapped: %w", sent))))
	if *got != *sent {
		t.Fatalf("got %+v, want %+v", got, sent)
	}
	if FromWire(ToWire(nil)) != nil {
		t.Fatal("nil did not stay nil")
	}
}

func TestUnknownErrorsAreInternalAndUnknown(t *testing.T) {
	err := errors.New("boom")
	if CodeOf(err) != CodeInternal || OutcomeOf(err) != OutcomeUnknown {
		t.Fatalf("code %s, outcome %s", CodeOf(err), OutcomeOf(err))
	}
	if CodeOf(nil) != "" || OutcomeOf(nil) != OutcomeNone {
		t.Fatal("nil has a code or an outcome")
	}
}

func TestErrorfKeepsItsCause(t *testing.T) {
	cause := errors.New("cause")
	if err := Errorf(CodeTimeout, OutcomeNone, "read: %w", cause); !errors.Is(err, cause) {
		t.Fatalf("%v does not wrap its cause", err)
	}
}

func TestLimitsFitOneAnother(t *testing.T) {
	if ValueBytesMax+KeyBytesMax > CommandBytesMax {
		t.Error("the largest put does not fit a command")
	}
	if EntriesPerAppendMax*EntryBytesMax >= FrameBytesMax {
		t.Error("a full AppendEntries does not fit a frame")
	}
	if EntryGroupBytesMax > EntryBytesMax {
		t.Error("a group of commands does not fit an entry")
	}
}

func TestClusterConfigIsValidated(t *testing.T) {
	if d := DefaultClusterConfig(); d.Validate() != nil {
		t.Errorf("the defaults: %v", d.Validate())
	}
	for name, change := range map[string]func(*ClusterConfig){
		"replication_factor": func(c *ClusterConfig) { c.ReplicationFactor = 8 },
		"dead_grace":         func(c *ClusterConfig) { c.DeadGrace = time.Millisecond },
		"split_bytes":        func(c *ClusterConfig) { c.SplitBytes, c.MergeBytes = 1, 0 },
		"split_load":         func(c *ClusterConfig) { c.SplitLoad = math.NaN() },
		"merge_bytes":        func(c *ClusterConfig) { c.MergeBytes = c.SplitBytes/MergeShare + 1 },
		"leader_zone":        func(c *ClusterConfig) { c.LeaderZone = strings.Repeat("z", ZoneBytesMax+1) },
		"snapshot_rate":      func(c *ClusterConfig) { c.SnapshotRate = -1 },
		"moves_per_node":     func(c *ClusterConfig) { c.MovesPerNode = 0 },
		"moves_per_cluster":  func(c *ClusterConfig) { c.MovesPerCluster = MovesPerClusterMax + 1 },
	} {
		c := DefaultClusterConfig()
		change(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), name+" ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	never := DefaultClusterConfig()
	never.SplitBytes, never.MergeBytes, never.SnapshotRate = 0, 0, 0
	if err := never.Validate(); err != nil {
		t.Errorf("all of it never: %v", err)
	}
	if err := (&ClusterConfig{}).Validate(); strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("not everything at once: %v", err)
	}
}

func TestDurationText(t *testing.T) {
	for text, d := range map[string]time.Duration{"5m": 5 * time.Minute, "1h": time.Hour, "10s": 10 * time.Second, "1h30m": 90 * time.Minute, "1m30s": 90 * time.Second,
		"10m": 10 * time.Minute, "20h": 20 * time.Hour, "1h0m5s": time.Hour + 5*time.Second, "0s": 0} {
		if got := DurationText(d); got != text {
			t.Errorf("%s is written %s", text, got)
		}
		if back, err := time.ParseDuration(DurationText(d)); err != nil || back != d {
			t.Errorf("%s is read back as %s", text, back)
		}
	}
}
