package kv

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
)

// NodeID names one data directory for ever. It is 64 random bits, minted when
// the directory is first used; a wiped node gets a new one (DESIGN §9 rule 1).
// Zero is no node.
type NodeID uint64

// String gives 16 lower-case hexadecimal digits.
func (n NodeID) String() string { return fmt.Sprintf("%016x", uint64(n)) }

// LogValue gives what logs show, in whatever form they are written: an id is read as
// text everywhere else too, and a JSON number of its size would lose digits.
func (n NodeID) LogValue() slog.Value { return slog.StringValue(n.String()) }

// ParseNodeID reads what String writes. Shorter input is accepted; zero is not.
func ParseNodeID(s string) (NodeID, error) {
	v, err := strconv.ParseUint(s, 16, 64)
	if err != nil || v == 0 {
		return 0, fmt.Errorf("node id %q: want 1 to 16 hexadecimal digits, not zero", s)
	}
	return NodeID(v), nil
}

// ShardID names one shard, that is one Raft group. Never used twice. Zero is no
// shard.
type ShardID uint64

// MetaShard is the group that holds the cluster's own state. Data shards
// start at FirstDataShard.
const (
	MetaShard      ShardID = 1
	FirstDataShard ShardID = 2
)

// String gives decimal digits.
func (s ShardID) String() string { return strconv.FormatUint(uint64(s), 10) }

// LogValue gives what logs show.
func (s ShardID) LogValue() slog.Value { return slog.StringValue(s.String()) }

// ServerID names one replica as a Raft server: a node, a shard, and how many
// times that node has held that shard. No ServerID is ever used again after its
// replica was destroyed, because Raft's votes are only sound while a server
// never forgets what it voted (DESIGN §9 rule 1).
type ServerID struct {
	Node        NodeID
	Shard       ShardID
	Incarnation uint64
}

// String gives "node/shard/incarnation", the form kept in Raft configurations.
func (s ServerID) String() string {
	return s.Node.String() + "/" + s.Shard.String() + "/" + strconv.FormatUint(s.Incarnation, 10)
}

// LogValue gives what logs show.
func (s ServerID) LogValue() slog.Value { return slog.StringValue(s.String()) }

// ParseServerID reads exactly what String writes.
func ParseServerID(text string) (ServerID, error) {
	parts := strings.Split(text, "/")
	if len(parts) != 3 {
		return ServerID{}, fmt.Errorf("server id %q: want node/shard/incarnation", text)
	}
	node, err := ParseNodeID(parts[0])
	if err != nil {
		return ServerID{}, fmt.Errorf("server id %q: %w", text, err)
	}
	shard, err := strconv.ParseUint(parts[1], 10, 64)
	if err != nil {
		return ServerID{}, fmt.Errorf("server id %q: shard: %w", text, err)
	}
	incarnation, err := strconv.ParseUint(parts[2], 10, 64)
	if err != nil {
		return ServerID{}, fmt.Errorf("server id %q: incarnation: %w", text, err)
	}
	id := ServerID{Node: node, Shard: ShardID(shard), Incarnation: incarnation}
	if id.String() != text {
		return ServerID{}, fmt.Errorf("server id %q: not in canonical form", text)
	}
	return id, nil
}
